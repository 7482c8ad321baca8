"""Figures 7 and 11: what is over in a few round trips, in round trips of the same moments."""

from __future__ import annotations

import statistics
import time

import trio

from numalab.bench.lab import Lab, lab_of
from numalab.bench.raw import Pair, echoing
from numalab.bench.scale import Start
from protocol.syscalls import Progress, ProgressMade

PAGES = 1024
#: Of a round: moves of one page, and accesses.
MOVES = 30
ACCESSES = 1000
ACCESS_BYTES = 64


async def measure(start: Start) -> None:
    """One page, and 64 bytes."""
    async with lab_of(PAGES) as lab:
        if start.any_of(7):
            await _one_page(start, lab)
        if start.any_of(11):
            with echoing(ACCESSES) as pair:
                await _accesses(start, lab, pair)


async def _one_page(start: Start, lab: Lab) -> None:
    """A move and a question that the coordinator answers at once, in turns."""
    task, address = await lab.mapped(1)
    await task.store(address, b"page")
    for turn in range(1 + start.scale.rounds):
        moves, trips = [], []
        for move in range(MOVES):
            began = time.perf_counter()
            await lab.machine.expect(Progress(task.pid), ProgressMade)
            asked = time.perf_counter()
            await task.migrate_pages(task.pid, [move % 2], [1 - move % 2])
            trips.append(asked - began)
            moves.append(time.perf_counter() - asked)
        if turn:
            one, trip = statistics.median(moves), statistics.median(trips)
            start.readings.add(7, one / trip)
            start.readings.beside(7, page_us=one * 1e6, trip_us=trip * 1e6)
    await task.exit()


async def _accesses(start: Start, lab: Lab, pair: Pair) -> None:
    """Loads and stores in turns, each waited for, of pages whose translations are known."""
    task, address = await lab.mapped(1)
    await task.store(address, bytes(ACCESS_BYTES))
    await trio.to_thread.run_sync(pair.go)
    for turn in range(1 + start.scale.rounds):
        bare = ACCESSES / await trio.to_thread.run_sync(pair.go)
        began = time.perf_counter()
        for _ in range(ACCESSES // 2):
            await task.store(address, bytes(ACCESS_BYTES))
            await task.load(address, ACCESS_BYTES)
        rate = ACCESSES / (time.perf_counter() - began)
        if turn:
            start.readings.add(11, rate / bare)
            start.readings.beside(11, accesses=rate, round_trips=bare)
    await task.exit()
