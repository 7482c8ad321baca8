"""Real processes for a while: writers during endless migrations, all pairs at once, conservation.

Short here; ``make soak`` runs the same for a minute and for 10,000 migrations.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import numpy as np
import trio

import numalab
from numalab.machine import Machine
from numalab.task import Task
from numalab.writer import READY, WORD, Assignment, Report

SECONDS = float(os.environ.get("NUMALAB_SOAK_SECONDS", "3"))
MIGRATIONS = int(os.environ.get("NUMALAB_SOAK_MIGRATIONS", "150"))
PAGE = 4096
PAGES = 2048
WRITERS = 2


def start_writer(directory: Path, task: Task, base: int, number: int) -> subprocess.Popen[bytes]:
    """A process that counts in a word of its own in each page."""
    addresses = tuple(base + page * PAGE + number * WORD for page in range(PAGES))
    pipe = subprocess.PIPE
    writer = subprocess.Popen(
        [sys.executable, "-m", "numalab.writer"], stdin=pipe, stdout=pipe, bufsize=0
    )
    assert writer.stdin is not None
    job = Assignment(str(directory), task.pid, number, addresses)
    writer.stdin.write(msgspec.json.encode(job) + b"\n")
    return writer


def first_line(writer: subprocess.Popen[bytes]) -> bytes:
    assert writer.stdout is not None
    return writer.stdout.readline()


def end_writer(writer: subprocess.Popen[bytes]) -> Report:
    said, _ = writer.communicate(b"stop\n", timeout=30)
    return msgspec.json.decode(said, type=Report)


async def assert_nothing_is_left(machine: Machine, used: list[int]) -> None:
    """Frames in use are what they were; nothing is isolated or locked."""
    for nid, before in zip(machine.nids, used, strict=True):
        zone = await machine.count_zone(nid)
        assert (zone.frames - zone.free, zone.isolated, zone.locked) == (before, 0, 0)


async def used_frames(machine: Machine) -> list[int]:
    zones = [await machine.count_zone(nid) for nid in machine.nids]
    return [zone.frames - zone.free for zone in zones]


def test_every_acknowledged_increment_is_there_after_endless_migrations(tmp_path: Path) -> None:
    async def scenario() -> None:
        directory = tmp_path / "machine"
        async with numalab.local_cluster(4, "32M", run_directory=directory) as machine:
            task = await machine.spawn()
            base = await task.mmap(PAGES * PAGE)
            await task.store(base, bytes(PAGES * PAGE))
            writers = [start_writer(directory, task, base, number) for number in range(WRITERS)]
            for writer in writers:
                assert await trio.to_thread.run_sync(first_line, writer) == READY
            rounds, until = 0, time.monotonic() + SECONDS
            while time.monotonic() < until:
                source, target = rounds % 4, (rounds + 1) % 4
                not_moved = await task.migrate_pages(task.pid, [source], [target])
                assert not_moved == 0
                rounds += 1
            reports = [await trio.to_thread.run_sync(end_writer, writer) for writer in writers]
            for number, report in enumerate(reports):
                assert report.wrong == ()
                addresses = base + np.arange(PAGES, dtype=np.uint64) * np.uint64(PAGE)
                words = await task.load_many(addresses + np.uint64(number * WORD), WORD)
                assert np.frombuffer(words, np.uint64).tolist() == list(report.attempted)
                assert report.attempted == report.acknowledged
            stores = sum(report.stores for report in reports)
            longest = max(report.longest for report in reports)
            print(f"{rounds} migrations of {PAGES} pages, {stores} stores, longest {longest:.3f} s")
            assert rounds and stores
            await task.exit()
            await assert_nothing_is_left(machine, [0] * 4)

    with_limit(scenario, 60 + 3 * SECONDS)


def test_all_pairs_of_four_nodes_at_once_end() -> None:
    async def scenario() -> None:
        async with numalab.local_cluster(4, "32M", chunk_pages=64) as machine:
            areas: dict[tuple[int, int], tuple[Task, int, bytes]] = {}
            for source in range(4):
                for target in range(4):
                    if source == target:
                        continue
                    task = await machine.spawn(cpu=source)
                    base = await task.mmap(256 * PAGE)
                    data = os.urandom(256 * PAGE)
                    await task.store(base, data)
                    areas[source, target] = (task, base, data)
            used = await used_frames(machine)

            async def there_and_back(pair: tuple[int, int]) -> None:
                task, base, data = areas[pair]
                source, target = pair
                for _ in range(2):
                    assert await task.migrate_pages(task.pid, [source], [target]) == 0
                    assert await task.migrate_pages(task.pid, [target], [source]) == 0
                assert await task.load(base, len(data)) == data

            async with trio.open_nursery() as nursery:
                for pair in areas:
                    nursery.start_soon(there_and_back, pair)
            await assert_nothing_is_left(machine, used)

    with_limit(scenario, 60)


def test_frames_are_conserved_over_many_migrations_there_and_back() -> None:
    async def scenario() -> None:
        async with numalab.local_cluster(2, "8M") as machine:
            task = await machine.spawn()
            base = await task.mmap(16 * PAGE)
            data = os.urandom(16 * PAGE)
            await task.store(base, data)
            used = await used_frames(machine)
            for number in range(MIGRATIONS):
                source = number % 2
                assert await task.migrate_pages(task.pid, [source], [1 - source]) == 0
            assert await task.load(base, len(data)) == data
            await assert_nothing_is_left(machine, used)

    with_limit(scenario, 60 + MIGRATIONS / 20)


def with_limit(scenario: Callable[[], Awaitable[None]], seconds: float) -> None:
    async def limited() -> None:
        with trio.fail_after(seconds):
            await scenario()

    trio.run(limited)
