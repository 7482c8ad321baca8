"""The Python API's policies, against real processes."""

from __future__ import annotations

import os

import pytest
import trio

import numalab
from numalab.constants import MPOL_BIND, MPOL_INTERLEAVE, MPOL_MF_MOVE, MPOL_PREFERRED

PAGE = 4096


def test_mbind_moves_real_pages_and_set_mempolicy_places_new_ones() -> None:
    async def scenario() -> None:
        with trio.fail_after(60):
            async with numalab.local_cluster(nodes=3, memory="8M") as machine:
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
