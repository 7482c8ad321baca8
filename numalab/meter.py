"""What the tasks of a client access, counted for their emulated time, and waiting at a pace.

The client counts; the coordinator, who knows what distances cost, is told now and then.  Only a
client that keeps a pace knows the costs too: its accesses end when their emulated time is over.
"""

from __future__ import annotations

import numpy as np

from protocol.distance import check_pace
from protocol.messages import LoadBytes, StoreBytes
from protocol.observe import Accrue, Pace
from protocol.schema import Message

#: Task, cpu, node of the pages, 1 for stores.
Key = tuple[int, int, int, int]


class Meter:
    """Counts until ``take``; ``pace`` is the seconds that an emulated second lasts, 0 for none."""

    def __init__(self) -> None:
        self.pace = 0.0
        self._counts: dict[Key, list[int]] = {}
        self._waited: dict[int, float] = {}
        self._costs: dict[tuple[int, int], tuple[float, float]] = {}

    def keep_pace(self, told: Pace, pace: float | None) -> None:
        """From now on accesses last as the machine says, or at another pace."""
        self.pace = told.pace if pace is None else check_pace(pace)
        size = len(told.nids)
        for row, cpus in enumerate(told.cpus):
            for column, nid in enumerate(told.nids):
                at = row * size + column
                cost = (told.latency[at], 1 / told.bandwidth[at])
                self._costs |= {(cpu, nid): cost for cpu in cpus}

    def served(self, pid: int, cpu: int, nid: int, message: Message, rows: int) -> float:
        """A node has served so many rows of this question; emulated seconds, if there is a pace."""
        if not isinstance(message, LoadBytes | StoreBytes):
            return 0.0
        key = (pid, cpu, nid, int(isinstance(message, StoreBytes)))
        counts = self._counts.setdefault(key, [0, 0])
        counts[0] += rows
        counts[1] += rows * message.size
        latency, per_byte = self._costs.get((cpu, nid), (0.0, 0.0))
        return rows * (latency + message.size * per_byte) * 1e-9

    def waited(self, pid: int, seconds: float) -> None:
        """An access of this task took so long."""
        self._waited[pid] = self._waited.get(pid, 0.0) + seconds

    def take(self) -> Accrue | None:
        """What has been counted since the last time; None: nothing."""
        if not self._counts and not self._waited:
            return None
        keys = np.array(list(self._counts), np.int64).reshape(-1, 4)
        counts = np.array(list(self._counts.values()), np.uint64).reshape(-1, 2)
        waited = np.array(list(self._waited.values()), np.float64) * 1e9
        told = Accrue(
            keys[:, 0].astype(np.int32),
            keys[:, 1].astype(np.uint32),
            keys[:, 2].astype(np.uint8),
            keys[:, 3].astype(np.uint8),
            np.ascontiguousarray(counts[:, 0]),
            np.ascontiguousarray(counts[:, 1]),
            np.array(list(self._waited), np.int32),
            waited.astype(np.uint64),
        )
        self._counts.clear()
        self._waited.clear()
        return told


class Rests:
    """Orders that are done and whose emulated time is not over yet."""

    def __init__(self) -> None:
        self._until: dict[int, tuple[float, object]] = {}

    def add(self, ticket: int, until: float, result: object) -> None:
        self._until[ticket] = until, result

    def forget(self, ticket: int) -> None:
        self._until.pop(ticket, None)

    def next(self) -> float | None:
        """When the first of them ends."""
        return min(until for until, _ in self._until.values()) if self._until else None

    def over(self, now: float) -> list[tuple[int, object]]:
        """Those whose time has come, with their results; they are forgotten."""
        due = [ticket for ticket, (until, _) in self._until.items() if until <= now]
        return [(ticket, self._until.pop(ticket)[1]) for ticket in due]
