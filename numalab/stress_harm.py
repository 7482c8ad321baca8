"""Faults of a live machine: its processes are killed, stopped and started again, pages pinned.

What happens to messages and to the disk happens in the processes themselves
(``protocol/live/interference.py``), which read the file that is written here.
"""

from __future__ import annotations

import errno
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
import trio

from numalab import cluster, processes, rundirectory
from numalab.checker import Finding, invalid
from numalab.constants import MPOL_BIND
from numalab.faults import Crash, Lack, Pause, Schedule, Strain, format_schedule, kind_of
from numalab.locate import read_machine
from numalab.machine import Machine
from numalab.orders import IndefiniteError
from numalab.processes import Process
from numalab.stress_events import Happenings
from protocol.core import ConfigurationError
from protocol.live.interference import Counts, FaultFile

POLL_SECONDS = 0.01
#: A small migration is over soon.
SHARE_POLL_SECONDS = 0.001
#: Who ended by itself is started again so long after.
REVIVE_SECONDS = 0.5
PAGE = 4096
FILL_PAGES = 256
#: Any of the clients of the stress.
CLIENT = "client"
LET_GO_SECONDS = 30.0


class Clients:
    """What a fault can do to the clients of a stress; made by who started them."""

    def __init__(
        self,
        kill: Callable[[], bool],
        pause: Callable[[float], bool],
        pages: Callable[[], tuple[int, int, int]],
    ) -> None:
        self.kill = kill
        self.pause = pause
        #: pid, address and number of pages of the private area of one of them.
        self.pages = pages


def write_faults(directory: Path, schedule: Schedule, seed: int) -> Path:
    """The file of faults and that of counts; times count from now."""
    path, counts = directory / "faults.json", directory / "counts"
    Counts(counts, make=True)
    file = FaultFile(time.monotonic(), seed, format_schedule(schedule), str(counts))
    processes.write_private(path, msgspec.json.encode(file))
    return path


