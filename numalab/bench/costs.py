"""Figure 10: what guarantees cost, as the share of the speed that is left with them.

Two machines are up at the same time, which differ in one setting, and take turns.  Sums cannot be
switched off, so what they take is measured alone and taken away from the time of a page.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import xxhash

from numalab.bench.lab import lab_of
from numalab.bench.scale import Start
from protocol.live.journal_file import Synchronous
from protocol.topology import PAGE_SIZE

#: Two machines at a time have as much memory as they need for so much fewer pages.
PART = 2
SUM_BYTES = 4 << 20
SUM_TURNS = 16
#: A frame is summed where it is sent and where it arrives.
SUMS = 2


async def measure(start: Start) -> None:
    """CURVE, TCP, the page of metrics, records; sums beside these."""
    await _with_and_without(start, "CURVE", {"secure": True}, {"local": False})
    await _with_and_without(start, "TCP", {"local": False}, {})
    await _with_and_without(start, "metrics", {}, {"metrics": False})
    with TemporaryDirectory(prefix="numalab-bench-", dir="/dev/shm") as memory:
        await _with_and_without(start, "records", {}, {"run_directory": memory})
    await _with_and_without(start, "synced records", {"synchronous": Synchronous.FULL}, {})
    start.readings.note(10, "CURVE: on TCP against TCP without; TCP: against the ways of a host.")
    start.readings.note(10, "metrics: served against not served; they are counted in both.")
    start.readings.note(10, "records: a journal on the disk against one in memory.")
    start.readings.note(10, "synced records: no call waits for the disk unless it is told to.")
    start.readings.note(10, "sums: computed from the time of two sums of a page.")


async def _with_and_without(
    start: Start, part: str, on: Mapping[str, Any], off: Mapping[str, Any]
) -> None:
    pages = max(start.scale.pages // PART, 256)
    async with lab_of(pages, **on) as guarded, lab_of(pages, **off) as bare:
        tasks = {lab: await lab.filled(pages) for lab in (guarded, bare)}
        for turn in range(start.scale.rounds):
            seconds = {lab: await lab.move(tasks[lab][0], turn % 2, pages) for lab in tasks}
            start.readings.add(10, seconds[bare] / seconds[guarded], part)
            start.readings.beside(10, **{f"with {part}": pages / seconds[guarded]})
            if part == "records":
                page = seconds[guarded] / pages
                start.readings.add(10, 1 - min(SUMS * sum_of_a_page() / page, 1), "sums")
        for lab, (task, address) in tasks.items():
            await lab.check(task, address, pages)


def sum_of_a_page() -> float:
    """Seconds, in the middle of a frame that has just been written."""
    data = np.arange(SUM_BYTES // 8).tobytes()
    began = time.perf_counter()
    for _ in range(SUM_TURNS):
        xxhash.xxh3_64_intdigest(data)
    return (time.perf_counter() - began) / SUM_TURNS / (SUM_BYTES // PAGE_SIZE)
