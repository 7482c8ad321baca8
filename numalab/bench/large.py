"""Figures 8 and 12: a long migration beside its writer, and first touch beside migration."""

from __future__ import annotations

import time

from numalab.bench.lab import CHUNK_PAGES, Lab, lab_of, total
from numalab.bench.scale import Start, page_size_for
from numalab.bench.waiting import writing

ENTRY = "numalab_migration_entry_seconds"


async def measure(start: Start) -> None:
    """Both need a machine of the same size."""
    pages = start.scale.many
    size = page_size_for(3 * pages)
    async with lab_of(pages, page_size=size) as lab:
        for number in (8, 12):
            if size != 4096:
                start.readings.note(number, f"Pages of {size} bytes: memory is short.")
        if start.any_of(12):
            await _first_touch(start, lab)
        if start.any_of(8):
            await _writer(start, lab)


async def _first_touch(start: Start, lab: Lab) -> None:
    """A round before the first one that counts: frames of a fresh zone are touched then."""
    pages = start.scale.many
    for turn in range(1 + start.scale.rounds):
        task, address = await lab.mapped(pages)
        touched = pages / await lab.populate(task, address, pages)
        moved = pages / await lab.move(task, 0, pages)
        await task.exit()
        if turn:
            start.readings.add(12, touched / moved)
            start.readings.beside(12, touched=touched, moved=moved)


async def _writer(start: Start, lab: Lab) -> None:
    """Migrations forth and back under one process that stores all over the pages."""
    pages, readings = start.scale.many, start.readings
    task, address = await lab.touched(pages)
    await lab.move(task, 0, pages)
    before = await lab.metrics()
    async with writing(lab, task.pid, address, pages) as writer:
        for turn in range(start.scale.rounds):
            began = time.perf_counter()
            await lab.move(task, 1 - turn % 2, pages)
            ended = time.perf_counter()
            waits = await writer.waits(began, ended)
            chunk = (ended - began) * CHUNK_PAGES / pages
            readings.add(8, waits.longest / chunk, "longest")
            readings.add(8, waits.p99 * 1e3, "p99")
            readings.beside(
                8,
                longest_ms=waits.longest * 1e3,
                p50_ms=waits.p50 * 1e3,
                chunk_ms=chunk * 1e3,
                stores=waits.stores,
            )
    after = await lab.metrics()
    seconds, count = (
        total(after, f"{ENTRY}_{kind}") - total(before, f"{ENTRY}_{kind}")
        for kind in ("sum", "count")
    )
    if count:
        readings.beside(8, entry_ms=seconds / count * 1e3)
    await task.exit()
