"""A client of a stress: ``python -m numalab.stress_worker``, told what to do on stdin.

It reads one JSON line (``Assignment``) and says one (``Ready``); then it loads, stores, forks and
moves until the line ``stop``, with a line of ``Progress`` every half second and at the end.  At
``read`` it loads every word once more, at ``leave`` it ends.  It ends with its parent.
"""

from __future__ import annotations

import errno
import os
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import trio

from numalab.constants import MAP_SHARED, MPOL_BIND, MPOL_DEFAULT, MPOL_MF_MOVE, MPOL_MF_MOVE_ALL
from numalab.machine import Machine, connect
from numalab.orders import IndefiniteError
from numalab.parent import die_with_parent
from numalab.stress_events import Happenings
from numalab.stress_log import Log
from numalab.task import Task

PAGE = 4096
WORD = 8
#: Words of a page that are used; few, so that tasks meet.
WORDS = (0, 1, 255, 511)
PAGE_WORDS = PAGE // WORD
LANES = 6
BATCHES = (2, 8, 48, 128)
PATIENCE_SECONDS = 2.0
SHARED = 0
#: Spaces of a client: its own, and those of its children.
SPACES = 1 << 20
WITHIN = 120.0
#: Which the errno module does not know.
EHWPOISON = 133

U64 = npt.NDArray[np.uint64]


class Assignment(msgspec.Struct, frozen=True):
    """number: no other client of the stress has it.  file: what is shared.  pages: of each area."""

    machine: str
    number: int
    seed: int
    log: str
    faults: str
    file: str
    pages: int
    cpu: int


class Ready(msgspec.Struct, frozen=True):
    """pid: the task.  private, shared: where its two areas begin, in bytes."""

    pid: int
    private: int
    shared: int


class Progress(msgspec.Struct, frozen=True):
    """Counts since the start.  refused: errors of loads and stores by name.  longest: seconds.

    phase: ``work``, then ``stopped`` (nothing is under way) and ``read``.
    """

    phase: str
    operations: int
    moves: int
    forks: int
    indefinite: int
    refused: dict[str, int]
    longest: float


