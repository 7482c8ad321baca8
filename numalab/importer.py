"""Bring an image (numalab/image.py) into a machine: a task with the same areas and contents.

Only present pages travel.  What each of them held is kept as a digest, so that it can be told later
whether every page that nobody wrote since is still the same (numalab/verify.py).
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import trio
import xxhash

from numalab.address_space import PAGE_SIZE, Area, Image, Source
from numalab.machine import Machine
from numalab.task import Task
from protocol.core import ConfigurationError
from protocol.nodemask import format_nodes
from protocol.syscalls import Hardware

#: One piece is 1 MiB, the size that moves fastest; so many of them are in flight.
PIECE_PAGES = 256
PIECES_AT_ONCE = 4
#: The end of user space, as the machine's mmap has it (47 bits).
TASK_END = 1 << 47
MAP_FIXED_NOREPLACE = 0x100000

Pages = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True, eq=False)
class Digests:
    """xxh3_64 of every page that was imported; ``page`` are page numbers, ascending."""

    page: Pages
    digest: npt.NDArray[np.uint64]

    def save(self, path: Path) -> None:
        """Write a file that only its owner may read (mode 0600)."""
        path.touch(mode=0o600)
        with path.open("wb") as file:
            np.save(file, np.stack([self.page, self.digest]), allow_pickle=False)

    @classmethod
    def load(cls, path: Path) -> Digests:
        """What ``save`` wrote.  Raises ConfigurationError."""
        try:
            page, digest = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"{path} does not hold the digests of an import ({error}): import it again."
            ) from None
        return cls(page, digest)


@dataclass(frozen=True, slots=True, eq=False)
class Imported:
    """An import that is done.  notes: what a user should know of it, a sentence each."""

    task: Task
    pages: int
    digests: Digests
    notes: tuple[str, ...]


def digests_path(run_directory: Path, pid: int) -> Path:
    """Where the digests of the imported task ``pid`` are kept; removed with the machine."""
    return run_directory / f"digests-{pid}.npy"


def find_digests(run_directory: Path, pid: int) -> Digests | None:
    """What was kept of the import of ``pid``, if it is one.  Raises ConfigurationError."""
    path = digests_path(run_directory, pid)
    return Digests.load(path) if path.exists() else None


def page_digests(contents: memoryview, page_size: int = PAGE_SIZE) -> npt.NDArray[np.uint64]:
    """xxh3_64 of each page of ``contents``, whose length is a multiple of the page size."""
    # The one thing that is done page by page: a digest tells which page is wrong (0.3 us each).
    sums = [
        xxhash.xxh3_64_intdigest(contents[start : start + page_size])
        for start in range(0, contents.nbytes, page_size)
    ]
    return np.array(sums, np.uint64)


async def import_image(
    machine: Machine,
    source: Source,
    *,
    node: int | None = None,
    heed: Callable[[int], None] = lambda pages: None,
) -> Imported:
    """A new task, not leased, that has the areas and contents of ``source``.

    node: where its pages shall go first (None: the first node with a cpu); what finds no room
    there goes to the nearest node that has some.  heed: told how many pages have come so far.
    The task exits again if anything fails.  Raises ConfigurationError, ImageError, OSError.
    """
    hardware = await machine.hardware()
    cpu = _cpu_of(hardware, node)
    image = source.image
    areas, notes = _usable_areas(image)
    _check_room(machine, hardware, sum(area.present.size for area in areas))
    task = await machine.spawn(cpu, leased=False, comm=image.comm)
    try:
        for area in areas:
            await task.mmap(
                area.end - area.start,
                area.prot,
                area.flags | MAP_FIXED_NOREPLACE,
                area.start,
                area.name,
                area.offset,
            )
        digests = await _fill(task, source, areas, heed)
    except BaseException as error:
        with trio.move_on_after(2, shield=True), suppress(OSError):
            await task.exit()
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            # Who was away then may be back by now, and who is away now may have gone since.
            away = {*_away(hardware), *_away(await machine.hardware())}
            sentence = "The machine ran out of frames during the import, which is undone"
            raise no_room(sentence, away) from None
        raise
    return Imported(task, digests.page.size, digests, (image.note, *notes))


def first_cpu(hardware: Hardware) -> int:
    """The lowest cpu; every machine has one."""
    return min(cpu for cpus in hardware.cpus for cpu in cpus)


def _cpu_of(hardware: Hardware, node: int | None) -> int:
    if node is None:
        return first_cpu(hardware)
    row = int(np.flatnonzero(hardware.nid == node)[0])
    cpus = hardware.cpus[row]
    if not cpus:
        raise ConfigurationError(
            f"Node {node} has no cpu on which a task could touch its pages: import to another "
            "node, and then move them there with 'numalab migratepages'."
        )
    return cpus[0]


def _usable_areas(image: Image) -> tuple[list[Area], list[str]]:
    """The areas that fit into user space, and a note on those that do not."""
    areas = [area for area in image.areas if area.end <= TASK_END]
    beyond = len(image.areas) - len(areas)
    notes = []
    if beyond:
        notes.append(f"left out: {beyond} areas beyond the end of user space, {TASK_END:#x}")
    return areas, notes


def _check_room(machine: Machine, hardware: Hardware, pages: int) -> None:
    if machine.page_size != PAGE_SIZE:
        raise ConfigurationError(
            f"The machine has pages of {machine.page_size} bytes and an image has pages of "
            f"{PAGE_SIZE}: start a machine with that page_size."
        )
    free = int(hardware.free[hardware.up != 0].sum())
    if pages > free:
        sentence = f"The image has {pages} pages and the machine has {free} free ones"
        raise no_room(sentence, _away(hardware))


def _away(hardware: Hardware) -> list[int]:
    away: list[int] = hardware.nid[hardware.up == 0].tolist()
    return away


def no_room(sentence: str, away: Collection[int]) -> ConfigurationError:
    """What to do about it depends on whether nodes do not answer: those give no frame."""
    if away:
        return ConfigurationError(
            f"{sentence}, while node {format_nodes(sorted(away))} did not answer: import it "
            "again when 'numalab status' says that all are up."
        )
    return ConfigurationError(
        f"{sentence}: start a machine with more memory ('numalab up --memory'), or let some task "
        "exit."
    )


def _pieces(areas: list[Area]) -> Iterator[tuple[Area, bool, Pages]]:
    """Area, whether they are file pages, and page numbers, at most PIECE_PAGES of them."""
    for area in areas:
        for file in (False, True):
            pages = area.present[area.file_page == file]
            for start in range(0, pages.size, PIECE_PAGES):
                yield area, file, pages[start : start + PIECE_PAGES]


async def _fill(
    task: Task, source: Source, areas: list[Area], heed: Callable[[int], None]
) -> Digests:
    pieces = _pieces(areas)
    pages: list[Pages] = [np.zeros(0, np.uint64)]
    digests: list[npt.NDArray[np.uint64]] = [np.zeros(0, np.uint64)]
    failures: list[Exception] = []
    come = 0

    async def carry(scope: trio.CancelScope) -> None:
        nonlocal come
        for area, file, page in pieces:
            try:
                # What was swapped out takes a while to read; the lease is renewed meanwhile.
                contents = await trio.to_thread.run_sync(source.read, area, page)
                await task.fill(page, contents, file=file)
            except Exception as error:
                # The first of several that fail together is the one that is told.
                failures.append(error)
                scope.cancel()
                return
            pages.append(page)
            digests.append(page_digests(contents))
            come += page.size
            heed(come)

    async with trio.open_nursery() as nursery:
        for _ in range(PIECES_AT_ONCE):
            nursery.start_soon(carry, nursery.cancel_scope)
    if failures:
        raise failures[0]
    page, digest = np.concatenate(pages), np.concatenate(digests)
    order = np.argsort(page)
    return Digests(page[order], digest[order])
