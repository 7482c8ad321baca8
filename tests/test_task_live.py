"""Threads, credentials, locks and advice of the Python API, against real processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

import numalab
from numalab.constants import CAP_SETUID, CAP_SYS_NICE, MADV_DONTNEED, MPOL_MF_MOVE_ALL

PAGE = 4096


def test_threads_share_memory_that_outlives_the_one_that_made_it(run_directory: Path) -> None:
    async def scenario() -> None:
        with trio.fail_after(60):
            async with numalab.connect(run_directory) as machine:
                task = await machine.spawn(cpu=0)
                thread = await task.clone(cpu=1)
                base = await task.mmap(4 * PAGE)
                await task.store(base, b"from the first")
                await thread.store(base + PAGE, b"from the second")
                assert await thread.move_pages(0, [base, base + PAGE], None) == [0, 1]
                assert (await machine.tasks()).tgid.tolist().count(task.pid) == 2
                await task.exit()
                assert await thread.load(base, 14) == b"from the first"
                await thread.mlock(base, 4 * PAGE)
                assert await thread.migrate_pages(0, [0], [1]) == 0
                assert await thread.move_pages(0, [base], None) == [0]
                await thread.munlock(base, 4 * PAGE)
                await thread.madvise(base, PAGE, MADV_DONTNEED)
                assert await thread.load(base, 14) == bytes(14)
                assert await thread.load(base + PAGE, 15) == b"from the second"

    trio.run(scenario)


def test_a_task_that_drops_what_it_may_do_may_not_do_it(run_directory: Path) -> None:
    async def scenario() -> None:
        with trio.fail_after(60):
            async with numalab.connect(run_directory) as machine:
                task, other = await machine.spawn(uid=0), await machine.spawn(uid=7)
                base = await task.mmap(PAGE)
                await task.store(base, b"x")
                await task.capset(CAP_SYS_NICE | CAP_SETUID, CAP_SYS_NICE | CAP_SETUID)
                assert await task.migrate_pages(other.pid, [0], [1]) == 0
                await task.setresuid(5, 5, 5)
                with pytest.raises(PermissionError):
                    await task.migrate_pages(other.pid, [0], [1])
                with pytest.raises(PermissionError):
                    await task.move_pages(0, [base], [1], MPOL_MF_MOVE_ALL)
                with pytest.raises(PermissionError):
                    await task.setresuid(0, 0, 0)
                assert await task.move_pages(0, [base], [1]) == [1]

    trio.run(scenario)
