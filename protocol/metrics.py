"""TABLE: every metric: name, kind, labels, help, which process has it, and the note that feeds it.

Names follow /proc/vmstat and numastat where those have one (K 6.6, 6.10).  How a note becomes
samples is a pure function; ``protocol/live/exposition.py`` binds the table to a registry.
The generated table in ``docs/metrics.md`` is this file's.
"""

from __future__ import annotations

from operator import attrgetter

from protocol import labels, notes
from protocol.job_metrics import JOBS
from protocol.journal_metrics import JOURNAL
from protocol.labels import Label, Role
from protocol.metric import Kind, Metric, Sample, Samples, TransportMetric
from protocol.migration_metrics import MIGRATION
from protocol.notes import Note
from protocol.recovery_metrics import RECOVERY
from protocol.workload_metrics import WORKLOAD

# ---- rows ----------------------------------------------------------------------------------

_EVERY = (Role.NODE, Role.COORDINATOR, Role.CLIENT)
_NODE = (Role.NODE,)
_COORDINATOR = (Role.COORDINATOR,)
_CLIENT = (Role.CLIENT,)


def _counter(
    name: str,
    note: type[Note],
    samples: Samples,
    help: str,
    labels: tuple[Label, ...] = (),
    roles: tuple[Role, ...] = _COORDINATOR,
) -> Metric:
    return Metric(f"numalab_{name}_total", Kind.COUNTER, labels, help, roles, ((note, samples),))


def _zone(condition: str, help: str) -> Metric:
    name = f"numalab_nr_{condition}_pages"
    frames = attrgetter(condition)
    feed = (notes.ZoneCounted, lambda n: _many(frames(n)))
    return Metric(name, Kind.GAUGE, (), help, _NODE, (feed,))


def _machine(name: str, samples: Samples, help: str) -> Metric:
    feed = (notes.MachineCounted, samples)
    return Metric(f"numalab_{name}", Kind.GAUGE, (), help, _COORDINATOR, (feed,))


def _numa(name: str, samples: Samples, help: str) -> Metric:
    return _counter(f"numa_{name}", notes.PagesAllocated, samples, help, (labels.NUMA_NODE,))


def _seconds(
    name: str, note: type[Note], samples: Samples, help: str, labels: tuple[Label, ...] = ()
) -> Metric:
    name = f"numalab_{name}_seconds"
    return Metric(name, Kind.HISTOGRAM, labels, help, _COORDINATOR, ((note, samples),))


def _transport(field: str, help: str, labels: tuple[Label, ...] = ()) -> TransportMetric:
    return TransportMetric(f"numalab_transport_{field}_total", labels, help, field)


def _one(*values: str) -> tuple[Sample]:
    return ((values, 1),)


def _many(amount: float, *values: object) -> tuple[Sample]:
    return ((tuple(str(value) for value in values), amount),)


def _when(condition: bool, amount: float, *values: object) -> tuple[Sample, ...]:
    return _many(amount, *values) if condition else ()


