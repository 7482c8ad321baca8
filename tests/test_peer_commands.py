"""Cases of other programs' tests that are shell scripts, with our commands (peer_cases.py)."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

import numalab as api
from tests.live import Numalab
from tests.peer import case
from tests.peer_live import NODES, run_directory

__all__ = ["run_directory"]


@pytest.fixture
def heap(run_directory: Path) -> Iterator[int]:
    """The pid of a task with a heap of 1 MiB on node 0 that stays when its client has left."""

    async def start() -> int:
        async with api.connect(run_directory) as machine:
            task = await machine.spawn(leased=False)
            base = await task.mmap(1 << 20, name="[heap]")
            await task.store(base, bytes(1 << 20))
            return task.pid

    async def end(pid: int) -> None:
        async with api.connect(run_directory) as machine:
            await (await machine.attach(pid)).exit()

    pid = trio.run(start)
    yield pid
    trio.run(end, pid)


def pages_by_node(numa_maps: str) -> list[int]:
    pages = [0] * NODES
    for nid, number in re.findall(r" N(\d+)=(\d+)", numa_maps):
        pages[int(nid)] += int(number)
    return pages


@case("MG-13")
def test_MG_13_migratepages_once_around_the_ring(numalab: Numalab, heap: int) -> None:
    for node in range(NODES):
        target = (node + 1) % NODES
        assert numalab("migratepages", heap, node, target).code == 0
        assert pages_by_node(numalab("numa-maps", heap).out)[target] == 256


def real(numalab: Numalab, tool: str, *words: object) -> str | None:
    """What the distribution's tool says of our machine, or None where it cannot be run.

    That is where it is not installed, or where nobody may make the namespaces.
    """
    mount = ["mount", "--bind", "/sys", "/sys"]
    if shutil.which(tool) is None or subprocess.run(["unshare", "-rm", *mount]).returncode:
        return None
    said = numalab("shell", "--proc", tool, *words)
    assert said.code == 0, said.err
    return said.out


@case("NM-05")
def test_NM_05_numastat_tells_the_sums_of_numa_maps(numalab: Numalab, heap: int) -> None:
    assert numalab("migratepages", heap, 0, 1).code == 0
    assert pages_by_node(numalab("numa-maps", heap).out) == [0, 256, 0]
    ours = numalab("numastat", "-p", heap).out
    assert ["Total", "0.00", "1.00", "0.00", "1.00"] in [line.split() for line in ours.splitlines()]
    assert real(numalab, "numastat", "-p", heap) in (ours, None)


@case("PL-23")
def test_PL_23_the_list_of_hardware_agrees_with_the_files(numalab: Numalab, tmp_path: Path) -> None:
    listed = numalab("hardware").out
    assert f"available: {NODES} nodes (0-{NODES - 1})" in listed
    assert numalab("sysfs", tmp_path / "files").code == 0
    files = tmp_path / "files" / "sys" / "devices" / "system" / "node"
    assert len(list(files.glob("node?"))) == NODES
    for nid in range(NODES):
        distances = (files / f"node{nid}" / "distance").read_text().split()
        assert f"  {nid}:  {'  '.join(distances)}" in listed
    assert real(numalab, "numactl", "--hardware") in (listed, None)


@case("CS-13")
def test_CS_13_mems_allowed_of_the_status_file(numalab: Numalab, heap: int, tmp_path: Path) -> None:
    assert numalab("cpuset", "mkdir", "/set").code == 0
    assert numalab("cpuset", "set", "/set", "cpus", "0").code == 0
    for mems in ("0", "0-1"):
        assert numalab("cpuset", "set", "/set", "mems", mems).code == 0
        if mems == "0":
            assert numalab("cpuset", "attach", "/set", heap).code == 0
        assert numalab("sysfs", tmp_path / "files").code == 0
        status = (tmp_path / "files" / "proc" / str(heap) / "status").read_text()
        assert f"Mems_allowed_list:\t{mems}\n" in status
    assert numalab("cpuset", "attach", "/", heap).code == 0
    assert numalab("cpuset", "rmdir", "/set").code == 0
