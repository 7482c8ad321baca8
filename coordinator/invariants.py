"""What must hold in the coordinator's memory after every event."""

from __future__ import annotations

import numpy as np

from coordinator.cpuset import TOP, is_subset, parent_of
from coordinator.mem_map import NO_NODE, PageFlag
from coordinator.memory import Memory
from coordinator.mm import UNCACHED, Mapping, Mm, Pte, Vma
from coordinator.uncached import GRANULE_PAGES

_LIVE = np.uint8(Pte.PRESENT | Pte.ENTRY)
_ENTRY = np.uint8(Pte.ENTRY)
_ALLOCATED = np.uint8(PageFlag.ALLOCATED)


def check_memory(memory: Memory) -> None:
    """Raise AssertionError with a sentence if page tables, mem_map and rmap disagree."""
    _check_cpusets(memory)
    counted = {nid: np.zeros(frames.frames, np.int64) for nid, frames in memory.mem_map.items()}
    users: dict[Mm, int] = {}
    for task in memory.tasks.values():
        users[task.mm] = users.get(task.mm, 0) + 1
    for mm, count in users.items():
        pid, end = mm.pid, 0
        assert mm.users == count, f"mm {pid}: {mm.users} users counted, but {count} tasks have it"
        for vma in mm.vmas:
            assert end <= vma.start < vma.end, f"pid {pid}: vmas overlap at page {vma.start:#x}"
            end = vma.end
            for mapping in vma.objects():
                assert vma in mapping.vmas, f"pid {pid}: rmap misses the vma at {vma.start:#x}"
                known = memory.mappings.get(mapping.id) is mapping
                assert known, f"pid {pid}: the object of the vma at {vma.start:#x} is gone"
            _check_vma(memory, pid, vma, counted)
    for nid, frames in memory.mem_map.items():
        wrong = np.flatnonzero(counted[nid] != frames.mapcount)
        assert not wrong.size, (
            f"node {nid} frame {wrong[0]}: mapcount {frames.mapcount[wrong[0]]}, "
            f"but {counted[nid][wrong[0]]} entries map it"
        )
        used = int(np.count_nonzero(frames.flags & _ALLOCATED))
        assert used == frames.used, f"node {nid}: {used} frames are used, {frames.used} counted"
    for mapping in memory.mappings.values():
        if mapping.shared:
            _check_cache(memory, mapping)
            _check_granules(mapping)
    for path, mapping in memory.files.items():
        host = mapping.host
        linked = host is not None and host.linked and host.path == path
        assert linked and memory.mappings.get(mapping.id) is mapping, f"{path} leads to no file"


def _check_cache(memory: Memory, mapping: Mapping) -> None:
    where = f"object {mapping.id}"
    index = mapping.cached()
    named = mapping.host is not None and mapping.host.linked
    assert mapping.vmas or named, f"{where}: nobody can reach it"
    for nid, rows in memory.by_node(mapping.nid[index]):
        frames, pfn = memory.mem_map[nid], mapping.pfn[index[rows]]
        assert (frames.flags[pfn] & _ALLOCATED).all(), f"{where} caches a free frame"
        own = (frames.mapping[pfn] == mapping.id) & (frames.index[pfn] == index[rows])
        assert own.all(), f"{where} caches a frame of another object or index"
    tagged = np.flatnonzero(mapping.tags)
    assert (mapping.nid[tagged] != NO_NODE).all(), f"{where}: a page that is not there has tags"
    for vma in mapping.vmas:
        slot = vma.live()
        slot = slot[(vma.bits[slot] & Pte.ANON) == 0]
        index = slot + vma.pgoff
        same = (mapping.nid[index] == vma.nid[slot]) & (mapping.pfn[index] == vma.pfn[slot])
        assert same.all(), f"{where}: an entry at {vma.start:#x} is not what the cache has"


def _check_granules(mapping: Mapping) -> None:
    """A granule of the uncached allocator is on one node, all of it, or it is nowhere."""
    if mapping.vmas and mapping.vmas[0].name == UNCACHED:
        short = -mapping.nid.size % GRANULE_PAGES
        granules = np.pad(mapping.nid, (0, short), "edge").reshape(-1, GRANULE_PAGES)
        torn = np.flatnonzero((granules != granules[:, :1]).any(axis=1))
        assert not torn.size, f"object {mapping.id}: granule {torn[0]} is on several nodes"


def _check_vma(memory: Memory, pid: int, vma: Vma, counted: dict[int, np.ndarray]) -> None:
    where = f"pid {pid}, vma at page {vma.start:#x}"
    slot = vma.live()
    live = vma.bits[slot] & _LIVE
    assert not (live == _LIVE).any(), f"{where}: an entry is present and a migration entry"
    entries = np.count_nonzero(live & _ENTRY)
    assert not entries or memory.page_lists, f"{where}: migration entries, but no migration"
    for nid, rows in memory.by_node(vma.nid[slot]):
        frames, pfn = memory.mem_map[nid], vma.pfn[slot[rows]]
        np.add.at(counted[nid], pfn, 1)
        assert (frames.flags[pfn] & _ALLOCATED).all(), f"{where}: maps a free frame"
        owner = np.full(pfn.size, vma.mapping.id, np.uint32)
        if vma.file is not None:
            owner[(vma.bits[slot[rows]] & Pte.ANON) == 0] = vma.file.id
        assert (frames.mapping[pfn] == owner).all(), f"{where}: maps another's frame"
        index = slot[rows] + vma.pgoff
        assert (frames.index[pfn] == index).all(), f"{where}: maps a frame of another index"


def _check_cpusets(memory: Memory) -> None:
    for path, cpuset in memory.cpusets.items():
        assert path == TOP or is_subset(cpuset, memory.cpusets[parent_of(path)]), (
            f"cpuset {path} is not inside of its parent"
        )
    for pid, task in memory.tasks.items():
        mems = memory.cpusets[task.cpuset].mems
        assert mems, f"pid {pid} is in the cpuset {task.cpuset}, which has no nodes"
