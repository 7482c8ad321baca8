"""madvise(2): pages of a range are dropped, or faulted in (mm/madvise.c)."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from coordinator.calls import Steps, down_write, up_write
from coordinator.fault import Access
from coordinator.frames import revoke
from coordinator.lru import mark_unmapped, young_pages
from coordinator.mem_map import Nids, Pfns
from coordinator.memory import Memory
from coordinator.mlock import fault_in
from coordinator.mm import TASK_SIZE, Mm, Pte, Task, VmFlag
from coordinator.mmap import mapped_until
from coordinator.records import PagesZapped

ESRCH, ENOMEM, EACCES, EFAULT, EINVAL = 3, 12, 13, 14, 22


class Advice(IntEnum):
    """MADV_* with the kernel's values."""

    NORMAL = 0
    RANDOM = 1
    SEQUENTIAL = 2
    DONTNEED = 4
    POPULATE_READ = 22
    POPULATE_WRITE = 23


_POPULATE = {Advice.POPULATE_READ: Access.READ, Advice.POPULATE_WRITE: Access.WRITE}


def do_madvise(memory: Memory, task: Task, address: int, length: int, advice: int) -> Steps[int]:
    """0; -EINVAL for an address that is not aligned, an unknown advice, or one that a vma refuses;
    -ENOMEM where nothing is mapped: DONTNEED does the rest of the range all the same; -EFAULT for
    a page to populate that is beyond the end of its file.
    """
    size = memory.topology.page_size
    if advice not in list(Advice) or address % size:
        return -EINVAL
    if advice in _POPULATE and not memory.profile.madvise_populates:
        return -EINVAL
    start = address // size
    end = start - (-length // size)
    if end > TASK_SIZE:
        return -EINVAL if end >= (1 << 64) // size else -ENOMEM
    if start == end:
        return 0
    if advice in _POPULATE:
        return (yield from _populate(memory, task, start, end, _POPULATE[Advice(advice)]))
    if advice != Advice.DONTNEED:
        return -ENOMEM if mapped_until(task.mm, start, end) < end else 0
    return (yield from _dontneed(memory, task, start, end))


def _populate(memory: Memory, task: Task, start: int, end: int, access: Access) -> Steps[int]:
    """Holes are told of, and what lies behind them is filled in all the same."""
    hole = mapped_until(task.mm, start, end) < end
    for vma in task.mm.overlapping(start, end):
        first, last = max(start, vma.start), min(end, vma.end)
        if vma.vm_flags & (VmFlag.IO | VmFlag.PFNMAP):
            return -EINVAL
        error = yield from fault_in(memory, task, first, last, access)
        if error:
            return {-EACCES: -EINVAL, -EFAULT: -EFAULT}.get(error, -ENOMEM)
    return -ENOMEM if hole else 0


def _dontneed(memory: Memory, task: Task, start: int, end: int) -> Steps[int]:
    mm, refused = task.mm, False
    nids: list[Nids] = [np.zeros(0, np.uint8)]
    pfns: list[Pfns] = [np.zeros(0, np.uint32)]
    accessed: list[tuple[Nids, Pfns]] = []
    yield from down_write(mm)
    try:
        if task.pid not in memory.tasks:
            return -ESRCH
        hole = mapped_until(mm, start, end) < end
        for vma in mm.overlapping(start, end):
            refused = bool(vma.vm_flags & (VmFlag.LOCKED | VmFlag.PFNMAP))
            if refused:
                break
            first, last = max(start, vma.start), min(end, vma.end)
            accessed.append(young_pages([vma], first, last))
            nid, pfn = zap_page_range(memory, mm, first, last)
            nids.append(nid)
            pfns.append(pfn)
            memory.records.append(PagesZapped(mm.pid, first, last))
        for frames in accessed:
            yield from mark_unmapped(memory, *frames)
        yield from revoke(memory, np.concatenate(nids), np.concatenate(pfns))
    finally:
        up_write(memory, mm)
    return -EINVAL if refused else -ENOMEM if hole else 0


def zap_page_range(memory: Memory, mm: Mm, start: int, end: int) -> tuple[Nids, Pfns]:
    """Drop the entries of these pages of one vma, migration entries too (K 1.44); returns the
    frames that they named.
    """
    vma = mm.find(start)
    assert vma is not None and end <= vma.end
    filled = vma.marked(0xFF)
    filled = filled[(filled >= start - vma.start) & (filled < end - vma.start)]
    slot = filled[(vma.bits[filled] & (Pte.PRESENT | Pte.ENTRY)) != 0]
    nid, pfn = vma.nid[slot], vma.pfn[slot]
    memory.set_page_dirty(vma, slot)
    for node, rows in memory.by_node(nid):
        np.subtract.at(memory.mem_map[node].mapcount, pfn[rows], 1)
    vma.bits[filled] = 0
    return nid, pfn
