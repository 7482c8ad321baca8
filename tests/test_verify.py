"""What verify says of a task whose memory others have too: they forked, or they map the same."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import trio

import numalab
from numalab.checker import Verdict
from numalab.importer import Digests, page_digests
from numalab.machine import Machine
from numalab.verify import verify_task
from protocol.syscalls import AddressSpace, DescribeMm
from tests.lab import READ, Lab

PAGE = 4096


def written(lab: Lab, pid: int) -> list[int]:
    """For each present page whether it is told to have been written to."""
    told: list[int] = lab.ask(DescribeMm(pid), AddressSpace).written.tolist()
    return told


def imported(lab: Lab, pages: int, *, shared: bool) -> tuple[int, int]:
    """A task with memory that was filled in, and that nobody has written to since."""
    pid = lab.spawn()
    start = lab.mmap(pid, pages, shared=shared)
    assert not lab.fault(pid, start, pages, access=2).status.any()
    assert written(lab, pid) == [0] * pages
    return pid, start


def test_a_store_of_a_child_to_a_shared_page_is_told_of_the_parent_too(lab: Lab) -> None:
    pid, start = imported(lab, 3, shared=True)
    child = lab.fork(pid)
    lab.fault(child, start, 3, access=READ)
    lab.write(child, start + 1, 7)
    assert lab.read(pid, start + 1) == 7
    assert written(lab, pid) == written(lab, child) == [0, 1, 0]
    assert lab.migrate(pid, 0, 1) == 0
    assert written(lab, pid) == [0, 1, 0]
    lab.exit(child)
    assert written(lab, pid) == [0, 1, 0]


def test_a_store_of_a_child_to_a_private_page_is_its_own(lab: Lab) -> None:
    pid, start = imported(lab, 3, shared=False)
    child = lab.fork(pid)
    lab.write(child, start + 1, 7)
    assert written(lab, pid) == [0, 0, 0] and written(lab, child) == [0, 1, 0]
    lab.write(pid, start + 2, 7)
    assert written(lab, pid) == [0, 0, 1]


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "private"])
def test_what_only_the_child_wrote_is_no_damage_of_the_parent(
    run_directory: Path, shared: bool
) -> None:
    async def scenario() -> None:
        with trio.fail_after(60):
            async with numalab.connect(run_directory) as machine:
                await one_of_two(machine, shared)

    async def one_of_two(machine: Machine, shared: bool) -> None:
        parent = await machine.spawn(cpu=0)
        flags = numalab.MAP_SHARED if shared else numalab.MAP_PRIVATE
        base = await parent.mmap(4 * PAGE, flags=flags | numalab.MAP_ANONYMOUS)
        pages, contents = (
            np.arange(4, dtype=np.uint64) + np.uint64(base // PAGE),
            os.urandom(4 * PAGE),
        )
        await parent.fill(pages, contents)
        digests = Digests(pages, page_digests(memoryview(contents)))
        child = await parent.fork()
        await child.store(base + PAGE, b"mine")
        found = await verify_task(machine, parent.pid, digests)
        assert found.verdict is Verdict.VALID, found.findings
        assert (found.compared, found.written) == ((3, 1) if shared else (4, 0))
        await child.exit()
        found = await verify_task(machine, parent.pid, digests)
        assert found.verdict is Verdict.VALID, found.findings

    trio.run(scenario)


def test_a_file_that_a_task_maps_twice_is_one_copy(run_directory: Path) -> None:
    async def scenario() -> None:
        with trio.fail_after(60):
            async with numalab.connect(run_directory) as machine:
                file = await machine.create_file("/twice", 2)
                task = await machine.spawn(cpu=0)
                for _ in range(2):
                    base = await task.mmap(2 * PAGE, flags=numalab.MAP_SHARED, name=file.path)
                    await task.store(base, b"same")
                    await task.load(base + PAGE, 1)
                found = await verify_task(machine, task.pid, None)
                assert found.verdict is Verdict.VALID, found.findings
                await file.unlink()

    trio.run(scenario)
