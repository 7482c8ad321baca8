"""The Python API's policies, against real processes."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import trio

import numalab
from numalab.constants import MPOL_BIND, MPOL_INTERLEAVE, MPOL_MF_MOVE, MPOL_PREFERRED

PAGE = 4096


def test_mbind_moves_real_pages_and_set_mempolicy_places_new_ones(run_directory: Path) -> None:
    async def scenario() -> None:
        with trio.fail_after(60):
            async with numalab.connect(run_directory) as machine:
                task = await machine.spawn(cpu=0)
                base = await task.mmap(8 * PAGE)
                data = os.urandom(8 * PAGE)
                await task.store(base, data)
                await task.mbind(base, 8 * PAGE, MPOL_INTERLEAVE, "1-2", MPOL_MF_MOVE)
                addresses = [base + page * PAGE for page in range(8)]
                nodes = await task.move_pages(task.pid, addresses, None)
                assert sorted(nodes) == [1] * 4 + [2] * 4
                assert await task.load(base, len(data)) == data
                assert (await task.get_mempolicy(base, 2))[1] == (1, 2)
                await task.set_mempolicy(MPOL_PREFERRED, [2])
                other = await task.mmap(PAGE)
                await task.store(other, b"here")
                assert await task.move_pages(task.pid, [other], None) == [2]
                with pytest.raises(OSError, match="EINVAL|Invalid"):
                    await task.set_mempolicy(MPOL_BIND, [])

    trio.run(scenario)


def test_the_raw_calls_take_what_the_kernel_takes_and_raise_nothing(run_directory: Path) -> None:
    async def scenario() -> None:
        with trio.fail_after(60):
            async with numalab.connect(run_directory) as machine:
                task = await machine.spawn(cpu=0)
                base = await task.mmap(2 * PAGE)
                await task.store(base, bytes(2 * PAGE))
                one, two = bytes([1]) + bytes(7), bytes([2]) + bytes(7)
                # maxnode 2 is one bit, so node 1 cannot be said; no target, no move (K 4.1, 4.7).
                assert await task.raw.migrate_pages(0, 2, one, two) == 0
                assert await task.raw.migrate_pages(0, 3, one, None) == 0
                assert await task.raw.migrate_pages(0, 1 << 64, one, two) == -errno.EINVAL
                assert await task.raw.migrate_pages(0, 3, one, b"") == -errno.EFAULT
                pages, prefill = [base, base + PAGE], [-7, -7]
                assert await task.raw.move_pages(0, 2, pages, None, prefill, 0) == (0, [0, 0])
                assert await task.raw.migrate_pages(0, 3, one, two) == 0
                short = await task.raw.move_pages(0, 2, pages, [0], prefill, 0)
                assert short == (-errno.EFAULT, prefill)
                assert await task.raw.move_pages(0, 2, pages, None, prefill, 0) == (0, [1, 1])
                assert await task.raw.mbind(base, PAGE, MPOL_BIND, two, 3, 0) == 0
                assert await task.raw.set_mempolicy(MPOL_PREFERRED, two, 3) == 0
                assert (await task.raw.get_mempolicy(None, 0))[:2] == (0, MPOL_PREFERRED)
                value, mode, mask = await task.raw.get_mempolicy(4096, 1025, base, 2)
                assert (value, mode, mask) == (0, MPOL_BIND, two + bytes(120))
                assert (await task.raw.get_mempolicy(8, 3))[0] == -errno.EINVAL
                with pytest.raises(OSError, match="EFAULT|Bad address"):
                    await task.get_mempolicy(1 << 40, 2)

    trio.run(scenario)
