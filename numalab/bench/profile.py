"""``--profile``: where the time of a batch goes, by step, and whose processor time it is.

The steps are what the coordinator measures from question to answer; two chunks are under way at a
time, so their sum is more than the time of the whole.  Of a copy only the whole is measured; what
its parts take at least is computed from what this host does alone.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import trio

from numalab.bench.costs import SUMS, sum_of_a_page
from numalab.bench.lab import CHUNK_PAGES, Lab, lab_of, total
from numalab.bench.raw import carrying
from numalab.bench.report import number
from numalab.bench.scale import Scale
from protocol.bulk import BATCH_BYTES
from protocol.live.buffers import Buffers, Foreign, Staging, files_of
from protocol.live.pipe_ends import Reader, Writer, make_pipe
from protocol.live.scrape import MetricsPage
from protocol.topology import PAGE_SIZE

#: What a step of coordinator/life.py is called in the profile.
PHASES = {
    "taking": "of few pages: all that follows",
    "isolating": "select: off the LRU",
    "allocating": "allocate",
    "copying": "lock, copy, transfer, verify",
    "unlocking": "unlock (of what failed)",
    "restoring": "restore (of what failed)",
    "settling": "remap: onto the LRU",
    "releasing": "release",
    "putting_back": "put back (of what failed)",
}
STEP = "numalab_migration_step"
#: Batches through a pipe; the first ones find their memory untouched.
PIPE_TURNS = 8
RECORD = "numalab_journal_commit_seconds"
ENTRY = "numalab_migration_entry_seconds"


async def measure_profile(scale: Scale) -> dict[str, Any]:
    """A JSON object: microseconds a page of migrations of neighbouring pages."""
    pages, moves = scale.pages, scale.rounds
    async with lab_of(pages) as lab:
        task, _ = await lab.filled(pages)
        before, cpu_before = await lab.metrics(), cpu_seconds(lab)
        seconds = sum([await lab.move(task, turn % 2, pages) for turn in range(moves)])
        after, cpu_after = await lab.metrics(), cpu_seconds(lab)
    with carrying(pages * PAGE_SIZE) as raw:
        await trio.to_thread.run_sync(raw.go)
        bare = await trio.to_thread.run_sync(raw.go)
    moved = pages * moves
    spent = {name: cpu_after[name] - cpu_before.get(name, 0.0) for name in cpu_after}
    return {
        "pages": moved,
        "chunk_pages": CHUNK_PAGES,
        "whole_us": seconds / moved * 1e6,
        "steps": list(_steps(before, after, moved)),
        "copy_at_least_us": {
            "copy, into place": _copy_of_a_page() * 1e6,
            "transfer, a pipe": _pipe_of_a_page() * 1e6,
            "transfer, bare zmq": bare / pages * 1e6,
            "verify, two sums": SUMS * sum_of_a_page() * 1e6,
        },
        "cpu_us": {
            name: round(took / moved * 1e6, 3)
            for name, took in sorted(spent.items(), key=lambda one: -one[1])
            if took > 0
        },
    }


def describe_profile(profile: Mapping[str, Any]) -> Iterator[str]:
    """In lines."""
    yield (
        f"profile: {profile['pages']:,} neighbouring pages in chunks of"
        f" {profile['chunk_pages']:,}, {profile['whole_us']:.2f} us a page"
    )
    yield f"  {'step':<32} {'batches':>8} {'ms a batch':>11} {'us a page':>10}"
    for step in profile["steps"]:
        yield (
            f"  {step['phase']:<32} {step['batches']:>8,.0f} {number(step['batch_ms']):>11}"
            f" {number(step['page_us']):>10}"
        )
        if step["phase"] == PHASES["copying"]:
            for part, took in profile["copy_at_least_us"].items():
                yield f"    {'at least: ' + part:<30} {'':>8} {'':>11} {number(took):>10}"
    yield "  processor time, us a page"
    for name, took in profile["cpu_us"].items():
        yield f"    {name:<30} {'':>8} {'':>11} {number(took):>10}"


def _steps(before: MetricsPage, after: MetricsPage, pages: int) -> Iterator[dict[str, Any]]:
    for step, phase in PHASES.items():
        yield from _row(before, after, phase, f"{STEP}_seconds", pages, step=step)
    yield from _row(before, after, "record: until it is on the disk", RECORD, pages)
    yield from _row(before, after, "from unmap to remap, of a chunk", ENTRY, pages)


def _row(
    before: MetricsPage, after: MetricsPage, phase: str, name: str, pages: int, **labels: str
) -> Iterator[dict[str, Any]]:
    """One histogram, if something happened in it."""
    seconds, count = (
        total(after, f"{name}_{kind}", **labels) - total(before, f"{name}_{kind}", **labels)
        for kind in ("sum", "count")
    )
    if count:
        yield {
            "phase": phase,
            "batches": count,
            "batch_ms": seconds / count * 1e3,
            "page_us": seconds / pages * 1e6,
        }


def cpu_seconds(lab: Lab) -> dict[str, float]:
    """Processor time so far of each kind of thread of each process of the machine."""
    spent: dict[str, float] = {}
    for row in lab.processes:
        for thread in Path(f"/proc/{row.pid}/task").iterdir():
            name, _, rest = (thread / "stat").read_text().rpartition(")")
            fields = rest.split()
            ticks = int(fields[11]) + int(fields[12])
            kind = "main" if thread.name == str(row.pid) else name.partition("(")[2]
            where = f"{row.name}, {kind}"
            spent[where] = spent.get(where, 0.0) + ticks / os.sysconf("SC_CLK_TCK")
    return spent


def _pipe_of_a_page() -> float:
    """Seconds of a page through a pipe as nodes use it, one thread at both ends."""
    staging, (reading, writing) = Staging(), make_pipe()
    files = files_of(staging.mapped)
    writer = Writer(writing, staging.mapped, files)
    reader = Reader(reading, Buffers(), None, [Foreign(os.dup(file)) for file in files])
    pages = staging.room(BATCH_BYTES)
    pages[:] = 1
    best = math.inf
    for _ in range(PIPE_TURNS):
        began, arrived = time.perf_counter(), None
        writer.queue.append((pages.data,))
        while arrived is None:
            writer.push()
            arrived = reader.pull()
        del arrived
        best = min(best, time.perf_counter() - began)
    writer.close()
    reader.close()
    return best / (BATCH_BYTES // PAGE_SIZE)


def _copy_of_a_page() -> float:
    """Seconds of a copy that the cache does not help, with all memory touched before."""
    pages = 8192
    source, target = np.ones((2, pages * PAGE_SIZE // 8), np.uint64)
    target[:] = source
    began = time.perf_counter()
    target[:] = source
    return (time.perf_counter() - began) / pages