class Worker:
    """The client at work."""

    def __init__(self, assignment: Assignment, machine: Machine) -> None:
        self._told = assignment
        self._machine = machine
        self._draw = random.Random(f"{assignment.seed} {assignment.number}")
        self._log = Log(Path(assignment.log))
        self._happenings = Happenings(Path(assignment.log).with_suffix(".events"))
        self._values = 0
        self._spaces = assignment.number * SPACES
        places = [page * PAGE_WORDS + word for page in range(assignment.pages) for word in WORDS]
        self._places = np.array(places, np.uint64)
        self._refused: Counter[str] = Counter()
        self._moves = self._forks = self._indefinite = 0
        self._longest = 0.0
        self._task: Task | None = None
        self._private = self._shared = 0
        self.stop = trio.Event()

    async def begin(self) -> Ready:
        """A task with its two areas; begun again if nobody knows whether that has happened."""
        while True:
            try:
                self._task = task = await self._machine.spawn(cpu=self._told.cpu)
                length = self._told.pages * PAGE
                self._private = await task.mmap(length)
                self._shared = await task.mmap(length, flags=MAP_SHARED, name=self._told.file)
            except IndefiniteError:
                continue
            return Ready(task.pid, self._private, self._shared)

    def progress(self, phase: str) -> Progress:
        counts = self._moves, self._forks, self._indefinite, dict(self._refused), self._longest
        return Progress(phase, self._log.operations, *counts)

    async def work(self) -> None:
        """Until ``stop`` is set, and what is under way then has ended."""
        assert self._task is not None
        async with trio.open_nursery() as nursery:
            for lane in range(LANES):
                nursery.start_soon(self._access_on, self._task, lane)
            nursery.start_soon(self._fork_on, self._task)
            nursery.start_soon(self._move_on, self._task)
            nursery.start_soon(self._move_few_on, self._task)

    # ---- loads and stores ------------------------------------------------------------------

    async def _access_on(self, task: Task, lane: int) -> None:
        own = self._told.number * SPACES
        while not self.stop.is_set():
            if (lane + self._draw.randrange(2)) % 2:
                await self._access(task, self._shared, SHARED)
            else:
                await self._access(task, self._private, own)

    async def _access(self, task: Task, base: int, space: int) -> None:
        """One batch: a load, a store, or both."""
        count = min(self._draw.choice(BATCHES), self._places.size)
        place = self._places[self._draw.sample(range(self._places.size), count)]
        kind = self._draw.random()
        if kind < 0.6:
            await self._load(task, base, space, place)
        if kind > 0.4:
            await self._store(task, base, space, place)

    async def _load(self, task: Task, base: int, space: int, place: U64) -> None:
        start = time.monotonic_ns()
        async with self._heeding():
            words = await task.load_many(np.uint64(base) + place * np.uint64(WORD), WORD)
            self._log.loaded(space, place, np.frombuffer(words, np.uint64), start)
        self._longest = max(self._longest, (time.monotonic_ns() - start) / 1e9)

    async def _store(self, task: Task, base: int, space: int, place: U64) -> None:
        first = self._told.number << 40 | self._values + 1
        self._values += place.size
        value = np.arange(first, first + place.size, dtype=np.uint64)
        batch, start = self._log.storing(space, place, value), time.monotonic_ns()
        async with self._heeding():
            addresses = np.uint64(base) + place * np.uint64(WORD)
            await task.store_many(addresses, WORD, value.tobytes())
            self._log.stored(batch, place.size)
        self._longest = max(self._longest, (time.monotonic_ns() - start) / 1e9)

    @asynccontextmanager
    async def _heeding(self) -> AsyncIterator[None]:
        """An error is counted and the task goes on: a store of which some may have happened.

        So it does when there is no answer for a while, for other nodes may be there.
        """
        try:
            with trio.move_on_after(PATIENCE_SECONDS) as limit:
                yield
            self._indefinite += limit.cancelled_caught
        except IndefiniteError:
            self._indefinite += 1
        except OSError as error:
            self._refuse(error)
            await trio.sleep(0.01)

    def _refuse(self, error: OSError) -> None:
        number = error.errno or 0
        name = "EHWPOISON" if number == EHWPOISON else errno.errorcode.get(number, str(number))
        self._refused[name] += 1

    async def read(self) -> None:
        """Every word once more, by the task; however long that takes."""
        assert self._task is not None
        own = self._told.number * SPACES
        for base, space in ((self._private, own), (self._shared, SHARED)):
            start, addresses = time.monotonic_ns(), np.uint64(base) + self._places * np.uint64(WORD)
            try:
                words = await self._task.load_many(addresses, WORD)
            except OSError as error:
                self._refuse(error)
            else:
                self._log.loaded(space, self._places, np.frombuffer(words, np.uint64), start)

    # ---- forks and moves -------------------------------------------------------------------

    async def _fork_on(self, task: Task) -> None:
        own = self._told.number * SPACES
        while not self.stop.is_set():
            with trio.move_on_after(self._draw.uniform(0.3, 1.5)):
                await self.stop.wait()
            start = time.monotonic_ns()
            try:
                child = await task.fork()
            except OSError as error:
                self._tell_call(error)
                continue
            self._spaces += 1
            space = self._spaces
            self._log.forked(own, space, start)
            self._happenings.add("fork", start, time.monotonic_ns(), child=child.pid)
            self._forks += 1
            for _ in range(self._draw.randint(1, 12)):
                await self._access(child, self._private, space)
            try:
                await child.exit()
            except OSError as error:
                self._tell_call(error)

    async def _move_on(self, task: Task) -> None:
        kinds = [self._migrate, self._move_pages, self._mbind, self._mbind]
        if await self._calmly(partial(self._make_cpuset, task)):
            kinds.append(self._change_cpuset)
        while not self.stop.is_set():
            if not await self._one_move(self._draw.choice(kinds), task):
                await trio.sleep(0.02)
        await self._calmly(partial(self._change_cpuset, task, everywhere=True))

    async def _move_few_on(self, task: Task) -> None:
        """Beside the others, for they take long: so that some are under way at any time."""
        while not self.stop.is_set():
            await trio.sleep(self._draw.uniform(0.01, 0.1))
            await self._one_move(self._move_few, task)

    async def _one_move(self, kind: Callable[[Task], Awaitable[None]], task: Task) -> bool:
        start, name = time.monotonic_ns(), kind.__name__.strip("_")
        done = await self._calmly(partial(kind, task))
        self._happenings.add(name, start, time.monotonic_ns(), done=done)
        self._moves += 1
        return done

    async def _calmly(self, call: Callable[[], Awaitable[None]]) -> bool:
        """Make a call that may fail under faults; False if it did."""
        try:
            await call()
        except OSError as error:
            self._tell_call(error)
            return False
        return True

    def _tell_call(self, error: OSError) -> None:
        if isinstance(error, IndefiniteError):
            self._indefinite += 1

    @property
    def _cpuset(self) -> str:
        return f"/stress-{self._told.number}"

    async def _make_cpuset(self, task: Task) -> None:
        cpusets, path = self._machine.cpusets, self._cpuset
        await cpusets.mkdir(path)
        for file in ("cpus", "mems"):
            await cpusets.write(path, file, (await cpusets.read("/", file)).strip())
        await cpusets.write(path, "memory_migrate", 1)
        await cpusets.attach(path, task.pid)

    async def _change_cpuset(self, task: Task, *, everywhere: bool = False) -> None:
        """The memory of its tasks follows (memory_migrate)."""
        nodes = ",".join(map(str, self._machine.nids)) if everywhere else self._some_nodes()
        await self._machine.cpusets.write(self._cpuset, "mems", nodes)

    def _some_nodes(self) -> str:
        nids = self._machine.nids
        return ",".join(map(str, self._draw.sample(nids, self._draw.randint(1, len(nids)))))

    async def _migrate(self, task: Task) -> None:
        await task.migrate_pages(task.pid, self._some_nodes(), self._some_nodes())

    async def _move_pages(self, task: Task) -> None:
        base = self._draw.choice((self._private, self._shared))
        pages = self._draw.sample(range(self._told.pages), min(32, self._told.pages))
        nodes = [self._draw.choice(self._machine.nids) for _ in pages]
        flags = self._draw.choice((MPOL_MF_MOVE, MPOL_MF_MOVE_ALL))
        await task.move_pages(task.pid, [base + page * PAGE for page in pages], nodes, flags)

    async def _move_few(self, task: Task) -> None:
        """So few that they mostly go from one node to one other: by one question."""
        page = self._draw.randrange(self._told.pages)
        few = range(page, min(page + self._draw.choice((1, 1, 2, 4)), self._told.pages))
        nodes = [self._draw.choice(self._machine.nids)] * len(few)
        places = [self._private + one * PAGE for one in few]
        await task.move_pages(task.pid, places, nodes, MPOL_MF_MOVE_ALL)

    async def _mbind(self, task: Task) -> None:
        base, length = self._draw.choice((self._private, self._shared)), self._told.pages * PAGE
        flags = self._draw.choice((MPOL_MF_MOVE, MPOL_MF_MOVE_ALL))
        if self._draw.random() < 0.3:
            await task.mbind(base, length, MPOL_DEFAULT)
        else:
            await task.mbind(base, length, MPOL_BIND, self._some_nodes(), flags)


