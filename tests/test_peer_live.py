"""Cases of other programs' tests that race, on real processes (peer_cases.py).

Each race lasts a tenth of a second; with ``NUMALAB_PEER_SECONDS=20`` as long as the programs' own.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from pathlib import Path
from random import Random

import numpy as np
import pytest
import trio

import numalab as api
from numalab.constants import (
    MADV_DONTNEED,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_PRIVATE,
    MAP_SHARED,
    MPOL_BIND,
    MPOL_MF_MOVE,
    MPOL_MF_MOVE_ALL,
    MPOL_MF_STRICT,
    PROT_READ,
    PROT_WRITE,
)
from numalab.machine import Machine
from numalab.task import Task
from tests.peer import case
from tests.peer_live import DEVICE, NODES, PAGE, machine, run_directory

__all__ = ["machine", "run_directory"]

SECONDS = float(os.environ.get("NUMALAB_PEER_SECONDS", "0.1"))
RW = PROT_READ | PROT_WRITE


@asynccontextmanager
async def meanwhile(*works: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
    """Each of the works is done over and over again for as long as the block lasts."""
    ended = False

    async def repeat(work: Callable[[], Awaitable[object]]) -> None:
        while not ended:
            await work()

    async with trio.open_nursery() as nursery:
        for work in works:
            nursery.start_soon(repeat, work)
        yield
        ended = True


def for_a_while() -> Iterator[int]:
    """0, 1, 2 ... until the time is over."""
    until = time.monotonic() + SECONDS
    for turn in count():
        yield turn
        if time.monotonic() > until:
            print(f"{turn + 1} turns in {SECONDS} s")
            return


def pattern(base: int, pages: int) -> bytes:
    """Each page says where it is."""
    words = np.repeat(np.arange(base, base + pages * PAGE, PAGE, dtype=np.uint64), PAGE // 8)
    return words.tobytes()


async def filled(task: Task, pages: int, flags: int = MAP_PRIVATE | MAP_ANONYMOUS) -> int:
    base = await task.mmap(pages * PAGE, RW, flags)
    await task.store(base, pattern(base, pages))
    return base


def addresses(base: int, pages: int) -> list[int]:
    return [base + at * PAGE for at in range(pages)]


# ---- readers and writers -------------------------------------------------------------------


@case("RM-05")
async def test_RM_05_readers_of_a_page_that_goes_to_and_fro(machine: Machine) -> None:
    await to_and_fro(machine, 1, MAP_PRIVATE | MAP_ANONYMOUS)


@case("RM-07")
@pytest.mark.parametrize("sharing", [MAP_PRIVATE, MAP_SHARED], ids=["private", "shared"])
async def test_RM_07_readers_of_512_pages(machine: Machine, sharing: int) -> None:
    await to_and_fro(machine, 512, sharing | MAP_ANONYMOUS)


async def to_and_fro(machine: Machine, pages: int, flags: int) -> None:
    """No call fails, and no page stays where it is a hundred times in a row."""
    task = await machine.spawn()
    base = await filled(task, pages, flags)
    first = base.to_bytes(8, "little")

    async def read() -> None:
        assert await task.load(base, 8) == first

    stayed = 0
    async with meanwhile(read, read):
        for turn in for_a_while():
            target = 1 - turn % 2
            wanted = [target] * pages
            status = await task.move_pages(0, addresses(base, pages), wanted, MPOL_MF_MOVE_ALL)
            stayed = 0 if status == wanted else stayed + 1
            assert stayed < 100
    assert await task.load(base, pages * PAGE) == pattern(base, pages)


@case("RM-08")
@pytest.mark.parametrize("call", ["migrate_pages", "mbind", "move_pages"])
async def test_RM_08_to_and_fro_by_each_call(machine: Machine, call: str) -> None:
    task, pages = await machine.spawn(), 64
    areas = [await filled(task, pages, kind | MAP_ANONYMOUS) for kind in (MAP_PRIVATE, MAP_SHARED)]
    for turn in for_a_while():
        source, target = turn % 2, 1 - turn % 2
        if call == "migrate_pages":
            assert await task.migrate_pages(0, [source], [target]) == 0
        for base in areas:
            if call == "mbind":
                await task.mbind(base, pages * PAGE, MPOL_BIND, [target], MPOL_MF_MOVE)
            if call == "move_pages":
                await task.move_pages(0, addresses(base, pages), [target] * pages)
            now = await task.move_pages(0, addresses(base, pages), None)
            assert now == [target] * pages
    for base in areas:
        assert await task.load(base, pages * PAGE) == pattern(base, pages)


@case("RM-12")
@pytest.mark.parametrize("how", ["reads", "numa_maps", "pins"])
async def test_RM_12_somebody_looks_at_the_pages(
    machine: Machine, run_directory: Path, how: str
) -> None:
    task, pages = await machine.spawn(), 64
    base = await filled(task, pages)
    async with api.connect(run_directory) as others:
        looker = await others.attach(task.pid, cpu=1)

        async def look() -> None:
            if how == "reads":
                assert await looker.load(base, pages * PAGE) == pattern(base, pages)
            elif how == "numa_maps":
                await others.numa_maps(task.pid)
            else:
                await looker.pin(base)
                await looker.unpin(base)

        async with meanwhile(look):
            for turn in range(10):
                stayed = await task.migrate_pages(0, [turn % 2], [1 - turn % 2])
                assert stayed == 0 or (how == "pins" and stayed == 1)
        await looker.pin(base)
        here = (await task.move_pages(0, [base], None))[0]
        assert await task.migrate_pages(0, [here], [2]) == 1
        assert await task.move_pages(0, [base], None) == [here]
        await looker.unpin(base)
    assert await task.load(base, pages * PAGE) == pattern(base, pages)


# ---- victims that map and unmap --------------------------------------------------------------


async def map_fill_unmap(task: Task, at: int, pages: int) -> None:
    base = await task.mmap(pages * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, at)
    assert base == at
    data = pattern(base, pages)
    await task.store(base, data)
    assert await task.load(base, pages * PAGE) == data
    await task.munmap(base, pages * PAGE)


@case("MV-14")
async def test_MV_14_a_range_that_its_owner_maps_and_unmaps(machine: Machine) -> None:
    owner, other, pages = await machine.spawn(), await machine.spawn(), 32
    at = 0x7000_0000_0000
    async with meanwhile(partial(map_fill_unmap, owner, at, pages)):
        for turn in for_a_while():
            try:
                await other.move_pages(
                    owner.pid, addresses(at, pages), [1 + turn % 2] * pages, MPOL_MF_MOVE_ALL
                )
            except FileNotFoundError:
                # At the seed: no page was there, or each was where it should be (K 4.15).
                continue


@case("RM-10")
@pytest.mark.parametrize("call", ["migrate_pages", "move_pages"])
@pytest.mark.parametrize("loop", ["maps and unmaps", "discards", "reads"])
async def test_RM_10_a_victim_that_faults_meanwhile(machine: Machine, loop: str, call: str) -> None:
    victim, other, pages = await machine.spawn(), await machine.spawn(), 32
    at = 0x7000_0000_0000 if loop == "maps and unmaps" else await filled(victim, pages)
    length = pages * PAGE

    async def discard() -> None:
        await victim.madvise(at, length, MADV_DONTNEED)
        assert await victim.load(at, length) == bytes(length)
        await victim.store(at, pattern(at, pages))
        assert await victim.load(at, length) == pattern(at, pages)

    async def read() -> None:
        assert await victim.load(at, length) == pattern(at, pages)

    loops: dict[str, Callable[[], Awaitable[object]]] = {
        "maps and unmaps": partial(map_fill_unmap, victim, at, pages),
        "discards": discard,
        "reads": read,
    }
    async with meanwhile(loops[loop]):
        for turn in for_a_while():
            source, target = turn % 2, 1 - turn % 2
            try:
                if call == "migrate_pages":
                    assert await other.migrate_pages(victim.pid, [source], [target]) >= 0
                else:
                    wanted = [target] * pages
                    await other.move_pages(victim.pid, addresses(at, pages), wanted)
            except FileNotFoundError:
                # At the seed: no page was there, or each was where it should be (K 4.15).
                assert call == "move_pages"


@case("MB-32")
@pytest.mark.parametrize("processes", [1, 8])
async def test_MB_32_random_ranges_also_past_the_end(machine: Machine, processes: int) -> None:
    seed = 32
    print(f"seed {seed}")

    async def fuzz(number: int) -> None:
        random, pages = Random(seed + number), 64
        task = await machine.spawn()
        kinds = (MAP_PRIVATE, MAP_SHARED)
        areas = [await filled(task, pages, kind | MAP_ANONYMOUS) for kind in kinds]
        for _ in for_a_while():
            base, first = random.choice(areas), random.randrange(pages)
            length = random.randrange(1, 2 * pages) * PAGE
            nodes = range(random.randrange(1, NODES + 1))
            flags = MPOL_MF_MOVE | MPOL_MF_STRICT
            try:
                await task.mbind(base + first * PAGE, length, MPOL_BIND, nodes, flags)
            except OSError as error:
                assert error.errno in (errno.EFAULT, errno.EIO)
        for base in areas:
            assert await task.load(base, pages * PAGE) == pattern(base, pages)

    async with trio.open_nursery() as nursery:
        for number in range(processes):
            nursery.start_soon(fuzz, number)


@case("RM-13")
async def test_RM_13_threads_that_rebind_discard_and_unmap(machine: Machine) -> None:
    """Every other page of the area is a mapping of its own, and the ones between are holes."""
    seed, pages = 13, 64
    print(f"seed {seed}")
    random = Random(seed)
    threads = [await machine.spawn()]
    threads += [await threads[0].clone(cpu=cpu) for cpu in (1, 0)]
    binds, maps, hops = threads
    base = await threads[0].mmap(2 * pages * PAGE)
    places = [base + 2 * at * PAGE for at in range(pages)]
    for place in places:
        await threads[0].munmap(place + PAGE, PAGE)

    async def bind() -> None:
        node = random.randrange(NODES)
        for place in random.sample(places, pages // 16):
            try:
                await binds.mbind(place, PAGE, MPOL_BIND, [node], MPOL_MF_STRICT)
            except OSError as error:
                # The page is elsewhere, or it is not mapped just now.
                assert error.errno in (errno.EIO, errno.EFAULT)

    async def remap() -> None:
        place = random.choice(places)
        await maps.munmap(place, PAGE)
        flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED
        assert await maps.mmap(PAGE, RW, flags, place) == place
        await maps.store(place, pattern(place, 1))

    async def hop() -> None:
        hops.cpu = random.randrange(2)
        place = random.choice(places)
        try:
            await hops.madvise(random.choice(places), PAGE, MADV_DONTNEED)
        except OSError as error:
            assert error.errno == errno.ENOMEM
        try:
            assert await hops.load(place, PAGE) in (bytes(PAGE), pattern(place, 1))
        except OSError as error:
            assert error.errno == errno.EFAULT

    async with meanwhile(remap, hop):
        for _ in for_a_while():
            await bind()


@case("HM-06")
async def test_HM_06_the_upper_half_goes_away_while_somebody_reads(machine: Machine) -> None:
    seed, pages = 6, 256
    print(f"seed {seed}")
    random = Random(seed)
    for _ in range(10 if SECONDS >= 1 else 4):
        task = await machine.spawn()
        base = await filled(task, pages)
        assert await task.migrate_pages(0, "all", [DEVICE]) == 0
        reader = await machine.attach(task.pid)

        async def read(reader: Task = reader, base: int = base) -> None:
            try:
                assert await reader.load(base, pages * PAGE) == pattern(base, pages)
            except OSError as error:
                assert error.errno == errno.EFAULT

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.sleep(random.random() / 100)
            await task.munmap(base + pages // 2 * PAGE, pages // 2 * PAGE)
        half = pages // 2
        assert await task.load(base, half * PAGE) == pattern(base, half)
        await task.exit()


@case("CS-14")
async def test_CS_14_mems_change_under_tasks_that_map_and_unmap(machine: Machine) -> None:
    pages = 10
    hogs = [await machine.spawn(cpu=cpu) for cpu in (0, 1, 0, 1)]
    await machine.cpusets.mkdir("/hogs")
    await machine.cpusets.write("/hogs", "cpus", "0-1")
    await machine.cpusets.write("/hogs", "mems", "0-1")
    for hog in hogs:
        await machine.cpusets.attach("/hogs", hog.pid)
        await hog.set_mempolicy(MPOL_BIND, [0, 1])
    works = [
        partial(map_fill_unmap, hog, 0x7000_0000_0000 + number * pages * PAGE, pages)
        for number, hog in enumerate(hogs)
    ]
    async with meanwhile(*works):
        for turn in for_a_while():
            for mems in ("0", "1", "0-1"):
                await machine.cpusets.write("/hogs", "mems", mems)
            if turn == 0:
                await machine.cpusets.write("/hogs", "memory_migrate", 1)
    for hog in hogs:
        await hog.exit()
    await machine.cpusets.rmdir("/hogs")
