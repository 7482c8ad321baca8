"""vma_merge(): neighbours that are alike become one vma (mm/mmap.c).

Anonymous pages belong to the object of their vma, at ``pgoff`` + slot.  Neighbours may be joined
if one object has the pages of both; a vma without any page may be given its neighbour's object
for that.  Which may be joined is the kernel's rule: both have the same anon_vma, or one has none.
"""

from __future__ import annotations

from coordinator.memory import Memory
from coordinator.mm import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_LOCKED,
    MAP_POPULATE,
    Mapping,
    Mm,
    Task,
    Vma,
    VmFlag,
)
from coordinator.records import AnonVmaPrepared, VmasMerged
from protocol.profile import Profile

VM_SPECIAL = VmFlag.IO | VmFlag.PFNMAP | VmFlag.RESERVED
#: What was asked of mmap(2) and is of no matter afterwards.
_ONCE = MAP_FIXED | MAP_FIXED_NOREPLACE | MAP_POPULATE | MAP_LOCKED
INDEX_MAX = 1 << 32
#: Pages of a vma that is joined: its page table is copied, and empty ones cost nothing before.
JOINED_MAX = 1 << 24


def merge_vmas(memory: Memory, task: Task, start: int, end: int) -> None:
    """The vmas of this range have changed: join them with each other and with their neighbours.

    The caller has mmap_sem for write.
    """
    mm = task.mm
    for first in [vma.start for vma in mm.overlapping(start, end)]:
        area = mm.find(first)
        if area is None or area.start != first:
            continue
        below, above = _neighbours(mm, area, memory.profile)
        if above:
            _join(memory, task, area.end)
        if below:
            _join(memory, task, area.start)


def merge_new_vma(memory: Memory, task: Task, area: Vma) -> None:
    """``merge_vmas`` for what mmap(2) has just mapped."""
    if not memory.profile.mmap_joins_upper_first:
        merge_vmas(memory, task, area.start, area.end)
        return
    after = task.mm.find(area.end)
    if after is not None and _joins(area, after, area, memory.profile):
        _join(memory, task, area.end)
    before = task.mm.find(area.start - 1)
    if before is not None and _joins(before, area, area, memory.profile):
        _join(memory, task, area.start)


def _neighbours(mm: Mm, area: Vma, profile: Profile) -> tuple[bool, bool]:
    """Whether the area joins the vma below it, and that above it; rather below than above."""
    before, after = mm.find(area.start - 1), mm.find(area.end)
    below = before is not None and _joins(before, area, area, profile)
    above = after is not None and _joins(area, after, area, profile)
    if below and above and before is not None and after is not None:
        above = _compatible(before, after, profile)
    return below, above


def _joins(lower: Vma, upper: Vma, area: Vma, profile: Profile) -> bool:
    """Whether two neighbours may be one; ``area`` is the one that has changed."""
    near = upper if area is lower else lower
    if not alike(lower, upper) or lower.prot != upper.prot:
        return False
    if lower.pages + upper.pages > JOINED_MAX:
        return False
    if lower.mapping is upper.mapping and lower.pgoff + lower.pages == upper.pgoff:
        if lower.shared:
            return lower.opened is upper.opened
        return _anon_vma_fits(area, near, profile)
    if lower.anon_vma and upper.anon_vma:
        return False
    return _fits(lower, upper) and _anon_vma_fits(area, near, profile)


def alike(lower: Vma, upper: Vma) -> bool:
    """All that must be equal but for the protection."""
    return (
        (lower.flags ^ upper.flags) & ~_ONCE == 0
        and lower.vm_flags == upper.vm_flags
        and not lower.vm_flags & VM_SPECIAL
        and lower.name == upper.name
        and lower.vm_ops is upper.vm_ops
        and lower.policy == upper.policy
    )


def _fits(lower: Vma, upper: Vma) -> bool:
    """Whether the object of private pages of the one has room for those of the other."""
    if not (_exchangeable(lower) and _exchangeable(upper)):
        return False
    if upper.anon_vma:
        return lower.pages <= upper.pgoff
    return lower.pgoff + lower.pages + upper.pages <= INDEX_MAX