def _say(line: object) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
    sys.stdout.buffer.flush()


async def _report(worker: Worker) -> None:
    while True:
        await trio.sleep(0.5)
        _say(worker.progress("work"))


async def _obey(assignment: Assignment, lines: AsyncIterator[bytes]) -> None:
    place, faults = assignment.machine, assignment.faults
    async with connect(place, faults=faults, within=WITHIN) as machine:
        worker = Worker(assignment, machine)
        _say(await worker.begin())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_report, worker)
            async with trio.open_nursery() as at_work:
                at_work.start_soon(worker.work)
                await anext(lines)
                worker.stop.set()
            nursery.cancel_scope.cancel()
        _say(worker.progress("stopped"))
        await anext(lines)
        await worker.read()
        _say(worker.progress("read"))
        await anext(lines)


async def _lines() -> AsyncIterator[bytes]:
    """The lines of stdin; nobody is left to obey when it ends."""
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as stdin:
        said = b""
        while True:
            while b"\n" not in said:
                part = await stdin.receive_some()
                if not part:
                    os._exit(0)
                said += part
            line, _, said = said.partition(b"\n")
            yield line


async def _main() -> None:
    lines = _lines()
    await _obey(msgspec.json.decode(await anext(lines), type=Assignment), lines)


if __name__ == "__main__":
    die_with_parent()
    trio.run(_main)
