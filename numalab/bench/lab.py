"""A machine that is measured: its tasks, its moves, and what its processes tell of themselves."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import trio

from numalab import cluster
from numalab.console import CommandFailed
from numalab.constants import MADV_POPULATE_WRITE
from numalab.locate import ProcessRow, read_machine
from numalab.machine import Machine, connect
from numalab.task import Task
from protocol.live.scrape import MetricsPage, fetch_page
from protocol.schema import COORDINATOR
from protocol.topology import PAGE_SIZE, Topology

#: Of the figures; a machine has it unless ``--chunk`` says otherwise.
CHUNK_PAGES = 4096
#: A part of the frames more than the pages need, so that the target always finds whole runs.
SPARE = 4
SCRAPE_SECONDS = 5.0
#: A large zone takes as long as the host takes to clear its memory.
START_SECONDS = 120.0
_PIECE = 16_384
_MESSAGES = ("numalab_transport_sent_total", "numalab_transport_received_total")

U64 = npt.NDArray[np.uint64]


class Lab:
    """Two nodes, and this process as their client."""

    def __init__(self, machine: Machine, directory: Path) -> None:
        self.machine = machine
        self.directory = directory

    @property
    def processes(self) -> tuple[ProcessRow, ...]:
        """Those of the machine."""
        return read_machine(self.directory).processes

    # ---- tasks -----------------------------------------------------------------------------

    async def filled(self, pages: int) -> tuple[Task, int]:
        """A task whose pages lie together on node 0, with contents to check; all of its frames
        have been in use on both nodes."""
        task, address = await self.mapped(pages)
        await self.fill(task, address, pages)
        await self.move(task, 0, pages)
        await self.move(task, 1, pages)
        return task, address

    async def touched(self, pages: int) -> tuple[Task, int]:
        """A task whose pages are there, as first touch leaves them."""
        task, address = await self.mapped(pages)
        await self.populate(task, address, pages)
        return task, address

    async def mapped(self, pages: int) -> tuple[Task, int]:
        """A task with so many pages, none of them there yet."""
        task = await self.machine.spawn()
        return task, await task.mmap(pages * self.machine.page_size)

    async def populate(self, task: Task, address: int, pages: int) -> float:
        """First touch of all of them; seconds."""
        started = time.perf_counter()
        await task.madvise(address, pages * self.machine.page_size, MADV_POPULATE_WRITE)
        return time.perf_counter() - started

    async def fill(self, task: Task, address: int, pages: int) -> None:
        """Every word says which page it belongs to and where in the page."""
        size = self.machine.page_size
        for first in range(0, pages, _PIECE):
            data = _contents(first, min(_PIECE, pages - first), size)
            await task.store(address + first * size, data.data.cast("B"))

    async def check(self, task: Task, address: int, pages: int) -> None:
        """The contents are those of ``fill``.  Raises CommandFailed."""
        size = self.machine.page_size
        for first in range(0, pages, _PIECE):
            wanted = _contents(first, min(_PIECE, pages - first), size)
            loaded = await task.load(address + first * size, wanted.nbytes)
            if not np.array_equal(np.frombuffer(loaded, np.uint64), wanted):
                raise CommandFailed(
                    f"A page from {first} on has other contents than before it was moved."
                )

    async def touch_at_random(
        self, task: Task, address: int, pages: int, draw: np.random.Generator
    ) -> None:
        """First touch in a random order: neighbours in memory are none in the address space."""
        order = draw.permutation(pages).astype(np.uint64)
        places = order * np.uint64(self.machine.page_size) + np.uint64(address)
        await task.store_many(places, 8, bytes(8 * pages))

    async def move(self, task: Task, source: int, pages: int) -> float:
        """migrate_pages(2) of all its pages to the other node; seconds.  Raises CommandFailed."""
        started = time.perf_counter()
        left = await task.migrate_pages(task.pid, [source], [1 - source])
        seconds = time.perf_counter() - started
        if left:
            raise CommandFailed(
                f"{left} of {pages} pages did not move from node {source}: measure again."
            )
        return seconds

    # ---- what the processes tell -----------------------------------------------------------

    async def metrics(self, name: str = COORDINATOR) -> MetricsPage:
        """The metrics page of a process.  Raises CommandFailed."""
        url = next(row.metrics for row in self.processes if row.name == name)
        page = await trio.to_thread.run_sync(fetch_page, url, SCRAPE_SECONDS)
        if page is None:
            raise CommandFailed(f"{name} does not serve its metrics at {url}: measure again.")
        return page

    async def messages(self) -> float:
        """Messages that the coordinator has sent and received."""
        page = await self.metrics()
        return sum(total(page, name) for name in _MESSAGES)


def total(page: MetricsPage, name: str, **labels: str) -> float:
    """The sum of the series of ``name`` that have these labels."""
    return sum(
        value
        for found, value in page.get(name, ())
        if all(found.get(label) == wanted for label, wanted in labels.items())
    )


@asynccontextmanager
async def lab_of(
    pages: int, *, page_size: int = PAGE_SIZE, spare: float = 1 / SPARE, **settings: Any
) -> AsyncIterator[Lab]:
    """A machine whose nodes have room for so many pages each, and a part ``spare`` more.

    settings: those of ``numalab.cluster.Settings``, and ``run_directory``.
    """
    frames = pages + int(pages * spare) + 256
    topology = Topology.uniform(2, frames * page_size, page_size=page_size)
    options: dict[str, Any] = {
        "chunk_pages": CHUNK_PAGES,
        # Only 6.1 has MADV_POPULATE_WRITE, and it is how a range is touched in one call.
        "behaviours": {"madvise_populates": True},
    }
    with TemporaryDirectory(prefix="numalab-bench-") as made:
        directory = Path(settings.pop("run_directory", made))
        wanted = cluster.Settings(topology, **(options | settings))
        await cluster.up(wanted, directory, parent=os.getpid(), within=START_SECONDS)
        try:
            async with connect(directory) as machine:
                yield Lab(machine, directory)
        finally:
            with trio.CancelScope(shield=True):
                await cluster.down(directory)


def _contents(first: int, pages: int, page_size: int) -> U64:
    page = np.arange(first, first + pages, dtype=np.uint64)[:, None] << np.uint64(16)
    words: U64 = page | np.arange(page_size // 8, dtype=np.uint64)
    return words.reshape(-1)
