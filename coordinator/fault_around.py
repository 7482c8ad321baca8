"""Fault-around: what a fault does for the neighbours of its pages (mm/memory.c: do_fault_around).

A client names them with its fault: pages of the aligned window that it has no translations of.
Those that are mapped have their translations told, so that the next access asks nobody: what the
TLB of a cpu does by itself, and no kernel sees.  Nobody waits for a page that is only wished for,
nothing is allocated for it, and no error of it is an error.
"""

from __future__ import annotations

import numpy as np

from coordinator.calls import Steps
from coordinator.fault import Access, Answer, handle_mm_fault, tell
from coordinator.mem_map import PageFlag, Rows
from coordinator.memory import Memory
from coordinator.mm import (
    BUSY,
    ENTRY,
    PRESENT,
    PROT_READ,
    Pages,
    Task,
    Vma,
)
from protocol.syscalls import Translations

EAGAIN = 11


def handle_mm_fault_around(
    memory: Memory, task: Task, cpu: int, access: Access, wanted: Pages, wished: Pages
) -> Steps[Translations]:
    """``handle_mm_fault`` of ``wanted``, and after its rows one for each page of ``wished``.

    Those have status 0, or -EAGAIN: there is nothing to tell of the page now.  Wishes are heard in
    the vmas of the pages that are wanted, as the kernel's window does not leave the vma either.
    """
    told = yield from handle_mm_fault(memory, task, cpu, access, wanted)
    around = Answer(wished)
    around.status[:] = -EAGAIN
    for vma, _ in task.mm.by_vma(wanted):
        # Whatever it was asked for, a translation is good for loads.
        if vma is None or not vma.prot & PROT_READ:
            continue
        rows = _within(wished, vma.start, _end(vma))
        slot = (wished[rows] - np.uint64(vma.start)).astype(np.intp)
        _tell_at_hand(memory, vma, slot, rows, around)
    return Translations(
        np.concatenate([told.status, around.status]),
        np.concatenate([told.nid, around.nid]),
        np.concatenate([told.pfn, around.pfn]),
        np.concatenate([told.generation, around.generation]),
        np.concatenate([told.writable, around.writable]),
    )


def _within(page: Pages, start: int, end: int) -> Rows:
    """The rows of pages ``start`` to ``end`` (exclusive)."""
    return ((page >= start) & (page < end)).nonzero()[0]


def _end(vma: Vma) -> int:
    """Where the vma ends, or the file that it maps."""
    if vma.file is None:
        return vma.end
    return min(vma.end, vma.start + max(vma.file.nid.size - vma.pgoff, 0))


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
