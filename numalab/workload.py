"""A task that is never done: its writers count, its pages move on a schedule, all is checked.

It is what a machine is shown with, and what something is broken under: a node or a coordinator may
die and come back meanwhile.  In the end every word is read back, and there is a verdict.
"""

from __future__ import annotations

import errno
import itertools
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import trio

from numalab.checker import Finding, Verdict, invalid, unknown, verdict
from numalab.constants import MPOL_MF_MOVE
from numalab.locate import MachineUnreachable
from numalab.machine import Machine, connect
from numalab.orders import IndefiniteError
from numalab.task import Task
from numalab.writer import WORD, WORDS_AT_ONCE, Counting
from protocol.notes import Note
from protocol.workload_metrics import RoundEnded, TurnEnded

#: From errno.h; the module errno does not have it everywhere.
EHWPOISON = 133
WRITERS = 2
#: A writer rests so long (seconds) after each of its turns: the machine is to be seen, not worn.
REST_SECONDS = 0.002
#: Every so many rounds some pages are pinned, so that there is something that cannot move.
PINNED_EVERY, PINNED_PAGES = 4, 8
#: How long the last reading may take: who is stopped has to end.
READING_SECONDS = 8.0
AGAIN_SECONDS = 1.0

Pages = npt.NDArray[np.uint64]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Schedule:
    """memory: bytes.  interval: seconds between two rounds.  rounds: of migrations, None: for ever.

    health: a file that is touched after each round, None: none.
    """

    memory: int
    interval: float
    rounds: int | None = None
    health: Path | None = None


@dataclass(slots=True)
class Account:
    """What was done so far.  lives: tasks.  findings: what is wrong.

    on_note: told of it as it is done, and of what happens to the connection.
    """

    on_note: Callable[[Note], None]
    rounds: int = 0
    stores: int = 0
    lives: int = 0
    findings: list[Finding] = field(default_factory=list)


class _Over(Exception):
    """There is no task to work on: why."""


class _Lost(_Over):
    """Pages are lost, and were not by a fault of the machine's: a node has lost its zone."""


async def work(
    place: str | Path,
    schedule: Schedule,
    stop: trio.Event,
    say: Callable[[str], None],
    on_note: Callable[[Note], None] = lambda note: None,
) -> tuple[Verdict, Account]:
    """Work until ``stop``, or until the rounds are over; the verdict on all of it.

    A machine that is not there yet, or not there any more, is waited for.
    """
    account = Account(on_note)
    while not stop.is_set() and not _done(schedule, account):
        try:
            async with connect(place) as machine:
                account.lives += 1
                machine.on_note = on_note
                await _live(machine, schedule, account, stop, say)
        except (MachineUnreachable, _Over) as error:
            say(f"{str(error).rstrip('.')}: trying again")
            with trio.move_on_after(AGAIN_SECONDS):
                await stop.wait()
    return verdict(account.findings), account


def _done(schedule: Schedule, account: Account) -> bool:
    return schedule.rounds is not None and account.rounds >= schedule.rounds


