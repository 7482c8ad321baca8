"""move_pages(2) of 6.1: entry by entry, in batches of neighbours with one target (mm/migrate.c).

An entry is checked when its turn comes, so that those before it may have moved when the call fails
(K 4.13).  Neighbours that go to the same node are moved together.  Where one cannot be queued, its
status is stored at once, and those that were queued before it are moved.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coordinator.calls import Steps
from coordinator.life import State
from coordinator.mem_map import PageFlag
from coordinator.memory import Memory
from coordinator.mempolicy import migrate_prep, new_node_page
from coordinator.migrate import migrate_pages
from coordinator.mm import Mm, Pages
from coordinator.page_status import find_movable, find_pages
from coordinator.pagelist import PageList, Settings

EBUSY, EACCES, EFAULT = 16, 13, 14
#: So many entries are looked up together.
WINDOW = 512
#: In the place of a status: the page is to be moved.
QUEUED = 1 << 20
#: A query reads so many addresses before it writes their statuses.
QUERY_CHUNK = 16

Ints = npt.NDArray[np.int32]


@dataclass(slots=True)
class Move:
    """One call under way.

    Of ``count`` entries those before ``stop`` can be read and name a node that may be used;
    ``error`` is what is wrong with the next one.  ``status`` is the caller's array, which may be
    shorter.
    """

    memory: Memory
    mm: Mm
    settings: Settings
    count: int
    page: Pages
    node: Ints
    status: Ints
    move_all: bool
    stop: int
    error: int

    def run(self) -> Steps[int]:
        """0, -errno, or the pages that failed plus those not attempted (K 4.15)."""
        at = 0
        while at < self.stop:
            pagelist, start = PageList(self.mm.pid), at
            at, told = self._queue(pagelist, at)
            stored = self.store(at, told)
            if pagelist.rows:
                result = yield from self._move(pagelist, start)
                at_the_end = at == self.stop and self.error
                if result and stored and not at_the_end:
                    # What comes after this batch is not attempted.
                    return result if result < 0 else result + self.count - at - told.size
            if not stored:
                return -EFAULT
            at += told.size
        return self.error

    def _queue(self, pagelist: PageList, at: int) -> tuple[int, Ints]:
        """Queue entries for one node; where that ends, and the statuses of those that are not.

        The statuses that follow a batch hold for one entry only: moving it may change the others'.
        """
        differs = np.flatnonzero(self.node[at : self.stop] != self.node[at])
        end = at + int(differs[0]) if differs.size else self.stop
        while at < end:
            status, nid, pfn = self._look_up(at, min(end, at + WINDOW))
            queued = leading(status == QUEUED)
            if queued:
                page = self.page[at : at + queued].astype(np.int64)
                pagelist.add(nid[:queued], pfn[:queued], page)
                self.memory.hold(nid[:queued], pfn[:queued])
                at += queued
            rest = status[queued:]
            if rest.size:
                return at, rest[: 1 if pagelist.rows else leading(rest != QUEUED)]
        return at, np.zeros(0, np.int32)

    def _look_up(
        self, start: int, end: int
    ) -> tuple[Ints, npt.NDArray[np.uint8], npt.NDArray[np.uint32]]:
        """QUEUED or the status of each entry, and its frame: add_page_for_migration()."""
        memory, page = self.memory, self.page[start:end]
        status = np.zeros(page.size, np.int32)
        nid, pfn = find_movable(memory, self.mm, page, status)
        todo = np.flatnonzero((status >= 0) & (status != self.node[start:end]))
        if not self.move_all:
            several = memory.mapcounts(nid[todo], pfn[todo]) > 1
            status[todo[several]] = -EACCES
            todo = todo[~several]
        busy = memory.flagged(nid[todo], pfn[todo], PageFlag.HELD)
        busy |= np.isin(nid[todo], np.array(sorted(memory.lost), np.uint8))
        # The first address of a page takes it off the LRU (K 4.17).
        frame = (nid[todo].astype(np.uint64) << np.uint64(32)) | pfn[todo]
        again = np.ones(todo.size, np.bool_)
        again[np.unique(frame, return_index=True)[1]] = False
        status[todo] = np.where(busy | again, -EBUSY, QUEUED)
        return status, nid, pfn

    def _move(self, pagelist: PageList, start: int) -> Steps[int]:
        """Move a batch; its statuses are stored if all of it went (K 4.16).

        6.1 puts pages on the LRU at once during the call: one that is listed twice can go again.
        """
        if np.unique(self.page).size < self.page.size:
            yield from migrate_prep(self.memory)
        node, rows = int(self.node[start]), pagelist.rows
        result = yield from migrate_pages(self.memory, pagelist, new_node_page, node, self.settings)
        status = np.full(rows, node, np.int32)
        skipped = pagelist.state == State.SKIPPED
        status[skipped] = -EBUSY
        if result == 0:
            return 0 if self.store(start, status) else -EFAULT
        for row in np.flatnonzero(skipped).tolist():
            self.store(start + row, status[row : row + 1])
        return result

    def store(self, at: int, values: Ints) -> bool:
        """store_status(): False if the array ends before."""
        room = max(min(self.status.size - at, values.size), 0)
        self.status[at : at + room] = values[:room]
        return room == values.size


def leading(flags: npt.NDArray[np.bool_]) -> int:
    """How many are set before the first that is not."""
    unset = np.flatnonzero(~flags)
    return int(unset[0]) if unset.size else flags.size


def do_pages_stat(memory: Memory, mm: Mm, count: int, page: Pages, status: Ints) -> int:
    """A query, chunk by chunk: 0 or -EFAULT, with what was found before (K 4.19)."""
    readable = count if page.size >= count else page.size // QUERY_CHUNK * QUERY_CHUNK
    found = np.zeros(readable, np.int32)
    find_pages(memory, memory.profile, mm, page[:readable], found)
    room = min(status.size, readable)
    status[:room] = found[:room]
    return 0 if room == count else -EFAULT
