"""What a migration would move, and a part of that at a time: scans of page tables (K 1.17).

Nothing here asks a node anything, so nothing here knows of pins and page locks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from coordinator import migrate
from coordinator.address_space import KINDS, fail_migrate_page
from coordinator.mem_map import Nids, PageFlag, Pfns, grouped
from coordinator.memory import Memory
from coordinator.mempolicy import MPOL_MF_MOVE_ALL, to_isolate, vma_migratable
from coordinator.mm import NOT_MIGRATABLE, Mapping, Mm, Pte, Vma
from coordinator.pagelist import PageList
from protocol.jobs import Fate

#: Entries that a slice looks at together: more than it takes, and not all of a huge vma each time.
WINDOW = 1 << 14

Pairs = Sequence[tuple[int, int]]
#: Of one vma: pages by node and fate.
Counts = npt.NDArray[np.int64]


class Planned(NamedTuple):
    """So many pages of a vma that are on ``source`` when its turn comes."""

    source: int
    target: int
    vma: Vma
    fate: Fate
    pages: int


def next_slice(
    memory: Memory, mm: Mm, source: int, flags: int, start: int, limit: int, pagelist: PageList
) -> tuple[int | None, int]:
    """As ``check_range``, but from page ``start`` on, and no more than ``limit`` pages.

    Returns the page from which to go on (None: that was all), and how many pages were left as
    somebody is busy with them.
    """
    frames, left = memory.mem_map[source], 0
    for vma in mm.vmas:
        if vma.end <= start or not vma_migratable(vma, memory.profile):
            continue
        for first, end in _windows(vma, start - vma.start):
            here = vma.nid[first:end] == source
            bits = vma.bits[first:end]
            slot = np.flatnonzero(here & ((bits & Pte.PRESENT) != 0)) + first
            wanted, busy = to_isolate(frames, vma.pfn[slot], flags)
            over = np.flatnonzero(wanted)[limit - pagelist.rows :]
            if over.size:
                end, slot = int(slot[over[0]]), slot[: over[0]]
                wanted, busy = to_isolate(frames, vma.pfn[slot], flags)
            left += busy + int(np.count_nonzero((here & ((bits & Pte.ENTRY) != 0))[: end - first]))
            slot = slot[wanted]
            if slot.size:
                pagelist.add(vma.nid[slot], vma.pfn[slot], slot + vma.start)
                frames.set(vma.pfn[slot], PageFlag.HELD)
            if over.size:
                return vma.start + end, left
    return None, left


def _windows(vma: Vma, first: int) -> Iterator[tuple[int, int]]:
    """Parts of a page table from this slot on that may have entries, WINDOW slots at most each."""
    for part in vma.touched.parts(vma.pages):
        for at in range(max(part.start, first), part.stop, WINDOW):
            yield at, min(at + WINDOW, part.stop)


def plan(memory: Memory, mm: Mm, pairs: Pairs, flags: int) -> list[Planned]:
    """What becomes of the pages, pair by pair in this order, and vma by vma.

    What one pair has brought to a node that a later one empties moves once more.
    """
    counted = [(vma, _fates(memory, vma, flags)) for vma in mm.vmas]
    rows: list[Planned] = []
    for source, target in pairs:
        for vma, counts in counted:
            for fate in Fate:
                pages = int(counts[source, fate])
                if pages:
                    rows.append(Planned(source, target, vma, fate, pages))
            counts[target, Fate.MOVES] += counts[source, Fate.MOVES]
            counts[source, Fate.MOVES] = 0
    return rows


def pages_to_try(rows: Sequence[Planned]) -> int:
    """How many pages of a plan come onto a page list."""
    return sum(row.pages for row in rows if row.fate in (Fate.MOVES, Fate.REFUSED))


def _fates(memory: Memory, vma: Vma, flags: int) -> Counts:
    counts = np.zeros((256, len(Fate)), np.int64)
    slot = vma.live()
    nid, pfn = vma.nid[slot], vma.pfn[slot]
    fate = _fate_of_vma(memory, vma)
    fates = np.full(slot.size, Fate.MOVES if fate is None else fate, np.int64)
    if fate is None:
        fates[_refused(memory, nid, pfn)] = Fate.REFUSED
        if not flags & MPOL_MF_MOVE_ALL:
            fates[memory.mapcounts(nid, pfn) > 1] = Fate.SHARED
        busy = memory.flagged(nid, pfn, PageFlag.HELD) | ((vma.bits[slot] & Pte.ENTRY) != 0)
        fates[busy] = Fate.BUSY
    np.add.at(counts, (nid, fates), 1)
    return counts


def _fate_of_vma(memory: Memory, vma: Vma) -> Fate | None:
    """The one fate of all its pages, if they have one."""
    if vma.vm_ops is not None and vma.vm_ops.migrate is not None:
        return Fate.OWN_METHOD
    if int(vma.vm_flags) & NOT_MIGRATABLE:
        return Fate.SPECIAL
    return None if vma_migratable(vma, memory.profile) else Fate.LOCKED


def _refused(memory: Memory, nid: Nids, pfn: Pfns) -> npt.NDArray[np.bool_]:
    """Pages of objects whose migratepage method always says no."""
    refused = np.zeros(pfn.size, np.bool_)
    for node, rows in memory.by_node(nid):
        for number, mine in grouped(memory.mem_map[node].mapping[pfn[rows]]):
            mapping = memory.mappings.get(number)
            if mapping is not None and _refuses(mapping):
                refused[rows[mine]] = True
    return refused


def _refuses(mapping: Mapping) -> bool:
    if mapping.host is not None:
        return KINDS[mapping.host.kind].migratepage is fail_migrate_page
    return mapping.migratepage is migrate.fail_migrate_page
