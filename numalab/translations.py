"""The translations that a client keeps, as a TLB: nobody tells it when one is out of date."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from numalab.access import Translating, Translation
from numalab.work import FaultAccess
from protocol.core import ConfigurationError
from protocol.syscalls import WISHED_MAX, Fault, Translations

CACHE_MAX = 1 << 16
#: Pages: the kernel's fault_around_bytes, 64 KiB, in pages of 4 KiB.
FAULT_AROUND = 16
#: As many as a page table of the kernel has (PTRS_PER_PTE).
FAULT_AROUND_MAX = 512


class TranslationCache:
    """Translations by (pid, page).  What is out of date in it is refused by its node.

    fault_around: pages of the aligned window whose translations a fault is to bring as well; 0 or
    1: none but those that it is about.  Raises ConfigurationError.
    """

    def __init__(self, fault_around: int = FAULT_AROUND) -> None:
        if not 0 <= fault_around <= FAULT_AROUND_MAX:
            raise ConfigurationError(
                f"fault_around is {fault_around} pages, and may be 0 to {FAULT_AROUND_MAX}."
            )
        self._around = fault_around
        self._tasks: dict[int, dict[int, Translation]] = {}
        self._size = 0

    def find(self, pid: int, page: int, write: bool) -> Translation | None:
        known = self._tasks.get(pid, {}).get(page)
        return known if known is not None and (known.writable or not write) else None

    def keep(self, pid: int, page: int, known: Translation) -> None:
        if self._size >= CACHE_MAX:
            self._tasks.clear()
            self._size = 0
        pages = self._tasks.setdefault(pid, {})
        self._size += page not in pages
        pages[page] = known

    def learn(self, pid: int, pages: Sequence[int], told: Translations) -> None:
        """Keep what the coordinator told of these pages.

        Not the zero page: it is replaced at the first store, which no node sees.
        """
        columns = told.status, told.nid, told.pfn, told.generation, told.writable
        rows = zip(pages, *(column.tolist() for column in columns), strict=True)
        for page, status, nid, pfn, generation, writable in rows:
            if status == 0 and nid >= 0:
                self.keep(pid, page, Translation(nid, pfn, generation, bool(writable)))

    def wishing(self, asked: Translating) -> Translating:
        """The question, with what is not known yet of the window around each page at its end."""
        if self._around < 2:
            return asked
        fault = asked.message
        wished = self._unknown(fault.pid, fault.page.tolist(), fault.access == FaultAccess.WRITE)
        if not wished:
            return asked
        page = np.concatenate([fault.page, np.array(wished, np.uint64)])
        message = Fault(fault.pid, fault.cpu, fault.access, page, len(wished))
        return Translating(asked.rows, asked.inverse, message)

    def _unknown(self, pid: int, pages: Sequence[int], write: bool) -> list[int]:
        """Pages around ``pages`` whose translation is not known, or not for this access."""
        wanted, size = frozenset(pages), self._around
        windows = dict.fromkeys(page // size * size for page in pages)
        return [
            page
            for first in windows
            for page in range(first, first + size)
            if page not in wanted and self.find(pid, page, write) is None
        ][:WISHED_MAX]

    def refused(self, pid: int, page: int) -> None:
        """Its node did not serve the page: what is known of its window is forgotten with it.

        What moves, or loses rights, is mostly a whole range: so the fault that follows brings all
        of the window anew, and not each of its pages has to be refused.
        """
        pages, size = self._tasks.get(pid, {}), max(self._around, 1)
        first = page // size * size
        for neighbour in range(first, first + size):
            self._size -= pages.pop(neighbour, None) is not None

    def drop_task(self, pid: int) -> None:
        self._size -= len(self._tasks.pop(pid, {}))

    def validate(self) -> None:
        held = sum(len(pages) for pages in self._tasks.values())
        assert held == self._size, f"{held} translations are cached, {self._size} are counted"
