"""mmap, munmap, mprotect, fork, exit: what changes the vmas of a task (mm/mmap.c, kernel/fork.c).

Whatever takes rights away returns only when the nodes have acknowledged it (design 4).  Entries
change at once, also those of pages that another task's migration is moving (K 1.42 - 1.44).
All hold mmap_sem for write, so they wait for a migration of the same mm to end (K 1.5).
"""

from __future__ import annotations

import numpy as np

from coordinator.calls import PARKED, Steps, down_write, up_write
from coordinator.cpuset import TOP, cpu_of
from coordinator.frames import revoke
from coordinator.inode import PATH_MAX
from coordinator.lru import mark_unmapped, young_pages
from coordinator.mem_map import Nids, PageFlag, Pfns
from coordinator.memory import Memory
from coordinator.merge import INDEX_MAX, merge_new_vma, merge_vmas, new_anon_vma
from coordinator.mlock import mm_populate
from coordinator.mm import (
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_LOCKED,
    MAP_POPULATE,
    MAP_PRIVATE,
    MAP_SHARED,
    PROT_READ,
    PROT_WRITE,
    SPECIAL_MAPPINGS,
    TASK_SIZE,
    UNCACHED,
    Mapping,
    Mm,
    Pte,
    Task,
    Vma,
    VmFlag,
)
from coordinator.records import (
    EntriesChanged,
    RangeProtected,
    RangeUnmapped,
    TaskExited,
    TaskForked,
    VmaMapped,
)
from coordinator.threads import copy_process
from protocol.notes import TaskEnded
from protocol.syscalls import Mmap

ESRCH, EINVAL, ENOMEM, EEXIST, ENAMETOOLONG = 3, 22, 12, 17, 36
FLAGS_MAX = (1 << 32) - 1


def do_mmap(memory: Memory, task: Task, asked: Mmap) -> Steps[int]:
    """mmap(2): the address, or -EINVAL, -EEXIST, -ENOMEM, -ENAMETOOLONG."""
    size = memory.topology.page_size
    pages = -(-asked.length // size)
    sharing = asked.flags & (MAP_SHARED | MAP_PRIVATE)
    fixed = asked.flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)
    if not pages or sharing not in (MAP_SHARED, MAP_PRIVATE) or asked.prot & ~7:
        return -EINVAL
    if len(asked.name.encode()) >= PATH_MAX:
        return -ENAMETOOLONG
    # As the mspec driver: memory of the uncached allocator is never copied, so it is shared.
    if asked.name == UNCACHED and not asked.flags & MAP_SHARED:
        return -EINVAL
    if asked.address % size or asked.offset % size or asked.flags > FLAGS_MAX:
        return -EINVAL
    # An object has no more pages than an index has numbers.
    if asked.address // size + pages > TASK_SIZE or pages > INDEX_MAX:
        return -ENOMEM
    mm, start = task.mm, asked.address // size
    yield from down_write(mm)
    try:
        if task.pid not in memory.tasks:
            return -ESRCH
        occupied = bool(mm.overlapping(start, start + pages))
        if occupied and asked.flags & MAP_FIXED_NOREPLACE:
            return -EEXIST
        if occupied and fixed:
            yield from _unmap(memory, task, start, start + pages)
        elif not fixed and (occupied or not start):
            start = mm.unmapped_area(pages)
            if start < 0:
                return -ENOMEM
        if not _enter_vma(memory, task, start, pages, asked):
            return -ENOMEM
        vma = mm.find(start)
        assert vma is not None
        merge_new_vma(memory, task, vma)
    finally:
        up_write(memory, mm)
    if asked.flags & (MAP_POPULATE | MAP_LOCKED):
        # Best effort: what finds no frame faults later.
        yield from mm_populate(memory, task, start, start + pages)
    return start * size


