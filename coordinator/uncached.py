"""The uncached allocator: memory that has no page structs, and so moves by its vma's own method.

A shared mapping named ``[uncached]`` has it.  It comes in granules of ``GRANULE_PAGES`` pages, each
of one node from its first touch on, and all who share the mapping share the granules, also after a
fork.  Its vmas are VM_IO and VM_PFNMAP: scans, numa_maps and move_pages(2) do not see what is in
them (K 1.15, 3.6).  Only ``vm_ops->migrate``, the last function here, can move it (K 2.7).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from coordinator.calls import PARKED, Ask, Steps, ask_all
from coordinator.cpuset import mems_allowed
from coordinator.frames import put_unused
from coordinator.mem_map import FILLING, Nids, PageFlag, Rows
from coordinator.memory import Memory
from coordinator.mempolicy import MPOL_MF_MOVE_ALL, new_page_node
from coordinator.migrate import migrate_pages
from coordinator.mm import Mapping, Task, Vma
from coordinator.pagelist import PageList, Settings
from coordinator.placement import policy_zonelist
from coordinator.records import GranulesAllocated
from protocol.messages import NewPageFrames, NewUncachedPages
from protocol.nodemask import node_remap
from protocol.schema import node_name

ENOMEM, EBUSY, ENODEV = 12, 16, 19
GRANULE_PAGES = 16
#: So many granules are copied together.
CHUNK_GRANULES = 64

Granules = npt.NDArray[np.intp]


def _pages_of(mapping: Mapping, granules: Granules) -> Rows:
    """The indexes of whole granules of an object; the last one may be short."""
    index = (granules[:, np.newaxis] * GRANULE_PAGES + np.arange(GRANULE_PAGES)).ravel()
    return index[index < mapping.nid.size]


# ---- first touch ---------------------------------------------------------------------------


def allocate_granules(memory: Memory, task: Task, vma: Vma, slot: Rows, local: int) -> Steps[bool]:
    """First touch by a cpu of node ``local``: whole granules for these slots of ``vma``.

    They come from that node, or the next of its zonelist that has a whole one and that the task's
    cpuset allows (K 5.12); policies do not reach them.  False: some slots got none.  The object has
    them then; no entry maps them yet.
    """
    mapping = vma.mapping
    rest = _pages_of(mapping, np.unique((slot + vma.pgoff) // GRANULE_PAGES))
    # Keeps other faults on these granules waiting.
    mapping.pfn[rest] = FILLING
    allowed = mems_allowed(memory, task)
    for nid in policy_zonelist(None, local, memory, allowed).nodes:
        rest = yield from _allocate_from(memory, mapping, rest, nid, local)
        if not rest.size:
            break
    mapping.pfn[rest] = 0
    memory.woken = True
    return not rest.size


def _allocate_from(
    memory: Memory, mapping: Mapping, index: Rows, nid: int, local: int
) -> Steps[Rows]:
    """Granules from one node; returns the indexes for which it has no whole granule."""
    owner = np.full(index.size, mapping.id, np.uint32)
    asked = NewUncachedPages(1, owner, index.astype(np.uint32))
    [answer] = yield from ask_all([Ask(node_name(nid), asked)])
    assert isinstance(answer, NewPageFrames)
    granule = index // GRANULE_PAGES
    whole = ~np.isin(granule, granule[answer.status != 0])
    kept, extra = np.flatnonzero(whole), np.flatnonzero(~whole & (answer.status == 0))
    pfn = memory.given(nid, answer, kept, asked, PageFlag.ALLOCATED)
    unused = memory.given(nid, answer, extra, asked, PageFlag.HELD)
    if kept.size:
        memory.count_allocation(nid, local, local, kept.size)
        generation = memory.mem_map[nid].generation[pfn]
        mapping.nid[index[kept]], mapping.pfn[index[kept]] = nid, pfn
        column = index[kept].astype(np.uint32)
        memory.records.append(GranulesAllocated(mapping.id, nid, column, pfn, generation))
    if unused.size:
        yield from put_unused(memory, nid, unused)
    return index[~whole]


# ---- vm_ops->migrate -----------------------------------------------------------------------


def _granules_of(vma: Vma) -> Granules:
    """The granules of its object of which this vma maps a page."""
    slot = vma.live()
    return np.unique((slot + vma.pgoff) // GRANULE_PAGES)


def _offered(vma: Vma, flags: int) -> Granules:
    """The granules that a migration of ``vma`` is about.

    Without MPOL_MF_MOVE_ALL not those that another mm maps too.  One that lies in several vmas of
    the mm belongs to the lowest of them, so that no call moves it twice.
    """
    mine = _granules_of(vma)
    for other in vma.mapping.vmas:
        if other.vm_mm is vma.vm_mm:
            taken = other.start < vma.start
        else:
            taken = not flags & MPOL_MF_MOVE_ALL
        if taken:
            mine = np.setdiff1d(mine, _granules_of(other), assume_unique=True)
    return mine


def _targets(mapping: Mapping, granules: Granules, old: list[int], new: list[int]) -> Nids:
    """Where each granule belongs: n-th of ``old`` to n-th of ``new`` (K 1.7)."""
    nids: Nids = mapping.nid[granules * GRANULE_PAGES]
    target = nids.copy()
    for nid in old:
        target[nids == nid] = node_remap(nid, old, new)
    return target


def migrate(
    memory: Memory, vma: Vma, from_nodes: frozenset[int], to_nodes: frozenset[int], flags: int
) -> Steps[int]:
    """vm_ops->migrate of uncached memory: every granule moves as a whole, or stays where it is.

    0; -ENOMEM: a target is full; -ENODEV: a node is lost; -EBUSY: a page of some granule was in
    use to the end, as one that is pinned is.  Granules that had moved by then stay moved.
    """
    old, new = sorted(from_nodes), sorted(to_nodes)
    mapping = vma.mapping
    while True:
        granules = _offered(vma, flags)
        target = _targets(mapping, granules, old, new)
        misplaced = mapping.nid[granules * GRANULE_PAGES] != target
        granules, target = granules[misplaced], target[misplaced]
        index = _pages_of(mapping, granules)
        nid, pfn = mapping.nid[index], mapping.pfn[index]
        # Whoever has one for the moment lets go of it without waiting for anybody.
        if not memory.flagged(nid, pfn, PageFlag.HELD).any():
            break
        yield PARKED
    if not index.size:
        return 0
    involved = np.concatenate([nid, target])
    if np.isin(involved, sorted(memory.lost)).any():
        return -ENODEV
    wanted = target[np.searchsorted(granules, index // GRANULE_PAGES)].astype(np.int32)
    return (yield from _move(memory, vma, index, wanted))


def _move(memory: Memory, vma: Vma, index: Rows, wanted: npt.NDArray[np.int32]) -> Steps[int]:
    nid, pfn = vma.mapping.nid[index], vma.mapping.pfn[index]
    memory.hold(nid, pfn)
    pagelist = PageList(0 if vma.vm_mm is None else vma.vm_mm.pid)
    pagelist.add(nid, pfn, (index - vma.pgoff + vma.start).astype(np.int64))
    settings = Settings(
        chunk_pages=CHUNK_GRANULES * GRANULE_PAGES,
        forced_chunk_pages=GRANULE_PAGES,
        fallback=False,
        local=memory.nids[0],
        granule=GRANULE_PAGES,
    )
    left = yield from migrate_pages(memory, pagelist, new_page_node, wanted, settings)
    if left <= 0:
        return left
    return -ENODEV if (pagelist.status == -ENODEV).any() else -EBUSY
