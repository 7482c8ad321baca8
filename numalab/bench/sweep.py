"""``--sweep``: the ratio to bare zmq over one setting at a time, the others as they are shipped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import trio

from numalab.bench.lab import lab_of
from numalab.bench.ratios import summarise
from numalab.bench.raw import Pair, carrying
from numalab.bench.report import number, spread
from numalab.bench.scale import Scale
from numalab.bench.suite import Tell
from protocol.topology import PAGE_SIZE

#: By the setting of a machine (``numalab.cluster.Settings``).
SETTINGS: dict[str, tuple[int, ...]] = {
    "chunk_pages": (1024, 2048, 4096, 8192, 16_384),
    "batch_pages": (64, 128, 256, 512, 1024),
    "credit": (1, 2, 4, 8),
}


async def measure_sweep(scale: Scale, tell: Tell) -> list[dict[str, Any]]:
    """A JSON object for each value of each setting."""
    rows = []
    with carrying(scale.pages * PAGE_SIZE) as raw:
        await trio.to_thread.run_sync(raw.go)
        for setting, values in SETTINGS.items():
            for value in values:
                row = {"setting": setting, "value": value, **await _one(scale, raw, setting, value)}
                rows.append(row)
                tell(f"sweep: {setting} {value:,}: {number(row['median'], 'x')} {spread(row)}")
    return rows


async def _one(scale: Scale, raw: Pair, setting: str, value: int) -> dict[str, Any]:
    pages, ratios, rates = scale.pages, [], []
    async with lab_of(pages, **{setting: value}) as lab:
        task, _ = await lab.filled(pages)
        for turn in range(scale.rounds):
            bare = await trio.to_thread.run_sync(raw.go)
            seconds = await lab.move(task, turn % 2, pages)
            ratios.append(bare / seconds)
            rates.append(pages / seconds)
    return {**asdict(summarise(ratios)), "pages_per_second": summarise(rates).median}


def describe_sweep(rows: list[Mapping[str, Any]]) -> Iterator[str]:
    """In lines."""
    yield f"sweep: {'setting':<14} {'value':>8} {'pages/s':>10} {'of bare zmq':>12}  spread"
    for row in rows:
        yield (
            f"       {row['setting']:<14} {row['value']:>8,} {row['pages_per_second']:>10,.0f}"
            f" {number(row['median'], 'x'):>12}  {spread(row)}"
        )
