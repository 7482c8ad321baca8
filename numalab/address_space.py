"""What an image is, wherever it was read: areas, their present pages, and their contents."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, NamedTuple

import numpy as np
import numpy.typing as npt

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT

Pages = npt.NDArray[np.uint64]


class ImageError(Exception):
    """The image cannot be read; one sentence: what is wrong, where, what to do."""


@dataclass(frozen=True, slots=True, eq=False)
class Area:
    """One vma.

    start, end: addresses.  prot: PROT_* bits.  flags: MAP_PRIVATE or MAP_SHARED, and MAP_ANONYMOUS.
    name: path as the kernel prints it, ``[heap]``, ``[stack]``, ``[vdso]``, or empty if anonymous.
    offset: bytes into the file.  present: virtual page numbers (address >> 12), ascending.
    file_page: for each of them whether it is a page of a file or shared anonymous memory.
    """

    start: int
    end: int
    prot: int
    flags: int
    name: str
    offset: int
    present: Pages
    file_page: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """An address space; ``note`` says whether it is of one moment and what was left out."""

    pid: int
    comm: str
    areas: tuple[Area, ...]
    atomic: bool
    note: str

    @property
    def pages(self) -> int:
        """Number of present pages."""
        return sum(area.present.size for area in self.areas)

    @property
    def bytes(self) -> int:
        """Size of all present pages."""
        return self.pages << PAGE_SHIFT


class Extent(NamedTuple):
    """Where in a file an area's contents begin and end (byte positions); beyond it reads zeros."""

    position: int
    end: int


class Source:
    """An image and its contents; usable inside the ``with`` that opened it."""

    def __init__(
        self, image: Image, file: IO[bytes], extents: Mapping[int, Extent], changed: str
    ) -> None:
        """``extents`` by start of area, as positions in ``file``; ``changed`` begins an error."""
        self.image = image
        self._file = file
        self._extents = extents
        self._changed = changed

    def read(self, area: Area, pages: Pages) -> memoryview:
        """The contents of ``pages`` (present page numbers of ``area``), in that order.

        Returns ``len(pages) * 4096`` bytes in one new buffer, which the caller owns; neighbours are
        read together.  Raises ImageError if the process or the page is gone.
        """
        pages = np.asarray(pages, dtype=np.uint64)
        buffer = np.empty(pages.size << PAGE_SHIFT, dtype=np.uint8)
        view = buffer.data
        if not pages.size:
            return view
        low, high = int(pages.min()) << PAGE_SHIFT, int(pages.max()) << PAGE_SHIFT
        assert area.start <= low <= high < area.end, f"pages outside {area.start:#x}-{area.end:#x}"
        extent = self._extents[area.start]
        shift = extent.position - area.start
        for index, page, count in runs(pages):
            begin, end = index << PAGE_SHIFT, (index + count) << PAGE_SHIFT
            position = (page << PAGE_SHIFT) + shift
            stored = begin + min(end - begin, max(0, extent.end - position))
            self._fill(view[begin:stored], position)
            buffer[stored:end] = 0
        return view

    def _fill(self, view: memoryview, position: int) -> None:
        while view:
            try:
                count = os.preadv(self._file.fileno(), [view], position)
            except OSError as error:
                raise ImageError(
                    f"{self._changed} (at {position:#x}: {error.strerror}): open it again"
                ) from None
            if count == 0:
                raise ImageError(f"{self._changed} (nothing left at {position:#x}): open it again")
            view, position = view[count:], position + count


def runs(numbers: Pages) -> Iterator[tuple[int, int, int]]:
    """Runs of neighbours: index of the first, its number, how many."""
    cuts = np.flatnonzero(np.diff(numbers) != 1) + 1
    first = np.concatenate(([0], cuts))
    count = np.diff(np.append(first, numbers.size))
    return zip(first.tolist(), numbers[first].tolist(), count.tolist(), strict=True)


def describe_skipped(skipped: Counter[str]) -> str:
    """The end of a note: pages of address space left out, by name."""
    names = [
        f"{name} ({count} page{'s' * (count != 1)})" for name, count in sorted(skipped.items())
    ]
    return f"; left out: {', '.join(names)}" if names else ""
