"""A process that stores all over the memory of a task while somebody moves it, and tells how long
it waited for each store.

``python -m numalab.bench.waiting`` reads one JSON line from stdin (``Assignment``), says ``ready``
and stores.  For every further line, two times of the monotonic clock, it says in a JSON line how
long the stores took that were under way between them (``Waits``).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import numpy as np
import trio

from numalab.bench.lab import Lab
from numalab.bench.ratios import percentile
from numalab.child import Child, child_process
from numalab.machine import connect
from numalab.parent import die_with_parent

WORD = 8


class Assignment(msgspec.Struct, frozen=True):
    """Store in these pages of task ``pid`` of the machine in this run directory."""

    machine: str
    pid: int
    address: int
    pages: int
    page_size: int


class Waits(msgspec.Struct, frozen=True):
    """Seconds that stores took, and how many there were."""

    longest: float
    p99: float
    p50: float
    stores: int


class Writer:
    """The process, from the side of who measures."""

    def __init__(self, child: Child) -> None:
        self._child = child

    async def begin(self, assignment: Assignment) -> None:
        """It stores from now on."""
        await self._child.stdin.send_all(msgspec.json.encode(assignment) + b"\n")
        await self._child.next_line()

    async def waits(self, began: float, ended: float) -> Waits:
        """Of the stores that were under way between these times."""
        await self._child.stdin.send_all(f"[{began!r},{ended!r}]\n".encode())
        return msgspec.json.decode(await self._child.next_line(), type=Waits)


@asynccontextmanager
async def writing(lab: Lab, pid: int, address: int, pages: int) -> AsyncIterator[Writer]:
    """A process that stores in these pages for as long as the block runs."""
    async with child_process([__name__]) as child:
        writer = Writer(child)
        size = lab.machine.page_size
        await writer.begin(Assignment(str(lab.directory), pid, address, pages, size))
        yield writer


# ---- the process ---------------------------------------------------------------------------


async def _main() -> None:
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as orders:
        lines = _lines(orders)
        assignment = msgspec.json.decode(await anext(lines), type=Assignment)
        stores = _Stores()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_store, assignment, stores)
            async for line in lines:
                began, ended = msgspec.json.decode(line, type=tuple[float, float])
                # The last store that began in time has to be over, too.
                await stores.one_that_began_after(ended)
                _say(msgspec.json.encode(waits_between(stores.times, began, ended)))
                stores.times.clear()
            nursery.cancel_scope.cancel()


class _Stores:
    """When each store began and ended."""

    def __init__(self) -> None:
        self.times: list[tuple[float, float]] = []
        self._one_more = trio.Event()

    def add(self, began: float) -> None:
        """A store ends now."""
        self.times.append((began, time.perf_counter()))
        self._one_more.set()
        self._one_more = trio.Event()

    async def one_that_began_after(self, moment: float) -> None:
        while not self.times or self.times[-1][0] < moment:
            await self._one_more.wait()


async def _store(assignment: Assignment, stores: _Stores) -> None:
    draw = np.random.default_rng(1)
    async with connect(assignment.machine) as machine:
        task = await machine.attach(assignment.pid)
        _say(b"ready")
        word = 0
        while True:
            for page in draw.integers(0, assignment.pages, 4096).tolist():
                word += 1
                began = time.perf_counter()
                await task.store(
                    assignment.address + page * assignment.page_size, word.to_bytes(WORD, "little")
                )
                stores.add(began)


def waits_between(stores: list[tuple[float, float]], began: float, ended: float) -> Waits:
    """Of (began, ended) of each store, those that were under way between the two times."""
    waits = [after - before for before, after in stores if after > began and before < ended]
    if not waits:
        return Waits(0.0, 0.0, 0.0, 0)
    return Waits(max(waits), percentile(waits, 0.99), percentile(waits, 0.5), len(waits))


async def _lines(stream: trio.lowlevel.FdStream) -> AsyncIterator[bytes]:
    said = b""
    while part := await stream.receive_some():
        *lines, said = (said + part).split(b"\n")
        for line in lines:
            yield line


def _say(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    die_with_parent()
    trio.run(_main)
