"""A simulated machine behind the ordinary API: every call runs to its end on virtual time.

The Cores are those of a live machine, in a world without faults; nothing in here really waits.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

from coordinator.coordinator import Coordinator
from nodes.node import Node
from nodes.zone import Zone
from numalab.client import Client
from numalab.conformance.arm import Answer, Arm
from numalab.conformance.scenario import DISTANCES, NODES, PAGE, Scenario
from numalab.machine import Machine
from numalab.orders import Order
from numalab.simulation.happening import Make
from numalab.simulation.world import World
from protocol.core import Core
from protocol.live.transport import Transport
from protocol.notes import OperationEnded
from protocol.profile import MODERN
from protocol.schema import COORDINATOR, node_name
from protocol.topology import Topology, TopologyNode

KEY = b"one machine 1key"
FRAMES = 512
SECONDS = 600.0
#: A fault is about the page that was touched alone, as in the guest (agent.py).
FAULT_AROUND = 1

_R = TypeVar("_R")

TOPOLOGY = Topology(
    tuple(TopologyNode(nid, FRAMES, (nid,)) for nid in range(NODES)), DISTANCES, PAGE
)


class SimulatedMachine(Machine):
    """A Machine whose orders have ended when ``carry_out`` gives their result."""

    def __init__(self) -> None:
        # Its driver is never run: every order goes to the client of the world.
        super().__init__(_client(1, []), cast(Transport, None))
        self.page_size = PAGE
        self.nids = TOPOLOGY.nids
        self.world = World(1, key=KEY)
        self.world.listen(OperationEnded, self._ended)
        self.world.add(COORDINATOR, _coordinator)
        for nid in self.nids:
            self.world.add(node_name(nid), _node(nid))
        self.world.add("client", _client)
        self._tickets = itertools.count(1)
        self._results: dict[int, object] = {}

    async def carry_out(self, order: Callable[[int], Order]) -> object:
        ticket = next(self._tickets)
        self.world.command("client", order(ticket))
        self.world.run_until(lambda: ticket in self._results, within=SECONDS, what="an order")
        result = self._results.pop(ticket)
        if isinstance(result, OSError):
            raise result
        return result

    def _ended(self, note: OperationEnded) -> None:
        self._results[note.ticket] = note.result


def _coordinator(boot: int, journal: list[bytes]) -> Core:
    return Coordinator(
        TOPOLOGY, boot_id=boot, key=KEY, epoch=1, lease=1e9, heartbeat=None, profile=MODERN
    )


def _node(nid: int) -> Make:
    buffer = bytearray(Zone.size_of(FRAMES, PAGE))
    zone = Zone.format(buffer, nid=nid, page_size=PAGE, frames=FRAMES, uuid=bytes([nid] * 16))

    def make(boot: int, journal: list[bytes]) -> Core:
        return Node(nid, zone, boot_id=boot, key=KEY)

    return make


def _client(boot: int, journal: list[bytes]) -> Client:
    return Client("client", boot_id=boot, key=KEY, page_size=PAGE, fault_around=FAULT_AROUND)


def at_once(work: Coroutine[Any, Any, _R]) -> _R:
    """The result of a coroutine that never waits for anything but a simulated machine."""
    try:
        work.send(None)
    except StopIteration as ended:
        result: _R = ended.value
        return result
    raise AssertionError("something waits for more than the simulated machine")


def run(scenario: Scenario) -> list[Answer]:
    """The answers of a machine that has just been started; what stops it is an answer, too."""
    arm = Arm(SimulatedMachine(), scenario)
    try:
        return at_once(arm.run())
    except Exception as error:
        return [*arm.answers, {"broken": f"{type(error).__name__}: {error}"}]
