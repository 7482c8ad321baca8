"""What must hold in the coordinator's memory after every event."""

from __future__ import annotations

import numpy as np

from coordinator.mem_map import FILLING, PageFlag
from coordinator.memory import Memory
from coordinator.mm import Pte, Vma


def check_memory(memory: Memory) -> None:
    """Raise AssertionError with a sentence if page tables, mem_map and rmap disagree."""
    counted = {nid: np.zeros(frames.frames, np.int64) for nid, frames in memory.mem_map.items()}
    for pid, task in memory.tasks.items():
        end = 0
        for vma in task.mm.vmas:
            assert end <= vma.start < vma.end, f"pid {pid}: vmas overlap at page {vma.start:#x}"
            end = vma.end
            assert vma in vma.mapping.vmas, f"pid {pid}: rmap misses the vma at {vma.start:#x}"
            _check_vma(memory, pid, vma, counted)
    for nid, frames in memory.mem_map.items():
        wrong = np.flatnonzero(counted[nid] != frames.mapcount)
        assert not wrong.size, (
            f"node {nid} frame {wrong[0]}: mapcount {frames.mapcount[wrong[0]]}, "
            f"but {counted[nid][wrong[0]]} entries map it"
        )
        used = int(np.count_nonzero(frames.flags & PageFlag.ALLOCATED))
        assert used == frames.used, f"node {nid}: {used} frames are used, {frames.used} counted"
    for mapping in memory.mappings.values():
        index = mapping.cached() if mapping.shared else np.zeros(0, np.intp)
        for nid, rows in memory.by_node(mapping.nid[index]):
            assert nid < FILLING
            pfn = mapping.pfn[index[rows]]
            assert (memory.mem_map[nid].mapping[pfn] == mapping.id).all(), (
                f"object {mapping.id} caches a frame of another object"
            )


def _check_vma(memory: Memory, pid: int, vma: Vma, counted: dict[int, np.ndarray]) -> None:
    where = f"pid {pid}, vma at page {vma.start:#x}"
    both = (vma.bits & Pte.PRESENT != 0) & (vma.bits & Pte.ENTRY != 0)
    assert not both.any(), f"{where}: an entry is present and a migration entry"
    slot = np.flatnonzero(vma.bits & (Pte.PRESENT | Pte.ENTRY))
    entries = np.count_nonzero(vma.bits & Pte.ENTRY)
    assert not entries or memory.page_lists, f"{where}: migration entries, but no migration"
    for nid, rows in memory.by_node(vma.nid[slot]):
        frames, pfn = memory.mem_map[nid], vma.pfn[slot[rows]]
        np.add.at(counted[nid], pfn, 1)
        assert (frames.flags[pfn] & PageFlag.ALLOCATED).all(), f"{where}: maps a free frame"
        assert (frames.mapping[pfn] == vma.mapping.id).all(), f"{where}: maps another's frame"
        index = slot[rows] + vma.pgoff
        assert (frames.index[pfn] == index).all(), f"{where}: maps a frame of another index"
