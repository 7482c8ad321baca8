"""The part of the load that is about kinds of memory: files, devices, locked and special mappings.

Also threads, and madvise.  In half of the seeds there is none of this.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coordinator.address_space import KINDS
from coordinator.inode import Device
from coordinator.madvise import Advice
from coordinator.mm import MAP_ANONYMOUS, MAP_PRIVATE, MAP_SHARED
from numalab.history import Operation, outcome_of
from numalab.rights import PROT_READ, PROT_WRITE
from numalab.simulation.cluster import HOOKED, PAGE_SIZE, profile_of
from numalab.simulation.draws import Region, TaskModel
from numalab.simulation.load_cpusets import CpusetsLoad
from protocol.files import CreateFile, SetDevice, Unlink
from protocol.messages import Done
from protocol.syscalls import Mmap
from protocol.task_calls import Clone, Madvise, Mlock, Munlock

if TYPE_CHECKING:
    from numalab.simulation.load import Driver, Ended

FILES_MAX = 3
PAGES_MAX = 12
DEVICE_SECONDS = 2.0
#: Where moving a page takes more than copying it: drawn oftener.
FALLBACKS = ("ext3-journal", "ext3-journal", "nfs", "ramfs")
SPECIAL = ("[io]", "[pfnmap]", "[reserved]", "[fail_migrate_page]", *HOOKED)


@dataclass(slots=True, eq=False)
class FileModel:
    """A file of the load; nobody maps it any more once it is ``unlinked``."""

    path: str
    kind: str
    pages: int
    seconds: float
    unlinked: bool = False
    mapping: int = 0


class KindsLoad:
    """Acts of the load, by the names of the plan's mix (Plan.mix)."""

    def __init__(self, driver: Driver) -> None:
        self._driver, self._draws = driver, driver.draws
        self._random = random.Random(f"kinds {driver.plan.seed}")
        self.cpusets = CpusetsLoad(driver)
        self.files = [self._new_file(number) for number in range(FILES_MAX)]
        self.acts = {
            "mapfile": self._map_file,
            "special": self._map_special,
            "lock": self._lock,
            "advise": self._advise,
            "clone": self._clone,
            "device": self._device,
            "unlink": self._unlink,
            "mbind": self._mbind,
            "policy": self._set_policy,
            "cpuset": self.cpusets.act,
        }

    def _new_file(self, number: int) -> FileModel:
        draw = self._random
        kind, pages = draw.choice((*sorted(KINDS), *FALLBACKS)), draw.randint(2, PAGES_MAX)
        return FileModel(f"/file{number}", kind, pages, draw.choice((0.0, 0.0, 0.0, 0.3)))

    def create_files(self, ended: Ended, number: int = 0) -> None:
        """Create them one after the other, before anything else."""
        if number == len(self.files):
            ended(None)
            return
        file = self.files[number]
        message = CreateFile(file.path, file.pages, file.kind, file.seconds)
        client = self._driver.cluster.clients[0]
        self._driver.ask(client, message, lambda _: self.create_files(ended, number + 1))

    def unlink_all(self) -> None:
        """What is left of the files goes; also one whose unlink may not have happened."""
        for path in list(self._driver.cluster.memory.files):
            self._driver.ask(self._driver.cluster.clients[0], Unlink(path), lambda _: None)

    def _linked(self) -> list[FileModel]:
        return [file for file in self.files if not file.unlinked]

    # ---- mappings --------------------------------------------------------------------------

    def _map(
        self, client: str, ended: Ended, name: str, pages: int, shared: bool, pgoff: int = 0
    ) -> None:
        task, length = self._draws.task(), pages * PAGE_SIZE
        flags = MAP_SHARED if shared else MAP_PRIVATE
        file = name if name.startswith("/") else ""
        flags |= 0 if file else MAP_ANONYMOUS
        prot = PROT_READ | PROT_WRITE

        def mapped(result: object) -> None:
            outcome = outcome_of(result)
            if not outcome.error:
                task.regions.append(Region(outcome.value, pages, file if shared else ""))
            ended(result)

        told = Operation(
            "map", task.pid, 0, length, prot=prot, shared=shared, file=file, pgoff=pgoff
        )
        message = Mmap(task.pid, 0, length, prot, flags, name, pgoff * PAGE_SIZE)
        self._driver.ask(client, message, self._driver.tell(told, mapped))

    def _map_file(self, client: str, ended: Ended) -> None:
        """Some pages of a file, shared by most: often the same pages again."""
        self._map_part(client, ended, shared=self._random.random() < 0.6)

    def map_shared(self, client: str, ended: Ended) -> None:
        """The same, and what is stored there goes to the file."""
        self._map_part(client, ended, shared=True)

    def _map_part(self, client: str, ended: Ended, *, shared: bool) -> None:
        linked = self._linked()
        if not linked:
            self._map_special(client, ended)
            return
        file = self._random.choice(linked)
        pgoff = self._random.choice((0, 0, self._random.randrange(file.pages)))
        pages = self._random.randint(1, file.pages - pgoff)
        file.mapping += 1

        def mapped(result: object) -> None:
            file.mapping -= 1
            ended(result)

        self._map(client, mapped, file.path, pages, shared, pgoff)

    def _map_special(self, client: str, ended: Ended) -> None:
        name = self._random.choice(SPECIAL)
        pages = self._random.randint(1, self._driver.plan.region_pages)
        self._map(client, ended, name, pages, self._random.random() < 0.3)

    def _unlink(self, client: str, ended: Ended) -> None:
        """A file that nobody is just mapping: what is mapped stays."""
        file = next((file for file in self._linked() if not file.mapping), None)
        if file is None or self._random.random() < 0.7:
            self._map_file(client, ended)
            return
        file.unlinked = True
        self._driver.ask(client, Unlink(file.path), ended)

    # ---- locking and advice ----------------------------------------------------------------

    def _part(self, client: str, ended: Ended) -> tuple[TaskModel, int, int] | None:
        """(task, address, length) of some pages; None if there are none, and some are mapped."""
        task = self._draws.task()
        region = self._draws.region(task)
        if region is None:
            self._map_file(client, ended)
            return None
        return task, *self._draws.part(region)

    def _lock(self, client: str, ended: Ended) -> None:
        drawn = self._part(client, ended)
        if drawn is None:
            return
        task, address, length = drawn
        if self._random.random() < 0.4:
            self._driver.ask(client, Munlock(task.pid, address, length), ended)
            return
        end = self._driver.tell(Operation("lock", task.pid, address, length), ended)
        self._driver.ask(client, Mlock(task.pid, address, length), end)

    def _advise(self, client: str, ended: Ended) -> None:
        drawn = self._part(client, ended)
        if drawn is None:
            return
        task, address, length = drawn
        advice = self._random.choice((4, 4, 4, 22, 23))
        if advice != Advice.POPULATE_READ:
            kind = "discard" if advice == Advice.DONTNEED else "lock"
            ended = self._driver.tell(Operation(kind, task.pid, address, length), ended)
        self._driver.ask(client, Madvise(task.pid, address, length, advice), ended)

    # ---- policies --------------------------------------------------------------------------

    def _mbind(self, client: str, ended: Ended) -> None:
        message = self._draws.mbind()
        if message is None:
            self._map_file(client, ended)
        else:
            self._driver.ask(client, message, ended)

    def _set_policy(self, client: str, ended: Ended) -> None:
        weighted = profile_of(self._driver.plan).weighted_interleave
        if weighted and self._random.random() < 0.4:
            self._driver.ask(client, self._draws.weight(), ended)
        else:
            self._driver.ask(client, self._draws.set_mempolicy(), ended)

    # ---- threads ---------------------------------------------------------------------------

    def _clone(self, client: str, ended: Ended) -> None:
        """A thread: another task, with the same memory."""
        task = self._draws.task()

        def cloned(result: object) -> None:
            outcome = outcome_of(result)
            if not outcome.error:
                thread = TaskModel(outcome.value, task.uid, task.capable, task.regions)
                self._draws.tasks[thread.pid] = thread
                self._driver.history.cloned(task.pid, thread.pid)
            ended(result)

        message = Clone(task.pid, self._draws.cpu(), int(self._driver.plan.leased))
        self._driver.ask(client, message, cloned)

    # ---- devices ---------------------------------------------------------------------------

    def _device(self, client: str, ended: Ended) -> None:
        """The device of a file misbehaves for a while; its dirty pages may be written."""
        linked = self._linked()
        if not linked:
            self._map_special(client, ended)
            return
        file, device = self._random.choice(linked), self._random.choice((0, *Device))
        seconds = self._random.uniform(0, DEVICE_SECONDS)
        self._driver.pending += 1

        def better() -> None:
            self._driver.ask(client, SetDevice(file.path, 0, 0), back)

        def back(result: object) -> None:
            # Where nobody knows whether it was done, migrations might wait for ever.
            if isinstance(result, Done):
                self._driver.pending -= 1
            else:
                self._driver.world.call(DEVICE_SECONDS, better)

        def is_set(result: object) -> None:
            self._driver.world.call(seconds, better)
            ended(result)

        self._set_device(client, file, device, is_set)

    def _set_device(self, client: str, file: FileModel, device: int, ended: Ended) -> None:
        sync = int(self._random.random() < 0.5)
        self._driver.ask(client, SetDevice(file.path, int(device), sync), ended)

    def regions(self, *, of_files: bool = False) -> list[tuple[TaskModel, Region]]:
        """Who has mapped what; or only those who share a file that is there still."""
        paths = [file.path for file in self._linked()]
        tasks = [self._draws.tasks[pid] for pid in sorted(self._draws.tasks)]
        parts = [(task, part) for task in tasks for part in task.regions]
        return [found for found in parts if not of_files or found[1].file in paths]

    def upset_a_device(self, client: str, ended: Ended) -> None:
        """Before a quiet call: one that fails or refuses all the time, or holds writeback up."""
        linked = self._linked()
        if not linked or self._random.random() < 0.4:
            ended(None)
            return
        choice = (Device.HOLD_WRITEBACK, Device.FAIL_WRITEPAGE, Device.KEEP_BUFFERS)
        file, device = self._random.choice(linked), self._random.choice(choice)
        self._set_device(client, file, device, ended)

    def calm_devices(self, client: str, device: Device | None = None) -> None:
        """Every device behaves again, or those that do no more than ``device``."""
        for file in self._linked():
            mapping = self._driver.cluster.memory.files.get(file.path)
            # None: it is not known whether it was made, and it was not.
            host = None if mapping is None else mapping.host
            if host is not None and host.device and device in (None, host.device):
                self._driver.ask(client, SetDevice(file.path, 0, 0), lambda _: None)
