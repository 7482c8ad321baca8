"""Arguments of the Python API that are no numbers of a system call: an errno at once."""

from __future__ import annotations

import errno
from collections.abc import Awaitable
from pathlib import Path

import pytest
import trio

import numalab


def test_what_no_message_carries_is_einval_at_once(run_directory: Path) -> None:
    async def scenario() -> None:
        with trio.fail_after(60):
            async with numalab.connect(run_directory) as machine:
                task = await machine.spawn(cpu=0)
                base = await task.mmap(4096)
                wrong: list[Awaitable[object]] = [
                    machine.create_file("/a", pages=-1),
                    machine.create_file("/a", pages=1 << 70),
                    machine.create_file("/a", pages=1.5),  # type: ignore[arg-type]
                    machine.spawn(cpu=0, uid=-1),
                    task.clone(cpu=-1),
                    task.mmap(-1),
                    task.mlock(base, -1),
                ]
                for call in wrong:
                    with pytest.raises(OSError) as caught:
                        await call
                    assert caught.value.errno == errno.EINVAL
                for arguments, said in (
                    (("a", 1), "the path 'a' is not absolute"),
                    (("/a", 0), "no 0 pages: give a whole number from 1 to"),
                    (("/a", 1 << 40), "give a whole number from 1 to"),
                    (("/a", 1, "ntfs"), "'ntfs' is no kind of file: choose shmem, "),
                ):
                    with pytest.raises(OSError, match=said) as caught:
                        await machine.create_file(*arguments)
                    assert caught.value.errno == errno.EINVAL
                with pytest.raises(OSError, match="a writeback of -1.0 s cannot be"):
                    await machine.create_file("/a", 1, writeback_seconds=-1)
                one = (1).to_bytes(8, "little")
                assert await task.raw.migrate_pages(0, -1, one, one) == -errno.EINVAL
                await task.store(base, b"alive")
                assert await task.load(base, 5) == b"alive"

    trio.run(scenario)
