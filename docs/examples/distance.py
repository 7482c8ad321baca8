"""Distance that can be felt: near memory against far, and interleaved against local.

The machine is a socket with DRAM and memory behind CXL (numalab topology dram-cxl).  Emulated time
passes on the clock, a thousand times as long, so that a stopwatch sees what the model says.
"""

import time

import trio

import numalab
from numalab.constants import MPOL_BIND, MPOL_INTERLEAVE, MPOL_MF_MOVE
from protocol.presets import PRESETS

PACE = 1000.0
SIZE = 1 << 20
NEAR, FAR = [0], [1]


async def stream(task: numalab.Task, address: int, what: str) -> None:
    """Read all of it once, and say what that took."""
    before, started = (await task.emulated_time()).load, time.perf_counter()
    await task.load(address, SIZE)
    seconds = time.perf_counter() - started
    emulated = (await task.emulated_time()).load - before
    print(f"{what:<24} {emulated * 1e6:9.1f} us emulated {seconds * 1e3:9.1f} ms on the clock")


async def memory(task: numalab.Task, mode: int, nodes: list[int]) -> int:
    """New memory, written to, where the policy puts it."""
    address = await task.mmap(SIZE)
    await task.mbind(address, SIZE, mode, nodes)
    await task.store(address, bytes(SIZE))
    return address


async def main() -> None:
    machine_of = numalab.local_cluster(topology=PRESETS["dram-cxl"](), pace=PACE)
    async with machine_of as machine:
        task = await machine.spawn(cpu=0)

        address = await memory(task, MPOL_BIND, FAR)
        await stream(task, address, "far")
        before = time.perf_counter()
        await task.mbind(address, SIZE, MPOL_BIND, NEAR, MPOL_MF_MOVE)
        moving = time.perf_counter() - before
        moved = (await machine.emulated()).migrations[-1]
        print(
            f"{f'{moved.pages} pages move':<24} {moved.emulated * 1e6:9.1f} us emulated"
            f" {moving * 1e3:9.1f} ms on the clock"
        )
        await stream(task, address, "near")

        for name, mode, nodes in (
            ("interleaved", MPOL_INTERLEAVE, NEAR + FAR),
            ("local", MPOL_BIND, NEAR),
        ):
            await stream(task, await memory(task, mode, nodes), name)


if __name__ == "__main__":
    trio.run(main)
