"""The journal read back: tasks, vmas, page tables and frames as they were after the last entry.

``differences`` compares two memories, so that a checker can say that the journal tells everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple
from typing import Any

import numpy as np

from coordinator import replay_policies, replay_snapshot
from coordinator.cpuset import Cpuset, CpusetFlag
from coordinator.files import forget_name, new_file
from coordinator.inode import Device, PageTag
from coordinator.job_records import JobNoted
from coordinator.madvise import zap_page_range
from coordinator.mem_map import NO_NODE, PageFlag
from coordinator.memory import Memory
from coordinator.mm import DIRTY, ENTRY, PRESENT, PROT_WRITE, Mapping, Mm, Pte, Task, VmFlag
from coordinator.mmap import new_vma
from coordinator.rebind import rebind_mm, rebind_task
from coordinator.records import (
    AllocationsCounted,
    CpusetChanged,
    CpusetRemoved,
    DeviceSet,
    EntriesChanged,
    FileCreated,
    FileUnlinked,
    FramesFreed,
    GenerationsSet,
    GranulesAllocated,
    MigrationCounted,
    PagesCommitted,
    PagesCopied,
    PagesMapped,
    PagesTagged,
    PagesZapped,
    PoliciesRebound,
    RangeProtected,
    RangeUnmapped,
    TaskAttached,
    VmaMapped,
    VmFlagsSet,
)
from coordinator.replay_recovery import RECOVERY_ENTRIES
from coordinator.replay_tasks import TASK_ENTRIES, user_of
from protocol.codec import decode_entry
from protocol.schema import Message
from protocol.topology import Topology

#: What no entry tells, as it is no change of a mapping.
_TRANSIENT = np.uint8(Pte.ACCESSED | Pte.BUSY)


def replay(topology: Topology, entries: Iterable[bytes]) -> Memory:
    """The memory that these journal entries describe.  Raises WireError for a damaged entry."""
    memory = Memory(topology)
    restore(memory, entries)
    return memory


def restore(memory: Memory, entries: Iterable[bytes]) -> None:
    """Bring an empty memory to what these journal entries describe; it has its methods already."""
    for entry in entries:
        message = decode_entry(entry)
        _APPLY[type(message)](memory, message)
        memory.records.clear()
        memory.notes.clear()


def _vma_mapped(memory: Memory, entry: VmaMapped) -> None:
    where = (entry.start, entry.end, entry.prot, entry.flags, entry.name, entry.pgoff)
    user_of(memory, entry.pid).mm.insert(new_vma(memory, *where, entry.mapping))


def _unmapped(memory: Memory, entry: RangeUnmapped) -> None:
    mm = user_of(memory, entry.pid).mm
    mm.isolate_range(entry.start, entry.end)
    memory.unmap(mm, entry.start, entry.end)


def _protected(memory: Memory, entry: RangeProtected) -> None:
    for vma in user_of(memory, entry.pid).mm.isolate_range(entry.start, entry.end):
        vma.protect(entry.prot)
        if not entry.prot & PROT_WRITE:
            vma.bits[vma.marked(Pte.WRITE)] &= ~np.uint8(Pte.WRITE)


def _file_created(memory: Memory, entry: FileCreated) -> None:
    new_file(memory, entry.path, entry.kind, entry.pages, entry.writeback_seconds, entry.mapping)


def _file_unlinked(memory: Memory, entry: FileUnlinked) -> None:
    forget_name(memory, entry.path)


def _device_set(memory: Memory, entry: DeviceSet) -> None:
    host = memory.files[entry.path].host
    assert host is not None
    host.device = Device(entry.device)


def _pages_tagged(memory: Memory, entry: PagesTagged) -> None:
    mapping = memory.mappings[entry.mapping]
    index = entry.index.astype(np.intp)
    mapping.tags[index] = entry.tags
    if mapping.host is not None:
        mapping.host.writepages = entry.writepages
    for vma in mapping.vmas:
        slot = index - vma.pgoff
        slot = slot[(slot >= 0) & (slot < vma.pages)]
        slot = slot[(vma.bits[slot] & Pte.ANON) == 0]
        vma.bits[slot] &= ~np.uint8(Pte.DIRTY)


def _with_frames(memory: Memory, entry: PagesMapped | PagesCopied) -> Iterator[tuple[Any, ...]]:
    """Allocate the frames of an entry; yields (task, vma, slots, rows) for each vma."""
    task = user_of(memory, entry.pid)
    for vma, rows in task.mm.by_vma(entry.page):
        assert vma is not None, f"the journal maps pages of pid {entry.pid} where no vma is"
        slot = (entry.page[rows] - np.uint64(vma.start)).astype(np.intp)
        touched = isinstance(entry, PagesMapped) and vma.file is not None
        owner = vma.file if touched and vma.file is not None else vma.mapping
        mapping = np.full(rows.size, owner.id, np.uint32)
        index = (slot + vma.pgoff).astype(np.uint32)
        memory.mem_map[entry.nid].allocate(
            entry.pfn[rows], entry.generation[rows], mapping, index, PageFlag.ALLOCATED
        )
        yield task, vma, slot, rows


def _pages_mapped(memory: Memory, entry: PagesMapped) -> None:
    for task, vma, slot, rows in _with_frames(memory, entry):
        memory.map_new(task, vma, slot, entry.nid, entry.pfn[rows], entry.bits[rows])


def _pages_copied(memory: Memory, entry: PagesCopied) -> None:
    for task, vma, slot, rows in _with_frames(memory, entry):
        memory.map_copy(task, vma, slot, entry.nid, entry.pfn[rows])


def _granules_allocated(memory: Memory, entry: GranulesAllocated) -> None:
    owner = np.full(entry.pfn.size, entry.mapping, np.uint32)
    frames = memory.mem_map[entry.nid]
    frames.allocate(entry.pfn, entry.generation, owner, entry.index, PageFlag.ALLOCATED)
    mapping = memory.mappings[entry.mapping]
    mapping.nid[entry.index], mapping.pfn[entry.index] = entry.nid, entry.pfn


def _entries_changed(memory: Memory, entry: EntriesChanged) -> None:
    task = user_of(memory, entry.pid)
    for vma, rows in task.mm.by_vma(entry.page):
        assert vma is not None
        slot = (entry.page[rows] - np.uint64(vma.start)).astype(np.intp)
        there = (entry.bits[rows] & Pte.PRESENT) != 0
        vma.set_bits(slot[~there], entry.bits[rows[~there]])
        slot, rows = slot[there], rows[there]
        memory.map_existing(task, vma, slot, entry.nid[rows], entry.pfn[rows], entry.bits[rows])


def _committed(memory: Memory, entry: PagesCommitted) -> None:
    old, new = memory.mem_map[entry.source], memory.mem_map[entry.target]
    new.allocate(
        entry.target_pfn,
        entry.target_generation,
        old.mapping[entry.pfn],
        old.index[entry.pfn],
        PageFlag.ALLOCATED,
    )
    memory.try_to_unmap(entry.source, entry.pfn)
    memory.commit(entry.source, entry.pfn, entry.target, entry.target_pfn)


def _vm_flags_set(memory: Memory, entry: VmFlagsSet) -> None:
    for vma in user_of(memory, entry.pid).mm.isolate_range(entry.start, entry.end):
        vma.vm_flags = VmFlag(entry.vm_flags)


def _zapped(memory: Memory, entry: PagesZapped) -> None:
    zap_page_range(memory, user_of(memory, entry.pid).mm, entry.start, entry.end)


def _cpuset_changed(memory: Memory, entry: CpusetChanged) -> None:
    cpus, mems = frozenset(entry.cpus), frozenset(entry.mems)
    memory.cpusets[entry.path] = Cpuset(entry.path, cpus, mems, CpusetFlag(entry.flags))


def _cpuset_removed(memory: Memory, entry: CpusetRemoved) -> None:
    del memory.cpusets[entry.path]


def _task_attached(memory: Memory, entry: TaskAttached) -> None:
    task = memory.tasks[entry.pid]
    task.cpuset, task.cpu, task.cpus_allowed = entry.path, entry.cpu, frozenset(entry.cpus)


def _policies_rebound(memory: Memory, entry: PoliciesRebound) -> None:
    task, mems, preferred = memory.tasks[entry.pid], frozenset(entry.mems), bool(entry.preferred)
    if entry.task:
        rebind_task(task, mems, preferred=preferred)
    else:
        rebind_mm(task.mm, mems, preferred=preferred)


def _generations_set(memory: Memory, entry: GenerationsSet) -> None:
    memory.mem_map[entry.nid].generation[entry.pfn] = entry.generation


def _frames_freed(memory: Memory, entry: FramesFreed) -> None:
    frames = memory.mem_map[entry.nid]
    # A frame that was given back without ever being mapped was not told of before.
    frames.free(entry.pfn[frames.test(entry.pfn, PageFlag.ALLOCATED)])


def _allocations_counted(memory: Memory, entry: AllocationsCounted) -> None:
    memory.counters.numastat.count(
        node=entry.node,
        preferred=entry.preferred,
        local=entry.local,
        pages=entry.pages,
        interleave=bool(entry.interleave),
    )


def _job_noted(memory: Memory, entry: JobNoted) -> None:
    memory.jobs.restore(entry)


def _migration_counted(memory: Memory, entry: MigrationCounted) -> None:
    memory.counters.migrated(entry.succeeded, entry.failed, entry.lines)


_APPLY: dict[type[Message], Callable[[Memory, Any], None]] = {
    **replay_policies.APPLY,
    **RECOVERY_ENTRIES,
    **replay_snapshot.APPLY,
    **TASK_ENTRIES,
    VmFlagsSet: _vm_flags_set,
    PagesZapped: _zapped,
    VmaMapped: _vma_mapped,
    RangeUnmapped: _unmapped,
    RangeProtected: _protected,
    PagesMapped: _pages_mapped,
    PagesCopied: _pages_copied,
    EntriesChanged: _entries_changed,
    GranulesAllocated: _granules_allocated,
    PagesCommitted: _committed,
    GenerationsSet: _generations_set,
    FramesFreed: _frames_freed,
    CpusetChanged: _cpuset_changed,
    CpusetRemoved: _cpuset_removed,
    TaskAttached: _task_attached,
    PoliciesRebound: _policies_rebound,
    FileCreated: _file_created,
    FileUnlinked: _file_unlinked,
    DeviceSet: _device_set,
    PagesTagged: _pages_tagged,
    AllocationsCounted: _allocations_counted,
    MigrationCounted: _migration_counted,
    JobNoted: _job_noted,
}


def differences(told: Memory, seen: Memory) -> Iterator[str]:
    """Sentences on where two memories differ, while no call is under way."""
    for name, count in seen.counters.events().items():
        if told.counters.events()[name] != count:
            yield f"the journal counts another {name} than memory"
    if told.counters.trace.lines != seen.counters.trace.lines:
        yield "the journal has another trace than memory"
    if told.jobs.known() != seen.jobs.known():
        yield "the journal has other jobs than memory"
    if sorted(told.tasks) != sorted(seen.tasks):
        yield f"the journal has the tasks {sorted(told.tasks)}, memory {sorted(seen.tasks)}"
        return
    if (told.epoch, told.zones, told.offline) != (seen.epoch, seen.zones, seen.offline):
        yield "the journal has another epoch, other zones or other nodes offline than memory"
    if told.cpusets != seen.cpusets:
        yield f"the journal has the cpusets {told.cpusets}, memory {seen.cpusets}"
    for pid in sorted(told.tasks):
        placed = [_placement(memory.tasks[pid]) for memory in (told, seen)]
        if placed[0] != placed[1]:
            yield f"pid {pid}: the journal has it at {placed[0]}, memory at {placed[1]}"
        ours, theirs = told.tasks[pid], seen.tasks[pid]
        if _policy_of(ours) != _policy_of(theirs):
            yield f"pid {pid}: the journal has another policy of the task than memory"
        if _identity(ours) != _identity(theirs):
            yield f"pid {pid}: the journal has another identity of the task than memory"
        if pid != theirs.mm.pid and theirs.mm.pid in seen.tasks:
            continue
        yield from _mm_differences(pid, told.tasks[pid].mm, seen.tasks[pid].mm)
    yield from _file_differences(told, seen)
    if told.interleave_weights != seen.interleave_weights:
        yield "the journal has other weights of interleaving than memory"
    for nid in told.nids:
        mine, other = told.mem_map[nid], seen.mem_map[nid]
        for what in ("mapcount", "flags"):
            wrong = np.flatnonzero(getattr(mine, what) != getattr(other, what))
            if wrong.size:
                yield f"node {nid} frame {wrong[0]}: the journal has another {what}"
        used = other.flags != 0
        wrong = np.flatnonzero(used & (mine.generation != other.generation))
        if wrong.size:
            yield f"node {nid} frame {wrong[0]}: the journal has another generation"


def _placement(task: Task) -> tuple[object, ...]:
    bound = [vma.policy and vma.policy.mems_allowed for vma in task.mm.vmas]
    bound.append(task.policy and task.policy.mems_allowed)
    return task.cpuset, task.cpu, task.cpus_allowed, bound


def _file_differences(told: Memory, seen: Memory) -> Iterator[str]:
    ours, theirs = (
        {number: _inode(mapping) for number, mapping in memory.mappings.items()}
        for memory in (told, seen)
    )
    if ours != theirs:
        yield "the journal has other objects or files than memory"
        return
    for number in sorted(told.mappings):
        mine, other = told.mappings[number], seen.mappings[number]
        wrong = (mine.nid != other.nid) | (mine.dirty() != other.dirty())
        wrong |= (mine.nid != NO_NODE) & (mine.pfn != other.pfn)
        wrong |= ((mine.tags ^ other.tags) & np.uint8(PageTag.PRIVATE)) != 0
        if wrong.any():
            yield f"object {number} index {np.flatnonzero(wrong)[0]}: the journal has another page"


def _inode(mapping: Mapping) -> tuple[object, ...]:
    return () if mapping.host is None else astuple(mapping.host)


def _identity(task: Task) -> tuple[object, ...]:
    own = task.ppid, task.tgid, task.cred, task.cpu, task.comm, task.client
    return (*own, task.mm.pid, task.mm.users, task.mm.dumpable)


def _policy_of(task: Task) -> tuple[object, ...]:
    return task.policy, task.il_prev, task.il_weight


def _vmas_of(mm: Mm) -> list[tuple[object, ...]]:
    return [
        (
            (vma.start, vma.end, vma.prot, vma.flags, vma.name, vma.policy, vma.vm_flags),
            (vma.anon_vma, vma.anon_root, vma.mapping.id, vma.pgoff, vma.mapping.policies),
        )
        for vma in mm.vmas
    ]


def _mm_differences(pid: int, told: Mm, seen: Mm) -> Iterator[str]:
    ours, theirs = map(_vmas_of, (told, seen))
    if ours != theirs:
        yield f"pid {pid}: the journal has other vmas than memory"
        return
    for mine, other in zip(told.vmas, seen.vmas, strict=True):
        live = (mine.bits | other.bits) & (PRESENT | ENTRY) != 0
        differs = (mine.bits & ~_TRANSIENT) != (other.bits & ~_TRANSIENT)
        # Whether a cached page is dirty is compared above: its entry or its tag may say so.
        cached = mine.file is not None
        differs &= ((mine.bits ^ other.bits) & ~_TRANSIENT != DIRTY) if cached else True
        differs |= (mine.nid != other.nid) | (mine.pfn != other.pfn)
        # The zero page, and pages whose contents are gone.
        kept = np.uint8(Pte.ACCESSED | Pte.ANON)
        differs = np.where(live, differs, (mine.bits & kept) != (other.bits & kept))
        wrong = np.flatnonzero(differs)
        if wrong.size:
            page = mine.start + int(wrong[0])
            yield f"pid {pid} page {page:#x}: the journal has another entry than memory"
