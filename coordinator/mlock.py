"""mlock(2) and munlock(2): VM_LOCKED on vmas, and the pages made present (mm/mlock.c)."""

from __future__ import annotations

import numpy as np

from coordinator.calls import Steps, down_write, let_others, up_write
from coordinator.fault import Access, handle_mm_fault
from coordinator.lru import frames_of, mark_page_accessed, mlock_pages
from coordinator.memory import Memory
from coordinator.merge import merge_vmas
from coordinator.mm import PROT_WRITE, Task, VmFlag
from coordinator.records import VmFlagsSet

ESRCH, EAGAIN, ENOMEM, EACCES, EFAULT = 3, 11, 12, 13, 14
POPULATE_STEP = 4096
#: sizeof(pte_t)
_PTE_BYTES = 8
#: Device memory is always there: it is not locked.
_SPECIAL = VmFlag.IO | VmFlag.PFNMAP


def do_mlock(memory: Memory, task: Task, address: int, length: int, *, lock: bool) -> Steps[int]:
    """0; -ENOMEM for a hole, what lies before it is locked then, or a page that may not be read
    or is beyond the end of its file; -EAGAIN if no frame is left.
    """
    size = memory.topology.page_size
    start, end = address // size, -(-(address + length) // size)
    if start == end:
        return 0
    yield from down_write(task.mm)
    try:
        if task.pid not in memory.tasks:
            return -ESRCH
        error = _apply_vma_lock_flags(memory, task, start, end, lock=lock)
    finally:
        up_write(memory, task.mm)
    if error or not lock:
        return error
    error = yield from mm_populate(memory, task, start, end)
    return {-ENOMEM: -EAGAIN, -EACCES: -ENOMEM, -EFAULT: -ENOMEM}.get(error, error)


def _apply_vma_lock_flags(memory: Memory, task: Task, start: int, end: int, *, lock: bool) -> int:
    mm, at = task.mm, start
    for vma in mm.overlapping(start, end):
        if vma.start > at:
            break
        first, at = at, min(vma.end, end)
        wanted = vma.vm_flags | VmFlag.LOCKED if lock else vma.vm_flags & ~VmFlag.LOCKED
        if wanted != vma.vm_flags and not vma.vm_flags & _SPECIAL:
            [part] = mm.isolate_range(first, at)
            part.vm_flags = wanted
            memory.records.append(VmFlagsSet(mm.pid, first, at, wanted))
            merge_vmas(memory, task, first, at)
    return -ENOMEM if at < end else 0


def mm_populate(memory: Memory, task: Task, start: int, end: int) -> Steps[int]:
    """Fault pages in that are locked, or to be there at once; 0 or the first error."""
    error = yield from _populate_vmas(memory, task, start, end)
    if memory.profile.mlock_deactivates:
        yield from mlock_pages(memory, task.mm, start, end)
    return error


def _populate_vmas(memory: Memory, task: Task, start: int, end: int) -> Steps[int]:
    """Private writable pages are written to, so that they are copied already."""
    for vma in task.mm.overlapping(start, end):
        first, last = max(start, vma.start), min(end, vma.end)
        writes = not vma.shared or memory.profile.populate_writes_shared
        access = Access.WRITE if writes and vma.prot & PROT_WRITE else Access.READ
        if not vma.vm_flags & _SPECIAL:
            error = yield from fault_in(memory, task, first, last, access)
            if error:
                return error
    return 0


def fault_in(memory: Memory, task: Task, start: int, end: int, access: Access) -> Steps[int]:
    """get_user_pages(): fault on the pages in order, and note the access; 0 or the first error.

    -ENOMEM if this machine's memory could not even hold the page tables.  Between two steps others
    have their turn: a range may be as large as the address space.
    """
    frames = sum(node.frames for node in memory.topology.nodes)
    if end - start > frames * (memory.topology.page_size // _PTE_BYTES):
        return -ENOMEM
    for at in range(start, end, POPULATE_STEP):
        if at > start:
            yield from let_others(memory)
        page = np.arange(at, min(at + POPULATE_STEP, end), dtype=np.uint64)
        answer = yield from handle_mm_fault(memory, task, task.cpu, access, page)
        wrong = np.flatnonzero(answer.status < 0)
        good = int(wrong[0]) if wrong.size else page.size
        yield from mark_page_accessed(memory, *frames_of(answer, good))
        if wrong.size:
            return int(answer.status[wrong[0]])
    return 0
