"""TABLE: the metrics of the journal, rows of the table in ``metrics.py``."""

from __future__ import annotations

from protocol.labels import Role
from protocol.metric import Kind, Metric, Samples
from protocol.notes import JournalCompacted, JournalWritten, Note


def _row(name: str, kind: Kind, note: type[Note], samples: Samples, help: str) -> Metric:
    name = f"numalab_journal_{name}"
    return Metric(name, kind, (), help, (Role.COORDINATOR,), ((note, samples),))


JOURNAL: tuple[Metric, ...] = (
    _row(
        "entries_total",
        Kind.COUNTER,
        JournalWritten,
        lambda n: (((), n.entries),),
        "Entries written to the journal, those of snapshots not counted.",
    ),
    _row(
        "written_bytes_total",
        Kind.COUNTER,
        JournalWritten,
        lambda n: (((), n.bytes),),
        "Bytes of entries written to the journal, those of snapshots not counted.",
    ),
    _row(
        "commit_seconds",
        Kind.HISTOGRAM,
        JournalWritten,
        lambda n: (((), n.seconds),),
        "Time until the entries of a transaction were on the disk.",
    ),
    _row(
        "compactions_total",
        Kind.COUNTER,
        JournalCompacted,
        lambda n: (((), 1),),
        "Times that a snapshot has replaced the journal.",
    ),
    _row(
        "compaction_seconds",
        Kind.HISTOGRAM,
        JournalCompacted,
        lambda n: (((), n.seconds),),
        "Time until a snapshot was on the disk.",
    ),
    _row(
        "snapshot_bytes",
        Kind.GAUGE,
        JournalCompacted,
        lambda n: (((), n.bytes),),
        "Bytes of the entries of the last snapshot, 0 before the first.",
    ),
)
