"""What a schedule of faults does to a simulated world: letters, crashes, pauses, bad disks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from numalab.faults import Crash, Judge, Lack, Pause, Schedule, Strain, Verdict
from protocol.faults import PASS
from protocol.letters import Letters

if TYPE_CHECKING:
    from numalab.simulation.world import World


def _keep(name: str) -> None:
    """For who loses nothing."""


def _nothing_done() -> float:
    """For who does not know how far a migration is."""
    return 0.0


class Harm:
    """The faults of one world.

    lose_zone: called with a name when a node shall come back without its zone.  done: the share of
    the pages of a migration under way that are done, for the faults that wait for it.
    """

    def __init__(self, world: World, schedule: Schedule) -> None:
        self._world = world
        self._since = 0.0
        self._letters = Letters()
        self._strains: dict[str, list[tuple[int, Strain]]] = {}
        self.judge = Judge(schedule, world.draw)
        self.lose_zone: Callable[[str], None] = _keep
        self.done: Callable[[], float] = _nothing_done

    def suffer(self, schedule: Schedule) -> None:
        """From now on these faults; their times count from now.

        Pinned pages and full nodes are made by the load, which knows pages.
        """
        self.judge, self._since = Judge(schedule, self._world.draw), self._world.now
        self._strains = {}
        waits = any(isinstance(fault, Crash | Pause) and fault.share for fault in schedule)
        if waits and self._watch not in self._world.watches:
            self._world.watches.append(self._watch)
        for number, fault in enumerate(schedule):
            if isinstance(fault, Strain):
                self._strains.setdefault(fault.name, []).append((number, fault))
            elif isinstance(fault, Crash | Pause) and not (fault.step or fault.share):
                self._world.call(fault.at, partial(self._strike_now, self.judge, number, fault))

    def end(self) -> None:
        """No fault any more; who is dead or stands still comes back when it would have."""
        self.judge, self._strains = Judge((), self._world.draw), {}

    def verdict(self, source: str, target: str, frames: tuple[bytes, ...]) -> Verdict | None:
        """What becomes of this letter; None: its sender died before it left."""
        if not self.judge.schedule:
            return PASS
        now = self._world.now - self._since
        letter = self._letters.read(source, target, frames, now, opens=self.judge.opens)
        for _, name, fault in self.judge.struck(letter):
            self._strike(name, fault)
        if self._world.processes[source].core is None:
            return None
        return self.judge.verdict(letter)

    def write(self, name: str) -> float | None:
        """One write to the disk: how much longer it takes, None if it was the process's end."""
        now, delay = self._world.now - self._since, 0.0
        for number, strain in self._strains.get(name, ()):
            if not strain.holds(now):
                continue
            self.judge.hits[number] += 1
            if strain.lack == Lack.FULL_DISK:
                self._strike(name, Crash(name, after=strain.at + strain.seconds - now))
                return None
            if strain.lack == Lack.SLOW_DISK:
                delay += strain.delay
        return delay

    def _watch(self, _: str) -> None:
        """After each event: is a migration as far as some fault waits for?"""
        for number, fault in enumerate(self.judge.schedule):
            if not isinstance(fault, Crash | Pause) or not fault.share or self.judge.hits[number]:
                continue
            if self._world.now - self._since >= fault.at and self.done() >= fault.share:
                self._strike_now(self.judge, number, fault)

    def _strike_now(self, judge: Judge, number: int, fault: Crash | Pause) -> None:
        """Unless the faults have ended meanwhile."""
        if judge is self.judge and self._strike(fault.name, fault):
            judge.hits[number] += 1

    def _strike(self, name: str, fault: Crash | Pause) -> bool:
        """Do to ``name`` what the fault says, and undo it later; False if it is not there."""
        process = self._world.processes.get(name)
        if process is None or process.core is None:
            return False
        if isinstance(fault, Pause):
            self._world.pause(name)
            self._world.call(fault.seconds, partial(self._world.resume, name))
            return True
        if fault.effects:
            self._world.crash_after(name, fault.effects)
        else:
            self._world.crash(name)
        self._world.call(fault.after, partial(self._come_back, name, fault))
        return True

    def _come_back(self, name: str, fault: Crash) -> None:
        process = self._world.processes[name]
        if process.effects_left is not None:
            # It has had too little to do to die of it by itself.
            self._world.crash(name)
        if process.core is None:
            if not fault.keep_zone:
                self.lose_zone(name)
            self._world.restart(name)
