"""``numalab bench``: what moving pages costs on this host.

A benchmark is not a test: a host swings by half within minutes, so the numbers to look at are
ratios of what was measured side by side, and their spread.

- Pages a second from one node to another, in large chunks and in the default ones, beside the same
  bytes through two bare zmq processes (PUSH and PULL, TCP on the loopback, 256 pages a frame, no
  copy where zmq allows it).
- The coordinator's messages for each 1,000 pages moved.
- The time of one page, in round trips of a question to the coordinator.
- Pages a second with CURVE on every socket, beside a machine without it.
- With --memory instead: bookkeeping bytes for each page, and how a large machine starts.
"""

from __future__ import annotations

import mmap
import multiprocessing
import re
import signal
import statistics
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import trio
import zmq

from numalab.bench_memory import BOOKKEEPING
from numalab.cluster import local_cluster
from numalab.console import CommandFailed
from numalab.locate import read_machine
from numalab.machine import Machine
from numalab.task import Task
from protocol.schema import COORDINATOR
from protocol.syscalls import Progress, ProgressMade

PAGE_SIZE = 4096
FRAME_PAGES = 256
#: Frames that zmq may queue at either end.
HIGH_WATER = 4
SMALL_MOVES = 200
#: With CURVE such a part of the pages moves, as two machines are up at a time.
CURVE_PART = 4
NEIGHBOURS_GOAL = 0.4
MESSAGES_GOAL = 10.0
#: For speed alone; the default chunk is smaller, so that tasks wait for less time.
LARGE_CHUNK_PAGES = 16384

_MESSAGES = re.compile(r"^numalab_transport_(?:sent|received)_total (\S+)$", re.MULTILINE)


