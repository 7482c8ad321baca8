"""The machine as plain files: their texts, and how they are written."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from numalab.console import CommandFailed
from numalab.hardware import COUNTERS
from numalab.sysfs import NODE, Reading, TaskFiles, cpuinfo, cpumap, tree
from numalab.sysfs_files import MARK, Tree
from protocol.messages import ZoneCount
from protocol.observe import LruCount, Vmstat
from protocol.profile import MODERN, SEED, Profile
from protocol.syscalls import Hardware

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


LISTED = LruCount(active_anon=200, inactive_anon=50, active_file=30, inactive_file=40)


def told(profile: Profile) -> Vmstat:
    """Each kind of page has a number of its own, ten times as many of them on node 2."""
    kinds = ("anon", "file", "shmem", "mapped", "dirty", "writeback", "mlocked")
    columns = {kind: np.array([n, 10 * n], np.uint64) for n, kind in enumerate(kinds, 11)}
    return Vmstat(
        profile.node_attributes,
        profile.node_states,
        int(profile.meminfo_splits_lru),
        int(profile.vmstat_counts_numa),
        ("numa_hit", "pgmigrate_success", "pgmigrate_fail"),
        np.array([11, 512, 3], np.uint64),
        np.zeros(0, np.uint32),
        np.array([0, 2], np.int32),
        **columns,
    )


def files_of(profile: Profile, *answering: int, **more: object) -> dict[str, str]:
    """The files of that machine; ``answering``: the nodes that do."""
    reading = Reading(two_nodes(), told(profile), **more)  # type: ignore[arg-type]
    for nid in answering:
        reading.zones[nid], reading.lists[nid] = COUNTED, LISTED
    return tree(reading)


# ---- texts ---------------------------------------------------------------------------------


def test_meminfo_is_that_of_the_seed_which_starts_with_an_empty_line() -> None:
    assert files_of(SEED, 0)[f"{NODE}/node0/meminfo"].split("\n") == [
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
        "Node 0 Dirty:              60 kB",
        "Node 0 Writeback:          64 kB",
        "Node 0 Mapped:            100 kB",
        "Node 0 Slab:                0 kB",
        "",
    ]


def test_numastat_has_six_lines_in_the_order_of_the_kernel() -> None:
    assert files_of(SEED)[f"{NODE}/node2/numastat"] == (
        "numa_hit 10\nnuma_miss 20\nnuma_foreign 30\n"
        "interleave_hit 40\nlocal_node 50\nother_node 60\n"
    )


def test_meminfo_of_today_tells_anonymous_from_file_pages() -> None:
    lines = files_of(MODERN, 0)[f"{NODE}/node0/meminfo"].splitlines()
    assert lines[:12] == [
        "Node 0 MemTotal:         262144 kB",
        "Node 0 MemFree:          260000 kB",
        "Node 0 MemUsed:            2144 kB",
        "Node 0 SwapCached:            0 kB",
        "Node 0 Active:              920 kB",
        "Node 0 Inactive:            360 kB",
        "Node 0 Active(anon):        800 kB",
        "Node 0 Inactive(anon):      200 kB",
        "Node 0 Active(file):        120 kB",
        "Node 0 Inactive(file):      160 kB",
        "Node 0 Unevictable:           0 kB",
        "Node 0 Mlocked:              68 kB",
    ]
    keys = [line.split()[2].rstrip(":") for line in lines]
    rest = (
        "Dirty Writeback FilePages Mapped AnonPages Shmem KernelStack PageTables SecPageTables "
        "NFS_Unstable Bounce WritebackTmp KReclaimable Slab SReclaimable SUnreclaim "
        "AnonHugePages ShmemHugePages ShmemPmdMapped FileHugePages FilePmdMapped "
        "HugePages_Total HugePages_Free HugePages_Surp"
    )
    assert keys[12:] == rest.split()
    assert f"Node 0 AnonPages: {44:13} kB" in lines
    assert lines[-1] == "Node 0 HugePages_Surp:     0"


def test_the_seed_counts_nothing_of_numa_in_vmstat() -> None:
    """K 6.10."""
    files = files_of(SEED, 0, 2)
    assert f"{NODE}/node0/vmstat" not in files
    assert files["proc/vmstat"] == (
        "nr_dirty 165\nnr_writeback 176\nnr_unstable 0\nnr_page_table_pages 0\nnr_mapped 275\n"
        "nr_slab 0\n"
    )


def test_vmstat_of_today_has_what_is_counted_under_the_names_of_the_kernel() -> None:
    files = files_of(MODERN, 0, 2)
    assert files[f"{NODE}/node0/vmstat"] == (
        "nr_free_pages 65000\nnr_mlock 17\nnr_inactive_anon 50\nnr_active_anon 200\n"
        "nr_inactive_file 40\nnr_active_file 30\nnr_unevictable 0\nnr_anon_pages 11\n"
        "nr_mapped 14\nnr_file_pages 12\nnr_dirty 15\nnr_writeback 16\nnr_shmem 13\n"
        "numa_hit 1\nnuma_miss 2\nnuma_foreign 3\n"
        "numa_interleave 4\nnuma_local 5\nnuma_other 6\n"
    )
    assert "nr_active_anon 400\n" in files["proc/vmstat"]
    assert files["proc/vmstat"].endswith("numa_hit 11\npgmigrate_success 512\npgmigrate_fail 3\n")


def test_the_seed_has_four_files_of_a_node_and_no_lists_of_nodes() -> None:
    """K 6.4."""
    names = [name for name in files_of(SEED, 0) if name.startswith(f"{NODE}/")]
    assert sorted(name.removeprefix(f"{NODE}/") for name in names) == [
        f"node{nid}/{name}"
        for nid in (0, 2)
        for name in ("cpumap", "distance", "meminfo", "numastat")
    ]


def test_a_task_has_what_numastat_reads_of_a_process() -> None:
    task = TaskFiles(ppid=1, uid=1000, comm="worker", numa_maps="00400000 default\n")
    files = files_of(SEED, tasks={7: task})
    assert files["proc/7/numa_maps"] == "00400000 default\n"
    assert files["proc/7/comm"] == "worker\n"
    assert "Name:\tworker\n" in files["proc/7/status"] and "PPid:\t1\n" in files["proc/7/status"]


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
    assert files_of(MODERN)[f"{NODE}/{file}"] == f"{text}\n"


def test_a_mask_has_a_word_for_every_32_cpus_that_there_are() -> None:
    assert cpumap([0], 32) == "00000001"
    assert cpumap([0], 33) == "00000000,00000001"
    assert cpumap([31, 64], 65) == "00000001,00000000,80000000"


def test_a_cpu_is_a_core_in_the_package_of_its_node() -> None:
    files = files_of(SEED)
    topology = "sys/devices/system/cpu/cpu33/topology"
    assert files["sys/devices/system/cpu/online"] == "0-1,33\n"
    assert files[f"{topology}/physical_package_id"] == "0\n"
    assert files[f"{topology}/core_id"] == "2\n"
    assert files[f"{topology}/package_cpus_list"] == "0-1,33\n"
    assert files[f"{topology}/core_cpus"] == "00000002,00000000\n"
    assert cpuinfo({4: 1}).startswith("processor\t: 4\nmodel name\t: numalab\nphysical id\t: 1\n")


@pytest.mark.parametrize("profile", [SEED, MODERN], ids=lambda profile: profile.name)
def test_what_only_a_silent_node_knows_is_left_out(profile: Profile) -> None:
    files = files_of(profile, 0)
    assert re.search(r"Node 2 MemTotal: +262144 kB\n", files[f"{NODE}/node2/meminfo"])
    for of_silent in (f"{NODE}/node2/meminfo", "proc/meminfo", "proc/vmstat"):
        assert not re.search("active", files[of_silent], re.IGNORECASE), of_silent
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
        files.write(files_of(SEED) | {f"{NODE}/node7/cpulist": "\n"})
    with closing(Tree(tmp_path)) as files:
        files.write(files_of(SEED))
    assert sorted(path.name for path in (tmp_path / NODE).glob("node*")) == ["node0", "node2"]


def test_a_task_that_is_gone_has_no_files(tmp_path: Path) -> None:
    task = TaskFiles(0, 0, "worker", "00400000 default\n")
    with closing(Tree(tmp_path)) as files:
        files.write(files_of(SEED, tasks={7: task, 17: task}))
        files.write(files_of(SEED, tasks={17: task}))
        assert not (tmp_path / "proc/7").exists() and (tmp_path / "proc/17/comm").exists()
        files.write(files_of(SEED, tasks={7: task}))
    assert (tmp_path / "proc/7/comm").read_text() == "worker\n"


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
