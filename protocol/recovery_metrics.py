"""TABLE: the metrics of crashes and what follows them; ``metrics.py`` has all others."""

from __future__ import annotations

from protocol import labels, notes
from protocol.labels import Role
from protocol.metric import Kind, Metric

_COORDINATOR = (Role.COORDINATOR,)
_NODE = (Role.NODE,)

RECOVERY: tuple[Metric, ...] = (
    Metric(
        "numalab_epoch",
        Kind.GAUGE,
        (),
        "Which coordinator this is: one more with each start from the same journal.",
        _COORDINATOR,
        ((notes.EpochBegan, lambda n: [((), n.epoch)]),),
    ),
    Metric(
        "numalab_coordinator_recovery_seconds",
        Kind.HISTOGRAM,
        (),
        "From the start of a coordinator until every node agreed with its journal.",
        _COORDINATOR,
        ((notes.CoordinatorRecovered, lambda n: [((), n.seconds)]),),
    ),
    Metric(
        "numalab_node_recovery_seconds",
        Kind.HISTOGRAM,
        (labels.NUMA_NODE,),
        "From the coordinator's first word to a node that has started until it serves.",
        _COORDINATOR,
        ((notes.NodeSettled, lambda n: [((str(n.node),), n.seconds)]),),
    ),
    Metric(
        "numalab_frames_poisoned_total",
        Kind.COUNTER,
        (labels.NUMA_NODE,),
        "Frames whose contents are gone.",
        _COORDINATOR,
        ((notes.FramesPoisoned, lambda n: [((str(n.node),), n.frames)]),),
    ),
    Metric(
        "numalab_zones_replaced_total",
        Kind.COUNTER,
        (labels.NUMA_NODE,),
        "Nodes that came back with another zone while calls were under way.",
        _COORDINATOR,
        ((notes.ZoneReplaced, lambda n: [((str(n.node),), 1)]),),
    ),
    Metric(
        "numalab_recoveries_total",
        Kind.COUNTER,
        (),
        "Times that the node was told which of its frames are in use.",
        _NODE,
        ((notes.NodeRecovered, lambda n: [((), 1)]),),
    ),
    Metric(
        "numalab_orphans_freed_total",
        Kind.COUNTER,
        (),
        "Frames that were freed as nobody had ever been told of them.",
        _NODE,
        ((notes.NodeRecovered, lambda n: [((), n.orphans)]),),
    ),
    Metric(
        "numalab_node_offline",
        Kind.GAUGE,
        (labels.NUMA_NODE,),
        "1 while the node is out of use, as after memory hot-remove, else 0.",
        _COORDINATOR,
        ((notes.NodeTakenOffline, lambda n: [((str(n.node),), n.offline)]),),
    ),
)
