"""TABLE: the metrics of migrations under way and of accesses; ``metrics.py`` has all others."""

from __future__ import annotations

from protocol import labels
from protocol.labels import Label, Role
from protocol.metric import Kind, Metric, Samples
from protocol.notes import AccessesTold, MigrationsCounted, Note, StepAnswered


def _row(
    name: str,
    kind: Kind,
    note: type[Note],
    samples: Samples,
    help: str,
    labels: tuple[Label, ...] = (),
) -> Metric:
    return Metric(f"numalab_{name}", kind, labels, help, (Role.COORDINATOR,), ((note, samples),))


MIGRATION: tuple[Metric, ...] = (
    _row(
        "migrations_under_way",
        Kind.GAUGE,
        MigrationsCounted,
        lambda n: (((), n.calls),),
        "Calls of migrate_pages() under way.",
    ),
    _row(
        "migration_backlog_pages",
        Kind.GAUGE,
        MigrationsCounted,
        lambda n: (((), n.pages),),
        "Pages on the lists of these calls of which it is not settled yet where they stay.",
    ),
    _row(
        "migration_step_seconds",
        Kind.HISTOGRAM,
        StepAnswered,
        lambda n: (((n.step,), n.seconds),),
        "From a question about a batch of pages to its answer, by the state that the pages are in.",
        (labels.STEP,),
    ),
    _row(
        "migration_step_pages_total",
        Kind.COUNTER,
        StepAnswered,
        lambda n: (((n.step,), n.pages),),
        "Pages of these batches, by the state that they are in.",
        (labels.STEP,),
    ),
    _row(
        "accesses_total",
        Kind.COUNTER,
        AccessesTold,
        lambda n: (((str(n.node), n.kind, n.place), n.accesses),),
        "Loads and stores of pages of a node that clients told of, by where the cpu was.",
        (labels.NUMA_NODE, labels.ACCESS, labels.PLACE),
    ),
)
