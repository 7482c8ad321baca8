"""Emulated time: what accesses, faults and migrations would have taken at the machine's distances.

It counts from the start of the coordinator's process, as the metrics do; no mapping depends on it.
"""

from __future__ import annotations

from collections import Counter, deque
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from coordinator.mem_map import grouped
from coordinator.pagelist import PageList
from coordinator.rows import portions
from protocol.distance import Distance, Work
from protocol.notes import AccessesTold, EmulatedTimeAccrued
from protocol.observe import Accrue, EmulatedTime
from protocol.topology import Topology
from protocol.values import value

if TYPE_CHECKING:
    from coordinator.memory import Memory

#: Migrations that are remembered one by one.
MIGRATIONS = 256

#: What a client tells of its accesses may add up to more nanoseconds than a column has room for.
_NS_MAX = 2.0**63


class Spent(IntEnum):
    """Columns of the tables; WALL is the time that passed on the clock meanwhile."""

    LOAD = 0
    STORE = 1
    FAULT = 2
    MIGRATION = 3
    WALL = 4


Row = npt.NDArray[np.float64]


@value
class Migration:
    """One call of migrate_pages(): pages that it moved, and nanoseconds."""

    pid: int
    pages: int
    emulated: float
    wall: float


class Emulated:
    """Nanoseconds by task and by node.  ``pace``: seconds that a second of them really lasts."""

    def __init__(self, topology: Topology) -> None:
        self.distance = Distance(topology)
        self.pace = 0.0
        self._node_of_cpu = {cpu: topology.node_of_cpu(cpu) for cpu in topology.cpus}
        self._tasks: dict[int, Row] = {}
        self._nodes: dict[int, Row] = {}
        self._migrations: deque[Migration] = deque(maxlen=MIGRATIONS)
        #: By pid, until when the time of its migrations is told; and nanoseconds, of each one that
        #: is remembered, that had not been told before.
        self._until: dict[int, float] = {}
        self._passed: deque[float] = deque(maxlen=MIGRATIONS)

    def _accrue(self, memory: Memory, what: Spent, pid: int, nid: int, ns: float) -> None:
        """``ns`` more for task ``pid`` (if it is still there) on node ``nid``."""
        self._of_task(memory, pid)[what] += ns
        self._nodes.setdefault(nid, np.zeros(len(Spent)))[what] += ns
        memory.notes.append(EmulatedTimeAccrued(what.name.lower(), nid, ns / 1e9))

    def _of_task(self, memory: Memory, pid: int) -> Row:
        if pid not in memory.tasks:
            return np.zeros(len(Spent))
        return self._tasks.setdefault(pid, np.zeros(len(Spent)))

    def accessed(self, memory: Memory, told: Accrue) -> None:
        """What a client has loaded and stored since it told the last time."""
        nodes = np.array([self._node_of_cpu[cpu] for cpu in told.cpu.tolist()], np.intp)
        work = Work(nodes, told.nid.astype(np.intp), told.accesses, told.bytes)
        ns = self.distance.access_ns(work)
        for row, pid in enumerate(told.pid.tolist()):
            what = Spent.STORE if told.store[row] else Spent.LOAD
            nid = int(told.nid[row])
            self._accrue(memory, what, pid, nid, float(ns[row]))
            place = "local" if nodes[row] == nid else "remote"
            count = int(told.accesses[row])
            memory.notes.append(AccessesTold(nid, what.name.lower(), place, count))
        for pid, wall in zip(told.waiter.tolist(), told.waited_ns.tolist(), strict=True):
            self._of_task(memory, pid)[Spent.WALL] += wall

    def faulted(self, memory: Memory, pid: int, cpu_node: int, nid: int, pages: int) -> None:
        """A fault has mapped pages that it had to fill first."""
        ns = self.distance.fault_ns(cpu_node, nid, pages)
        self._accrue(memory, Spent.FAULT, pid, nid, ns)

    def migrated(
        self, memory: Memory, pagelist: PageList, moved: npt.NDArray[np.bool_], local: int
    ) -> float:
        """A call of migrate_pages() on a cpu of ``local`` has ended: its nanoseconds."""
        total = self.distance.migrate_call_ns()
        self._accrue(memory, Spent.MIGRATION, pagelist.pid, local, total)
        pages: Counter[tuple[int, int]] = Counter()
        for rows in portions(pagelist.rows):
            rows = rows[moved[rows]]
            for source, left in grouped(pagelist.source[rows]):
                for target, mine in grouped(pagelist.target[rows[left]]):
                    pages[source, target] += mine.size
        for (source, target), count in sorted(pages.items()):
            ns = self.distance.migrate_pages_ns(source, target, count)
            self._accrue(memory, Spent.MIGRATION, pagelist.pid, target, ns)
            total += ns
        return total

    def waited(self, memory: Memory, done: Migration, started: float, ended: float) -> None:
        """How long that call took on the clock, from ``started`` to ``ended``, is known too.

        What passed for several of them at the same time has passed once.
        """
        since = max(started, self._until.get(done.pid, started))
        self._until[done.pid] = ended
        passed = (ended - since) * 1e9
        self._of_task(memory, done.pid)[Spent.WALL] += passed
        self._migrations.append(done)
        self._passed.append(passed)

    def pages_per_second(self) -> float:
        """How fast the last calls of migrate_pages() moved pages on the clock; 0: there is none."""
        wall = sum(self._passed)
        return sum(done.pages for done in self._migrations) * 1e9 / wall if wall else 0.0

    def message(self, memory: Memory) -> EmulatedTime:
        """All of it, in whole nanoseconds.  Of a task that is gone only its nodes tell."""
        self._tasks = {pid: row for pid, row in self._tasks.items() if pid in memory.tasks}
        self._until = {pid: time for pid, time in self._until.items() if pid in memory.tasks}
        migrations = self._migrations
        return EmulatedTime(
            tuple(what.name.lower() for what in Spent),
            np.array(sorted(self._tasks), np.int32),
            _table(self._tasks),
            np.array(sorted(self._nodes), np.int32),
            _table(self._nodes),
            np.array([row.pid for row in migrations], np.int32),
            np.array([row.pages for row in migrations], np.uint64),
            np.array([row.emulated for row in migrations], np.float64).astype(np.uint64),
            np.array([row.wall for row in migrations], np.float64).astype(np.uint64),
        )


def _table(rows: dict[int, Row]) -> npt.NDArray[np.uint64]:
    table = np.array([rows[key] for key in sorted(rows)], np.float64).ravel()
    return np.minimum(table, _NS_MAX).astype(np.uint64)
