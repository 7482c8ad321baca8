"""Nodes that are leased: a process comes, is told which node it is, and memory is added (hot-add).

The machine has all its possible nodes from the start.  Some are fixed: everybody knows where they
are.  Of the others one that nobody has leased is absent: it is offline, and nobody waits for it.
A lease is for an identity, which a process keeps with its zone: so a node that comes back is the
same one, wherever it listens now, and no two are ever one.
"""

from __future__ import annotations

from coordinator.calls import Ask, Steps
from coordinator.desk import Desk, handles
from coordinator.few import coming
from coordinator.hotplug import set_online
from coordinator.hotplug_records import NodeLet
from coordinator.members import absent
from coordinator.memory import Memory
from protocol.hotplug import LeaseNode, NodeLeased, PeersAre
from protocol.messages import Done
from protocol.notes import PeersTold
from protocol.schema import Message, node_name
from protocol.session import Question

EPERM, EINVAL, ENOSPC = 1, 22, 28


@handles(LeaseNode)
def on_lease_node(desk: Desk, question: Question, asked: LeaseNode) -> Message:
    memory = desk.memory
    if memory.leases is None:
        return _refused(EPERM)
    if not asked.identity or not asked.address:
        return _refused(EINVAL)
    nid = _node_for(memory, asked.identity)
    if nid is None:
        return _refused(ENOSPC)
    return _let(desk, nid, asked)


def _refused(error: int) -> NodeLeased:
    return NodeLeased(-error, 0, 0, 0)


def begin(memory: Memory, fixed: frozenset[int]) -> None:
    """All nodes but the fixed ones are leased here; of a new machine nobody has any."""
    memory.fixed = fixed
    if memory.leases is None:
        memory.leases = {}
        for nid in memory.nids:
            set_online(memory, nid, online=nid in fixed)
    memory.lost |= absent(memory)


def _node_for(memory: Memory, identity: str) -> int | None:
    """The node of this identity; else one that nobody has, or that is given up: offline, empty."""
    assert memory.leases is not None
    for nid, lease in memory.leases.items():
        if lease.identity == identity:
            return nid
    free = sorted(absent(memory))
    given_up = [
        nid
        for nid in sorted(memory.offline & memory.lost)
        if nid in memory.leases and not memory.mem_map[nid].used and not coming(memory, nid)
    ]
    return next(iter((*free, *given_up)), None)


def _let(desk: Desk, nid: int, asked: LeaseNode) -> NodeLeased:
    """Recorded before anybody hears of it; where the node listens is news for everybody."""
    memory, name = desk.memory, node_name(nid)
    assert memory.leases is not None
    lease = memory.leases.get(nid)
    is_new = lease is None or lease.identity != asked.identity
    if is_new or (lease is not None and lease.address != asked.address):
        memory.leases[nid] = entry = NodeLet(nid, asked.identity, asked.address)
        memory.records.append(entry)
    if is_new:
        set_online(memory, nid, online=True)
    desk.addresses[name] = asked.address
    desk.members.awaits(nid, memory.now)
    peers = _peers_are(desk)
    memory.notes.append(PeersTold(peers.names, peers.addresses))
    desk.news = True
    node = memory.topology.node(nid)
    return NodeLeased(0, nid, node.frames, memory.topology.page_size)


def tell_peers(desk: Desk, nid: int) -> Steps[Message]:
    """Let a node know whom it can send pages to."""
    yield [Ask(node_name(nid), _peers_are(desk))]
    return Done(0)


def _peers_are(desk: Desk) -> PeersAre:
    """The nodes that can be reached, and where."""
    names = tuple(sorted(desk.addresses))
    return PeersAre(names, tuple(desk.addresses[name] for name in names))
