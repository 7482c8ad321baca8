"""TABLE: migration jobs, as the coordinator is asked for them (coordinator/jobs.py).

As ``messages.py``, which has the rest.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated

from msgspec import Meta

from protocol.schema import (
    I32,
    U8,
    U64,
    Message,
    Node,
    Text,
    Unsigned,
    Word,
    message,
)
from protocol.user_mask import UserMask


class JobState(IntEnum):
    """Where a job stands."""

    RUNNING = 0
    #: Between two slices: it holds no lock, and no page of it is isolated.
    PAUSED = 1
    #: The same, until a node that is down is back.
    WAITING = 2
    #: All pages were tried; ``result`` says how many stayed.
    DONE = 3
    #: ``result`` is why, a negative errno; what had moved stays moved.
    FAILED = 4
    CANCELLED = 5
    #: Its coordinator died.  What it moved stays moved.
    LOST = 6


class Wish(IntEnum):
    """What SetJob wants of a job."""

    RUN = 0
    PAUSE = 1
    CANCEL = 2


class Fate(IntEnum):
    """What becomes of pages, as far as the coordinator can know without trying."""

    MOVES = 0
    #: Another migration, or a copy-on-write, has them now.
    BUSY = 1
    #: Another address space maps them too, and the caller may not move those.
    SHARED = 2
    #: In an mlocked vma.
    LOCKED = 3
    #: In a vma that no migration looks into (VM_IO, VM_PFNMAP, VM_RESERVED).
    SPECIAL = 4
    #: Their vma's own vm_ops->migrate moves them, or not.
    OWN_METHOD = 5
    #: The migratepage method of their object refuses: they are tried, and stay.
    REFUSED = 6


@message(0x31, "client>coordinator", answer="Done")
class StartJob(Message):
    """migrate_pages(2) in slices that can be paused: the number of the job, or -errno.

    The first six fields are those of MigratePages, and so are the errors.  ``rate_limit``: bytes
    of pages that move in a second, 0: as fast as it can.  Answered when the job has begun.
    """

    caller: Word
    pid: Word
    maxnode: Unsigned
    old_nodes: UserMask
    new_nodes: UserMask
    new_page: Text
    rate_limit: Unsigned


@message(0x32, "client>coordinator", answer="JobList", idempotent=True)
class ListJobs(Message):
    """The jobs, the last 64 that have ended among them, and the other migrations under way."""


@message(0x33, "coordinator>client")
class JobList(Message):
    """A row for each job; ``job`` 0: a call of another kind under way, which cannot be paused.

    ``wish``: what was asked of it, which it heeds between two slices.  ``pairs``: source and
    target nodes by turns, in the order of working.  Of the pages ``total`` are to be tried,
    ``settled`` were, and ``moved`` of those are on their target.  ``retries``: how often a pass
    left a page to be tried again.  ``result``: pages not moved, or -errno.  ``seconds``: for which
    it ran, pauses left out.  ``rate``: bytes moved in a second lately; of one that has ended, over
    all.  ``eta``: seconds that it still takes at that rate, -1: nobody knows.
    """

    pairs: tuple[tuple[Node, ...], ...]
    result: tuple[Word, ...]
    seconds: tuple[float, ...]
    rate: tuple[float, ...]
    eta: tuple[float, ...]
    job: U64
    pid: I32
    caller: I32
    state: U8
    wish: U8
    total: U64
    settled: U64
    moved: U64
    retries: U64
    rate_limit: U64


@message(0x34, "client>coordinator", answer="Done")
class SetJob(Message):
    """Let a job run (0), pause it (1) or cancel it (2); answered when that is so.

    0; -ENOENT: there is no such job; -EALREADY: it has ended.
    """

    job: Unsigned
    wish: Annotated[int, Meta(ge=0, le=2)]


@message(0x35, "client>coordinator", answer="JobList")
class WaitJob(Message):
    """Answered with the row of the job when it has ended; -ENOENT: there is no such job."""

    job: Unsigned


@message(0x36, "client>coordinator", answer="MigrationPlan", idempotent=True)
class PlanMigration(Message):
    """What would migrate_pages(2) with these arguments do?  Nothing changes.

    The fields and the errors are those of MigratePages.
    """

    caller: Word
    pid: Word
    maxnode: Unsigned
    old_nodes: UserMask
    new_nodes: UserMask
    new_page: Text


@message(0x37, "coordinator>client")
class MigrationPlan(Message):
    """A row for each pair of nodes, vma and fate (``Fate``) that has pages; in working order.

    ``start``, ``end``: the vma, in bytes.  ``rate``: pages that moved in a second in the last
    migrations of this coordinator, 0: there were none.
    """

    rate: float
    names: tuple[Text, ...]
    source: I32
    target: I32
    start: U64
    end: U64
    fate: U8
    pages: U64
