"""The short way of a migration of few pages: what does not wait for each other is asked at one go.

Pages that all go from one node to another go by one question (nodes/taking.py): the source drains,
isolates, locks and sends, the target gives frames.  Entries become migration entries before it is
known that all of them can be isolated.

Of another list (pages of files, which may have to wait; several nodes) all pages are drained and
isolated by one question, and the frames on the targets are asked for at the same time: so some
frames may be left.

The call ends when every page has moved or stays: that new frames are put on the LRU and old ones
freed follows behind it, as pagevecs and per-cpu lists do in a kernel.  Whoever migrates pages of
the same address space next waits for that; where frames are plenty, for the new ones alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from coordinator.asked import Asked
from coordinator.calls import PARKED, Reply, Steps
from coordinator.life import State
from coordinator.mem_map import Pfns, Rows, grouped
from coordinator.memory import Memory
from coordinator.mm import Mm
from coordinator.page_mapping import by_object, has_mlocked, objects_of
from coordinator.pagelist import PageList, Statuses32
from protocol.messages import MigratePrep, NewPageFrames, PutTransfer, TakePages

if TYPE_CHECKING:
    from coordinator.unmap_and_move import UnmapAndMove

ENODEV = 19
#: The target_pfn of a page that is known to have none, or of which nobody knows.
NO_FRAME, UNKNOWN_FRAME = np.uint32(0xFFFFFFFF), np.uint32(0xFFFFFFFE)


def pages_on(mm: Mm, nid: int) -> int:
    """How many pages of ``mm`` are on a node."""
    return sum(int(np.count_nonzero(vma.nid[vma.present()] == nid)) for vma in mm.vmas)


def no_trail(memory: Memory, mm: Mm, frames: int | None = None) -> Steps[bool]:
    """Nothing of a migration of this address space is left to be done when this returns: whether
    that was waited for.

    frames: so many are wanted; where every node has them, old ones may be still to be freed.
    """
    waited = False
    while any(pages.trailing and pages.pid == mm.pid for pages in memory.page_lists):
        if frames is not None and _is_plenty(memory, frames) and _are_settled(memory, mm):
            break
        yield PARKED
        waited = True
    return waited


def _is_plenty(memory: Memory, frames: int) -> bool:
    return all(there.frames - there.used >= frames for there in memory.mem_map.values())


def _are_settled(memory: Memory, mm: Mm) -> bool:
    """All pages that have moved are served where they are now."""
    return not any(
        pages.unsettled() for pages in memory.page_lists if pages.trailing and pages.pid == mm.pid
    )


def start_few(work: UnmapAndMove) -> None:
    """Take all pages of the list by one question; or isolate them, and meanwhile ask for frames.

    The other nodes are prepared at the same time.
    """
    rows = np.arange(work.list.rows)
    prepared = {*work.list.sources.tolist(), *work.memory.lost}
    wanted = [asked for asked in work.wanted(rows) if asked.zonelist.nodes]
    prepared |= {asked.zonelist.nodes[0] for asked in wanted}
    if _is_one_pair(work, wanted) and _are_plain(work):
        _take(work, wanted[0])
    else:
        work.step_ok(rows)
        for asked in wanted:
            asked.early = True
            work.ask_zone(asked)
    for nid in work.memory.nids:
        if nid not in prepared:
            work.put(nid, MigratePrep(), Asked(State.LISTED, rows[:0]))


def _is_one_pair(work: UnmapAndMove, wanted: list[Asked]) -> bool:
    """All pages go from one node to one other: of several, one that is full ends the call, and
    which pages were attempted by then is a matter of their order (K 1.20)."""
    alone = len(wanted) == 1 and wanted[0].rows.size == work.list.rows
    sources = work.list.sources
    return alone and sources.size == 1 and int(sources[0]) != wanted[0].zonelist.nodes[0]


def _are_plain(work: UnmapAndMove) -> bool:
    """They are of no file, and nobody has a say in whether they are copied."""
    every = np.arange(work.list.rows)
    for mapping, _, _ in by_object(work.memory, work.list, every):
        has_a_say = mapping.host is not None or mapping.migratepage is not None
        if has_a_say or has_mlocked(work.memory, mapping):
            return False
    return True


def _take(work: UnmapAndMove, asked: Asked) -> None:
    source, target, pfn = int(work.list.sources[0]), asked.zonelist.nodes[0], work.list.pfn
    work.list.target[:] = target
    work.list.transfer[:] = transfer = work.memory.new_transfer()
    generation = work.memory.mem_map[source].generation[pfn]
    objects = objects_of(work.memory, work.list, asked.rows)
    message = TakePages(transfer, target, pfn, generation, *objects)
    asked.state = State.TAKING
    work.begin(State.TAKING, asked.rows)
    work.put(source, message, asked)


def taken(work: UnmapAndMove, asked: Asked, reply: Reply) -> Statuses32:
    """The answer to TakePages: which pages are in new frames now; a status for each."""
    answer = reply.message
    if answer is None or work.list.outlived:
        work.list.target_pfn[asked.rows] = UNKNOWN_FRAME
        return np.full(asked.rows.size, -ENODEV, np.int32)
    assert isinstance(answer, NewPageFrames)
    known = np.where(answer.status == -ENODEV, UNKNOWN_FRAME, NO_FRAME)
    work.list.target_pfn[asked.rows] = known
    work.count_allocation(asked, work.given(asked, reply).size)
    return answer.status


def left_taking(work: UnmapAndMove, rows: Rows) -> None:
    """Entries of pages that were left alone name their frames again, served all along."""
    if not work.list.count(State.SKIPPED):
        return
    alone = rows[work.list.state[rows] == int(State.SKIPPED)]
    for source, mine in work.list.by_source(alone):
        pfn = work.list.pfn[mine]
        work.memory.remove_migration_ptes(source, pfn, source, pfn)
    work.note_entries_gone(alone)


def framed(pages: PageList, rows: Rows) -> npt.NDArray[np.bool_]:
    """Which of these rows have a frame on the target, as far as is known."""
    has: npt.NDArray[np.bool_] = pages.target_pfn[rows] < UNKNOWN_FRAME
    return has


def unknown(pages: PageList, rows: Rows) -> npt.NDArray[np.bool_]:
    """Of which of these rows nobody knows whether they have one."""
    are: npt.NDArray[np.bool_] = pages.target_pfn[rows] == UNKNOWN_FRAME
    return are


def put_transfer(work: UnmapAndMove, rows: Rows) -> None:
    """Whatever the target has given to these rows, none of which has moved."""
    message = PutTransfer(int(work.list.transfer[rows[0]]))
    work.put(int(work.list.target[rows[0]]), message, Asked(State.RESTORING, rows))


def outlive(memory: Memory, nid: int) -> None:
    """A node frees what the coordinator does not know of: an answer that comes later is void."""
    for pages in memory.page_lists:
        pages.outlived |= _taken_to(pages, nid) > 0


def coming(memory: Memory, nid: int) -> int:
    """Pages that a node may be giving frames to, of which nobody else knows yet."""
    lists = memory.page_lists
    return sum(pages.count(State.ALLOCATING) + _taken_to(pages, nid) for pages in lists)


def _taken_to(pages: PageList, nid: int) -> int:
    """How many pages are being taken to this node."""
    if not pages.count(State.TAKING):
        return 0
    return int(np.count_nonzero(pages.target[pages.state == State.TAKING] == nid))


class Reserve:
    """Frames that were asked for before their pages were isolated; rows are those of the list.

    It does not know whose it is: in a cycle, the columns of a long list would outlive the call.
    """

    def __init__(self) -> None:
        self._given: list[tuple[Asked, Rows]] = []

    def got(self, work: UnmapAndMove, asked: Asked, reply: Reply) -> None:
        """The answer of a node; who gets no frame by it has to ask again."""
        if reply.message is not None:
            self._given.append((asked, work.given(asked, reply)))

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
