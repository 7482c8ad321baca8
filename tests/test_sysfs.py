"""The machine as plain files: their texts, and what the unmodified tools read out of them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import trio

from numalab import connect
from numalab.console import CommandFailed, Exit
from numalab.hardware import COUNTERS
from numalab.sysfs import MARK, NODE, Tree, cpuinfo, cpumap, tree
from protocol.messages import ZoneCount
from protocol.syscalls import Hardware
from tests.live import NODE_MEMORY, NODES, Numalab

PAGE = 4096
#: Active, inactive, on the way to the LRU, taken off it.
COUNTED = ZoneCount(
    frames=65536, free=65000, active=300, inactive=20, pending=5, isolated=2, locked=1
)


def two_nodes() -> Hardware:
    """Nodes 0 and 2, of which the second has no cpu; each counter has a digit of its own."""
    counters = {
        name: np.array([digit, 10 * digit], np.uint64) for digit, name in enumerate(COUNTERS, 1)
    }
    return Hardware(
        PAGE,
        1,
        1,
        ((0, 1, 33), ()),
        np.array([0, 2], np.int32),
        np.ones(2, np.uint8),
        np.full(2, 65536, np.uint64),
        np.array([65000, 0], np.uint64),
        **counters,
        distance=np.array([10, 21, 20, 10], np.uint32),
    )


# ---- texts ---------------------------------------------------------------------------------


def test_meminfo_is_that_of_the_seed_which_starts_with_an_empty_line() -> None:
    assert tree(two_nodes(), {0: COUNTED})[f"{NODE}/node0/meminfo"].split("\n") == [
        "",
        "Node 0 MemTotal:       262144 kB",
        "Node 0 MemFree:        260000 kB",
        "Node 0 MemUsed:          2144 kB",
        "Node 0 Active:           1200 kB",
        "Node 0 Inactive:           80 kB",
        "Node 0 HighTotal:           0 kB",
        "Node 0 HighFree:            0 kB",
        "Node 0 LowTotal:       262144 kB",
        "Node 0 LowFree:        260000 kB",
        "Node 0 Dirty:               0 kB",
        "Node 0 Writeback:           0 kB",
        "Node 0 Mapped:           1308 kB",
        "Node 0 Slab:                0 kB",
        "",
    ]


def test_numastat_has_six_lines_in_the_order_of_the_kernel() -> None:
    assert tree(two_nodes(), {})[f"{NODE}/node2/numastat"] == (
        "numa_hit 10\nnuma_miss 20\nnuma_foreign 30\n"
        "interleave_hit 40\nlocal_node 50\nother_node 60\n"
    )


def test_vmstat_has_what_is_counted_under_the_names_of_the_kernel() -> None:
    files = tree(two_nodes(), {0: COUNTED, 2: COUNTED})
    assert files[f"{NODE}/node0/vmstat"] == (
        "nr_free_pages 65000\nnr_inactive 20\nnr_active 300\nnr_mapped 327\n"
        "numa_hit 1\nnuma_miss 2\nnuma_foreign 3\n"
        "numa_interleave 4\nnuma_local 5\nnuma_other 6\n"
    )
    assert "nr_active 600\n" in files["proc/vmstat"]
    assert "numa_other 66\n" in files["proc/vmstat"]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("online", "0,2"),
        ("possible", "0,2"),
        ("has_memory", "0,2"),
        ("has_normal_memory", "0,2"),
        ("has_cpu", "0"),
        ("node0/cpulist", "0-1,33"),
        ("node0/cpumap", "00000002,00000003"),
        ("node2/cpulist", ""),
        ("node2/cpumap", "00000000,00000000"),
        ("node0/distance", "10 21"),
        ("node2/distance", "20 10"),
    ],
)
def test_lists_masks_and_distances_are_one_line_each(file: str, text: str) -> None:
    assert tree(two_nodes(), {})[f"{NODE}/{file}"] == f"{text}\n"


def test_a_mask_has_a_word_for_every_32_cpus_that_there_are() -> None:
    assert cpumap([0], 32) == "00000001"
    assert cpumap([0], 33) == "00000000,00000001"
    assert cpumap([31, 64], 65) == "00000001,00000000,80000000"


def test_a_cpu_is_a_core_in_the_package_of_its_node() -> None:
    files = tree(two_nodes(), {})
    topology = "sys/devices/system/cpu/cpu33/topology"
    assert files["sys/devices/system/cpu/online"] == "0-1,33\n"
    assert files[f"{topology}/physical_package_id"] == "0\n"
    assert files[f"{topology}/core_id"] == "2\n"
    assert files[f"{topology}/package_cpus_list"] == "0-1,33\n"
    assert files[f"{topology}/core_cpus"] == "00000002,00000000\n"
    assert cpuinfo({4: 1}).startswith("processor\t: 4\nmodel name\t: numalab\nphysical id\t: 1\n")


def test_what_only_a_silent_node_knows_is_left_out() -> None:
    files = tree(two_nodes(), {0: COUNTED})
    assert "Node 2 MemTotal:       262144 kB\n" in files[f"{NODE}/node2/meminfo"]
    for of_silent in (f"{NODE}/node2/meminfo", f"{NODE}/node2/vmstat", "proc/meminfo"):
        assert not re.search("active|mapped", files[of_silent], re.IGNORECASE), of_silent
    assert "Active:" in files[f"{NODE}/node0/meminfo"]


# ---- files ---------------------------------------------------------------------------------


def test_a_file_is_replaced_whole_and_only_if_it_changed(tmp_path: Path) -> None:
    with closing(Tree(tmp_path)) as files:
        files.write({"proc/a": "1\n", "proc/b": "1\n"})
        of_a, of_b = ((tmp_path / "proc" / name).stat().st_ino for name in "ab")
        with (tmp_path / "proc/b").open() as reader:
            files.write({"proc/a": "1\n", "proc/b": "22\n"})
            assert reader.read() == "1\n"
    assert (tmp_path / "proc/a").stat().st_ino == of_a
    assert (tmp_path / "proc/b").stat().st_ino != of_b
    assert sorted(path.name for path in (tmp_path / "proc").iterdir()) == ["a", "b"]


def test_nodes_of_an_earlier_machine_are_gone(tmp_path: Path) -> None:
    with closing(Tree(tmp_path)) as files:
        files.write(tree(two_nodes(), {}) | {f"{NODE}/node7/cpulist": "\n"})
    with closing(Tree(tmp_path)) as files:
        files.write(tree(two_nodes(), {}))
    assert sorted(path.name for path in (tmp_path / NODE).glob("node*")) == ["node0", "node2"]


def test_a_directory_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis").touch()
    with pytest.raises(CommandFailed, match="files in it that are not of a machine"):
        Tree(tmp_path)
    assert not (tmp_path / MARK).exists()


def test_a_directory_has_one_writer_at_a_time(tmp_path: Path) -> None:
    with closing(Tree(tmp_path)), pytest.raises(CommandFailed, match="Somebody else"):
        Tree(tmp_path)
    Tree(tmp_path).close()


def test_a_file_in_place_of_the_directory_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CommandFailed, match=r"cannot be written to .*: give another directory\.$"):
        Tree(tmp_path / "file")


# ---- the unmodified tools ------------------------------------------------------------------

MIB_OF_TASK = 2


@pytest.fixture
def task(run_directory: Path) -> Iterator[int]:
    """A task with 2 MiB on node 0 and 2 MiB on node 3."""

    async def start() -> int:
        with trio.fail_after(20):
            async with connect(run_directory) as machine:
                task = await machine.spawn(leased=False)
                size = MIB_OF_TASK << 20
                first, second = await task.mmap(size), await task.mmap(size)
                await task.store(first, bytes(size))
                await task.store(second, bytes(size))
                pages = np.arange(second, second + size, machine.page_size, dtype=np.uint64)
                assert set(await task.move_pages(task.pid, pages, [3] * pages.size)) == {3}
                return task.pid

    async def end(pid: int) -> None:
        with trio.fail_after(20):
            async with connect(run_directory) as machine:
                await (await machine.attach(pid)).exit()

    pid = trio.run(start)
    yield pid
    trio.run(end, pid)


def needs(*tools: str) -> None:
    """Skip where a tool is not installed or where nobody may make the namespaces."""
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    mount = ["mount", "--bind", f"/{NODE}", f"/{NODE}"]
    tried = subprocess.run(["unshare", "-rm", *mount], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"user and mount namespaces are forbidden here: {tried.stderr.strip()}")


def rows(table: str) -> dict[str, list[str]]:
    """The rows of numastat by their names."""
    return {words[0]: words[1:] for words in map(str.split, table.splitlines()) if words}


@pytest.mark.usefixtures("task")
def test_numactl_prints_our_nodes(numalab: Numalab) -> None:
    needs("numactl")
    said = numalab("shell", "numactl", "--hardware")
    assert said.code == 0, said.err
    assert said.out == numalab("hardware").out
    assert f"available: {NODES} nodes (0-{NODES - 1})\n" in said.out
    assert said.out.count(f"size: {NODE_MEMORY.removesuffix('M')} MB\n") == NODES


@pytest.mark.usefixtures("task")
def test_numastat_prints_our_counters(numalab: Numalab) -> None:
    needs("numastat")
    said = numalab("shell", "numastat")
    assert said.code == 0, said.err
    assert said.out == numalab("numastat").out
    assert int(rows(said.out)["numa_hit"][0]) >= MIB_OF_TASK << 8


@pytest.mark.usefixtures("task")
def test_numastat_prints_our_memory(numalab: Numalab, run_directory: Path) -> None:
    needs("numastat")
    said = numalab("shell", "numastat", "-m")
    assert said.code == 0, said.err

    async def counted() -> ZoneCount:
        with trio.fail_after(20):
            async with connect(run_directory) as machine:
                return await machine.count_zone(3)

    zone, found = trio.run(counted), rows(said.out)
    size = float(NODE_MEMORY.removesuffix("M"))
    assert found["MemTotal"] == [f"{size:.2f}"] * NODES + [f"{size * NODES:.2f}"]
    assert found["MemFree"][3] == f"{zone.free * PAGE / (1 << 20):.2f}"
    assert found["Active"][3] == f"{zone.active * PAGE / (1 << 20):.2f}"
    assert float(found["Mapped"][3]) >= MIB_OF_TASK


def test_lstopo_draws_our_machine(numalab: Numalab, tmp_path: Path) -> None:
    needs("lstopo")
    expected = [(str(nid), f"{NODE_MEMORY}B") for nid in range(NODES)]
    assert numalab("sysfs", tmp_path / "files").code == Exit.DONE
    by_directory = subprocess.run(
        ["lstopo", "-i", str(tmp_path / "files"), "--if", "fsroot", "--of", "console"],
        capture_output=True,
        text=True,
        check=True,
    )
    in_shell = numalab("shell", "lstopo", "--of", "console")
    for drawn in (by_directory.stdout, in_shell.out):
        assert re.findall(r"NUMANode L#\d+ \(P#(\d+) (\w+)\)", drawn) == expected
        assert drawn.count("Package ") == drawn.count("PU ") == NODES


#: Sees its own machine, stores into it, and waits until the mounted file tells of that.
STORES_AND_LOOKS = """
import os, re, trio, numalab
def free():
    text = open("/sys/devices/system/node/node0/meminfo").read()
    return int(re.search(r"MemFree: +(\\d+) kB", text)[1])