def _exchangeable(vma: Vma) -> bool:
    """Private anonymous memory without methods of its own."""
    if vma.shared or vma.vm_ops is not None or vma.mapping.migratepage is not None:
        return False
    return vma.file is None and bool(vma.flags & MAP_ANONYMOUS)


def _anon_vma_fits(area: Vma, near: Vma, profile: Profile) -> bool:
    """is_mergeable_anon_vma(): a neighbour that has several does not take in one that has none."""
    if not profile.anon_vma_is_forked:
        return not area.anon_root or not near.anon_root or area.anon_root == near.anon_root
    return area.anon_vma == near.anon_vma or (not area.anon_vma and single(near))


def _compatible(before: Vma, after: Vma, profile: Profile) -> bool:
    """Whether three may become one, of which these are the outer ones."""
    if not before.anon_vma or not after.anon_vma:
        return True
    if not profile.anon_vma_is_forked:
        return before.anon_root == after.anon_root
    return before.anon_vma == after.anon_vma


def single(vma: Vma) -> bool:
    """Its only anon_vma is its own, not one that a fork has handed down."""
    return bool(vma.anon_vma) and vma.anon_vma == vma.anon_root


def _join(memory: Memory, task: Task, page: int) -> None:
    join(memory, task.mm, page)
    memory.records.append(VmasMerged(task.mm.pid, page))


def join(memory: Memory, mm: Mm, page: int) -> None:
    """The two vmas that meet at ``page`` are one; also for replay."""
    lower, upper = mm.find(page - 1), mm.find(page)
    assert lower is not None and upper is not None and lower.end == upper.start == page
    if upper.anon_vma and not lower.anon_vma:
        adopt(memory, lower, upper.mapping, upper.pgoff - lower.pages)
        lower.anon_vma, lower.anon_root = upper.anon_vma, upper.anon_root
    elif upper.mapping is not lower.mapping:
        adopt(memory, upper, lower.mapping, lower.pgoff + lower.pages)
    mm.remove(upper)
    lower.extend(upper)


def adopt(memory: Memory, vma: Vma, mapping: Mapping, pgoff: int) -> None:
    """A vma that has no page yet will have its pages in this object."""
    vma.pgoff = pgoff
    if vma.mapping is mapping:
        return
    vma.mapping.vmas.remove(vma)
    if not vma.mapping.vmas:
        memory.mappings.pop(vma.mapping.id, None)
    vma.mapping = mapping
    mapping.vmas.append(vma)


def new_anon_vma(memory: Memory) -> int:
    """A number that no anon_vma has had."""
    number = memory.next_anon_vma
    memory.next_anon_vma += 1
    return number


def anon_vma_prepare(memory: Memory, task: Task, vma: Vma) -> None:
    """Before the first anonymous page of a vma: the anon_vma of a neighbour that is alike in all
    but its protection, else a new one.
    """
    if vma.anon_vma:
        return
    near = _find_mergeable_anon_vma(task.mm, vma, memory.profile)
    if near is None:
        vma.anon_vma = vma.anon_root = new_anon_vma(memory)
    else:
        pgoff = near.pgoff + near.pages if near.end == vma.start else near.pgoff - vma.pages
        adopt(memory, vma, near.mapping, pgoff)
        vma.anon_vma, vma.anon_root = near.anon_vma, near.anon_root
    told = (vma.anon_vma, vma.anon_root, vma.mapping.id, vma.pgoff)
    memory.records.append(AnonVmaPrepared(task.mm.pid, vma.start, *told))


def _find_mergeable_anon_vma(mm: Mm, vma: Vma, profile: Profile) -> Vma | None:
    """The neighbour above, else that below."""
    for near in (mm.find(vma.end), mm.find(vma.start - 1)):
        if near is None or not near.anon_vma or not alike(near, vma):
            continue
        lower, upper = (vma, near) if near.start == vma.end else (near, vma)
        if _fits(lower, upper) and (single(near) or not profile.anon_vma_is_forked):
            return near
    return None
