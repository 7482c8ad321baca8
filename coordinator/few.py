"""The short way of a migration of few pages: what does not wait for each other is asked at one go.

A list of few pages is drained and isolated by one question, and its frames on the targets are asked
for at the same time: before it is known that all of it can be isolated, so that some may be left.
The call ends when every page has moved or stays: that new frames are put on the LRU and old ones
freed follows behind it, as pagevecs and per-cpu lists do in a kernel.  Whoever migrates pages of
the same address space next waits for that; where frames are plenty, for the new ones alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from coordinator.asked import Asked
from coordinator.calls import PARKED, Reply, Steps
from coordinator.life import State
from coordinator.mem_map import PageFlag, Pfns, Rows, grouped
from coordinator.memory import Memory
from coordinator.mm import Mm
from protocol.messages import MigratePrep, NewPageFrames, NewPages

if TYPE_CHECKING:
    from coordinator.unmap_and_move import UnmapAndMove


def pages_on(mm: Mm, nid: int) -> int:
    """How many pages of ``mm`` are on a node."""
    return sum(int(np.count_nonzero(vma.nid[vma.present()] == nid)) for vma in mm.vmas)


def no_trail(memory: Memory, mm: Mm, frames: int | None = None) -> Steps[None]:
    """Nothing of a migration of this address space is left to be done when this returns.

    frames: so many are wanted; where every node has them, old ones may be still to be freed.
    """
    while any(pages.trailing and pages.pid == mm.pid for pages in memory.page_lists):
        if frames is not None and _is_plenty(memory, frames) and _are_settled(memory, mm):
            return
        yield PARKED


def _is_plenty(memory: Memory, frames: int) -> bool:
    return all(there.frames - there.used >= frames for there in memory.mem_map.values())


def _are_settled(memory: Memory, mm: Mm) -> bool:
    """All pages that have moved are served where they are now."""
    return not any(
        pages.unsettled() for pages in memory.page_lists if pages.trailing and pages.pid == mm.pid
    )


def start_few(work: UnmapAndMove) -> None:
    """Isolate all pages of the list, and meanwhile prepare other nodes and ask for frames."""
    rows = np.arange(work.list.rows)
    prepared = {*np.unique(work.list.source).tolist(), *work.memory.lost}
    work.step_ok(rows)
    for asked in work.wanted(rows):
        if asked.zonelist.nodes:
            asked.early = True
            work.ask_zone(asked)
            prepared.add(asked.zonelist.nodes[0])
    for nid in work.memory.nids:
        if nid not in prepared:
            work.put(nid, MigratePrep(), Asked(State.LISTED, rows[:0]))


class Reserve:
    """Frames that were asked for before their pages were isolated; rows are those of the list.

    It does not know whose it is: in a cycle, the columns of a long list would outlive the call.
    """

    def __init__(self) -> None:
        self._given: list[tuple[Asked, Rows]] = []

    def got(self, work: UnmapAndMove, asked: Asked, reply: Reply) -> None:
        """The answer of a node; who gets no frame by it has to ask again."""
        answer, wanted = reply.message, reply.ask.message
        if answer is None:
            return
        assert isinstance(answer, NewPageFrames) and isinstance(wanted, NewPages)
        given = np.flatnonzero(answer.status == 0)
        if given.size:
            node, rows = asked.zonelist.nodes[0], asked.rows[given]
            pfn = work.memory.given(node, answer, given, wanted, PageFlag.HELD)
            work.list.target[rows], work.list.target_pfn[rows] = node, pfn
            self._given.append((asked, rows))

    def take(self, work: UnmapAndMove, rows: Rows) -> Rows:
        """Let those rows go on that have a frame here; gives the others."""
        if not self._given:
            return rows
        wanted = np.zeros(work.list.rows, np.bool_)
        wanted[rows] = True
        for at, (asked, mine) in enumerate(self._given):
            taken = mine[wanted[mine]]
            self._given[at] = asked, mine[~wanted[mine]]
            wanted[taken] = False
            if taken.size:
                work.count_allocation(asked, taken.size)
                work.step_ok(taken)
        return np.flatnonzero(wanted)

    def rest(self, work: UnmapAndMove) -> Iterator[tuple[int, Pfns]]:
        """The frames that nobody took, by node; they are not here any more."""
        given, self._given = self._given, []
        for _, rows in given:
            for nid, mine in grouped(work.list.target[rows]):
                yield int(nid), work.list.target_pfn[rows[mine]]
