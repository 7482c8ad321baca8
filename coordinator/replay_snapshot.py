"""The journal read back: what a snapshot says that memory was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from coordinator.address_space import KINDS
from coordinator.inode import Device, Inode
from coordinator.mem_map import POISONED, Nids, PageFlag, Pfns, Rows
from coordinator.memory import Memory
from coordinator.mm import Mapping, Pte, Vma, VmFlag
from coordinator.poison import hwpoison_entries
from coordinator.replay_policies import policy_of
from coordinator.replay_tasks import user_of
from coordinator.saved import (
    CachePoisoned,
    CountersSaved,
    EntriesSaved,
    MappingSaved,
    PagesCached,
    SharedPolicySet,
    VmaSaved,
)
from protocol.schema import Message


def _counters(memory: Memory, entry: CountersSaved) -> None:
    memory.next_mapping, memory.next_pid = entry.next_mapping, entry.next_pid
    memory.next_anon_vma = entry.next_anon_vma
    counters, numastat = memory.counters, memory.counters.numastat
    counters.pgmigrate_success, counters.pgmigrate_fail = (
        entry.pgmigrate_success,
        entry.pgmigrate_fail,
    )
    counters.trace.lines.extend(entry.lines)
    counters.trace.next = entry.trace_next
    for name, column in vars(numastat).items():
        column[:] = getattr(entry, name)


def _mapping(memory: Memory, entry: MappingSaved) -> None:
    host = None
    if entry.path:
        host = Inode(
            entry.path,
            entry.kind,
            KINDS[entry.kind].buffers,
            entry.writeback_seconds,
            bool(entry.linked),
            Device(entry.device),
            entry.writepages,
        )
    mapping = memory.new_mapping(
        shared=bool(entry.shared), pages=entry.pages, mapping_id=entry.mapping, host=host
    )
    if entry.linked:
        memory.files[entry.path] = mapping


def _shared_policy(memory: Memory, entry: SharedPolicySet) -> None:
    policy = policy_of(entry)
    assert policy is not None
    memory.mappings[entry.mapping].policies.append((entry.start, entry.end, policy))


def _pages_cached(memory: Memory, entry: PagesCached) -> None:
    mapping, index = memory.mappings[entry.mapping], entry.index.astype(np.intp)
    mapping.nid[index], mapping.pfn[index] = entry.nid, entry.pfn
    mapping.tags[index] = entry.tags
    owner = np.full(entry.index.size, mapping.id, np.uint32)
    _allocate(memory, entry.nid, entry.pfn, entry.generation, owner, entry.index)


def _vma(memory: Memory, entry: VmaSaved) -> None:
    mapping = memory.mappings[entry.mapping]
    file = memory.mappings[entry.file] if entry.file else None
    where = entry.start, entry.end, entry.prot, entry.map_flags, entry.name, entry.pgoff
    vma = Vma(*where, mapping, file)
    user_of(memory, entry.pid).mm.insert(vma)
    first = user_of(memory, entry.opened_pid).mm.find(entry.opened_start)
    assert first is not None, "a snapshot names a struct file before it has it"
    vma.opened, vma.vm_flags = first.opened, VmFlag(entry.vm_flags)
    vma.anon_vma, vma.anon_root = entry.anon_vma, entry.anon_root
    vma.policy = policy_of(entry)
    _bind_methods(memory, vma, mapping)


def _bind_methods(memory: Memory, vma: Vma, mapping: Mapping) -> None:
    """As mmap(2) does: a file's shared mappings have none of their own."""
    if mapping.host is not None:
        return
    vma.vm_ops = memory.vm_operations.get(vma.name)
    if vma.file in (None, mapping):
        mapping.migratepage = memory.address_space_operations.get(vma.name)


def _entries(memory: Memory, entry: EntriesSaved) -> None:
    vma = user_of(memory, entry.pid).mm.find(int(entry.page[0]))
    assert vma is not None, f"a snapshot has entries of pid {entry.pid} where no vma is"
    slot = (entry.page - np.uint64(vma.start)).astype(np.intp)
    vma.enter(slot, entry.nid, entry.pfn, entry.bits)
    memory.poisoned |= bool(hwpoison_entries(entry.bits).any())
    there = np.flatnonzero(entry.bits & Pte.PRESENT)
    slot, nid, pfn = slot[there], entry.nid[there], entry.pfn[there]
    owner = np.full(slot.size, vma.mapping.id, np.uint32)
    if vma.file is not None:
        owner[(entry.bits[there] & Pte.ANON) == 0] = vma.file.id
    index = (slot + vma.pgoff).astype(np.uint32)
    _allocate(memory, nid, pfn, entry.generation[there], owner, index)
    for node, rows in memory.by_node(nid):
        # A vma names no frame twice: a frame is one page of its object.
        memory.mem_map[node].mapcount[pfn[rows]] += 1


def _allocate(
    memory: Memory, nid: Nids, pfn: Pfns, generation: Pfns, owner: Pfns, index: Pfns
) -> None:
    """Those of these frames that no entry of the snapshot has named yet."""
    for node, rows in memory.by_node(nid):
        frames = memory.mem_map[node]
        fresh: Rows = rows[~frames.test(pfn[rows], PageFlag.ALLOCATED)]
        columns = generation[fresh], owner[fresh], index[fresh]
        frames.allocate(pfn[fresh], *columns, PageFlag.ALLOCATED)


def _cache_poisoned(memory: Memory, entry: CachePoisoned) -> None:
    memory.poisoned = True
    memory.mappings[entry.mapping].pfn[entry.index] = POISONED


APPLY: dict[type[Message], Callable[[Memory, Any], None]] = {
    CountersSaved: _counters,
    MappingSaved: _mapping,
    SharedPolicySet: _shared_policy,
    PagesCached: _pages_cached,
    VmaSaved: _vma,
    EntriesSaved: _entries,
    CachePoisoned: _cache_poisoned,
}
