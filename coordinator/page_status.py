"""What move_pages(2) says of a page that it does not move: its node, or why there is none."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from coordinator.mem_map import Rows
from coordinator.memory import Memory
from coordinator.mempolicy import vma_migratable
from coordinator.mm import Mm, Pages, Pte, Vma, VmFlag
from protocol.profile import Profile

ENOENT, EFAULT = 2, 14


def find_pages(
    memory: Memory, profile: Profile, mm: Mm, page: Pages, status: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint32]]:
    """Node of each page, or -ENOENT / -EFAULT, into ``status``; returns (nid, pfn) of each."""
    nid, pfn = np.zeros(page.size, np.uint8), np.zeros(page.size, np.uint32)
    last = mm.vmas[-1].end if mm.vmas else 0
    for vma, rows in mm.by_vma(page):
        if vma is None:
            status[rows] = -EFAULT
            if profile.hole_below_vma_is_enoent:
                status[rows[page[rows] < last]] = -ENOENT
            continue
        if vma.vm_flags & VmFlag.PFNMAP:
            status[rows] = -EFAULT if profile.pfnmap_is_efault else -ENOENT
            continue
        slot = (page[rows] - np.uint64(vma.start)).astype(np.intp)
        present = (vma.bits[slot] & Pte.PRESENT) != 0
        nid[rows], pfn[rows] = vma.nid[slot], vma.pfn[slot]
        status[rows] = np.where(
            present, vma.nid[slot].astype(np.int32), _absent(vma, slot, profile)
        )
        if profile.protnone_is_enoent and not vma.prot:
            # The zero page counts: an entry that is there, and that nobody may look behind.
            mapped = (vma.bits[slot] & (Pte.PRESENT | Pte.ACCESSED)) != 0
            status[rows[mapped]] = -ENOENT
    return nid, pfn


def find_movable(
    memory: Memory, mm: Mm, page: Pages, status: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint32]]:
    """``find_pages`` for pages that are to be moved, of vmas from which they may be (K 3.7)."""
    nid, pfn = find_pages(memory, memory.profile, mm, page, status)
    if memory.profile.move_pages_checks_vma:
        for vma, rows in mm.by_vma(page):
            if vma is not None and not vma_migratable(vma, memory.profile):
                status[rows] = -EFAULT
    return nid, pfn


def _absent(vma: Vma, slot: Rows, profile: Profile) -> npt.NDArray[np.int32]:
    """-ENOENT, or -EFAULT for the zero page and where it would be (K 4.17); for absent pages."""
    bits = vma.bits[slot]
    status = np.full(slot.size, -ENOENT, np.int32)
    if vma.file is None:
        zero = (bits & (Pte.ENTRY | Pte.ACCESSED)) == Pte.ACCESSED
        if profile.zero_page_is_efault:
            status[zero] = -EFAULT
        if profile.untouched_is_efault:
            status[~zero & ((bits & Pte.ENTRY) == 0)] = -EFAULT
    return status
