"""Real processes are killed, and come back with what they had."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from time import monotonic
from urllib.request import urlopen

import numpy as np
import numpy.typing as npt
import pytest
import trio

import numalab
from numalab import cluster, revival
from numalab.checker import Verdict
from numalab.console import Exit
from numalab.locate import read_machine
from numalab.machine import Machine
from numalab.orders import IndefiniteError
from numalab.task import Task
from numalab.verify import check_frames
from protocol.schema import COORDINATOR
from tests.live import Numalab

PAGE = 4096
Pages = npt.NDArray[np.uint64]
#: Of which so many are moved while all processes die at once.
PAGES = 100_000
RECOVERY_SECONDS = 5.0

#: Pages of a chunk, so few that a migration lasts until somebody has seen it under way.
SLOW_CHUNK = 64


async def killed(directory: Path, *names: str) -> None:
    """SIGKILL, and nobody is left."""
    processes = [cluster.running(directory)[name] for name in names]
    for process in processes:
        process.signal(signal.SIGKILL)
    while any(process.alive for process in processes):
        await trio.lowlevel.checkpoint()


async def stamped(machine: Machine, pages: int) -> tuple[Task, int, Pages]:
    """A task with pages on node 0, each with a number of its own."""
    task = await machine.spawn(cpu=0)
    start = await task.mmap(pages * PAGE)
    places = start + PAGE * np.arange(pages, dtype=np.uint64)
    await task.store_many(places, 8, np.arange(1, pages + 1, dtype="<u8").tobytes())
    return task, start, places


async def intact(task: Task, places: Pages) -> bool:
    data = np.frombuffer(await task.load_many(places, 8), "<u8")
    return bool((data == np.arange(1, places.size + 1)).all())


async def verified(machine: Machine) -> None:
    findings = await check_frames(machine)
    assert not [one for one in findings if one.verdict != Verdict.VALID], findings


@pytest.mark.timeout(300)
def test_all_processes_die_at_once_in_the_middle_of_a_migration(tmp_path: Path) -> None:
    directory = tmp_path / "machine"

    async def scenario() -> None:
        async with numalab.local_cluster(
            nodes=2, memory="448M", run_directory=directory, lease=60.0
        ) as machine:
            task, _, places = await stamped(machine, PAGES)

            async def move() -> None:
                with pytest.raises(IndefiniteError):
                    await task.migrate_pages(task.pid, [0], [1])

            async with trio.open_nursery() as nursery:
                nursery.start_soon(move)
                while (await machine.progress(task.pid)).settled < PAGES // 4:
                    await trio.lowlevel.checkpoint()
                await killed(directory, COORDINATOR, "node0", "node1")
                began = monotonic()
                assert len(await revival.restart_dead(directory)) == 3
                took = monotonic() - began
            nodes = await task.move_pages(task.pid, places, None)
            print(f"recovery of {PAGES} pages, {nodes.count(1)} moved: {took:.2f} s")
            assert took < RECOVERY_SECONDS
            assert 0 < nodes.count(1) < PAGES and set(nodes) == {0, 1}
            assert await intact(task, places)
            await verified(machine)
            assert await task.migrate_pages(task.pid, [0], [1]) == 0
            assert set(await task.move_pages(task.pid, places, None)) == {1}
            assert await intact(task, places)
            await verified(machine)

    trio.run(scenario)


@pytest.mark.parametrize("victim", [COORDINATOR, "node0", "node1"])
def test_who_dies_while_pages_move_costs_no_page(tmp_path: Path, victim: str) -> None:
    directory, pages = tmp_path / "machine", 20_000

    async def scenario() -> None:
        async with numalab.local_cluster(
            nodes=2, memory="96M", run_directory=directory, lease=60.0, chunk_pages=SLOW_CHUNK
        ) as machine:
            task, _, places = await stamped(machine, pages)

            async def move() -> None:
                try:
                    await task.migrate_pages(task.pid, [0], [1])
                except IndefiniteError:
                    assert victim == COORDINATOR

            async with trio.open_nursery() as nursery:
                nursery.start_soon(move)
                while not (await machine.progress(task.pid)).settled:
                    await trio.lowlevel.checkpoint()
                await killed(directory, victim)
                await revival.restart_dead(directory, [victim])
            assert await task.migrate_pages(task.pid, [0], [1]) == 0
            assert await intact(task, places)
            await verified(machine)

    trio.run(scenario)


def test_a_node_that_was_stopped_over_a_failover_has_its_old_epoch_refused(tmp_path: Path) -> None:
    """It is stopped while it sends pages, and wakes up under another coordinator.

    Whether something of the old epoch is still on its way then, the moment decides: it is tried
    until some is.
    """
    directory, pages, rounds = tmp_path / "machine", 20_000, 8

    async def failover(machine: Machine, task: Task, source: int) -> None:
        async def move() -> None:
            with suppress(IndefiniteError):
                await task.migrate_pages(task.pid, [source], [1 - source])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(move)
            while not (await machine.progress(task.pid)).settled:
                await trio.lowlevel.checkpoint()
            stopped = cluster.running(directory)[f"node{source}"]
            stopped.signal(signal.SIGSTOP)
            await killed(directory, COORDINATOR)
            before = await recoveries(directory, f"node{1 - source}")
            cluster.restart(directory, COORDINATOR)
            # The new one recovers the other node meanwhile, and waits for this one.
            while await recoveries(directory, f"node{1 - source}") == before:
                await trio.lowlevel.checkpoint()
            stopped.signal(signal.SIGCONT)

    async def scenario() -> None:
        async with numalab.local_cluster(
            nodes=2, memory="96M", run_directory=directory, lease=60.0, chunk_pages=SLOW_CHUNK
        ) as machine:
            task, _, places = await stamped(machine, pages)
            for number in range(rounds):
                assert await task.migrate_pages(task.pid, [0, 1], [number % 2] * 2) >= 0
                await failover(machine, task, number % 2)
                assert await intact(task, places)
                await verified(machine)
                names = (COORDINATOR, "node0", "node1")
                if sum([await refusals(directory, name) for name in names]):
                    return
            pytest.fail(f"nothing of an old epoch was on its way in {rounds} failovers")

    trio.run(scenario)


async def metric(directory: Path, process: str, name: str) -> float:
    """The sum of all series of a metric of a process."""
    [url] = [row.metrics for row in read_machine(directory).processes if row.name == process]
    page = await trio.to_thread.run_sync(lambda: urlopen(url, timeout=5).read().decode())
    lines = [line for line in page.splitlines() if line.startswith(name)]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


async def recoveries(directory: Path, process: str) -> float:
    return await metric(directory, process, "numalab_recoveries_total")


async def refusals(directory: Path, process: str) -> float:
    return await metric(directory, process, "numalab_questions_refused_total")


def test_pages_of_a_lost_zone_are_a_sigbus_and_named(tmp_path: Path) -> None:
    """The coordinator starts again by itself, with the next epoch."""
    directory = tmp_path / "machine"

    async def scenario() -> None:
        async with numalab.local_cluster(
            nodes=2, memory="8M", run_directory=directory, lease=60.0
        ) as machine:
            task, start, _ = await stamped(machine, 10)
            zone = next(
                row.zone for row in read_machine(directory).processes if row.name == "node0"
            )
            await killed(directory, "node0")
            os.unlink(zone)
            await revival.restart_dead(directory)
            with pytest.raises(OSError, match=os.strerror(133)):
                while await task.load(start, 8):
                    await trio.lowlevel.checkpoint()
            assert "hwpoison=10" in await machine.numa_maps(task.pid)
            assert (await machine.hardware()).epoch == 2

    trio.run(scenario)


def test_the_commands_of_a_machine_that_died(tmp_path: Path, numalab: Numalab) -> None:
    directory = tmp_path / "machine"
    where = ("--run-directory", directory)
    assert numalab("up", "--nodes", 2, "--memory", "1M", *where).code == Exit.DONE
    try:
        for process in cluster.running(directory).values():
            process.signal(signal.SIGKILL)
        trio.run(gone, directory)
        said = numalab("up", "--nodes", 2, "--memory", "1M", *where)
        assert said.code == Exit.FAILED and "has died: bring it back" in said.err
        said = numalab("restart", "--json", *where)
        assert sorted(said.document["started"]) == ["coordinator", "node0", "node1"]
        assert numalab("restart", *where).out == "nobody has died\n"
        assert numalab("restart", "node7", *where).code == Exit.FAILED
        assert numalab("offline", 1, *where).out == "node 1 is offline: it has no page any more\n"
        assert "the last one that is online" in numalab("offline", 0, *where).err
        assert numalab("online", 1, *where).code == Exit.DONE
        assert "There is no node 9" in numalab("offline", 9, *where).err
    finally:
        numalab("down", *where)


async def gone(directory: Path) -> None:
    while cluster.running(directory):
        await trio.lowlevel.checkpoint()
