"""The end of a load that has to meet its fault: migrations of a task made for it, until it has.

A load may come to its end before any of its migrations was at the step where somebody dies.  A new
task then touches a little memory and is moved from node to node, until the fault has happened.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from numalab.simulation.draws import TaskModel
from numalab.simulation.steps import StepWatch
from protocol.syscalls import Exit, MigratePages
from protocol.user_mask import MAXNODE, user_mask

if TYPE_CHECKING:
    from numalab.simulation.load import Driver

#: Touched by the task, where there is so much memory.
PAGES = 2
#: So many migrations with the load's tasks still there, and so many when their memory is free.
TRIES, LAST_TRIES = 4, 8
#: Virtual seconds before the next: what was away may be back by then.
PAUSE_SECONDS = 0.5


class Encore:
    """One task, and one migration after the other; ``ended`` is called once."""

    def __init__(self, driver: Driver, step: StepWatch, ended: Callable[[], None]) -> None:
        self._driver, self._step, self._ended = driver, step, ended
        self._client = driver.cluster.clients[0]
        self._tries = 0

    def begin(self) -> None:
        """A task with some memory; again, if somebody was away just then."""
        self._step.take_any()
        before = set(self._driver.draws.tasks)

        def spawned(_: object) -> None:
            new = [task for pid, task in self._driver.draws.tasks.items() if pid not in before]
            if new:
                self._map(new[0])
            else:
                self._again(self.begin)

        self._driver.spawn_task(self._client, 0, True, spawned)

    def _map(self, task: TaskModel) -> None:
        def mapped(_: object) -> None:
            if task.regions:
                self._touch(task)
            else:
                self._again(lambda: self._map(task))

        self._driver.map_region(self._client, task, PAGES, False, mapped)

    def _touch(self, task: TaskModel) -> None:
        def touched(_: object) -> None:
            self._migrate(task)

        self._driver.touch(self._client, task, task.regions[0], touched)

    def _migrate(self, task: TaskModel) -> None:
        """From everywhere to one node, another one each time."""
        nodes = self._driver.cluster.topology.nids
        to = nodes[self._tries % len(nodes)]
        rest = tuple(nid for nid in nodes if nid != to)
        old, new = user_mask(rest), user_mask((to,))
        message = MigratePages(task.pid, task.pid, MAXNODE, old, new)

        def migrated(_: object) -> None:
            self._again(lambda: self._touch(task))

        self._driver.ask(self._client, message, migrated)

    def _free_memory(self) -> None:
        """Every task and file goes, also those that only the load takes for gone."""
        driver = self._driver
        unknown = sorted(set(driver.cluster.memory.tasks) - set(driver.draws.tasks))
        driver.exit_all(self._client)
        for pid in unknown:
            driver.ask(self._client, Exit(pid), lambda _: None)
        driver.kinds.unlink_all()

    def _again(self, act: Callable[[], None]) -> None:
        """Unless it has happened, or cannot be brought about."""
        self._tries += 1
        if self._step.hits or self._tries == TRIES + LAST_TRIES:
            self._ended()
            return
        if self._tries == TRIES:
            self._free_memory()
            act = self.begin
        self._driver.world.call(PAUSE_SECONDS, act)
