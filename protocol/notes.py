"""TABLE: what happened that is worth knowing.

A Core never logs and never counts: it reports notes.  Drivers feed them to the metrics
(``protocol/metrics.py`` names the note behind every metric), to the story of a page, to checkers.
"""

from __future__ import annotations

from protocol.values import value


@value
class Note:
    """Base of all notes, so that one type can be named; it has no behaviour."""


# ---- any Core ------------------------------------------------------------------------------


@value
class FrameDropped(Note):
    """Foreign bytes were wrong; counted and dropped.  reason: one word of ``WireError.reason``."""

    reason: str


@value
class QuestionResent(Note):
    """No answer yet: the session asked again."""

    peer: str
    opcode: int


@value
class EchoSuppressed(Note):
    """A question came again and was not executed again."""

    peer: str


@value
class StaleRefused(Note):
    """A question for another incarnation was refused unexecuted.  reason: ``boot`` or ``epoch``."""

    peer: str
    reason: str


@value
class MessageAsked(Note):
    """A question left this Core for the first time."""

    peer: str
    opcode: int


@value
class PeerRestarted(Note):
    """A peer answers with a new boot_id."""

    peer: str


@value
class AnswerIndefinite(Note):
    """A question ended without an answer: nobody knows whether it was executed.

    status: -ENODEV, the peer has restarted; -EAGAIN, its time was over.
    """

    peer: str
    status: int


@value
class FaultInjected(Note):
    """A message or the disk of this process suffered a fault that was asked for."""

    kind: str


# ---- a node --------------------------------------------------------------------------------


@value
class NodeRecovered(Note):
    """The node serves; ``orphans``: frames that it freed, as nobody was ever told of them."""

    orphans: int


@value
class ZoneCounted(Note):
    """The zone after a change, in frames."""

    free: int
    active: int
    inactive: int
    pending: int
    isolated: int
    locked: int


@value
class PagesSent(Note):
    """Page contents left for another node and were acknowledged."""

    target: str
    pages: int
    bytes: int


@value
class PagesLanded(Note):
    """Page contents came from another node and are in their frames."""

    source: str
    pages: int
    bytes: int


@value
class AccessServed(Note):
    """A task loaded or stored.  kind: ``load`` or ``store``."""

    kind: str
    pages: int


@value
class AccessRefused(Note):
    """A task's translation was stale or its page locked.  kind: ``load`` or ``store``."""

    kind: str
    pages: int


# ---- the coordinator -----------------------------------------------------------------------


@value
class PagesMoved(Note):
    """Page-table entries now name the new frames (the commit).  Node ids."""

    source: int
    target: int
    pages: int


@value
class PagesNotMoved(Note):
    """Pages ended FAILED, with their last status (negative errno)."""

    source: int
    status: int
    pages: int


@value
class EntriesGone(Note):
    """Pages are mapped again after they were migration entries for so many seconds, moved or not.

    So long a fault on one of them had to wait at most (K 1.45).
    """

    pages: int
    seconds: float


@value
class PassEnded(Note):
    """One pass of migrate_pages() is over (K 1.19)."""

    number: int
    retry: int
    failed: int


@value
class MigrationEnded(Note):
    """One migrate_pages() call is over.  reason: a name of enum migrate_reason (K 6.14)."""

    moved: int
    failed: int
    reason: str
    seconds: float


@value
class JobsCounted(Note):
    """The migration jobs under way; backlog: pages not tried yet; seconds left, -1: unknown."""

    running: int
    paused: int
    waiting: int
    backlog: int
    seconds: float


@value
class JobEnded(Note):
    """A migration job is over.  state: ``done``, ``failed`` or ``cancelled``."""

    state: str


@value
class StepAnswered(Note):
    """A question about pages in this state of the life table was answered after so long."""

    step: str
    pages: int
    seconds: float


@value
class MigrationsCounted(Note):
    """Calls of migrate_pages() under way, and the pages of their lists that are not settled."""

    calls: int
    pages: int


@value
class AccessesTold(Note):
    """Accesses (``load``, ``store``) to pages of a node, by a cpu of it (``local``, ``remote``)."""

    node: int
    kind: str
    place: str
    accesses: int


@value
class PagesAllocated(Note):
    """Frames were handed out: on ``node``, wanted on ``preferred``, asked by a cpu of ``local``.

    interleave: an interleave policy chose ``preferred`` (K 5.7).
    """

    node: int
    preferred: int
    local: int
    pages: int
    interleave: bool = False


@value
class EmulatedTimeAccrued(Note):
    """So much time would it have taken: ``load``, ``store``, ``fault`` or ``migration``."""

    what: str
    node: int
    seconds: float


@value
class FaultServed(Note):
    """A fault question was answered.  seconds: how long it was parked."""

    pages: int
    seconds: float


@value
class MachineCounted(Note):
    """Gauges of the coordinator: tasks, faults parked, calls under way, nodes that answer."""

    tasks: int
    faults_parked: int
    calls: int
    nodes_up: int


@value
class SyscallEnded(Note):
    """A system call (or a fault) was answered.  call: the kernel's name of it."""

    call: str
    result: int
    seconds: float


@value
class PeersTold(Note):
    """Where these nodes take questions, which may be news to the transport."""

    names: tuple[str, ...]
    addresses: tuple[str, ...]


@value
class NodeUp(Note):
    """A node described itself and was accepted."""

    node: int


@value
class NodeLost(Note):
    """A node has not answered for longer than the limit."""

    node: int


@value
class NodeTakenOffline(Note):
    """A node is used no more (memory hot-remove), or, not ``offline``, is used again."""

    node: int
    offline: bool


@value
class NodeSettled(Note):
    """The coordinator and a node agree on its frames again.  frames: that it lost."""

    node: int
    frames: int
    seconds: float


@value
class CoordinatorRecovered(Note):
    """A new coordinator took over: its epoch, and the seconds until every node had settled."""

    epoch: int
    seconds: float


@value
class EpochBegan(Note):
    """A coordinator has started."""

    epoch: int


@value
class FramesPoisoned(Note):
    """Contents are gone: who reads these pages gets -EHWPOISON."""

    node: int
    frames: int


@value
class ZoneReplaced(Note):
    """A node has another zone than before: the coordinator ends, and its successor sorts it out."""

    node: int


@value
class TaskEnded(Note):
    """A task is gone.  reason: ``exit`` or ``lease`` (its client died)."""

    pid: int
    reason: str


@value
class ExtensionFailed(Note):
    """A method that a user's file registered raised, or returned what no such method returns.

    method: as ``vm_ops->migrate of '[ring]'``.  where: file and line of it.
    """

    method: str
    where: str
    error: str


@value
class JournalWritten(Note):
    """The entries of a transaction are on the disk; the driver says so, not the Core."""

    entries: int
    bytes: int
    seconds: float


@value
class JournalCompacted(Note):
    """A snapshot has replaced the journal.  bytes: of the snapshot."""

    bytes: int
    seconds: float


# ---- a client ------------------------------------------------------------------------------


@value
class OperationEnded(Note):
    """An order given by ``Command`` is done; ``result`` is its answer or an OSError."""

    ticket: int
    result: object
