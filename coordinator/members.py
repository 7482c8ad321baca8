"""Who is there: nodes that describe themselves and are recovered, clients that hold leases."""

from __future__ import annotations

import math
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
#: One that is silent, as before it has started, is asked anew after so long, or after a tenth of
#: the time that it has been silent: whoever waits for it waits little longer than it takes.
SILENT_SECONDS = 0.05
SILENT_SHARE = 0.1


@dataclass(slots=True)
class _Node:
    """settled: this coordinator has recovered it; recovering: or does so now.  fits: it is the one
    that the topology has, and answers.  due: when it is to be asked.  silent: since when it has
    been asked in vain.
    """

    nid: int
    fits: bool = False
    settled: bool = False
    recovering: bool = False
    due: float = 0.0
    silent: float | None = None

    @property
    def up(self) -> bool:
        return self.fits and self.settled


def absent(memory: Memory) -> frozenset[int]:
    """The nodes that nobody has ever leased (leases.py)."""
    there = memory.nids if memory.leases is None else (*memory.fixed, *memory.leases)
    return frozenset(memory.nids) - frozenset(there)


class Members:
    """Nodes by name, clients by name; decides when to ask and whose tasks must exit."""

    def __init__(self, memory: Memory, *, lease: float, heartbeat: float | None) -> None:
        self.memory, self.lease, self.heartbeat = memory, lease, heartbeat
        self._nodes = {node_name(nid): _Node(nid) for nid in memory.nids}
        #: When the first of them is to be asked.
        self._first_due = 0.0
        self._tickets: dict[int, str] = {}
        #: Nodes that wait for recovery, each with the UUID of its zone.
        self.to_recover: list[tuple[int, str]] = []
        #: When each client with a lease was last heard.
        self._clients: dict[str, float] = {}

    def up(self, nid: int) -> bool:
        return self._nodes[node_name(nid)].up

    def awaits(self, nid: int, now: float) -> None:
        """A process has leased the node: it will answer soon."""
        node = self._nodes[node_name(nid)]
        if not node.up:
            self._ask_at(node, now)
            self.memory.lost |= {nid}

    def all_up(self) -> bool:
        """Every node answers and has settled, but for those that are offline; and there is one."""
        online = [node for node in self._nodes.values() if node.nid not in self.memory.offline]
        return bool(online) and all(node.up for node in online)

    def nodes_up(self) -> int:
        return len([node for node in self._nodes.values() if node.fits and node.settled])

    def next_deadline(self) -> float | None:
        times = [heard + self.lease for heard in self._clients.values()]
        first = min((self._first_due, *times))
        return None if first == math.inf else first

    # ---- nodes -----------------------------------------------------------------------------

    def due(self, now: float) -> Iterator[tuple[str, Message, float | None]]:
        """Nodes to be asked now: (peer, question, seconds to wait)."""
        if now < self._first_due:
            return
        for name, node in self._nodes.items():
            if node.due <= now:
                self._ask_at(node, math.inf)
                if node.nid in absent(self.memory):
                    # Nobody is there who could be asked.
                    continue
                yield name, Describe(), self._patience(node, now)

    def _patience(self, node: _Node, now: float) -> float | None:
        """Seconds to wait for its answer."""
        if self.heartbeat is None:
            return None
        longest = self.heartbeat * PATIENCE
        if node.fits:
            return longest
        if node.silent is None:
            node.silent = now
        return min(longest, max(SILENT_SECONDS, (now - node.silent) * SILENT_SHARE))

    def _ask_at(self, node: _Node, due: float) -> None:
        node.due = due
        self._first_due = min([node.due for node in self._nodes.values()])

    def asked(self, name: str, ticket: int) -> None:
        self._tickets[ticket] = name

    def answered(self, answer: Answer, now: float) -> bool:
        """Whether this answers one of our questions; a node is up or lost by it."""
        name = self._tickets.pop(answer.ticket, None)
        if answer.status == -ENODEV and answer.peer in self._nodes:
            # It restarted: what it is now, its next answer tells.
            if answer.peer not in self._tickets.values():
                self._ask_at(self._nodes[answer.peer], now)
        if name is None or answer.status == -ENODEV:
            return name is not None
        node = self._nodes[name]
        description = answer.message
        fits = isinstance(description, NodeDescription) and self._fits(node, description)
        before, node.fits = node.up, fits
        if node.up and not before:
            self.memory.notes.append(NodeUp(node.nid))
        elif before and not fits:
            self.memory.notes.append(NodeLost(node.nid))
        waits = isinstance(description, NodeDescription) and not description.recovered
        if fits and isinstance(description, NodeDescription) and not node.recovering:
            if waits or not node.settled:
                node.recovering = True
                self.to_recover.append((node.nid, description.uuid))
        self.memory.lost = (self.memory.lost | {node.nid}) - ({node.nid} if fits else set())
        if description is None:
            # The time that was waited for it was the pause.
            self._ask_at(node, now)
        else:
            node.silent = None
            if self.heartbeat is not None or not fits:
                self._ask_at(node, now + (self.heartbeat or 1.0))
        return True

    def recovered(self, nid: int, now: float, *, done: bool) -> None:
        """The recovery of a node has ended; not ``done``: it has to start over."""
        node = self._nodes[node_name(nid)]
        node.recovering = False
        if not done:
            self._ask_at(node, now)
        elif not node.settled:
            node.settled = True
            if node.fits:
                self.memory.notes.append(NodeUp(nid))

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
