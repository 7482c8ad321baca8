"""Which figures are measured when: families share a machine, and every start has fresh ones.

The starts come one after the other, each with all of its families, so that the samples of a figure
are from moments far apart: a host has slow minutes.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from numalab.bench import (
    bookkeeping,
    costs,
    large,
    moving,
    scaling,
    simulated,
    small,
    starting,
)
from numalab.bench.facts import machine_facts
from numalab.bench.figures import FIGURES, TABLE
from numalab.bench.readings import Readings
from numalab.bench.report import progress_line
from numalab.bench.scale import Scale, Start

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Family:
    """Figures that are measured together."""

    figures: tuple[int, ...]
    measure: Callable[[Start], Awaitable[None]]


FAMILIES = (
    Family((1, 2, 3, 4, 6), moving.measure),
    Family((7, 11), small.measure),
    Family((8, 12), large.measure),
    Family((5,), scaling.measure),
    Family((10,), costs.measure),
    Family((13,), simulated.measure),
    Family((14,), starting.measure),
    Family((9,), bookkeeping.measure),
)


async def measure(
    scale: Scale, wanted: Sequence[int], peers: Sequence[str], tell: Tell
) -> dict[str, Any]:
    """Measure the wanted figures: a JSON object.  tell: what to do with a line of progress."""
    readings, facts = Readings(), machine_facts()
    began = time.monotonic()
    for number in range(scale.starts):
        start = Start(scale, number, frozenset(wanted), tuple(peers), readings)
        for family in FAMILIES:
            mine = [figure for figure in family.figures if figure in wanted]
            if not mine:
                continue
            await family.measure(start)
            for figure in mine:
                line = progress_line(readings.document(FIGURES[figure]))
                tell(f"start {number + 1} of {scale.starts}: {line}")
    return {
        "facts": facts,
        "scale": {"pages": scale.pages, "rounds": scale.rounds, "starts": scale.starts},
        "seconds": round(time.monotonic() - began, 1),
        "figures": [readings.document(figure) for figure in TABLE if figure.number in wanted],
    }
