"""Fault-around: what a fault does for the neighbours of its pages (mm/memory.c: do_fault_around).

A client names them with its fault: pages of the aligned window that it has no translations of.
Those that are mapped have their translations told, so that the next access asks nobody: what the
TLB of a cpu does by itself, and no kernel sees.  And a read fault maps those that the page cache
has, as Linux does since 3.15 (profile ``fault_around_maps``).  Nobody waits for a page that is only
wished for, nothing is allocated for it, and no error of it is an error.
"""

from __future__ import annotations

import numpy as np

from coordinator.calls import Steps
from coordinator.fault import Access, Answer, handle_mm_fault, new_bits, tell
from coordinator.mem_map import NO_NODE, PageFlag, Rows
from coordinator.memory import Memory
from coordinator.mm import (
    ANON,
    BUSY,
    ENTRY,
    NOT_MIGRATABLE,
    PRESENT,
    PROT_READ,
    Mm,
    Pages,
    Task,
    Vma,
)
from protocol.syscalls import Translations

EAGAIN = 11
#: An entry without any of these is empty (pte_none); ANON alone is that of a page that is lost.
_MARKS = PRESENT | ENTRY | ANON


def handle_mm_fault_around(
    memory: Memory, task: Task, cpu: int, access: Access, wanted: Pages, wished: Pages
) -> Steps[Translations]:
    """``handle_mm_fault`` of ``wanted``, and after its rows one for each page of ``wished``.

    Those have status 0, or -EAGAIN: there is nothing to tell of the page now.  Wishes are heard in
    the vmas of the pages that are wanted, as the kernel's window does not leave the vma either.
    """
    maps = access == Access.READ and memory.profile.fault_around_maps
    empty = _empty(task.mm, wanted) if maps else wanted[:0]
    told = yield from handle_mm_fault(memory, task, cpu, access, wanted)
    around = Answer(wished)
    around.status[:] = -EAGAIN
    for vma, _ in task.mm.by_vma(wanted):
        # Whatever it was asked for, a translation is good for loads.
        if vma is None or not vma.prot & PROT_READ:
            continue
        rows = _within(wished, vma.start, _end(vma))
        slot = (wished[rows] - np.uint64(vma.start)).astype(np.intp)
        # What was empty may be another mapping's by now.
        if _has_map_pages(vma) and _within(empty, vma.start, vma.end).size:
            do_fault_around(memory, task, vma, slot)
        _tell_at_hand(memory, vma, slot, rows, around)
    return Translations(
        np.concatenate([told.status, around.status]),
        np.concatenate([told.nid, around.nid]),
        np.concatenate([told.pfn, around.pfn]),
        np.concatenate([told.generation, around.generation]),
        np.concatenate([told.writable, around.writable]),
    )


def _empty(mm: Mm, page: Pages) -> Pages:
    """Those of these pages of files for which the kernel has to fault: it looks before it waits."""
    empty = np.zeros(page.size, np.bool_)
    for vma, rows in mm.by_vma(page):
        if vma is not None and _has_map_pages(vma):
            slot = (page[rows] - np.uint64(vma.start)).astype(np.intp)
            empty[rows] = (vma.bits[slot] & _MARKS) == 0
    return page[empty]


def _has_map_pages(vma: Vma) -> bool:
    """It maps a page cache, and not by one of the drivers that special mappings stand for."""
    return vma.file is not None and not int(vma.vm_flags) & NOT_MIGRATABLE


def _within(page: Pages, start: int, end: int) -> Rows:
    """The rows of pages ``start`` to ``end`` (exclusive)."""
    return ((page >= start) & (page < end)).nonzero()[0]


def _end(vma: Vma) -> int:
    """Where the vma ends, or the file that it maps."""
    if vma.file is None:
        return vma.end
    return min(vma.end, vma.start + max(vma.file.nid.size - vma.pgoff, 0))


def do_fault_around(memory: Memory, task: Task, vma: Vma, slot: Rows) -> None:
    """Map for reading what the page cache has for those of these slots that are empty.

    Not what is being read in, nor what is locked: here, what a migration has taken.
    """
    assert vma.file is not None
    slot = slot[(vma.bits[slot] & (_MARKS | BUSY)) == 0]
    slot = slot[vma.file.nid[slot + vma.pgoff] != NO_NODE]
    nid, pfn = vma.file.nid[slot + vma.pgoff], vma.file.pfn[slot + vma.pgoff]
    free = ~memory.flagged(nid, pfn, PageFlag.HELD)
    if free.any():
        bits = np.full(np.count_nonzero(free), new_bits(vma, Access.READ), np.uint8)
        memory.map_existing(task, vma, slot[free], nid[free], pfn[free], bits)


def _tell_at_hand(memory: Memory, vma: Vma, slot: Rows, rows: Rows, around: Answer) -> None:
    """Fill in the translations of those that a fault would neither wait for nor change."""
    present = (vma.bits[slot] & (PRESENT | ENTRY | BUSY)) == PRESENT
    slot, rows = slot[present], rows[present]
    if not slot.size:
        return
    settled = ~memory.flagged(vma.nid[slot], vma.pfn[slot], PageFlag.UNSETTLED)
    slot, rows = slot[settled], rows[settled]
    around.status[rows] = 0
    tell(memory, vma, slot, rows, around)