def _enter_vma(memory: Memory, task: Task, start: int, pages: int, asked: Mmap) -> bool:
    """A vma of a file or of a new object; False if this host has no memory for its page table."""
    pgoff = 0
    if asked.name in memory.files:
        pgoff = asked.offset // memory.topology.page_size
    elif not asked.flags & MAP_SHARED and not asked.name.startswith("/"):
        pgoff = _anonymous_pgoff(start, pages)
    try:
        vma = new_vma(
            memory, start, start + pages, asked.prot, asked.flags, asked.name, pgoff, None
        )
    except MemoryError:
        return False
    task.mm.insert(vma)
    memory.records.append(
        VmaMapped(task.mm.pid, start, vma.end, vma.prot, vma.flags, vma.name, pgoff, vma.mapping.id)
    )
    return True


def new_vma(
    memory: Memory,
    start: int,
    end: int,
    prot: int,
    flags: int,
    name: str,
    pgoff: int,
    mapping_id: int | None,
) -> Vma:
    """A vma of the file ``name``, if there is one: shared, or with an object of its own beside it.

    A name that no file has is that of a new object.  MemoryError: nothing was changed.
    """
    file, shared = memory.files.get(name), bool(flags & MAP_SHARED)
    mapping: Mapping | None = None
    try:
        if file is not None and shared:
            return Vma(start, end, prot, flags, name, pgoff, file)
        mapping = memory.new_mapping(shared=shared, pages=end - start, mapping_id=mapping_id)
        vma = Vma(start, end, prot, flags, name, pgoff, mapping, file)
    except MemoryError:
        if mapping is not None:
            del memory.mappings[mapping.id]
        raise
    vma.vm_ops = memory.vm_operations.get(name)
    vma.vm_flags |= SPECIAL_MAPPINGS.get(name, VmFlag(0))
    if file is None:
        mapping.migratepage = memory.address_space_operations.get(name)
    return vma


