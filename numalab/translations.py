"""The translations that a client keeps, as a TLB: nobody tells it when one is out of date."""

from __future__ import annotations

from collections.abc import Sequence

from numalab.access import Translation
from protocol.syscalls import Translations

CACHE_MAX = 1 << 16


class TranslationCache:
    """Translations by (pid, page).  What is out of date in it is refused by its node."""

    def __init__(self) -> None:
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
        for row, page in enumerate(pages):
            nid = int(told.nid[row])
            if told.status[row] == 0 and nid >= 0:
                pfn, generation = int(told.pfn[row]), int(told.generation[row])
                self.keep(pid, page, Translation(nid, pfn, generation, bool(told.writable[row])))

    def drop(self, pid: int, page: int) -> None:
        if self._tasks.get(pid, {}).pop(page, None) is not None:
            self._size -= 1

    def drop_task(self, pid: int) -> None:
        self._size -= len(self._tasks.pop(pid, {}))

    def validate(self) -> None:
        held = sum(len(pages) for pages in self._tasks.values())
        assert held == self._size, f"{held} translations are cached, {self._size} are counted"
