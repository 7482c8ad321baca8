"""mlock(2) and munlock(2): VM_LOCKED on vmas, and the pages made present (mm/mlock.c)."""

from __future__ import annotations

from coordinator.calls import Steps, down_write, up_write
from coordinator.fault import Access, fault_in
from coordinator.memory import Memory
from coordinator.merge import merge_vmas
from coordinator.mm import PROT_WRITE, Task, VmFlag
from coordinator.records import VmFlagsSet

ESRCH, EAGAIN, ENOMEM, EACCES, EFAULT = 3, 11, 12, 13, 14
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
    error = yield from _mm_populate(memory, task, start, end)
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


def _mm_populate(memory: Memory, task: Task, start: int, end: int) -> Steps[int]:
    """Fault the pages in, private writable ones for writing, so that they are copied already."""
    for vma in task.mm.overlapping(start, end):
        first, last = max(start, vma.start), min(end, vma.end)
        private = vma.prot & PROT_WRITE and not vma.shared
        access = Access.WRITE if private else Access.READ
        if not vma.vm_flags & _SPECIAL:
            error = yield from fault_in(memory, task, first, last, access)
            if error:
                return error
    return 0