@dataclass(slots=True)
class Contest:
    """Pages a second, round by round: through bare zmq, and moved by the machine."""

    pages: int
    raw: list[float] = field(default_factory=list)
    moved: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Medians, and of the ratio of each round also the spread."""
        ratios = [moved / raw for raw, moved in zip(self.raw, self.moved, strict=True)]
        return {
            "pages": self.pages,
            "rounds": len(ratios),
            "raw_pages_per_second": round(statistics.median(self.raw)),
            "moved_pages_per_second": round(statistics.median(self.moved)),
            "ratio": round(statistics.median(ratios), 3),
            "ratio_lowest": round(min(ratios), 3),
            "ratio_highest": round(max(ratios), 3),
        }


# ---- bare zmq ------------------------------------------------------------------------------


class RawPair:
    """Two processes that do nothing but carry ``pages`` pages over TCP."""

    def __init__(self, pages: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pages = pages
        self._source, source_end = context.Pipe()
        self._target, target_end = context.Pipe()
        self._processes = [
            context.Process(target=_push, args=(source_end, pages), daemon=True),
            context.Process(target=_pull, args=(target_end, pages), daemon=True),
        ]
        for process in self._processes:
            process.start()
        self._target.send(self._source.recv())
        self._target.recv()

    def carry(self) -> float:
        """Carry them once; pages a second."""
        started = time.perf_counter()
        self._target.send(True)
        self._source.send(True)
        self._target.recv()
        return self._pages / (time.perf_counter() - started)

    def close(self) -> None:
        """End both processes."""
        for end in (self._source, self._target):
            end.send(False)
        for process in self._processes:
            process.join()


@contextmanager
def raw_pair(pages: int) -> Iterator[RawPair]:
    """A RawPair for as long as the block runs."""
    pair = RawPair(pages)
    try:
        yield pair
    finally:
        pair.close()


def _arena(pages: int) -> memoryview:
    """Memory of which every page has been touched."""
    arena = memoryview(mmap.mmap(-1, pages * PAGE_SIZE))
    np.frombuffer(arena, np.uint8)[:] = 1
    return arena


def _frames(arena: memoryview) -> Iterator[memoryview]:
    for start in range(0, arena.nbytes, FRAME_PAGES * PAGE_SIZE):
        yield arena[start : start + FRAME_PAGES * PAGE_SIZE]


def _push(orders: Connection[Any, Any], pages: int) -> None:
    # An interrupt is for the parent, who then says that it is over.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    arena = _arena(pages)
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.sndhwm = HIGH_WATER
        orders.send(socket.bind_to_random_port("tcp://127.0.0.1"))
        while orders.recv():
            for frame in _frames(arena):
                socket.send(frame, copy=False, track=False)


def _pull(orders: Connection[Any, Any], pages: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    arena = _arena(pages)
    with zmq.Context() as context, context.socket(zmq.PULL) as socket:
        socket.rcvhwm = HIGH_WATER
        socket.connect(f"tcp://127.0.0.1:{orders.recv()}")
        orders.send(True)
        while orders.recv():
            for frame in _frames(arena):
                socket.recv_into(frame)
            orders.send(True)


# ---- the machine ---------------------------------------------------------------------------


class Bench:
    """A machine of two nodes, and the address space whose pages move between them."""

    def __init__(self, machine: Machine, metrics: str, pages: int) -> None:
        self._machine = machine
        self._metrics = metrics
        self._pages = pages
        #: Every word of it says which page it belongs to and where in the page.
        page = np.arange(pages, dtype=np.uint64)[:, None] << np.uint64(16)
        words = page | np.arange(PAGE_SIZE // 8, dtype=np.uint64)
        self._contents: npt.NDArray[np.uint64] = words.reshape(-1)

    async def neighbours(self, raw: RawPair, rounds: int) -> tuple[Contest, float]:
        """The contest of pages that lie together, and messages for each 1,000 pages of it."""
        contest, messages = Contest(self._pages), 0.0
        task, address = await self._warmed()
        await trio.to_thread.run_sync(raw.carry)
        for turn in range(rounds):
            contest.raw.append(await trio.to_thread.run_sync(raw.carry))
            before = await self._messages()
            contest.moved.append(await self._move(task, turn % 2))
            messages += await self._messages() - before
        await self._check(task, address)
        await task.exit()
        return contest, messages / (rounds * self._pages / 1000)

    async def _warmed(self) -> tuple[Task, int]:
        """A task with its pages on node 0, all of which have been on both nodes."""
        task = await self._machine.spawn()
        address = await task.mmap(self._pages * PAGE_SIZE)
        await task.store(address, self._contents.data.cast("B"))
        await self._move(task, 0)
        await self._move(task, 1)
        return task, address

    async def against(self, plain: Bench, rounds: int) -> Contest:
        """The contest of this machine with another one, in turns."""
        contest = Contest(self._pages)
        task, address = await self._warmed()
        other, _ = await plain._warmed()
        for turn in range(rounds):
            contest.raw.append(await plain._move(other, turn % 2))
            contest.moved.append(await self._move(task, turn % 2))
        await self._check(task, address)
        await task.exit()
        await other.exit()
        return contest

    async def scattered(self, raw: RawPair, rounds: int) -> Contest:
        """The contest of pages that lie scattered at the source: touched in a random order."""
        contest, shuffle = Contest(self._pages), np.random.default_rng(1)
        rows = self._contents.reshape(self._pages, -1)
        for _ in range(rounds):
            task = await self._machine.spawn()
            address = await task.mmap(self._pages * PAGE_SIZE)
            order = shuffle.permutation(self._pages).astype(np.uint64)
            first = np.ascontiguousarray(rows[order, 0])
            places = order * np.uint64(PAGE_SIZE) + np.uint64(address)
            await task.store_many(places, 8, first.data.cast("B"))
            await task.store(address, self._contents.data.cast("B"))
            contest.raw.append(await trio.to_thread.run_sync(raw.carry))
            contest.moved.append(await self._move(task, 0))
            await self._check(task, address)
            await task.exit()
        return contest

    async def one_page(self) -> dict[str, Any]:
        """The time of moving one page, beside that of asking the coordinator something."""
        task = await self._machine.spawn()
        await task.store(await task.mmap(PAGE_SIZE), b"page")
        moves, trips = [], []
        for turn in range(SMALL_MOVES):
            started = time.perf_counter()
            await self._machine.expect(Progress(task.pid), ProgressMade)
            asked = time.perf_counter()
            await task.migrate_pages(task.pid, [turn % 2], [1 - turn % 2])
            trips.append(asked - started)
            moves.append(time.perf_counter() - asked)
        await task.exit()
        move, trip = statistics.median(moves), statistics.median(trips)
        return {
            "p50_seconds": round(move, 6),
            "round_trip_p50_seconds": round(trip, 6),
            "round_trips": round(move / trip, 2),
        }

    async def _move(self, task: Task, source: int) -> float:
        started = time.perf_counter()
        left = await task.migrate_pages(task.pid, [source], [1 - source])
        seconds = time.perf_counter() - started
        if left:
            raise CommandFailed(
                f"{left} of {self._pages} pages did not move from node {source}: measure again."
            )
        return self._pages / seconds

    async def _check(self, task: Task, address: int) -> None:
        loaded = np.frombuffer(await task.load(address, self._contents.nbytes), np.uint64)
        if not np.array_equal(loaded, self._contents):
            page = int(np.argmax(loaded != self._contents)) * 8 // PAGE_SIZE
            raise CommandFailed(f"Page {page} has other contents than before it was moved.")

    async def _messages(self) -> float:
        """Messages that the coordinator has sent and received."""
        text = await trio.to_thread.run_sync(_fetch, self._metrics)
        return sum(float(count) for count in _MESSAGES.findall(text))


def _fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as page:
        text: str = page.read().decode()
    return text


def _metrics_of(directory: str) -> str:
    processes = read_machine(Path(directory)).processes
    return next(row.metrics for row in processes if row.name == COORDINATOR)


async def measure_moves(pages: int, rounds: int) -> dict[str, Any]:
    """Everything but memory: a JSON object."""
    with TemporaryDirectory(prefix="numalab-bench-") as directory, raw_pair(pages) as raw:
        # A quarter more than the pages need, so that the target always finds whole runs.
        memory = (pages + pages // 4 + FRAME_PAGES) * PAGE_SIZE
        large = local_cluster(2, memory, run_directory=directory, chunk_pages=LARGE_CHUNK_PAGES)
        async with large as machine:
            bench = Bench(machine, _metrics_of(directory), pages)
            neighbours, _ = await bench.neighbours(raw, rounds)
            scattered = await bench.scattered(raw, min(rounds, 3))
        async with local_cluster(2, memory, run_directory=directory) as machine:
            bench = Bench(machine, _metrics_of(directory), pages)
            as_shipped, messages = await bench.neighbours(raw, rounds)
            one_page = await bench.one_page()
        curve = await measure_curve(max(pages // CURVE_PART, FRAME_PAGES), rounds)
    return {
        "neighbours": neighbours.summary() | {"goal": NEIGHBOURS_GOAL},
        "neighbours_default_chunk": as_shipped.summary(),
        "scattered_at_the_source": scattered.summary(),
        "messages_per_1000_pages": round(messages, 2),
        "one_page": one_page,
        "curve": {name.replace("raw", "plain"): value for name, value in curve.summary().items()},
    }


async def measure_curve(pages: int, rounds: int) -> Contest:
    """A machine with CURVE (``moved``) against one without (``raw``), both up at the same time."""
    memory = (pages + pages // 4 + FRAME_PAGES) * PAGE_SIZE
    async with (
        local_cluster(2, memory) as plain,
        local_cluster(2, memory, secure=True) as secure,
    ):
        return await Bench(secure, "", pages).against(Bench(plain, "", pages), rounds)


# ---- what is printed -----------------------------------------------------------------------


def describe_moves(result: dict[str, Any]) -> Iterator[str]:
    for name, title in (
        ("neighbours", "neighbouring pages"),
        ("neighbours_default_chunk", "the same, default chunk"),
        ("scattered_at_the_source", "scattered at the source"),
    ):
        row = result[name]
        yield (
            f"{title:<24} {row['moved_pages_per_second']:>9,} pages/s   bare zmq"
            f" {row['raw_pages_per_second']:>9,}   ratio {row['ratio']:.2f}"
            f" [{row['ratio_lowest']:.2f}-{row['ratio_highest']:.2f}],"
            f" {row['rounds']} rounds of {row['pages']:,}"
        )
    yield (
        f"{'':<24} goal for neighbouring pages: a ratio of {NEIGHBOURS_GOAL}; in chunks of"
        f" {LARGE_CHUNK_PAGES:,} pages but where another is named"
    )
    yield (
        f"{'messages':<24} {result['messages_per_1000_pages']:>9} of the coordinator's"
        f" for each 1,000 pages (goal: at most {MESSAGES_GOAL:g})"
    )
    one = result["one_page"]
    yield (
        f"{'one page':<24} {one['p50_seconds'] * 1e6:>9,.0f} us, that is"
        f" {one['round_trips']} round trips of {one['round_trip_p50_seconds'] * 1e6:,.0f} us"
    )

    curve = result["curve"]
    yield (
        f"{'with CURVE':<24} {curve['moved_pages_per_second']:>9,} pages/s   without "
        f" {curve['plain_pages_per_second']:>9,}   ratio {curve['ratio']:.2f}"
        f" [{curve['ratio_lowest']:.2f}-{curve['ratio_highest']:.2f}],"
        f" {curve['rounds']} rounds of {curve['pages']:,}"
    )


def describe_memory(result: dict[str, Any]) -> Iterator[str]:
    for name, goal in BOOKKEEPING.items():
        row = result[name]
        yield (
            f"{name:<24} {row['array_bytes_per_page']:>9} bytes of arrays a page,"
            f" {row['resident_bytes_per_page']} of resident growth (goal: at most {goal})"
        )
    yield (
        f"{'start':<24} {result['start_seconds']:>9} s for {result['frames']:,} frames"
        f" (goal: under {result['start_goal_seconds']:g})"
    )
    yield (
        f"{'one vma':<24} {result['move_seconds']:>9} s for {result['pages']:,} pages from node 0"
        " to node 1, contents checked"
    )
