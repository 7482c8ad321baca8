"""A process that counts in the memory of a task while somebody moves its pages.

``python -m numalab.writer`` reads one JSON line from stdin (``Assignment``), says on stdout that it
is ready, and counts until another line comes.  Then it says what it did (``Report``), in one JSON
line.  Each of its counters is a word of 8 bytes: load, add one, store.  It ends with its parent.
"""

from __future__ import annotations

import itertools
import os
import sys
import time

import msgspec
import numpy as np
import numpy.typing as npt
import trio

from numalab.machine import connect
from numalab.orders import IndefiniteError
from numalab.parent import die_with_parent
from numalab.task import Task

WORD = 8
#: Words of one load or store: as many pages as the client keeps translations for at once.
WORDS_AT_ONCE = 16
READY = b"ready\n"

Words = npt.NDArray[np.uint64]


class Assignment(msgspec.Struct, frozen=True):
    """Count in these words (addresses in bytes) of task ``pid`` of the machine, on ``cpu``."""

    machine: str
    pid: int
    cpu: int
    addresses: tuple[int, ...]


class Report(msgspec.Struct, frozen=True):
    """What a writer did.

    acknowledged: of each word, the value whose store was answered last (or that was there first).
    attempted: the value of its last store, answered or not.  stores: words stored in all.
    longest: seconds that the slowest load or store took.  wrong: loads that gave another value.
    """

    acknowledged: tuple[int, ...]
    attempted: tuple[int, ...]
    stores: int
    longest: float
    wrong: tuple[str, ...]


class Counting:
    """The counters: what was stored, and what is known to have been stored."""

    def __init__(self, task: Task, addresses: Words) -> None:
        self._task = task
        self._addresses = addresses
        self._acknowledged = np.zeros(addresses.size, np.uint64)
        self._attempted = self._acknowledged
        self._stores = 0
        self._longest = 0.0
        self._wrong: list[str] = []

    async def begin(self) -> None:
        """Take the words as they are."""
        words = await self._task.load_many(self._addresses, WORD)
        self._acknowledged = np.frombuffer(words, np.uint64).copy()
        self._attempted = self._acknowledged.copy()

    async def count(self, rows: npt.NDArray[np.intp]) -> bool:
        """Add one to the words of these rows; whether that is known to have been stored."""
        addresses = self._addresses[rows]
        started = time.perf_counter()
        found = np.frombuffer(await self._task.load_many(addresses, WORD), np.uint64)
        loaded = time.perf_counter()
        self._check(rows, found)
        self._acknowledged[rows] = found
        self._attempted[rows] = found + np.uint64(1)
        try:
            await self._task.store_many(addresses, WORD, self._attempted[rows].tobytes())
        except IndefiniteError:
            # The next load of these words tells; until then both values are possible.
            return False
        self._acknowledged[rows] = self._attempted[rows]
        self._stores += rows.size
        self._longest = max(self._longest, loaded - started, time.perf_counter() - loaded)
        return True

    async def check_all(self) -> None:
        """Read every word; what is wrong is in the report then."""
        found = np.frombuffer(await self._task.load_many(self._addresses, WORD), np.uint64)
        self._check(np.arange(self._addresses.size), found)

    def _check(self, rows: npt.NDArray[np.intp], found: Words) -> None:
        known = (found == self._acknowledged[rows]) | (found == self._attempted[rows])
        for row in np.flatnonzero(~known).tolist():
            word = rows[row]
            self._wrong.append(
                f"The word at {int(self._addresses[word]):#x} was {int(found[row])} after a store "
                f"of {int(self._acknowledged[word])} had been acknowledged."
            )

    def report(self) -> Report:
        return Report(
            tuple(self._acknowledged.tolist()),
            tuple(self._attempted.tolist()),
            self._stores,
            self._longest,
            tuple(self._wrong),
        )


async def write(assignment: Assignment, ready: trio.Event, stop: trio.Event) -> Report:
    """Count until ``stop`` is set; ``ready`` is set when the counting begins."""
    async with connect(assignment.machine) as machine:
        task = await machine.attach(assignment.pid, assignment.cpu)
        counting = Counting(task, np.array(assignment.addresses, np.uint64))
        await counting.begin()
        ready.set()
        rows = np.arange(len(assignment.addresses))
        parts = [rows[at : at + WORDS_AT_ONCE] for at in range(0, rows.size, WORDS_AT_ONCE)]
        # Every writer has an order of its own, the same every time.
        order = np.random.default_rng(assignment.cpu).permutation(len(parts))
        for part in itertools.cycle(order.tolist()):
            if stop.is_set():
                break
            await counting.count(parts[part])
        return counting.report()


async def _main() -> None:
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as orders:
        said = b""
        while not said.endswith(b"\n"):
            part = await orders.receive_some()
            if not part:
                return
            said += part
        assignment = msgspec.json.decode(said, type=Assignment)
        ready, stop = trio.Event(), trio.Event()

        async def tell_ready() -> None:
            await ready.wait()
            _say(READY)

        async with trio.open_nursery() as nursery:

            async def heed() -> None:
                if await orders.receive_some():
                    stop.set()
                else:
                    # Nobody is left to report to, nor, perhaps, a machine that would answer.
                    nursery.cancel_scope.cancel()

            nursery.start_soon(tell_ready)
            nursery.start_soon(heed)
            report = await write(assignment, ready, stop)
            _say(msgspec.json.encode(report) + b"\n")
            nursery.cancel_scope.cancel()


def _say(line: bytes) -> None:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    die_with_parent()
    trio.run(_main)
