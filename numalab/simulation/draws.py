"""What a program of the load knows of its tasks, and what it draws to do with them."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np

from numalab.checker import WORD
from numalab.simulation.cluster import PAGE_SIZE
from protocol.policies import SetInterleaveWeight
from protocol.profile import Profile
from protocol.syscalls import Mbind, MigratePages, MovePages, SetMempolicy
from protocol.topology import Topology
from protocol.user_mask import MAXNODE, user_mask

#: Words of a page that are used; few, so that tasks meet.
WORDS = (0, 3, PAGE_SIZE // WORD - 1)
#: Addresses where nothing is ever mapped: below all, and above.
NOWHERE = (0, 1 << 40)
NO_SUCH_NODE = 77
DEFAULT, PREFERRED, LOCAL, WEIGHTED_INTERLEAVE = 0, 1, 4, 6
#: Modes by how often they are drawn: those of the seed (and one that it has not), later ones.
MODES: tuple[int, ...] = (0, 1, 2, 2, 3, 3) * 4 + (5,)
LATER_MODES = (4, 5, 5) * 4
#: NUMA_BALANCING, RELATIVE and STATIC, and what is refused (K 5.1).
MODE_FLAGS = (0,) * 7 + (1 << 13, 1 << 14, 1 << 14, 1 << 15, 1 << 15, 1 << 13 | 1 << 15, 3 << 14)


@dataclass(slots=True, eq=False)
class Region:
    """Something that was mapped; ``pages`` from byte ``address`` on."""

    address: int
    pages: int
    #: The path of the file that it shares with others, if any.
    file: str = ""


@dataclass(slots=True, eq=False)
class TaskModel:
    """A task and what it has mapped."""

    pid: int
    uid: int
    capable: bool
    regions: list[Region] = field(default_factory=list)


class Draws:
    """Everything comes from ``draw``; ``tasks`` are those that the program knows to live."""

    def __init__(self, draw: random.Random, topology: Topology, profile: Profile) -> None:
        self._draw, self._topology = draw, topology
        self._modes = MODES if not profile.mode_flags else (*MODES, *LATER_MODES)
        self._modes += (WEIGHTED_INTERLEAVE,) * (10 if profile.weighted_interleave else 1)
        self._flags = MODE_FLAGS if profile.mode_flags else (0,)
        self.tasks: dict[int, TaskModel] = {}

    def task(self) -> TaskModel:
        return self.tasks[self._draw.choice(sorted(self.tasks))]

    def region(self, task: TaskModel) -> Region | None:
        return self._draw.choice(task.regions) if task.regions else None

    def part(self, region: Region) -> tuple[int, int]:
        """(address, length) of some pages of a region, in bytes."""
        first = self._draw.randrange(region.pages)
        pages = self._draw.randint(1, region.pages - first)
        return region.address + first * PAGE_SIZE, pages * PAGE_SIZE

    def word(self, task: TaskModel) -> int | None:
        """The address of a word of some region, None if the task has none."""
        region = self.region(task)
        if region is None:
            return None
        page = self._draw.randrange(region.pages)
        return region.address + page * PAGE_SIZE + WORD * self._draw.choice(WORDS)

    def cpu(self) -> int:
        return self._draw.choice(self._topology.cpus)

    def nodes(self) -> tuple[int, ...]:
        """A set of nodes, not empty."""
        nids = self._topology.nids
        return tuple(sorted(self._draw.sample(nids, self._draw.randint(1, len(nids)))))

    def migrate(self) -> MigratePages:
        """migrate_pages(2) by one task on itself or another."""
        pid = self._draw.choice((0, self.task().pid))
        caller, old, new = self.task().pid, user_mask(self.nodes()), user_mask(self.nodes())
        return MigratePages(caller, pid, MAXNODE, old, new)

    def move(self) -> MovePages:
        """move_pages(2): pages of a task, some twice, some nowhere; now and then a wrong node."""
        caller, task = self.task(), self.task()
        pages: list[int] = []
        for region in task.regions:
            pages += range(region.address, region.address + region.pages * PAGE_SIZE, PAGE_SIZE)
        pages.append(self._draw.choice((*NOWHERE, *pages)))
        return self._move(caller, task, self._draw.choices(pages, k=self._draw.randint(0, 12)))

    def _move(self, caller: TaskModel, task: TaskModel, addresses: list[int]) -> MovePages:
        nodes = [self._draw.choice(self._topology.nids) for _ in addresses]
        if self._draw.random() < 0.05 and nodes:
            nodes[-1] = NO_SUCH_NODE
        return MovePages(
            caller.pid,
            task.pid,
            len(addresses),
            self._draw.choice((0, 2, 2, 4, 4, 6, 1)),
            int(self._draw.random() < 0.1),
            np.array(addresses, np.uint64),
            np.array(nodes, np.int32),
            np.zeros(len(nodes), np.int32),
        )

    def mbind(self) -> Mbind | None:
        """mbind(2) of a part of a region, now and then with what follows it; None: no region."""
        task = self.task()
        region = self.region(task)
        if region is None:
            return None
        address, length = self.part(region)
        length += PAGE_SIZE * self._draw.choice((0, 0, 0, 3))
        mode, nodes = self._policy()
        flags = self._draw.choice((0, 1, 2, 2, 3, 3, 4, 4, 5, 8))
        return Mbind(task.pid, address, length, mode, nodes, MAXNODE, flags)

    def on_region(self, task: TaskModel, region: Region) -> MovePages | MigratePages | Mbind:
        """A call by the task on its own pages, those of the region among them."""
        size, pid = region.pages * PAGE_SIZE, task.pid
        which = self._draw.randrange(3)
        if which == 0:
            return self._move(
                task, task, list(range(region.address, region.address + size, PAGE_SIZE))
            )
        if which == 1:
            everywhere = user_mask(tuple(self._topology.nids))
            return MigratePages(pid, 0, MAXNODE, everywhere, user_mask(self.nodes()))
        flags, (mode, nodes) = self._draw.choice((1, 2, 2, 3, 3, 4)), self._policy()
        return Mbind(pid, region.address, size, mode, nodes, MAXNODE, flags)

    def set_mempolicy(self) -> SetMempolicy:
        mode, nodes = self._policy()
        return SetMempolicy(self.task().pid, mode, nodes, MAXNODE)

    def weight(self) -> SetInterleaveWeight:
        """Turns of a node in a round of weighted interleaving."""
        return SetInterleaveWeight(self._draw.choice(self._topology.nids), self._draw.randint(1, 3))

    def _policy(self) -> tuple[int, bytes]:
        """(mode with its flags, mask): now and then what does not go together."""
        mode, flags = self._draw.choice(self._modes), self._draw.choice(self._flags)
        without = self._draw.random() < 0.1 if mode == PREFERRED else mode in (DEFAULT, LOCAL)
        return mode | flags, user_mask(() if without else self.nodes())
