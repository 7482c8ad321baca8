"""Page contents that are gone, and whoever had them mapped: memory_failure() (design 7).

An entry of such a page is a HWPOISON entry, as in the kernel a swap entry of that type: neither
present nor a migration entry.  It goes with its mapping and is copied by fork; an access is a
SIGBUS, here -EHWPOISON.  A page cache remembers the page as POISONED.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from coordinator.life import State
from coordinator.mem_map import NO_NODE, POISONED, Pfns, Rows, grouped
from coordinator.memory import Memory
from coordinator.mm import Pte, Vma
from coordinator.records import MovesReverted, PagesPoisoned
from protocol.notes import FramesPoisoned

EHWPOISON = 133
#: What tells a HWPOISON entry from an empty one: no other has ANON and is neither of these.
_MARKS = np.uint8(Pte.PRESENT | Pte.ENTRY | Pte.ANON)
_HWPOISON = np.uint8(Pte.ANON)


def hwpoison_entries(bits: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Which of these entries are of pages whose contents are gone."""
    result: npt.NDArray[np.bool_] = (bits & _MARKS) == _HWPOISON
    return result


def poisoned(vma: Vma, slot: Rows) -> npt.NDArray[np.bool_]:
    """For each slot: its entry, or the cache that it would be filled from, has lost the page."""
    bits = vma.bits[slot]
    result = hwpoison_entries(bits)
    if vma.file is not None:
        absent = np.flatnonzero((bits & (Pte.PRESENT | Pte.ENTRY)) == 0)
        index = slot[absent] + vma.pgoff
        absent, index = absent[index < vma.file.nid.size], index[index < vma.file.nid.size]
        lost = (vma.file.nid[index] == NO_NODE) & (vma.file.pfn[index] == POISONED)
        result[absent] |= lost
    return result


def poisoned_pages(vma: Vma) -> int:
    """How many pages of the vma are so."""
    own = int(np.count_nonzero(hwpoison_entries(vma.bits[vma.marked(Pte.ANON)])))
    if vma.file is None:
        return own
    cache = slice(vma.pgoff, vma.pgoff + vma.pages)
    lost = (vma.file.nid[cache] == NO_NODE) & (vma.file.pfn[cache] == POISONED)
    slot = np.flatnonzero(lost)
    return own + int(np.count_nonzero((vma.bits[slot] & _MARKS) == 0))


def poison(memory: Memory, nid: int, pfn: Pfns) -> None:
    """The contents of these frames, which nobody holds, are gone; the frames are free."""
    if not pfn.size:
        return
    memory.poisoned = True
    frames = memory.mem_map[nid]
    for vma, slot, _ in memory.mappers(nid, pfn):
        bits = vma.bits[slot]
        # A page of a cache is told by the cache.
        marks = _HWPOISON if vma.file is None else bits & _HWPOISON
        vma.bits[slot] = (bits & np.uint8(Pte.BUSY)) | marks
    for number, rows in grouped(frames.mapping[pfn]):
        mapping = memory.mappings.get(number)
        if mapping is not None and mapping.shared:
            index = frames.index[pfn[rows]]
            cached = (mapping.nid[index] == nid) & (mapping.pfn[index] == pfn[rows])
            index = index[cached]
            mapping.nid[index], mapping.pfn[index], mapping.tags[index] = NO_NODE, POISONED, 0
    frames.mapcount[pfn] = 0
    frames.free(pfn)
    memory.records.append(PagesPoisoned(nid, pfn))
    memory.notes.append(FramesPoisoned(nid, pfn.size))
    memory.woken = True


def poison_zone(memory: Memory, nid: int) -> None:
    """All that the node had is gone with its zone."""
    poison(memory, nid, np.flatnonzero(memory.mem_map[nid].flags).astype(np.uint32))


def revert_moves(memory: Memory, nid: int) -> None:
    """Node ``nid`` has lost its zone: pages that moved there and were not served yet have moved
    back, as their old frames are whole, and nobody was told of the new ones (design 6).
    """
    for pages in memory.page_lists:
        rows = np.flatnonzero((pages.state == State.SETTLING) & (pages.target == nid))
        for source, mine in memory.by_node(pages.source[rows]):
            old, new = pages.pfn[rows[mine]], pages.target_pfn[rows[mine]]
            generation = memory.mem_map[source].generation[old]
            memory.records.append(MovesReverted(source, nid, old, generation, new))
