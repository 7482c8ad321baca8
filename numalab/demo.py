"""The demonstration: a real program's memory moves between nodes while two processes write to it.

Everything that it starts ends with it, however it ends.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import trio

from coordinator.syscalls import OPERATOR
from numalab.address_space import PAGE_SHIFT, PAGE_SIZE, Area, ImageError, Source
from numalab.checker import Finding, Verdict, invalid, verdict
from numalab.child import child_process
from numalab.cluster import local_cluster
from numalab.constants import (
    MAP_ANONYMOUS,
    MAP_PRIVATE,
    MPOL_MF_MOVE_ALL,
    PROT_READ,
    PROT_WRITE,
)
from numalab.hardware import numastat_text
from numalab.image import open_process
from numalab.importer import Imported, import_image, page_digests
from numalab.locate import default_run_directory
from numalab.machine import Machine
from numalab.program import MIB, mebibyte
from numalab.task import Task
from numalab.verify import check_frames, verify_task
from numalab.writer import READY, WORD, Assignment, Report

NODES = 4
PROGRAM_MEBIBYTES = 64
WRITERS = 2
#: Both writers count in each of so many pages.
WRITTEN_PAGES = 512
MAPS_SHOWN = 3
POLL_SECONDS = 0.005

Pages = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Options:
    """memory: of each node, as ``256M``.  pid: the process to import, None to start one.

    seconds: go round again until so many are over.  seed: of the program's data.
    """

    memory: str = "256M"
    pid: int | None = None
    seconds: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Screen:
    """say: a line for the user.  heed: what is done now, pages settled, pages in all."""

    say: Callable[[str], None]
    heed: Callable[[str, int, int], None] = lambda what, settled, listed: None


@dataclass(slots=True)
class _Scene:
    """What is on the stage.  original: contents of the ``written`` pages before anybody wrote."""

    machine: Machine
    screen: Screen
    imported: Imported
    written: Pages
    original: npt.NDArray[np.uint8]
    findings: list[Finding] = field(default_factory=list)
    longest_entry: float = 0.0

    @property
    def pid(self) -> int:
        return self.imported.task.pid


async def demo(options: Options, screen: Screen) -> Verdict:
    """Play it; gives the verdict, after saying it.

    Raises ConfigurationError, ImageError, OSError.
    """
    run_directory = default_run_directory(f"local-{os.getpid()}-{secrets.token_hex(4)}")
    cluster = local_cluster(NODES, options.memory, run_directory=run_directory)
    async with cluster as machine, _program(options, screen) as (pid, address):
        screen.say(f"machine: {NODES} nodes of {options.memory}, in {run_directory}")
        scene = await _import(machine, screen, pid)
        if address is not None:
            _check_data(scene, address, options.seed)
        await _show(scene)
        async with _writers(scene, run_directory) as stop_writers:
            started = time.perf_counter()
            while True:
                await _go_round(scene)
                if time.perf_counter() - started >= options.seconds:
                    break
            reports = await stop_writers()
        scene.longest_entry = (await machine.progress(scene.pid)).longest
        await _show(scene)
        _tell_writers(scene, reports)
        await _judge(scene, reports)
    return _pronounce(scene)


# ---- the program ---------------------------------------------------------------------------


@asynccontextmanager
async def _program(options: Options, screen: Screen) -> AsyncIterator[tuple[int, int | None]]:
    """The process to import, and where its data are if it is ours."""
    if options.pid is not None:
        screen.say(f"program: process {options.pid}")
        yield options.pid, None
        return
    arguments = ["numalab.program", str(options.seed), str(PROGRAM_MEBIBYTES)]
    async with child_process(arguments) as child:
        place = msgspec.json.decode(await child.next_line(), type=dict[str, int])
        screen.say(
            f"program: process {place['pid']} with {PROGRAM_MEBIBYTES} MiB of data at "
            f"{place['address']:#x}, from seed {options.seed}"
        )
        yield place["pid"], place["address"]


# ---- the import ----------------------------------------------------------------------------


async def _import(machine: Machine, screen: Screen, pid: int) -> _Scene:
    started = time.perf_counter()
    with open_process(pid) as source:
        written, original = _choose_pages(source)
        pages = source.image.pages
        imported = await import_image(
            machine, source, node=0, heed=lambda come: screen.heed("import", come, pages)
        )
    seconds = time.perf_counter() - started
    screen.say(
        f"import: {imported.pages} pages of '{source.image.comm}' in {seconds:.2f} s; in the "
        f"machine it is task {imported.task.pid}"
    )
    for note in imported.notes:
        screen.say(f"        {note}")
    return _Scene(machine, screen, imported, written, original)


def _choose_pages(source: Source) -> tuple[Pages, npt.NDArray[np.uint8]]:
    """Pages for the writers, all over the largest private data, and what is in them."""
    areas = [area for area in source.image.areas if _is_private_data(area)]
    largest = max(areas, key=lambda area: area.present.size, default=None)
    if largest is None or not largest.present.size:
        raise ImageError(
            f"process {source.image.pid} has no private data that one could write to: "
            "choose another"
        )
    count = min(WRITTEN_PAGES, largest.present.size)
    place = np.linspace(0, largest.present.size - 1, count).astype(np.intp)
    pages = largest.present[place]
    contents = np.frombuffer(source.read(largest, pages), np.uint8)
    return pages, contents.reshape(count, PAGE_SIZE).copy()


def _is_private_data(area: Area) -> bool:
    kind = MAP_PRIVATE | MAP_ANONYMOUS
    rights = PROT_READ | PROT_WRITE
    return area.flags & kind == kind and area.prot & rights == rights


def _check_data(scene: _Scene, address: int, seed: int) -> None:
    """What came is what the seed says."""
    digests = scene.imported.digests
    for number in range(PROGRAM_MEBIBYTES):
        first = (address + number * MIB) >> PAGE_SHIFT
        at = int(np.searchsorted(digests.page, first))
        expected = page_digests(memoryview(mebibyte(seed, number)))
        if not np.array_equal(digests.digest[at : at + expected.size], expected):
            sentence = f"MiB {number} of the program's data is not what its seed says."
            scene.findings.append(invalid(sentence, scene.pid, first << PAGE_SHIFT))


# ---- the writers ---------------------------------------------------------------------------

StopWriters = Callable[[], Awaitable[list[Report]]]


def _addresses(scene: _Scene, writer: int) -> Pages:
    """The words of this writer: each has its own in every page."""
    return scene.written * np.uint64(PAGE_SIZE) + np.uint64(writer * WORD)


@asynccontextmanager
async def _writers(scene: _Scene, run_directory: Path) -> AsyncIterator[StopWriters]:
    """Two processes that write for as long as the block runs, each with a cpu of its own."""
    cpus = [cpu for row in (await scene.machine.hardware()).cpus for cpu in row]
    async with (
        child_process(["numalab.writer"]) as first,
        child_process(["numalab.writer"]) as second,
    ):
        children = (first, second)
        for writer, child in enumerate(children):
            addresses = tuple(_addresses(scene, writer).tolist())
            work = Assignment(str(run_directory), scene.pid, cpus[writer], addresses)
            await child.stdin.send_all(msgspec.json.encode(work) + b"\n")
        for child in children:
            said = await child.next_line()
            assert said == READY, f"a writer says {said!r}"
        scene.screen.say(
            f"writers: {WRITERS} processes, each counting in words of its own in "
            f"{scene.written.size} pages"
        )

        async def stop() -> list[Report]:
            for child in children:
                await child.stdin.send_all(b"stop\n")
            return [msgspec.json.decode(await child.next_line(), type=Report) for child in children]

        yield stop


def _tell_writers(scene: _Scene, reports: Sequence[Report]) -> None:
    stores = sum(report.stores for report in reports)
    longest = max(report.longest for report in reports)
    scene.screen.say(f"writers: {stores} stores were acknowledged")
    scene.screen.say(
        f"longest wait of a writer: {longest * 1e3:.1f} ms; longest time that a page was a "
        f"migration entry: {scene.longest_entry * 1e3:.1f} ms"
    )


# ---- the moves -----------------------------------------------------------------------------


async def _go_round(scene: _Scene) -> None:
    """0 -> 1 -> 2,3 -> 0."""
    operator = Task(scene.machine, OPERATOR, 0, leased=False)
    pid = scene.pid

    async def spread() -> int:
        # migrate_pages(2) would put all of one node on one node (K 1.12); this is for two.
        page = (await scene.machine.address_space(pid)).page
        addresses = page << np.uint64(PAGE_SHIFT)
        nodes = 2 + np.arange(page.size) % 2
        status = await operator.move_pages(pid, addresses, nodes.tolist(), MPOL_MF_MOVE_ALL)
        return int(np.count_nonzero(np.array(status) != nodes))

    await _leg(scene, "0 -> 1", lambda: operator.migrate_pages(pid, "0", "1"))
    await _leg(scene, "1 -> 2,3", spread)
    await _leg(scene, "2,3 -> 0", lambda: operator.migrate_pages(pid, "2,3", "0"))


async def _leg(scene: _Scene, name: str, move: Callable[[], Awaitable[int]]) -> None:
    pages = int((await scene.machine.address_space(scene.pid)).page.size)
    started = time.perf_counter()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch, scene, name)
        stayed = await move()
        seconds = time.perf_counter() - started
        nursery.cancel_scope.cancel()
    scene.screen.say(
        f"{name:8}: {pages - stayed} pages in {seconds:.2f} s, {(pages - stayed) / seconds:.0f} "
        f"pages/s, {stayed} stayed"
    )
    await _show_maps(scene, 1)


async def _watch(scene: _Scene, name: str) -> None:
    """Tell how far it is."""
    while True:
        made = await scene.machine.progress(scene.pid)
        scene.screen.heed(name, made.settled, made.listed)
        await trio.sleep(POLL_SECONDS)


# ---- what is shown -------------------------------------------------------------------------


async def _show(scene: _Scene) -> None:
    scene.screen.say("")
    await _show_maps(scene, MAPS_SHOWN)
    scene.screen.say("")
    for line in numastat_text(await scene.machine.hardware()).splitlines():
        scene.screen.say(line)
    scene.screen.say("")


async def _show_maps(scene: _Scene, count: int) -> None:
    """The lines of numa_maps with the most pages."""
    lines = (await scene.machine.numa_maps(scene.pid)).splitlines()
    largest = sorted(lines, key=_pages_of, reverse=True)[:count]
    for line in largest:
        scene.screen.say(f"  {line}")
    if count > 1 and len(lines) > count:
        scene.screen.say(f"  (and {len(lines) - count} smaller lines of numa_maps)")


def _pages_of(line: str) -> int:
    """The pages of one line of numa_maps: its N0=, N1= and so on."""
    counts = [word.partition("=") for word in line.split() if word[0] == "N"]
    return sum(int(count) for name, _, count in counts if name[1:].isdecimal())


# ---- the verdict ---------------------------------------------------------------------------


async def _judge(scene: _Scene, reports: Sequence[Report]) -> None:
    """Read everything back: imported bytes, acknowledged stores, frames."""
    verification = await verify_task(scene.machine, scene.pid, scene.imported.digests)
    findings = scene.findings
    findings += verification.findings
    findings += await check_frames(scene.machine)
    findings += [invalid(sentence) for report in reports for sentence in report.wrong]
    findings += await check_written(scene.imported.task, scene.written, scene.original, reports)
    # A slow writer may have left out some; those that nobody wrote are compared with the import.
    if verification.written > scene.written.size:
        findings.append(
            invalid(
                f"{verification.written} pages count as written since the import, but the writers "
                f"had only {scene.written.size}."
            )
        )
    scene.screen.say(
        f"read back: {verification.read} pages; {verification.compared} are as they were imported, "
        f"{verification.written} but for the words that the writers stored"
    )


async def check_written(
    task: Task, pages: Pages, original: npt.NDArray[np.uint8], reports: Sequence[Report]
) -> list[Finding]:
    """The written pages hold what was imported, but for the words of the writers.

    original: the contents of ``pages`` before; shape (pages, page size).  reports: the n-th one is
    of the writer of the n-th word of each page.
    """
    addresses = pages * np.uint64(PAGE_SIZE)
    contents = np.frombuffer(await task.load_many(addresses, PAGE_SIZE), np.uint8)
    found = contents.reshape(-1, PAGE_SIZE).view(np.uint64)
    same = found == original.view(np.uint64)
    for writer, report in enumerate(reports):
        acknowledged = np.array(report.acknowledged, np.uint64)
        attempted = np.array(report.attempted, np.uint64)
        word = found[:, writer]
        same[:, writer] = (word == acknowledged) | (word == attempted)
    findings = []
    for row, place in np.argwhere(~same).tolist():
        address = int(addresses[row]) + place * WORD
        sentence = f"The word at {address:#x} is {found[row, place]}, which it must not be."
        findings.append(invalid(sentence, task.pid, address))
    return findings


def _pronounce(scene: _Scene) -> Verdict:
    result = verdict(scene.findings)
    if scene.findings:
        worst = max(scene.findings, key=lambda finding: finding.verdict)
        scene.screen.say(f"first difference: {worst.sentence}")
    scene.screen.say(f"verdict: {result.name.lower()}")
    return result
