"""Who is there: nodes that describe themselves, clients that hold leases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from coordinator.memory import Memory
from protocol.messages import Describe, NodeDescription
from protocol.notes import NodeLost, NodeUp
from protocol.schema import Message, node_name
from protocol.session import Answer

ENODEV = 19
#: A node that has not answered for so many heartbeats is called lost.
PATIENCE = 3


@dataclass(slots=True)
class _Node:
    nid: int
    up: bool = False
    due: float | None = 0.0


class Members:
    """Nodes by name, clients by name; decides when to ask and whose tasks must exit."""

    def __init__(self, memory: Memory, *, lease: float, heartbeat: float | None) -> None:
        self.memory, self.lease, self.heartbeat = memory, lease, heartbeat
        self._nodes = {node_name(nid): _Node(nid) for nid in memory.nids}
        self._tickets: dict[int, str] = {}
        #: When each client with a lease was last heard.
        self._clients: dict[str, float] = {}

    def up(self, nid: int) -> bool:
        return self._nodes[node_name(nid)].up

    def nodes_up(self) -> int:
        return sum(node.up for node in self._nodes.values())

    def next_deadline(self) -> float | None:
        times = [node.due for node in self._nodes.values() if node.due is not None]
        times += [heard + self.lease for heard in self._clients.values()]
        return min(times, default=None)

    # ---- nodes -----------------------------------------------------------------------------

    def due(self, now: float) -> Iterator[tuple[str, Message, float | None]]:
        """Nodes to be asked now: (peer, question, seconds to wait)."""
        patience = None if self.heartbeat is None else self.heartbeat * PATIENCE
        for name, node in self._nodes.items():
            if node.due is not None and node.due <= now:
                node.due = None
                yield name, Describe(), patience

    def asked(self, name: str, ticket: int) -> None:
        self._tickets[ticket] = name

    def answered(self, answer: Answer, now: float) -> bool:
        """Whether this answers one of our questions; a node is up or lost by it."""
        name = self._tickets.pop(answer.ticket, None)
        if name is None:
            return False
        node = self._nodes[name]
        if answer.status == -ENODEV:
            # It restarted: what it is now, its next answer tells.
            node.due = now
            return True
        description = answer.message
        fits = isinstance(description, NodeDescription) and self._fits(node, description)
        if fits and not node.up:
            self.memory.notes.append(NodeUp(node.nid))
        elif not fits and node.up:
            self.memory.notes.append(NodeLost(node.nid))
        node.up = fits
        self.memory.lost = (self.memory.lost | {node.nid}) - ({node.nid} if fits else set())
        if self.heartbeat is not None or not fits:
            node.due = now + (self.heartbeat or 1.0)
        return True

    def _fits(self, node: _Node, description: NodeDescription) -> bool:
        """The node is the one that the topology has."""
        known = self.memory.topology.node(node.nid)
        return (
            description.nid == node.nid
            and description.frames == known.frames
            and description.page_size == self.memory.topology.page_size
        )

    # ---- clients ---------------------------------------------------------------------------

    def attach(self, client: str, now: float) -> None:
        self._clients[client] = now

    def heard(self, peer: str, now: float) -> None:
        if peer in self._clients:
            self._clients[peer] = now

    def bury(self, now: float) -> list[str]:
        """The clients that have been silent for longer than the lease; they are forgotten."""
        silent = [name for name, heard in self._clients.items() if heard + self.lease <= now]
        for name in silent:
            del self._clients[name]
        return silent
