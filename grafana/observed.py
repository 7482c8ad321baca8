"""A machine at work, to which a few things happen that the dashboards are to show."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import trio

from numalab import cluster, processes, revival
from numalab.cluster import local_cluster
from numalab.constants import MPOL_MF_MOVE_ALL
from numalab.faults import parse_schedule
from numalab.machine import Machine
from numalab.stress_harm import write_faults
from numalab.task import Task

PAGE = 4096
PAGES = 6000
PINNED = 8
#: Killed for longer than the coordinator is patient.
VICTIM, DOWN_SECONDS = "node3", 5.0
FAULTS = """\
duplicate * -> * at={at} until={until} chance=0.05 seconds=0.2
loss coordinator -> node* at={at} until={until} chance=0.02
damage node* -> coordinator at={at} until={until} chance=0.01
"""


@dataclass(frozen=True)
class Course:
    """How it goes, in seconds.  quiet: before, between and after the two kills.

    pause: between two moves of all pages.  faults: from when until when messages suffer FAULTS.
    """

    quiet: float
    pause: float
    faults: tuple[float, float]


@asynccontextmanager
async def machine_with_faults(
    directory: Path, course: Course
) -> AsyncIterator[tuple[Machine, Path]]:
    """Four nodes whose messages suffer FAULTS; and its run directory."""
    at, until = course.faults
    faults = write_faults(directory, parse_schedule(FAULTS.format(at=at, until=until)), seed=7)
    run = directory / "machine"
    async with local_cluster(
        4, "48M", run_directory=run, faults=str(faults), lease=60.0
    ) as machine:
        yield machine, run


async def work(machine: Machine, run: Path, course: Course, say: Callable[[str], None]) -> None:
    """Migrations, writers and pins, while a node and the coordinator are killed."""
    task = await machine.spawn(cpu=0)
    base = await task.mmap(PAGES * PAGE)
    places = base + PAGE * np.arange(PAGES, dtype=np.uint64)
    await task.store_many(places, 8, bytes(8 * PAGES))
    far = await machine.attach(task.pid, cpu=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_write, far, places)
        nursery.start_soon(_go_round, task, course.pause)
        nursery.start_soon(_spread, machine)
        nursery.start_soon(_migrate_pinned, machine)
        nursery.start_soon(_come_and_go, machine)
        await trio.sleep(course.quiet)
        await _killed(run, VICTIM, DOWN_SECONDS)
        say(f"{VICTIM} was killed and is back")
        await trio.sleep(course.quiet)
        await _killed(run, "coordinator", 0.0)
        say("the coordinator was killed and is back")
        await trio.sleep(course.quiet)
        nursery.cancel_scope.cancel()
    with suppress(OSError):
        await task.exit()


async def _write(task: Task, places: np.ndarray[Any, np.dtype[np.uint64]]) -> None:
    """A few pages at a time, here and there, with a cpu that is mostly far away."""
    draw = np.random.default_rng(7)
    while True:
        with suppress(OSError):
            chosen = draw.choice(places, 16, replace=False)
            await task.store_many(chosen, 8, bytes(8 * 16))
            await task.load_many(chosen, 8)
        await trio.sleep(0.002)


async def _go_round(task: Task, pause: float) -> None:
    while True:
        for source, target in ((0, 1), (1, 2), (2, 0)):
            with suppress(OSError):
                await task.migrate_pages(task.pid, [source], [target])
            await trio.sleep(pause)


async def _spread(machine: Machine) -> None:
    """Another task lies on all nodes, and gives its pages to the next one now and then."""
    task = await machine.spawn(cpu=2)
    base = await task.mmap(64 * PAGE)
    places = base + PAGE * np.arange(64, dtype=np.uint64)
    await task.store_many(places, 8, bytes(8 * 64))
    turn = 0
    while True:
        turn += 1
        nodes = ((np.arange(64) + turn) % 4).tolist()
        with suppress(OSError):
            await task.move_pages(task.pid, places, nodes, MPOL_MF_MOVE_ALL)
        await trio.sleep(0.5)


async def _migrate_pinned(machine: Machine) -> None:
    """Pages that another user holds stay, and a task that is not there is ESRCH."""
    task = await machine.spawn(cpu=0)
    base = await task.mmap(64 * PAGE)
    places = [base + PAGE * at for at in range(64)]
    await task.store_many(np.array(places, np.uint64), 8, bytes(8 * 64))
    while True:
        with suppress(OSError):
            await task.pin(*places[:PINNED])
            await task.migrate_pages(task.pid, [0], [1])
            await task.unpin(*places[:PINNED])
            await task.migrate_pages(task.pid, [1], [0])
        with suppress(OSError):
            await task.migrate_pages(999_999, [0], [1])
        await trio.sleep(0.5)


async def _come_and_go(machine: Machine) -> None:
    """Tasks that write a little and exit."""
    while True:
        with suppress(OSError):
            task = await machine.spawn(cpu=3)
            await task.store(await task.mmap(16 * PAGE), bytes(16 * PAGE))
            await task.exit()
        await trio.sleep(1.0)


async def _killed(run: Path, name: str, seconds: float) -> None:
    process = cluster.running(run)[name]
    process.signal(signal.SIGKILL)
    await processes.ended(process)
    await trio.sleep(seconds)
    await revival.restart_dead(run, [name])
