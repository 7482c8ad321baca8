"""Figure 5: does twice as much take twice as long, and no more?

Live, tasks of all sizes are there at once and take turns.  Simulated, the shipped Cores move far
more pages than the memory of a host has room for, as a page has 64 bytes there; the time is that
of one core which does the work of all processes.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import trio

from numalab.bench.lab import Lab, lab_of
from numalab.bench.ratios import exponent
from numalab.bench.scale import Start, page_size_for
from numalab.bench.simulated import seconds_to_move
from protocol.topology import PAGE_SIZE

#: Little, so that pages of 4 KiB fit where they can.
SPARE = 1 / 16


async def measure(start: Start) -> None:
    """Live, and simulated."""
    ladder = start.scale.ladder
    size = page_size_for(int(2 * (1 + SPARE) * sum(ladder)))
    if size != PAGE_SIZE:
        start.readings.note(5, f"Pages of {size} bytes: memory is short.")
    async with lab_of(sum(ladder), page_size=size, spare=SPARE) as lab:
        await _live(start, lab)
    await _simulated(start)


async def _live(start: Start, lab: Lab) -> None:
    ladder = start.scale.ladder
    tasks = [(await lab.touched(pages))[0] for pages in ladder]
    for turn in range(2 * (1 + start.scale.slow_rounds) - 1):
        seconds = [
            await lab.move(task, turn % 2, pages) for task, pages in zip(tasks, ladder, strict=True)
        ]
        # Whoever moves first finds frames that nobody has touched.
        if turn:
            start.readings.add(5, exponent(ladder, seconds), "live")
            rates = zip(ladder, seconds, strict=True)
            start.readings.beside(5, **{f"at {pages:,}": pages / time for pages, time in rates})
    for task in tasks:
        await task.exit()


async def _simulated(start: Start) -> None:
    """Each size in a process of its own, which takes its memory with it."""
    sizes, times = start.scale.simulated, []
    for pages in sizes:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            moving = pool.submit(seconds_to_move, pages)
            times.append(await trio.to_thread.run_sync(moving.result))
        start.readings.beside(5, **{f"simulated at {pages:,}": pages / times[-1]})
    start.readings.add(5, exponent(sizes, times), "simulated")
