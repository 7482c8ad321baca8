"""TABLE: entries of the journal about migration jobs; ``records.py`` has those about memory."""

from __future__ import annotations

from protocol.schema import Message, Node, Unsigned, Word, message


@message(0xB1, "journal")
class JobNoted(Message):
    """A migration job has begun, or ended; the later entry of one job says it all.

    The fields are those of ``protocol.jobs.JobList``.  One that has not ended when the journal is
    read back is lost: its loop died with the coordinator that wrote this.
    """

    job: Unsigned
    pid: Word
    caller: Word
    state: Unsigned
    pairs: tuple[Node, ...]
    rate_limit: Unsigned
    total: Unsigned
    settled: Unsigned
    moved: Unsigned
    retries: Unsigned
    result: Word
    seconds: float
