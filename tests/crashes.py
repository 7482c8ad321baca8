"""A lab in which the coordinator dies too, and zones are lost."""

from __future__ import annotations

from typing import Any

from coordinator.coordinator import Coordinator
from coordinator.replay import differences, replay
from protocol.notes import CoordinatorRecovered
from protocol.schema import COORDINATOR, node_name
from tests.lab import KEY, Lab

#: Longer than it takes until every node is asked what it is, and recovered.
RECOVERY_SECONDS = 5.0


class CrashLab(Lab):
    """A lab with heartbeats, by which the coordinator sees that a node has restarted."""

    def __init__(self, **options: Any) -> None:
        self._coordinator = {"lease": 1e9, "heartbeat": 1.0} | options
        super().__init__(**self._coordinator)

    def failover(self) -> None:
        """The process of the coordinator dies; another one starts from its journal."""
        self._boot_id += 1
        self.coordinator = Coordinator(
            self.topology,
            boot_id=self._boot_id,
            key=KEY,
            journal=self.records,
            **self._coordinator,
        )
        self.memory = self.coordinator.memory
        self.cores[COORDINATOR] = self.coordinator

    def recover(self) -> None:
        """``failover``, and every node has settled; the journal tells what there is."""
        self.failover()
        self.wait(RECOVERY_SECONDS)
        assert self.noted(CoordinatorRecovered)[-1].epoch == self.memory.epoch
        assert not list(differences(replay(self.topology, self.records), self.memory))

    def replace_zone(self, nid: int) -> None:
        """The process of a node dies and its zone is lost; another process makes a new one."""
        self._boot_id += 1
        uuid = self._boot_id.to_bytes(16, "little")
        self.cores[node_name(nid)] = self._node(nid, uuid, self._boot_id)

    def drop_held(self) -> None:
        """What was held back never arrives, and nothing is held back any more."""
        self._held.clear()
        self._held_back.clear()
