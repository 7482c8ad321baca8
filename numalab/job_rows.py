"""What one is told of migration jobs and plans (``machine.jobs``)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from protocol.jobs import Fate, JobState, Wish

Nodes = str | Iterable[int]


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job as it stands; ``job`` 0: a call of another kind under way, which cannot be paused.

    wish: what was asked of it last.  pairs: (source, target) in the order of working.  total,
    settled, moved, retries: pages.  rate_limit, rate: bytes a second, 0: none, not known.  seconds:
    for which it ran.  eta: seconds, None: not known.  result: pages not moved, or -errno.
    """

    job: int
    pid: int
    caller: int
    state: JobState
    wish: Wish
    pairs: tuple[tuple[int, int], ...]
    total: int
    settled: int
    moved: int
    retries: int
    rate_limit: int
    rate: float
    seconds: float
    eta: float | None
    result: int


@dataclass(frozen=True, slots=True)
class PlanRow:
    """Pages of one vma (``start`` to ``end``, bytes) that are on ``source`` when its turn comes."""

    source: int
    target: int
    start: int
    end: int
    name: str
    fate: Fate
    pages: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What a migration would do.  rate: pages a second of late, 0: nothing has moved yet."""

    rows: tuple[PlanRow, ...]
    rate: float

    def pages(self, *fates: Fate) -> int:
        """How many pages have one of these fates."""
        return sum(row.pages for row in self.rows if row.fate in fates)
