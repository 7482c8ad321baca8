"""Files and other users of pages through the Python API, against real processes."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import trio

import numalab
from numalab.constants import MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE

PAGE = 4096
RW = PROT_READ | PROT_WRITE


def test_a_file_is_shared_copied_written_back_and_moved(run_directory: Path) -> None:
    async def scenario() -> None:
        with trio.fail_after(60):
            async with numalab.connect(run_directory) as machine:
                file = await machine.create_file("/data/log", pages=4, kind="nfs")
                task = await machine.spawn(cpu=0)
                shared = await task.mmap(4 * PAGE, RW, MAP_SHARED, name=file.path)
                data = os.urandom(4 * PAGE)
                await task.store(shared, data)
                assert await task.migrate_pages(task.pid, "0", "1") == 0
                state = await file.state()
                assert (state.kind, state.nodes, state.writepages) == ("nfs", {1: 4}, 4)
                assert (state.dirty, state.mapped) == (0, 4)
                own = await task.mmap(PAGE, RW, MAP_PRIVATE, name=file.path, offset=PAGE)
                await task.store(own, b"mine")
                assert await task.load(shared, len(data)) == data
                assert await task.load(own, 8) == b"mine" + data[PAGE + 4 : PAGE + 8]
                await file.unlink()
                with pytest.raises(OSError, match=os.strerror(errno.ENOENT)):
                    await file.state()

    trio.run(scenario)


def test_writeback_that_is_held_keeps_a_migration_waiting_and_isolated_pages_are_busy(
    run_directory: Path,
) -> None:
    async def scenario() -> None:
        with trio.fail_after(60):
            async with numalab.connect(run_directory) as machine:
                file = await machine.create_file("/held", 2)
                task = await machine.spawn(cpu=0)
                base = await task.mmap(2 * PAGE, RW, MAP_SHARED, name=file.path)
                await task.store(base, b"x")
                await file.hold_writeback()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(task.migrate_pages, task.pid, "0", "1")
                    while not (await machine.progress(task.pid)).listed:
                        await trio.lowlevel.checkpoint()
                    assert (await file.state()).writeback == 1
                    await file.set_device()
                assert await task.move_pages(task.pid, [base], None) == [1]
                await task.isolate(base)
                with pytest.raises(OSError, match=os.strerror(errno.EBUSY)):
                    async with numalab.connect(machine.run_directory) as other:
                        await (await other.attach(task.pid)).isolate(base)
                assert await task.migrate_pages(task.pid, "1", "0") == 0
                assert await task.move_pages(task.pid, [base], None) == [1]
                await task.putback(base)
                assert await task.migrate_pages(task.pid, "1", "0") == 0
                assert await task.move_pages(task.pid, [base], None) == [0]
                await file.unlink()

    trio.run(scenario)
