"""What must hold in the coordinator's memory after every event."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from coordinator.cpuset import TOP, is_subset, parent_of
from coordinator.mem_map import NO_NODE, Nids, PageFlag, Pfns
from coordinator.memory import Memory
from coordinator.mm import ANON, ENTRY, PRESENT, UNCACHED, Mapping, Mm, Vma
from coordinator.uncached import GRANULE_PAGES

Places = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

#: Pages.
SMALL = 4096
#: Bits, nids and frame numbers.
_NO_ROWS = np.zeros(0, np.uint8), np.zeros(0, np.uint8), np.zeros(0, np.uint32)
_LIVE = PRESENT | ENTRY
_ALLOCATED = np.uint8(PageFlag.ALLOCATED)


class _Frames:
    """The frames of all nodes in one row; ``at`` gives the place of (nid, pfn) in it."""

    def __init__(self, memory: Memory) -> None:
        nodes = memory.mem_map
        self._first = np.zeros(NO_NODE + 1, np.int64)
        first = 0
        for nid, frames in nodes.items():
            self._first[nid] = first
            first += frames.frames
        self.flags = np.concatenate([frames.flags for frames in nodes.values()])
        self.mapping = np.concatenate([frames.mapping for frames in nodes.values()])
        self.index = np.concatenate([frames.index for frames in nodes.values()])
        self.mapcount = np.concatenate([frames.mapcount for frames in nodes.values()])

    def at(self, nid: Nids, pfn: Pfns) -> Places:
        place: Places = self._first[nid] + pfn
        return place

    def describe(self, memory: Memory, place: int) -> str:
        """``node 1 frame 2``."""
        nid = max(nid for nid in memory.mem_map if self._first[nid] <= place)
        return f"node {nid} frame {place - self._first[nid]}"


class _Entries:
    """The entries of some vmas, one after the other: whose they are and what they say.

    vma: the place in the list of the vma of each row.  index: in its objects.
    """

    def __init__(self, vmas: list[Vma]) -> None:
        # To look for what is touched of a small vma costs more than to look at all of it.
        sizes = [vma.bits.size for vma in vmas]
        columns: list[tuple[npt.NDArray[Any], ...]] = [_NO_ROWS]
        if max(sizes, default=0) <= SMALL:
            columns += [(vma.bits, vma.nid, vma.pfn) for vma in vmas]
            first = accumulate(sizes, initial=0)
            shift = [vma.pgoff - start for vma, start in zip(vmas, first, strict=False)]
            self.vma = np.arange(len(vmas)).repeat(sizes)
            self.index = np.arange(self.vma.size) + np.array(shift, np.int64)[self.vma]
        else:
            slots = [vma.live() for vma in vmas]
            both = list(zip(vmas, slots, strict=True))
            columns += [(vma.bits[slot], vma.nid[slot], vma.pfn[slot]) for vma, slot in both]
            self.vma = np.arange(len(vmas)).repeat([slot.size for slot in slots])
            self.index = np.concatenate([slot + vma.pgoff for vma, slot in both])
        self.bits, self.nid, self.pfn = map(np.concatenate, zip(*columns, strict=True))


def check_memory(memory: Memory) -> None:
    """Raise AssertionError with a sentence if page tables, mem_map and rmap disagree.

    It is asked all the time in a simulation, so the pages of all vmas are looked at at once.
    """
    _check_cpusets(memory)
    users: dict[Mm, int] = {}
    for task in memory.tasks.values():
        users[task.mm] = users.get(task.mm, 0) + 1
    vmas: list[Vma] = []
    pids: list[int] = []
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
            vmas.append(vma)
            pids.append(pid)
    frames = _Frames(memory)
    _check_entries(memory, frames, vmas, pids)
    for nid, of_node in memory.mem_map.items():
        used = int(np.count_nonzero(of_node.flags & _ALLOCATED))
        assert used == of_node.used, f"node {nid}: {used} frames are used, {of_node.used} counted"
    _check_caches(frames, [mapping for mapping in memory.mappings.values() if mapping.shared])
    for path, mapping in memory.files.items():
        host = mapping.host
        linked = host is not None and host.linked and host.path == path
        assert linked and memory.mappings.get(mapping.id) is mapping, f"{path} leads to no file"


def _check_entries(memory: Memory, frames: _Frames, vmas: list[Vma], pids: list[int]) -> None:
    """Every entry names a frame of its own page, and frames count the entries that name them."""
    rows = _Entries(vmas)

    def refuse(wrong: Mask, what: str) -> None:
        if np.count_nonzero(wrong):
            vma = int(rows.vma[np.flatnonzero(wrong)[0]])
            where = f"pid {pids[vma]}, vma at page {vmas[vma].start:#x}"
            raise AssertionError(f"{where}: {what}")

    live = rows.bits & _LIVE
    refuse(live == _LIVE, "an entry is present and a migration entry")
    if not memory.page_lists:
        refuse(live == ENTRY, "migration entries, but no migration")
    mapped = live != 0
    place = frames.at(rows.nid[mapped], rows.pfn[mapped])
    own = np.array([vma.mapping.id for vma in vmas], np.uint32)
    of_file = np.array([(vma.file or vma.mapping).id for vma in vmas], np.uint32)
    anon = rows.bits & ANON != 0
    owner = np.where(anon, own[rows.vma], of_file[rows.vma])

    def differ(wrong: Mask, what: str) -> None:
        if np.count_nonzero(wrong):
            refuse(mapped & (np.cumsum(mapped) == np.flatnonzero(wrong)[0] + 1), what)

    differ(frames.flags[place] & _ALLOCATED == 0, "maps a free frame")
    differ(frames.mapping[place] != owner[mapped], "maps another's frame")
    differ(frames.index[place] != rows.index[mapped], "maps a frame of another index")
    counted = np.bincount(place, minlength=frames.mapcount.size)
    wrong = (counted != frames.mapcount).nonzero()[0]
    assert not wrong.size, (
        f"{frames.describe(memory, wrong[0])}: mapcount {frames.mapcount[wrong[0]]}, "
        f"but {counted[wrong[0]]} entries map it"
    )


def _check_caches(frames: _Frames, mappings: list[Mapping]) -> None:
    """What page caches have is theirs, and all who map an object see what its cache has."""
    if not mappings:
        return
    for mapping in mappings:
        named = mapping.host is not None and mapping.host.linked
        assert mapping.vmas or named, f"object {mapping.id}: nobody can reach it"
        _check_granules(mapping)
    pages = [mapping.nid.size for mapping in mappings]
    first = np.array([0, *accumulate(pages)])
    object_at = np.arange(len(mappings)).repeat(pages)
    number = np.array([mapping.id for mapping in mappings])[object_at]
    index = np.arange(number.size) - first[object_at]
    nid = np.concatenate([mapping.nid for mapping in mappings])
    pfn = np.concatenate([mapping.pfn for mapping in mappings])
    tags = np.concatenate([mapping.tags for mapping in mappings])

    def refuse(rows: Mask, wrong: Mask, what: str) -> None:
        if np.count_nonzero(wrong):
            raise AssertionError(f"object {number[rows][np.flatnonzero(wrong)[0]]}: {what}")

    cached = nid != NO_NODE
    place = frames.at(nid[cached], pfn[cached])
    refuse(cached, frames.flags[place] & _ALLOCATED == 0, "it caches a free frame")
    other = frames.mapping[place] != number[cached]
    other |= frames.index[place] != index[cached]
    refuse(cached, other, "it caches a frame of another object or index")
    refuse(~cached, tags[~cached] != 0, "a page that is not there has tags")
    sharers = [(at, vma) for at, mapping in enumerate(mappings) for vma in mapping.vmas]
    rows = _Entries([vma for _, vma in sharers])
    reads = ((rows.bits & _LIVE) != 0) & ((rows.bits & ANON) == 0)
    start = first[np.array([at for at, _ in sharers], np.intp)]
    at_cache = start[rows.vma[reads]] + rows.index[reads]
    differs = (nid[at_cache] != rows.nid[reads]) | (pfn[at_cache] != rows.pfn[reads])
    if np.count_nonzero(differs):
        at, vma = sharers[rows.vma[reads][np.flatnonzero(differs)[0]]]
        where = f"object {mappings[at].id}"
        raise AssertionError(f"{where}: an entry at {vma.start:#x} is not what the cache has")


def _check_granules(mapping: Mapping) -> None:
    """A granule of the uncached allocator is on one node, all of it, or it is nowhere."""
    if mapping.vmas and mapping.vmas[0].name == UNCACHED:
        short = -mapping.nid.size % GRANULE_PAGES
        granules = np.pad(mapping.nid, (0, short), "edge").reshape(-1, GRANULE_PAGES)
        torn = np.flatnonzero((granules != granules[:, :1]).any(axis=1))
        assert not torn.size, f"object {mapping.id}: granule {torn[0]} is on several nodes"


def _check_cpusets(memory: Memory) -> None:
    for path, cpuset in memory.cpusets.items():
        assert path == TOP or is_subset(cpuset, memory.cpusets[parent_of(path)]), (
            f"cpuset {path} is not inside of its parent"
        )
    for pid, task in memory.tasks.items():
        mems = memory.cpusets[task.cpuset].mems
        assert mems, f"pid {pid} is in the cpuset {task.cpuset}, which has no nodes"
