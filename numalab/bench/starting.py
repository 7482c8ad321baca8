"""Figure 14: a large machine starts, and its coordinator comes back from its journal."""

from __future__ import annotations

import signal
import time

import trio

from numalab import cluster, processes
from numalab.bench.lab import Lab, lab_of
from numalab.bench.scale import Start, page_size_for
from numalab.machine import connect
from protocol.schema import COORDINATOR
from protocol.topology import PAGE_SIZE

#: How long a coordinator may take to come back.
WITHIN_SECONDS = 120.0
ASK_AGAIN_SECONDS = 0.02


async def measure(start: Start) -> None:
    """Start it, map all of its frames, kill its coordinator and wait until it serves again."""
    frames = start.scale.frames
    size = page_size_for(frames + frames // 4)
    if size != PAGE_SIZE:
        start.readings.note(14, f"Pages of {size} bytes: memory is short.")
    if frames != 1_000_000:
        start.readings.note(14, f"{frames:,} frames, for a quick look.")
    began = time.perf_counter()
    async with lab_of(frames // 2, page_size=size, spare=0) as lab:
        start.readings.add(14, time.perf_counter() - began, "start")
        start.readings.add(14, await _recovery(lab, frames), "recovery")


async def _recovery(lab: Lab, pages: int) -> float:
    """Seconds from the start of the new coordinator to the first load through a page table."""
    # No lease: how long a client is silent does not matter then.
    task = await lab.machine.spawn(leased=False)
    address = await task.mmap(pages * lab.machine.page_size)
    await lab.populate(task, address, pages)
    coordinator = cluster.running(lab.directory)[COORDINATOR]
    coordinator.signal(signal.SIGKILL)
    await processes.ended(coordinator)
    processes.reap(coordinator)
    began = time.perf_counter()
    cluster.restart(lab.directory, COORDINATOR)
    with trio.fail_after(WITHIN_SECONDS):
        async with connect(
            lab.directory, within=WITHIN_SECONDS, resend_max=ASK_AGAIN_SECONDS
        ) as machine:
            again = await machine.attach(task.pid)
            await again.load(address + (pages - 1) * machine.page_size, 8)
            return time.perf_counter() - began