class _Life:
    """One task, from its spawn to the last reading."""

    def __init__(self, machine: Machine, task: Task, pages: Pages) -> None:
        self.machine, self.task, self.pages = machine, task, pages
        self.writers = [
            Counting(task, pages + np.uint64(WORD * number)) for number in range(WRITERS)
        ]

    async def write(self, counting: Counting, number: int, account: Account) -> None:
        """Count in one part of the words after the other, in an order of the writer's own."""
        rows = np.arange(self.pages.size)
        parts = [rows[at : at + WORDS_AT_ONCE] for at in range(0, rows.size, WORDS_AT_ONCE)]
        order = np.random.default_rng(number).permutation(len(parts)).tolist()
        for part in itertools.cycle(order):
            stored = await _or_trouble(partial(counting.count, parts[part]))
            words = parts[part].size
            account.on_note(TurnEnded(words, 0) if stored is True else TurnEnded(0, words))
            await trio.sleep(AGAIN_SECONDS if isinstance(stored, str) else REST_SECONDS)

    async def move(self, number: int) -> tuple[str, int]:
        """The ``number``-th round: what it is, and how many pages stayed."""
        nids = self.machine.nids
        to = number % (len(nids) + 1)
        pinned = self.pages[:PINNED_PAGES].tolist() if number % PINNED_EVERY == 0 else []
        try:
            if pinned:
                await self.task.pin(*pinned)
            if to == len(nids):
                where = np.array(nids)[np.arange(self.pages.size) % len(nids)]
                status = np.array(
                    await self.task.move_pages(0, self.pages, where.tolist(), MPOL_MF_MOVE)
                )
                stayed = int(np.count_nonzero(status != where))
                return "spread over all nodes", stayed
            rest = [nid for nid in nids if nid != nids[to]]
            stayed = await self.task.migrate_pages(0, rest, [nids[to]])
            return f"all to node {nids[to]}", stayed
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(AGAIN_SECONDS):
                if pinned:
                    await self.task.unpin(*pinned)

    async def read_back(self) -> list[Finding]:
        """Every word is what was stored last; unknown if that cannot be read in time."""
        findings: list[Finding] = []
        with trio.move_on_after(READING_SECONDS) as reading:
            for counting in self.writers:
                await counting.check_all()
        if reading.cancelled_caught:
            sentence = f"Not every page could be read back within {READING_SECONDS:g} s."
            findings.append(unknown(sentence, self.task.pid))
        for counting in self.writers:
            findings += [invalid(sentence, self.task.pid) for sentence in counting.report().wrong]
        return findings


async def _live(
    machine: Machine,
    schedule: Schedule,
    account: Account,
    stop: trio.Event,
    say: Callable[[str], None],
) -> None:
    life = await _begin(machine, schedule)
    say(
        f"task {life.task.pid}: {life.pages.size} pages on {len(machine.nids)} nodes, "
        f"{WRITERS} writers, a migration every {schedule.interval:g} s"
    )
    over: _Over | None = None
    try:
        async with trio.open_nursery() as nursery:
            for number, counting in enumerate(life.writers):
                nursery.start_soon(life.write, counting, number, account)
            nursery.start_soon(_cancel_when, stop, nursery)
            await _rounds(life, schedule, account, say)
            nursery.cancel_scope.cancel()
    except* _Over as group:
        over = _Over(str(group.exceptions[0]))
        if isinstance(group.exceptions[0], _Lost):
            account.findings.append(unknown(f"{over}.", life.task.pid))
    account.stores += sum(counting.report().stores for counting in life.writers)
    if over is not None:
        raise over
    account.findings += await life.read_back()


async def _begin(machine: Machine, schedule: Schedule) -> _Life:
    if not machine.nids:
        raise _Over("The machine has no node yet")
    size = max(schedule.memory // machine.page_size, WORDS_AT_ONCE)
    task = await machine.spawn(comm="workload")
    address = await task.mmap(size * machine.page_size)
    life = _Life(machine, task, address + np.arange(size, dtype=np.uint64) * machine.page_size)
    for counting in life.writers:
        await counting.begin()
    return life


async def _cancel_when(stop: trio.Event, nursery: trio.Nursery) -> None:
    await stop.wait()
    nursery.cancel_scope.cancel()


async def _rounds(
    life: _Life, schedule: Schedule, account: Account, say: Callable[[str], None]
) -> None:
    while not _done(schedule, account):
        started = time.perf_counter()
        moved = await _or_trouble(partial(life.move, account.rounds))
        seconds = time.perf_counter() - started
        account.rounds += 1
        failed = isinstance(moved, str)
        told, stayed = (moved, 0) if isinstance(moved, str) else moved
        account.on_note(RoundEnded(seconds, stayed, failed))
        said = told if failed else f"{told}: {stayed} pages stayed"
        say(f"round {account.rounds}: {said}, {seconds:.2f} s")
        if schedule.health is not None:
            schedule.health.touch()
        await trio.sleep(schedule.interval)


async def _or_trouble(act: Callable[[], Awaitable[_T]]) -> _T | str:
    """What ``act`` gives; or what is in its way, if it may well be done another time."""
    try:
        return await act()
    except IndefiniteError:
        return "nobody knows what became of it"
    except OSError as error:
        if error.errno == errno.ESRCH:
            raise _Over("The task is gone, as its lease ran out") from None
        if error.errno == EHWPOISON:
            raise _Lost("A page is gone with the zone of its node") from None
        return error.strerror or str(error)
