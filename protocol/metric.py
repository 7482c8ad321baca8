"""What a metric is: its kind, its labels, and how a note becomes samples of it.

The metrics themselves are in ``metrics.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Any, NamedTuple

from protocol.labels import Label, Role
from protocol.notes import Note


class Kind(StrEnum):
    """What Prometheus does with it."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


#: Label values, and what is counted, set or observed for them.
Sample = tuple[tuple[str, ...], float]
Samples = Callable[[Any], Iterable[Sample]]


class Metric(NamedTuple):
    """One line of the table.  ``feeds``: the samples that each class of note gives."""

    name: str
    kind: Kind
    labels: tuple[Label, ...]
    help: str
    roles: tuple[Role, ...]
    feeds: tuple[tuple[type[Note], Samples], ...]


class TransportMetric(NamedTuple):
    """A counter that no note feeds: libzmq is below the Cores.  field: of ``Statistics``."""

    name: str
    labels: tuple[Label, ...]
    help: str
    field: str


#: Seconds.  A page moves in a fifth of a millisecond, a large task in seconds.
BUCKETS = (
    *(50e-6, 100e-6, 250e-6, 500e-6),
    *(1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
