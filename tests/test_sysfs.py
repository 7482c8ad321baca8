"""The machine as plain files: what the unmodified tools read out of them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import trio

from numalab import connect
from numalab.console import Exit
from numalab.sysfs import NODE
from protocol.messages import ZoneCount
from tests.live import NODE_MEMORY, NODES, Numalab

PAGE = 4096
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


def test_numastat_of_a_task_is_the_sum_of_its_numa_maps(numalab: Numalab, task: int) -> None:
    """The distribution's numastat reads /proc/PID/numa_maps of the machine."""
    needs("numastat")
    pages = [0] * NODES
    for nid, count in re.findall(r" N(\d+)=(\d+)", numalab("numa-maps", task).out):
        pages[int(nid)] += int(count)
    said = numalab("shell", "--proc", "numastat", "-p", task)
    assert said.code == 0, said.err
    total = rows(said.out)["Total"]
    assert total == [f"{count * PAGE / (1 << 20):.2f}" for count in (*pages, sum(pages))]
    assert said.out == numalab("numastat", "-p", task).out


def test_a_command_that_sees_our_tasks_still_sees_itself(numalab: Numalab, task: int) -> None:
    needs()
    script = f"cat /proc/{task}/comm && grep ^Name: /proc/self/status"
    said = numalab("shell", "--proc", "sh", "-c", script)
    assert (said.code, said.out.splitlines()[1:]) == (0, ["Name:\tgrep"]), said.err


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
