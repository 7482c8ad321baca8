"""The part of the load that is about cpusets: directories, attached tasks, nodes that change."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from numalab.simulation.draws import NO_SUCH_NODE
from protocol.messages import Done
from protocol.nodemask import format_nodes
from protocol.syscalls import CpusetDirectory, CpusetWrite

if TYPE_CHECKING:
    from numalab.simulation.load import Driver, Ended

TOP = "/"
PATHS = ("/a", "/b", "/a/c")
#: What is written, or done to a directory, by how often.
CHANGES = (
    *("mems",) * 5,
    *("tasks",) * 5,
    *("cpus", "memory_migrate", "memory_migrate", "mkdir", "rmdir"),
)
MIGRATES = 0.7
OPERATOR = 0

Change = CpusetDirectory | CpusetWrite


class CpusetsLoad:
    """``made``: the cpusets that are known to be there, but for the top."""

    def __init__(self, driver: Driver) -> None:
        self._driver, self._draws = driver, driver.draws
        self._random = random.Random(f"cpusets {driver.plan.seed}")
        self.made: list[str] = []

    def act(self, client: str, ended: Ended) -> None:
        """Make a cpuset that tasks can be attached to, or change something."""
        missing = [path for path in PATHS if path not in self.made]
        if missing and (not self.made or self._random.random() < 0.3):
            self._make(client, missing[0], ended)
        else:
            self.ask(client, self.draw(), ended)

    def ask(self, client: str, change: Change, ended: Ended) -> None:
        """Ask for it, and note which directories there are."""

        def done(result: object) -> None:
            if isinstance(change, CpusetDirectory) and isinstance(result, Done):
                if change.remove and not result.value:
                    self.made = [path for path in self.made if path != change.path]
                elif not result.value:
                    self.made.append(change.path)
            ended(result)

        self._driver.ask(client, change, done)

    def _make(self, client: str, path: str, ended: Ended) -> None:
        """mkdir, what every new cpuset needs, and a first task."""
        migrates = int(self._random.random() < MIGRATES)
        changes: list[Change] = [
            CpusetDirectory(OPERATOR, path, 0),
            self._write(OPERATOR, path, "cpus"),
            self._write(OPERATOR, path, "mems"),
            CpusetWrite(OPERATOR, path, "memory_migrate", str(migrates)),
            self._write(OPERATOR, path, "tasks"),
        ]

        def next_one(_: object) -> None:
            self.ask(client, changes.pop(0), next_one if changes else ended)

        next_one(None)

    def draw(self) -> Change:
        """Any change, by the operator or by a task, who may do it or not."""
        change, caller = self._random.choice(CHANGES), OPERATOR
        if self._random.random() < 0.25:
            caller = self._draws.task().pid
        if change in ("mkdir", "rmdir"):
            return CpusetDirectory(caller, self._random.choice(PATHS), int(change == "rmdir"))
        paths = self.made or list(PATHS)
        path = TOP if self._random.random() < 0.15 else self._random.choice(paths)
        return self._write(caller, path, change)

    def _write(self, caller: int, path: str, file: str) -> CpusetWrite:
        return CpusetWrite(caller, path, file, self._text(caller, file))

    def _text(self, caller: int, file: str) -> str:
        draw = self._random
        if file == "tasks":
            itself = caller != OPERATOR and draw.random() < 0.2
            return "0" if itself else str(self._draws.task().pid)
        if file == "memory_migrate":
            return draw.choice("01")
        topology = self._driver.cluster.topology
        numbers = topology.nids if file == "mems" else topology.cpus
        some = draw.sample(numbers, draw.randint(1, len(numbers)))
        if draw.random() < 0.05:
            some = [NO_SUCH_NODE]
        return format_nodes(tuple(sorted(some)))