async def main():
    before = free()
    with trio.fail_after(20):
        async with numalab.connect(os.environ["NUMALAB_RUN_DIRECTORY"]) as machine:
            task = await machine.spawn(cpu=0)
            await task.store(await task.mmap(1 << 20), bytes(1 << 20))
            while free() > before - 1024:
                await trio.sleep(0.05)
trio.run(main)
"""


def test_the_files_are_kept_fresh_while_a_command_runs(numalab: Numalab) -> None:
    needs()
    assert numalab("shell", sys.executable, "-c", STORES_AND_LOOKS).code == 0


@pytest.mark.parametrize(("script", "code"), [("exit 7", 7), ("kill -KILL $$", 137)])
def test_the_exit_code_of_the_command_is_passed_on(
    numalab: Numalab, script: str, code: int
) -> None:
    needs()
    assert numalab("shell", "sh", "-c", script).code == code


def test_a_command_that_is_not_there_is_one_sentence(numalab: Numalab) -> None:
    said = numalab("shell", "no-such-command")
    assert (said.code, said.out) == (127, "")
    assert said.err == "There is no command no-such-command: give one, or its path.\n"


def test_without_the_right_to_a_namespace_there_is_one_sentence(
    numalab: Numalab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unshare = tmp_path / "unshare"
    unshare.write_text("#!/bin/sh\necho 'unshare: Operation not permitted' >&2\nexit 1\n")
    unshare.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    said = numalab("shell", "true")
    assert (said.code, said.out) == (Exit.FAILED, "")
    assert said.err == (
        "The machine cannot be shown in place of this host's nodes (unshare: Operation not "
        "permitted): allow user namespaces, or write the files with 'numalab sysfs' for tools "
        "that take a directory.\n"
    )


def test_the_pages_of_a_task_are_those_of_its_numa_maps(numalab: Numalab, task: int) -> None:
    pages = [0] * NODES
    for nid, count in re.findall(r" N(\d+)=(\d+)", numalab("numa-maps", task).out):
        pages[int(nid)] += int(count)
    assert pages == [MIB_OF_TASK << 8, 0, 0, MIB_OF_TASK << 8]
    total = rows(numalab("numastat", "-p", task).out)["Total"]
    expected = [*pages, sum(pages)]
    assert total == [f"{count * PAGE / (1 << 20):.2f}" for count in expected]
