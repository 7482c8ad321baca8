"""TABLE: what ``numalab workload`` tells of itself: its notes, and the metrics that they feed."""

from __future__ import annotations

from protocol.labels import Role
from protocol.metric import Kind, Metric, Samples
from protocol.notes import Note
from protocol.values import value


@value
class TurnEnded(Note):
    """A writer has had a turn.  In words; failed: or nobody knows whether they were stored."""

    stored: int
    failed: int


@value
class RoundEnded(Note):
    """A migration of all pages is over.  stayed: pages, those of one that ``failed`` not known."""

    seconds: float
    stayed: int
    failed: bool


def _row(name: str, kind: Kind, note: type[Note], samples: Samples, help: str) -> Metric:
    return Metric(f"numalab_workload_{name}", kind, (), help, (Role.CLIENT,), ((note, samples),))


WORKLOAD: tuple[Metric, ...] = (
    _row(
        "stores_total",
        Kind.COUNTER,
        TurnEnded,
        lambda n: (((), n.stored),),
        "Words that a writer of the workload loaded, added one to, and stored.",
    ),
    _row(
        "stores_failed_total",
        Kind.COUNTER,
        TurnEnded,
        lambda n: (((), n.failed),),
        "Words whose load or store failed, or of which nobody knows whether they were stored.",
    ),
    _row(
        "round_seconds",
        Kind.HISTOGRAM,
        RoundEnded,
        lambda n: (((), n.seconds),),
        "Time that a migration of all pages of the workload took.",
    ),
    _row(
        "rounds_failed_total",
        Kind.COUNTER,
        RoundEnded,
        lambda n: (((), n.failed),),
        "Migrations of the workload that ended with an error.",
    ),
    _row(
        "pages_stayed_total",
        Kind.COUNTER,
        RoundEnded,
        lambda n: (((), n.stayed),),
        "Pages of the workload that a migration left where they were, pinned ones included.",
    ),
)