class Harm:
    """The schedule at work on the machine in ``directory``; ``run`` it until ``end``.

    restarts: of each process.  findings: processes that ended by themselves.
    """

    def __init__(
        self,
        directory: Path,
        schedule: Schedule,
        counts: Counts,
        machine: Machine,
        clients: Clients,
        events: Path,
    ) -> None:
        self._directory, self._schedule, self._counts = directory, schedule, counts
        self._machine, self._clients = machine, clients
        self._down: set[str] = set()
        self._stopped: set[str] = set()
        self._seen: set[int] = set()
        self.restarts: Counter[str] = Counter()
        self.findings: list[Finding] = []
        self._over = trio.Event()
        self._happenings = Happenings(events)
        self._happenings.add("begin", time.monotonic_ns())
        self._names = {row.name for row in read_machine(directory).processes}

    async def run(self) -> None:
        """Until ``end``; then everybody runs again, and what was held is let go."""
        async with trio.open_nursery() as strains:
            for number, fault in enumerate(self._schedule):
                if isinstance(fault, Strain):
                    strains.start_soon(self._strain, number, fault)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, nursery)
                for number, fault in enumerate(self._schedule):
                    if isinstance(fault, Crash | Pause) and fault.share:
                        nursery.start_soon(self._strike_when_done, number, fault)
                    elif isinstance(fault, Crash | Pause) and not fault.step:
                        nursery.start_soon(self._strike_later, number, fault)
                await self._over.wait()
                nursery.cancel_scope.cancel()
            self._heal()

    def end(self) -> None:
        """The faults are over."""
        self._over.set()

    async def _watch(self, nursery: trio.Nursery) -> None:
        while True:
            self._heed_steps(nursery)
            self._heed_dead(nursery)
            await trio.sleep(POLL_SECONDS)

    def _heal(self) -> None:
        """Everybody runs again; who cannot is found out when the machine is asked."""
        alive = cluster.running(self._directory)
        for name in sorted(self._stopped & alive.keys()):
            alive[name].signal(signal.SIGCONT)
        for name in sorted(self._names - alive.keys()):
            self._revive(name)

    def hit(self) -> list[tuple[str, int]]:
        """How often each fault of the schedule has hit."""
        return [
            (kind_of(fault), self._counts.hits[number])
            for number, fault in enumerate(self._schedule)
        ]

    # ---- processes -------------------------------------------------------------------------

    def _heed_steps(self, nursery: trio.Nursery) -> None:
        """A process of the machine says that another, or itself, is at the step."""
        for number, fault in enumerate(self._schedule):
            if not isinstance(fault, Crash | Pause) or not fault.step or number in self._seen:
                continue
            name = self._counts.struck(number)
            if name is not None or self._counts.hits[number]:
                self._seen.add(number)
                nursery.start_soon(self._strike, number, name or fault.name, fault)
                if name is not None and isinstance(fault, Crash):
                    self._down.add(name)

    def _heed_dead(self, nursery: trio.Nursery) -> None:
        """Nobody may end but by a fault."""
        missing = self._names - cluster.running(self._directory).keys() - self._down
        if missing:
            # It may have killed itself after we looked.
            self._heed_steps(nursery)
        for name in sorted(missing - self._down):
            self._down.add(name)
            if not self._is_disk_full(name):
                said = rundirectory.last_line(self._directory / f"{name}.log")
                self.findings.append(invalid(f"{name} ended by itself: {said}"))
            nursery.start_soon(self._come_back, name, REVIVE_SECONDS)

    def _is_disk_full(self, name: str) -> bool:
        return any(
            isinstance(fault, Strain)
            and fault.lack == Lack.FULL_DISK
            and fault.name == name
            and self._counts.hits[number] > 0
            for number, fault in enumerate(self._schedule)
        )

    async def _strike_later(self, number: int, fault: Crash | Pause) -> None:
        await trio.sleep(fault.at)
        await self._strike(number, fault.name, fault)

    async def _strike_when_done(self, number: int, fault: Crash | Pause) -> None:
        await trio.sleep(fault.at)
        while True:
            pid, _, _ = self._clients.pages()
            with suppress(OSError):
                made = await self._machine.progress(pid)
                if made.listed and fault.share <= made.settled / made.listed < 1:
                    break
            await trio.sleep(SHARE_POLL_SECONDS)
        await self._strike(number, fault.name, fault)

    async def _strike(self, number: int, name: str, fault: Crash | Pause) -> None:
        by_step = fault.step is not None
        if name.startswith(CLIENT):
            struck = (
                self._clients.pause(fault.seconds)
                if isinstance(fault, Pause)
                else self._clients.kill()
            )
            self._counts.hits[number] += struck and not by_step
            if struck:
                kind = "pause" if isinstance(fault, Pause) else "crash"
                self._happenings.add(kind, time.monotonic_ns(), process=name)
            return
        process = cluster.running(self._directory).get(name)
        if isinstance(fault, Pause):
            if process is not None and name not in self._down | self._stopped:
                self._counts.hits[number] += not by_step
                await self._pause(name, process, fault.seconds)
            return
        if by_step or (process is not None and name not in self._down):
            self._counts.hits[number] += not by_step
            self._down.add(name)
            if process is not None:
                process.signal(signal.SIGKILL)
                await processes.ended(process)
            self._happenings.add("crash", time.monotonic_ns(), process=name)
            await self._come_back(name, fault.after, keep_zone=fault.keep_zone)

    async def _pause(self, name: str, process: Process, seconds: float) -> None:
        self._stopped.add(name)
        start = time.monotonic_ns()
        process.signal(signal.SIGSTOP)
        await trio.sleep(seconds)
        process.signal(signal.SIGCONT)
        self._happenings.add("pause", start, time.monotonic_ns(), process=name)
        self._stopped.discard(name)

    async def _come_back(self, name: str, after: float, *, keep_zone: bool = True) -> None:
        await trio.sleep(after)
        if not keep_zone:
            self._lose_zone(name)
        self._revive(name)
        self._down.discard(name)

    def _lose_zone(self, name: str) -> None:
        for row in read_machine(self._directory).processes:
            if row.name == name and row.zone:
                Path(row.zone).unlink(missing_ok=True)

    def _revive(self, name: str) -> None:
        process = processes.recall(self._directory / f"{name}.pid")
        if process is not None:
            processes.reap(process)
        with suppress(ConfigurationError):
            cluster.restart(self._directory, name)
            self.restarts[name] += 1
            self._happenings.add("restart", time.monotonic_ns(), process=name)

    # ---- resources -------------------------------------------------------------------------

    async def _strain(self, number: int, fault: Strain) -> None:
        works: Mapping[Lack, Callable[[int, Strain], Awaitable[None]]] = {
            Lack.PINNED: self._pin,
            Lack.FULL: self._fill,
        }
        work = works.get(fault.lack)
        if work is None or await self._is_over_within(fault.at):
            return
        with suppress(OSError):
            await work(number, fault)

    async def _pin(self, number: int, fault: Strain) -> None:
        pid, base, pages = self._clients.pages()
        chosen = np.linspace(0, pages - 1, min(fault.pages, pages)).astype(np.uint64)
        addresses = (np.uint64(base) + chosen * np.uint64(PAGE)).tolist()
        task = await self._machine.attach(pid)
        await task.pin(*addresses)
        self._counts.hits[number] += 1
        self._happenings.add("pinned", time.monotonic_ns(), process=fault.name)
        await self._is_over_within(fault.seconds)
        await self._let_go(lambda: task.unpin(*addresses))

    async def _fill(self, number: int, fault: Strain) -> None:
        """A task takes all frames of the node that are free."""
        nid = int(fault.name.removeprefix("node"))
        free = (await self._machine.count_zone(nid)).free
        task = await self._machine.spawn()
        try:
            await task.set_mempolicy(MPOL_BIND, [nid])
            base = await task.mmap((free + FILL_PAGES) * PAGE)
            for first in range(0, free + FILL_PAGES, FILL_PAGES):
                pages = np.arange(first, first + FILL_PAGES, dtype=np.uint64)
                addresses = np.uint64(base) + pages * np.uint64(PAGE)
                await task.store_many(addresses, 1, bytes(FILL_PAGES))
                if self._over.is_set():
                    return
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise
            self._counts.hits[number] += 1
            self._happenings.add("full", time.monotonic_ns(), process=fault.name)
            await self._is_over_within(fault.seconds)
        finally:
            await self._let_go(task.exit)

    async def _let_go(self, call: Callable[[], Awaitable[None]]) -> None:
        """Again and again, as the machine may not answer just now."""
        with trio.move_on_after(LET_GO_SECONDS, shield=True):
            while True:
                try:
                    await call()
                except IndefiniteError:
                    await trio.sleep(POLL_SECONDS)
                except OSError:
                    return
                else:
                    return

    async def _is_over_within(self, seconds: float) -> bool:
        """Wait so long, or until the faults are over."""
        with trio.move_on_after(seconds):
            await self._over.wait()
        return self._over.is_set()