def _anonymous_pgoff(start: int, pages: int) -> int:
    """The page number of the address as far as an index has room for it, from the middle: so the
    object has room for the pages of neighbours on both sides.
    """
    pgoff = (start + INDEX_MAX // 2) % INDEX_MAX
    return pgoff if pgoff + pages <= INDEX_MAX else 0


def _quiet(memory: Memory, vmas: list[Vma]) -> Steps[None]:
    """Wait until nobody moves memory without page structs of these vmas: it has no entries."""
    vmas = [vma for vma in vmas if vma.vm_flags & VmFlag.PFNMAP]
    while True:
        busy = False
        for vma in vmas:
            slot = vma.present()
            busy |= bool(vma.marked(Pte.ENTRY | Pte.BUSY).size)
            busy |= bool(memory.flagged(vma.nid[slot], vma.pfn[slot], PageFlag.HELD).any())
        if not busy:
            return
        yield PARKED


def _unmap(memory: Memory, task: Task, start: int, end: int) -> Steps[None]:
    """Entries go at once, migration entries too (K 1.44); then translations are waited for."""
    vmas = task.mm.isolate_range(start, end)
    yield from _quiet(memory, vmas)
    accessed = young_pages(vmas, start, end)
    nid, pfn = memory.unmap(task.mm, start, end)
    memory.records.append(RangeUnmapped(task.mm.pid, start, end))
    yield from mark_unmapped(memory, *accessed)
    yield from revoke(memory, nid, pfn)


def do_munmap(memory: Memory, task: Task, address: int, length: int) -> Steps[int]:
    """munmap(2): 0 or -EINVAL; holes in the range are no error."""
    size = memory.topology.page_size
    pages = -(-length // size)
    if address % size or not pages or address // size + pages > TASK_SIZE:
        return -EINVAL
    start = address // size
    yield from down_write(task.mm)
    try:
        if task.pid not in memory.tasks:
            return -ESRCH
        yield from _unmap(memory, task, start, start + pages)
    finally:
        up_write(memory, task.mm)
    return 0


def do_mprotect(memory: Memory, task: Task, address: int, length: int, prot: int) -> Steps[int]:
    """mprotect(2): 0, -EINVAL, or -ENOMEM for a hole: what lies before the hole is changed then."""
    size = memory.topology.page_size
    if address % size or prot & ~7:
        return -EINVAL
    start = address // size
    end = start - (-length // size)
    if end > TASK_SIZE:
        return -ENOMEM
    if start == end:
        return 0
    mm = task.mm
    yield from down_write(mm)
    try:
        if task.pid not in memory.tasks:
            return -ESRCH
        reached = mapped_until(mm, start, end)
        parts = [
            (max(vma.start, start), min(vma.end, reached))
            for vma in mm.overlapping(start, reached)
            if vma.prot != prot
        ]
        filling = _locked_to_fill(memory, mm, start, reached) if prot & PROT_WRITE else []
        vmas = [vma for first, last in parts for vma in mm.isolate_range(first, last)]
        yield from _quiet(memory, vmas)
        nid, pfn = _protect(memory, task, vmas, prot)
        for first, last in parts:
            memory.records.append(RangeProtected(task.mm.pid, first, last, prot))
        yield from revoke(memory, nid, pfn)
        for first, last in parts:
            merge_vmas(memory, task, first, last)
    finally:
        up_write(memory, mm)
    for first, last in filling:
        yield from mm_populate(memory, task, first, last)
    return 0 if reached == end else -ENOMEM


def _locked_to_fill(memory: Memory, mm: Mm, start: int, end: int) -> list[tuple[int, int]]:
    """Private locked memory that becomes writable: to be copied now, so that no store faults."""
    if not memory.profile.mprotect_fills_locked:
        return []
    return [
        (max(vma.start, start), min(vma.end, end))
        for vma in mm.overlapping(start, end)
        if vma.vm_flags & VmFlag.LOCKED and not vma.shared and not vma.prot & PROT_WRITE
    ]


def mapped_until(mm: Mm, start: int, end: int) -> int:
    """Where the first hole at or above ``start`` is, at most ``end``."""
    at = start
    for vma in mm.overlapping(start, end):
        if vma.start > at:
            break
        at = min(vma.end, end)
    return at


def _protect(memory: Memory, task: Task, vmas: list[Vma], prot: int) -> tuple[Nids, Pfns]:
    """Set the protection; returns the frames to which rights were taken away."""
    nids: list[Nids] = [np.zeros(0, np.uint8)]
    pfns: list[Pfns] = [np.zeros(0, np.uint32)]
    for vma in vmas:
        slot = vma.live()
        if prot & PROT_READ:
            slot = slot[(vma.bits[slot] & Pte.WRITE) != 0] if not prot & PROT_WRITE else slot[:0]
        vma.protect(prot)
        if prot & PROT_WRITE:
            _make_entries_read(memory, task, vma)
        else:
            vma.bits[vma.marked(Pte.WRITE)] &= ~np.uint8(Pte.WRITE)
        nids.append(vma.nid[slot])
        pfns.append(vma.pfn[slot])
    return np.concatenate(nids), np.concatenate(pfns)


def _make_entries_read(memory: Memory, task: Task, vma: Vma) -> None:
    """A WRITE migration entry becomes a READ one, whatever the new protection is (K 1.43)."""
    slot = vma.marked(Pte.ENTRY)
    slot = slot[(vma.bits[slot] & Pte.WRITE) != 0]
    vma.bits[slot] &= ~np.uint8(Pte.WRITE)
    # The journal knows no migration entries: in its page tables the page is still present.
    bits = (vma.bits[slot] & ~np.uint8(Pte.ENTRY)) | np.uint8(Pte.PRESENT)
    page = (slot + vma.start).astype(np.uint64)
    if slot.size:
        memory.records.append(EntriesChanged(task.mm.pid, page, vma.nid[slot], vma.pfn[slot], bits))


def do_fork(memory: Memory, parent: Task, cpu: int, client: str | None) -> Steps[int]:
    """fork(2): the child's pid, or -EINVAL (no such cpu; -1: the parent's).

    Private pages are shared copy-on-write from now on (K 3.4).
    """
    if cpu != -1 and cpu not in memory.topology.cpus:
        return -EINVAL
    yield from down_write(parent.mm)
    try:
        if parent.pid not in memory.tasks:
            return -ESRCH
        private = [vma for vma in parent.mm.vmas if not vma.shared]
        yield from _quiet(memory, private)
        pid = memory.new_pid()
        own = parent.cpu if cpu == -1 else cpu_of(parent, cpu)
        child = copy_process(parent, pid, Mm(pid), own, client)
        nid, pfn = copy_mm(memory, parent, child)
        memory.tasks[child.pid] = child
        memory.records.append(TaskForked(parent.pid, child.pid, child.cpu, client or ""))
        yield from revoke(memory, nid, pfn)
    finally:
        up_write(memory, parent.mm)
    return child.pid


def copy_mm(memory: Memory, parent: Task, child: Task) -> tuple[Nids, Pfns]:
    """Give the child the parent's vmas; returns the frames that were writable until now.

    A migration entry is copied as a READ one, and the parent's becomes one (K 1.42).

    Entries of shared mappings, and of files that were not written to, are not copied: a fault
    finds the pages in the page cache (copy_page_range).
    """
    nids: list[Nids] = [np.zeros(0, np.uint8)]
    pfns: list[Pfns] = [np.zeros(0, np.uint32)]
    child.mm.dumpable = parent.mm.dumpable
    for vma in parent.mm.vmas:
        copy = Vma(
            vma.start, vma.end, vma.prot, vma.flags, vma.name, vma.pgoff, vma.mapping, vma.file
        )
        # Locks are not inherited.
        copy.vm_flags = vma.vm_flags & ~VmFlag.LOCKED
        copy.vm_ops, copy.policy = vma.vm_ops, vma.policy
        copy.opened = vma.opened
        if vma.anon_vma:
            copy.anon_vma, copy.anon_root = new_anon_vma(memory), vma.anon_root
        child.mm.insert(copy)
        if vma.shared or (vma.copies_file and not vma.marked(Pte.ANON).size):
            continue
        if vma.file is None and not vma.anon_vma:
            # The zero page alone is mapped: a fault finds it.
            continue
        slot = vma.live()
        writable = slot[(vma.bits[slot] & Pte.WRITE) != 0]
        nids.append(vma.nid[writable])
        pfns.append(vma.pfn[writable])
        vma.bits[slot] &= ~np.uint8(Pte.WRITE)
        filled = vma.marked(0xFF)
        copy.enter(filled, vma.nid[filled], vma.pfn[filled], vma.bits[filled])
        for node, rows in memory.by_node(vma.nid[slot]):
            memory.mem_map[node].mapcount[vma.pfn[slot[rows]]] += 1
    return np.concatenate(nids), np.concatenate(pfns)


def do_exit(memory: Memory, task: Task, reason: str) -> Steps[int]:
    """exit(2): the task is gone, with the last of its threads the mm, and what only that mapped."""
    if task.mm.users > 1:
        return _leave(memory, task, reason)
    yield from down_write(task.mm)
    try:
        if task.mm.users == 1 and task.pid in memory.tasks:
            task.exiting = True
            yield from _unmap(memory, task, 0, TASK_SIZE)
        return _leave(memory, task, reason)
    finally:
        up_write(memory, task.mm)


def _leave(memory: Memory, task: Task, reason: str) -> int:
    if task.pid not in memory.tasks:
        return -ESRCH
    del memory.tasks[task.pid]
    # As cpuset_exit(): its cpuset may go, while a fault of its own is still being served.
    task.cpuset = TOP
    task.mm.users -= 1
    memory.records.append(TaskExited(task.pid))
    memory.notes.append(TaskEnded(task.pid, reason))
    return 0