TABLE: tuple[Metric, ...] = (
    *RECOVERY,
    *MIGRATION,
    _counter(
        "wire_errors",
        notes.FrameDropped,
        lambda n: _one(n.reason),
        "Messages dropped because their bytes were wrong.",
        (labels.WIRE_ERROR,),
        _EVERY,
    ),
    _counter(
        "questions_asked",
        notes.MessageAsked,
        lambda n: _one(labels.message_label(n.opcode)),
        "Questions sent for the first time, by message.",
        (labels.MESSAGE,),
        _EVERY,
    ),
    _counter(
        "peer_questions_asked",
        notes.MessageAsked,
        lambda n: _one(labels.peer_label(n.peer)),
        "Questions sent for the first time, by peer.",
        (labels.PEER,),
        _EVERY,
    ),
    _counter(
        "questions_resent",
        notes.QuestionResent,
        lambda n: _one(labels.message_label(n.opcode)),
        "Questions sent again because no answer came, by message.",
        (labels.MESSAGE,),
        _EVERY,
    ),
    _counter(
        "peer_questions_resent",
        notes.QuestionResent,
        lambda n: _one(labels.peer_label(n.peer)),
        "Questions sent again because no answer came, by peer.",
        (labels.PEER,),
        _EVERY,
    ),
    _counter(
        "questions_repeated",
        notes.EchoSuppressed,
        lambda n: _one(labels.peer_label(n.peer)),
        "Questions that came again and were not executed again.",
        (labels.PEER,),
        _EVERY,
    ),
    _counter(
        "questions_refused",
        notes.StaleRefused,
        lambda n: _one(labels.peer_label(n.peer), n.reason),
        "Questions refused unexecuted because they were for another incarnation.",
        (labels.PEER, labels.INCARNATION),
        _EVERY,
    ),
    _counter(
        "peer_restarts",
        notes.PeerRestarted,
        lambda n: _one(labels.peer_label(n.peer)),
        "Times that a peer answered with a new boot_id.",
        (labels.PEER,),
        _EVERY,
    ),
    _counter(
        "answers_indefinite",
        notes.AnswerIndefinite,
        lambda n: _one(labels.peer_label(n.peer), labels.errno_label(n.status)),
        "Questions that ended without an answer, so that nobody knows whether they were executed.",
        (labels.PEER, labels.INDEFINITE),
        _EVERY,
    ),
    _counter(
        "faults_injected",
        notes.FaultInjected,
        lambda n: _one(n.kind),
        "Faults of messages and disks that were asked for and have happened, by kind.",
        (labels.FAULT,),
        _EVERY,
    ),
    _zone("free", "Frames that are free."),
    _zone("active", "Frames on the active LRU list."),
    _zone("inactive", "Frames on the inactive LRU list."),
    _zone("pending", "Frames that wait to be added to the LRU in one batch."),
    _zone("isolated", "Frames taken off the LRU for migration."),
    _zone("locked", "Frames that are locked."),
    _counter(
        "pages_sent",
        notes.PagesSent,
        lambda n: _many(n.pages, labels.nid_label(n.target)),
        "Pages whose contents left for another node and were acknowledged.",
        (labels.TARGET,),
        _NODE,
    ),
    _counter(
        "pages_sent_bytes",
        notes.PagesSent,
        lambda n: _many(n.bytes, labels.nid_label(n.target)),
        "Bytes of page contents that left for another node and were acknowledged.",
        (labels.TARGET,),
        _NODE,
    ),
    _counter(
        "pages_landed",
        notes.PagesLanded,
        lambda n: _many(n.pages, labels.nid_label(n.source)),
        "Pages whose contents came from another node.",
        (labels.SOURCE,),
        _NODE,
    ),
    _counter(
        "pages_landed_bytes",
        notes.PagesLanded,
        lambda n: _many(n.bytes, labels.nid_label(n.source)),
        "Bytes of page contents that came from another node.",
        (labels.SOURCE,),
        _NODE,
    ),
    _counter(
        "pages_accessed",
        notes.AccessServed,
        lambda n: _many(n.pages, n.kind),
        "Pages that tasks loaded from or stored to.",
        (labels.ACCESS,),
        _NODE,
    ),
    _counter(
        "pages_access_refused",
        notes.AccessRefused,
        lambda n: _many(n.pages, n.kind),
        "Accesses refused because the translation was stale or the page locked.",
        (labels.ACCESS,),
        _NODE,
    ),
    _counter(
        "pgmigrate_success",
        notes.PagesMoved,
        lambda n: _many(n.pages, n.source, n.target),
        "Pages moved, by pair of nodes; the sum is pgmigrate_success of /proc/vmstat.",
        (labels.SOURCE, labels.TARGET),
    ),
    _counter(
        "pgmigrate_fail",
        notes.PagesNotMoved,
        lambda n: _many(n.pages, n.source, labels.errno_label(n.status)),
        "Pages that in the end could not be moved; the sum is pgmigrate_fail of /proc/vmstat.",
        (labels.SOURCE, labels.ERRNO),
    ),
    _counter(
        "migration_passes",
        notes.PassEnded,
        lambda n: _one(str(n.number)),
        "Passes of migrate_pages(), by number of the pass; from 3 on they are forced.",
        (labels.PASS,),
    ),
    _counter(
        "pgmigrate_retry",
        notes.PassEnded,
        lambda n: _many(n.retry),
        "Pages that a pass left to be tried again.",
    ),
    _seconds(
        "migration_entry",
        notes.EntriesGone,
        lambda n: _many(n.seconds),
        "How long the pages of a chunk were migration entries.",
    ),
    _seconds(
        "migration_duration",
        notes.MigrationEnded,
        lambda n: _many(n.seconds, n.reason),
        "Time that a call of migrate_pages() took, by migrate_reason.",
        (labels.MIGRATE_REASON,),
    ),
    _counter(
        "migration_pages_moved",
        notes.MigrationEnded,
        lambda n: _many(n.moved, n.reason),
        "Pages moved, by migrate_reason.",
        (labels.MIGRATE_REASON,),
    ),
    _counter(
        "migration_pages_failed",
        notes.MigrationEnded,
        lambda n: _many(n.failed, n.reason),
        "Pages that could not be moved, by migrate_reason.",
        (labels.MIGRATE_REASON,),
    ),
    *JOBS,
    _numa(
        "hit",
        lambda n: _when(n.node == n.preferred, n.pages, n.node),
        "Pages allocated on the node that was wanted.",
    ),
    _numa(
        "miss",
        lambda n: _when(n.node != n.preferred, n.pages, n.node),
        "Pages allocated on this node though another was wanted.",
    ),
    _numa(
        "foreign",
        lambda n: _when(n.node != n.preferred, n.pages, n.preferred),
        "Pages wanted on this node and allocated on another.",
    ),
    _numa(
        "interleave",
        lambda n: _when(n.interleave and n.node == n.preferred, n.pages, n.node),
        "Pages that an interleave policy wanted on this node and got there.",
    ),
    _numa(
        "local",
        lambda n: _when(n.node == n.local, n.pages, n.node),
        "Pages allocated on this node for a cpu of this node.",
    ),
    _numa(
        "other",
        lambda n: _when(n.node != n.local, n.pages, n.node),
        "Pages allocated on this node for a cpu of another node.",
    ),
    _counter(
        "emulated_seconds",
        notes.EmulatedTimeAccrued,
        lambda n: _many(n.seconds, n.what, n.node),
        "Emulated time: what the work of tasks on the pages of a node would have taken.",
        (labels.WORK, labels.NUMA_NODE),
    ),
    _counter(
        "pgfault",
        notes.FaultServed,
        lambda n: _many(n.pages),
        "Pages for which a fault was answered.",
    ),
    _seconds(
        "fault_wait",
        notes.FaultServed,
        lambda n: _many(n.seconds),
        "Time that a fault was parked, on a migration entry or for an allocation.",
    ),
    _machine("tasks", lambda n: _many(n.tasks), "Tasks that live."),
    _machine("faults_parked", lambda n: _many(n.faults_parked), "Faults that wait."),
    _machine("calls_under_way", lambda n: _many(n.calls), "System calls under way."),
    _seconds(
        "syscall_duration",
        notes.SyscallEnded,
        lambda n: _many(n.seconds, n.call),
        "Time that a system call took.",
        (labels.CALL,),
    ),
    _counter(
        "syscalls_failed",
        notes.SyscallEnded,
        lambda n: _when(n.result < 0, 1, n.call, labels.errno_label(n.result)),
        "System calls answered with an error.",
        (labels.CALL, labels.ERRNO_OF_CALL),
    ),
    Metric(
        "numalab_node_up",
        Kind.GAUGE,
        (labels.NUMA_NODE,),
        "1 while the node answers, else 0.",
        _COORDINATOR,
        ((notes.NodeUp, lambda n: _many(1, n.node)), (notes.NodeLost, lambda n: _many(0, n.node))),
    ),
    _counter(
        "node_losses",
        notes.NodeLost,
        lambda n: _many(1, n.node),
        "Times that a node did not answer for longer than the limit.",
        (labels.NUMA_NODE,),
    ),
    _counter(
        "tasks_ended",
        notes.TaskEnded,
        lambda n: _one(n.reason),
        "Tasks that are gone: they exited, or the lease of their client ran out.",
        (labels.END,),
    ),
    _counter(
        "extension_failures",
        notes.ExtensionFailed,
        lambda n: _one(),
        "Times that a method of a loaded file raised, or returned what no such method returns.",
    ),
    *JOURNAL,
    _counter(
        "operations",
        notes.OperationEnded,
        lambda n: _one(),
        "Orders of the client that are done, failed ones included.",
        roles=_CLIENT,
    ),
    _counter(
        "operations_failed",
        notes.OperationEnded,
        lambda n: _when(isinstance(n.result, OSError), 1),
        "Orders of the client that ended with an error.",
        roles=_CLIENT,
    ),
    *WORKLOAD,
)

TRANSPORT: tuple[TransportMetric, ...] = (
    _transport("sent", "Messages handed to the transport."),
    _transport("local", "Those of them that went past TCP, to a process of the same host."),
    _transport("received", "Messages that the transport yielded."),
    _transport("lost", "Messages that the transport could not send.", (labels.LOSS,)),
    _transport("oversized", "Messages dropped because they had too many frames."),
    _transport(
        "refused", "Connections and messages refused (docs/security.md).", (labels.REFUSAL,)
    ),
)


def metrics_of(role: Role) -> tuple[Metric, ...]:
    """The rows that a process of this role has."""
    return tuple(metric for metric in TABLE if role in metric.roles)
