"""Which accesses the kernel takes note of: the second one makes a page active (mm/swap.c).

Only what looks at a page table is noted: get_user_pages() (populating, get_mempolicy(2)), and the
removal of an entry that the hardware marked as accessed.  The note is a hint that only the counts
of active pages show, so it is not in the journal.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from coordinator.calls import Ask, Steps, ask_all
from coordinator.frames import distinct, unused
from coordinator.mem_map import Nids, Pfns
from coordinator.memory import Memory
from coordinator.mm import Mm, Pte, Vma, VmFlag
from coordinator.rmap import mlocked
from protocol.messages import Statuses
from protocol.observe import SetPageActive
from protocol.schema import node_name
from protocol.syscalls import Translations

_YOUNG = np.uint8(Pte.PRESENT | Pte.ACCESSED)
_YOUNG_OR_ANON = np.uint8(Pte.PRESENT | Pte.ACCESSED | Pte.ANON)


def mark_page_accessed(memory: Memory, nid: Nids, pfn: Pfns) -> Steps[None]:
    """A page that was accessed already becomes active, unless it is mlocked: no list holds it."""
    nid, pfn = distinct(nid, pfn)
    before = set_page_referenced(memory, nid, pfn)
    nid, pfn = nid[before], pfn[before]
    movable = ~mlocked(memory, nid, pfn)
    nid, pfn = nid[movable], pfn[movable]
    yield from _set_active(memory, nid, pfn, active=True)


def mlock_pages(memory: Memory, mm: Mm, start: int, end: int) -> Steps[None]:
    """Whatever locked vmas map of these pages is active no more: munlock finds it so."""
    nids: list[Nids] = [np.zeros(0, np.uint8)]
    pfns: list[Pfns] = [np.zeros(0, np.uint32)]
    for vma in mm.overlapping(start, end):
        if vma.vm_flags & VmFlag.LOCKED and not vma.vm_flags & VmFlag.PFNMAP:
            first, last = max(start - vma.start, 0), end - vma.start
            slot = first + np.flatnonzero(vma.bits[first:last] & Pte.PRESENT)
            nids.append(vma.nid[slot])
            pfns.append(vma.pfn[slot])
    frames = distinct(np.concatenate(nids), np.concatenate(pfns))
    yield from _set_active(memory, *frames, active=False)


def _set_active(memory: Memory, nid: Nids, pfn: Pfns, *, active: bool) -> Steps[None]:
    """A page that becomes active has its note taken away."""
    asks, parts = [], []
    for node, rows in memory.by_node(nid):
        if node not in memory.lost:
            generation = memory.mem_map[node].generation[pfn[rows]]
            asks.append(Ask(node_name(node), SetPageActive(int(active), pfn[rows], generation)))
            parts.append((node, pfn[rows], generation))
    answers = yield from ask_all(asks)
    for (node, frames, generation), answer in zip(parts, answers, strict=True):
        assert isinstance(answer, Statuses)
        same = memory.mem_map[node].generation[frames] == generation
        if active:
            memory.mem_map[node].referenced[frames[same & (answer.status == 1)]] = False


def frames_of(found: Translations, pages: int) -> tuple[Nids, Pfns]:
    """Of the first so many pages; the zero page has none."""
    nid, pfn = found.nid[:pages], found.pfn[:pages]
    there = (nid >= 0) & (found.status[:pages] == 0)
    return nid[there].astype(np.uint8), pfn[there]


def set_page_referenced(memory: Memory, nid: Nids, pfn: Pfns) -> npt.NDArray[np.bool_]:
    """Note the access and no more; which of them had one noted before."""
    before = np.zeros(pfn.size, np.bool_)
    for node, rows in memory.by_node(nid):
        before[rows] = memory.mem_map[node].referenced[pfn[rows]]
        memory.mem_map[node].referenced[pfn[rows]] = True
    return before


def young_pages(vmas: Iterable[Vma], start: int, end: int) -> tuple[Nids, Pfns]:
    """Frames of page caches that entries of these pages name, and were accessed through them."""
    nids: list[Nids] = [np.zeros(0, np.uint8)]
    pfns: list[Pfns] = [np.zeros(0, np.uint32)]
    for vma in vmas:
        if vma.file is not None and not vma.vm_flags & VmFlag.PFNMAP:
            first, last = max(start - vma.start, 0), max(end - vma.start, 0)
            slot = first + np.flatnonzero((vma.bits[first:last] & _YOUNG_OR_ANON) == _YOUNG)
            nids.append(vma.nid[slot])
            pfns.append(vma.pfn[slot])
    return np.concatenate(nids), np.concatenate(pfns)


def mark_unmapped(memory: Memory, nid: Nids, pfn: Pfns) -> Steps[None]:
    """``mark_page_accessed`` for what is still in use when its entries are gone."""
    used = np.zeros(pfn.size, np.bool_)
    for node, rows in memory.by_node(nid):
        used[rows] = ~unused(memory, node, pfn[rows])
    yield from mark_page_accessed(memory, nid[used], pfn[used])
