"""TABLE: the figures of the suite, what each compares, and what it has to be.

Gates are ratios or counts wherever that is possible: a host swings by half within minutes, and
only what was measured side by side swings together.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What the median of a part is worth."""

    AIM = "aim"
    MET = "met"
    SHORT = "short"
    PRINTED = "printed"


@dataclass(frozen=True, slots=True)
class Part:
    """One number of a figure.

    name: of the part, empty if it is the only one.  unit: as printed behind the number.  more: more
    is better.  no_worse, aim: what the median is held against; None: it is only printed.
    """

    name: str
    unit: str
    more: bool
    no_worse: float | None = None
    aim: float | None = None

    def verdict(self, median: float) -> Verdict:
        """No worse is enough; None there and an aim: it is printed until it reaches the aim."""
        if self.aim is not None and self._reaches(median, self.aim):
            return Verdict.AIM
        if self.no_worse is None:
            return Verdict.PRINTED
        return Verdict.MET if self._reaches(median, self.no_worse) else Verdict.SHORT

    def _reaches(self, median: float, bound: float) -> bool:
        return median >= bound if self.more else median <= bound


@dataclass(frozen=True, slots=True)
class Figure:
    """A row of the table.  against: what it is measured beside, or in."""

    number: int
    title: str
    against: str
    parts: tuple[Part, ...]


def _ratio(name: str, no_worse: float | None = None, aim: float | None = None) -> Part:
    return Part(name, "x", True, no_worse, aim)


def _less(name: str, unit: str, no_worse: float | None, aim: float | None) -> Part:
    return Part(name, unit, False, no_worse, aim)


#: Of figure 10: what is switched off; and of these the two that a machine has only if it is told
#: to, so that what they take is printed and no more.
COSTS = ("sums", "records", "metrics", "synced records", "CURVE", "TCP")
_ASKED_FOR = ("synced records", "CURVE", "TCP")

TABLE: tuple[Figure, ...] = (
    Figure(1, "neighbouring / bare zmq", "bare pyzmq, same bytes", (_ratio("", 0.60, 0.85),)),
    Figure(2, "scattered / bare zmq", "the same, at both ends", (_ratio("", 0.42, 0.60),)),
    Figure(3, "neighbouring / Redis", "Redis MIGRATE KEYS x 512", (_ratio("", 6.0, 10.0),)),
    Figure(
        4,
        "neighbouring / copies",
        "what copies and keeps its source",
        (_ratio("Dask", 1.3, 2.0), _ratio("Ray", 1.3, 2.0), _ratio("MPI")),
    ),
    Figure(
        5,
        "time over pages",
        "exponent",
        (_less("live", "", 1.03, 1.00), _less("simulated", "", 1.03, 1.00)),
    ),
    Figure(6, "control messages", "for each 1,000 pages", (_less("", "", 4.0, 1.5),)),
    Figure(7, "one page, p50", "control round trips", (_less("", "trips", 4.5, 2.5),)),
    Figure(
        8,
        "wait of a writer",
        "times of a chunk; milliseconds",
        (_less("longest", "chunks", 3.0, 1.5), _less("p99", "ms", 60.0, 20.0)),
    ),
    Figure(
        9,
        "bookkeeping of a page",
        "growth of memory",
        (_less("coordinator", "B", 32.0, 20.0), _less("node", "B", 48.0, 32.0)),
    ),
    Figure(
        10,
        "speed that is left with",
        "the same without",
        tuple(_ratio(name, None, None if name in _ASKED_FOR else 0.90) for name in COSTS),
    ),
    Figure(11, "load and store, 64 bytes", "bare pyzmq round trips", (_ratio("", 0.45, 0.60),)),
    Figure(12, "first touch (populate)", "migration, pages a second", (_ratio("", 0.5, 1.0),)),
    Figure(
        13,
        "simulator, one core",
        "wall time",
        (
            Part("events", "/s", True, 20_000.0, 60_000.0),
            Part("virtual time", "x", True, 50.0, 300.0),
        ),
    ),
    Figure(
        14,
        "1,000,000 frames",
        "seconds until it serves",
        (_less("start", "s", 5.0, 2.0), _less("recovery", "s", 10.0, 3.0)),
    ),
)

FIGURES = {figure.number: figure for figure in TABLE}
