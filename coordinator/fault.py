"""Page faults: first touch, the zero page, shared objects, copy-on-write (mm/memory.c).

A fault question names pages of one mm; it is answered when every one of them has a translation or
an error.  Whatever is in the way (a migration entry, a frame that somebody holds, another fault on
the same page) parks the fault, and it starts afresh when something changed (K 1.45).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from coordinator.calls import PARKED, Steps, up_read
from coordinator.cow import copy_on_write
from coordinator.frames import ACTIVE, INACTIVE, allocate_frames
from coordinator.inode import PageTag
from coordinator.mem_map import FILLING, NO_NODE, PageFlag, Rows
from coordinator.memory import Memory
from coordinator.merge import anon_vma_prepare
from coordinator.mm import (
    ANON,
    BUSY,
    DIRTY,
    ENTRY,
    PRESENT,
    PROT_READ,
    PROT_WRITE,
    UNCACHED,
    WRITE,
    Mm,
    Pages,
    Pte,
    Task,
    Vma,
    VmFlag,
)
from coordinator.poison import EHWPOISON, poisoned
from coordinator.uncached import allocate_granules
from protocol.notes import FaultServed
from protocol.syscalls import Translations
from protocol.values import at_hand

EFAULT, EACCES, ENOMEM = 14, 13, 12
ZERO_PAGE = -1
#: An entry without any of these is empty: nothing is mapped, and nothing on its way.
_MARKS = np.uint8(Pte.PRESENT | Pte.ENTRY | Pte.BUSY | Pte.ACCESSED)


@at_hand
class Access(IntEnum):
    """What a fault is for; the populating ones fill in an image and ignore the protection."""

    READ = 0
    WRITE = 1
    POPULATE_ANON = 2
    POPULATE_FILE = 3


@dataclass(slots=True)
class Needs:
    """What stands between a vma's slots and their translations; arrays of slots."""

    blocked: bool
    allocate: Rows
    attach: Rows
    copy: Rows
    reuse: Rows


class Answer:
    """Columns of Translations while they are being found."""

    def __init__(self, page: Pages) -> None:
        self.status = np.zeros(page.size, np.int32)
        self.nid = np.full(page.size, ZERO_PAGE, np.int32)
        self.pfn = np.zeros(page.size, np.uint32)
        self.generation = np.zeros(page.size, np.uint32)
        self.writable = np.zeros(page.size, np.uint8)

    def message(self) -> Translations:
        return Translations(self.status, self.nid, self.pfn, self.generation, self.writable)


def handle_mm_fault(
    memory: Memory, task: Task, cpu: int, access: Access, page: Pages
) -> Steps[Translations]:
    """Translations of ``page`` (virtual page numbers, no repeats) for an access by ``cpu``.

    Errors are in the status column: -EFAULT no vma, or beyond the end of the file (SIGBUS in the
    kernel), -EACCES protection, -ENOMEM no frame anywhere, -EHWPOISON the contents are gone (a
    SIGBUS in the kernel).
    """
    mm, started = task.mm, memory.now
    node = memory.topology.node_of_cpu(cpu)
    unfilled: set[int] = set()
    while True:
        if not mm.mmap_sem.read_now():
            yield PARKED
            continue
        answer = Answer(page)
        blocked = False
        work: list[tuple[Vma, Needs]] = []
        for vma, rows in mm.by_vma(page):
            error = _protection(vma, access)
            if error or vma is None:
                answer.status[rows] = error
                continue
            slot = (page[rows] - np.uint64(vma.start)).astype(np.intp)
            if vma.file is not None:
                beyond = slot + vma.pgoff >= vma.file.nid.size
                answer.status[rows[beyond]] = -EFAULT
                slot, rows = slot[~beyond], rows[~beyond]
            if memory.poisoned and (lost := poisoned(vma, slot)).any():
                answer.status[rows[lost]] = -EHWPOISON
                slot, rows = slot[~lost], rows[~lost]
            needs = _needs(memory, vma, slot, access)
            blocked |= needs.blocked
            if vma.start in unfilled:
                without = np.isin(slot, np.concatenate([needs.allocate, needs.copy]))
                answer.status[rows[without]] = -ENOMEM
                needs.allocate = needs.copy = needs.allocate[:0]
            if any(part.size for part in (needs.allocate, needs.attach, needs.copy, needs.reuse)):
                work.append((vma, needs))
            else:
                _translate(memory, mm, vma, slot, rows, answer)
        if work:
            mm.mmap_sem.readers += 1
            # One need, and look again: what the others need may have changed meanwhile.
            vma, needs = work[0]
            if not (yield from _serve(memory, task, vma, needs, node, access)):
                unfilled.add(vma.start)
            up_read(memory, mm)
        elif blocked:
            yield PARKED
        else:
            memory.notes.append(FaultServed(page.size, memory.now - started))
            return answer.message()


def _protection(vma: Vma | None, access: Access) -> int:
    if vma is None:
        return -EFAULT
    wanted = PROT_WRITE if access == Access.WRITE else PROT_READ
    if access <= Access.WRITE and not vma.prot & wanted:
        return -EACCES
    return 0


def _needs(memory: Memory, vma: Vma, slot: Rows, access: Access) -> Needs:
    """Sort the slots by what has to be done before the access can be granted."""
    bits = vma.bits[slot]
    present = (bits & PRESENT) != 0
    busy = (bits & (ENTRY | BUSY)) != 0
    here = slot[present]
    unsettled = memory.flagged(vma.nid[here], vma.pfn[here], PageFlag.UNSETTLED)
    blocked = bool(np.count_nonzero(busy) or np.count_nonzero(unsettled))
    none = np.zeros(0, np.intp)
    absent = slot[~present & ~busy]
    attach = none
    if vma.file is not None:
        index = absent + vma.pgoff
        cached = vma.file.nid[index] != NO_NODE
        filling = ~cached & (vma.file.pfn[index] == FILLING)
        attach, absent = absent[cached], absent[~cached & ~filling]
        # As a lookup in the page cache that finds the page locked: it may be on its way (K 1.49).
        index = attach + vma.pgoff
        held = memory.flagged(vma.file.nid[index], vma.file.pfn[index], PageFlag.HELD)
        attach = attach[~held]
        blocked = blocked or bool(np.count_nonzero(filling) or np.count_nonzero(held))
    elif access == Access.READ:
        absent = none
    populates = access == Access.POPULATE_ANON and vma.copies_file
    if access != Access.WRITE and not populates:
        return Needs(blocked, absent, attach, none, none)
    here = here[((vma.bits[here] & BUSY) == 0) & ~unsettled]
    if vma.shared:
        # The entry of a page that was cleaned is clean: a store has to make it dirty again.
        granted = WRITE | DIRTY
        return Needs(blocked, absent, attach, none, here[(vma.bits[here] & granted) != granted])
    if populates:
        here = here[(vma.bits[here] & ANON) == 0]
    readonly = here[(vma.bits[here] & WRITE) == 0]
    frame = vma.nid[readonly], vma.pfn[readonly]
    # Who has just copied it may be served from it still, until that is revoked.
    alone = (memory.mapcounts(*frame) == 1) & ~memory.flagged(*frame, PageFlag.REVOKING)
    if vma.copies_file:
        alone &= (vma.bits[readonly] & ANON) != 0
    reuse, copy = readonly[alone], readonly[~alone]
    held = memory.flagged(vma.nid[copy], vma.pfn[copy], PageFlag.HELD)
    return Needs(blocked or bool(np.count_nonzero(held)), absent, attach, copy[~held], reuse)


def _translate(memory: Memory, mm: Mm, vma: Vma, slot: Rows, rows: Rows, answer: Answer) -> None:
    """Fill in the translations; slots that are not present read as the zero page (K 3.9)."""
    there = (vma.bits[slot] & PRESENT) != 0
    if vma.file is None:
        absent = (vma.bits[slot] & _MARKS) == 0
        zero = slot[absent & (answer.status[rows] == 0)]
        if zero.size:
            memory.map_zero(mm, vma, zero)
    tell(memory, vma, slot[there], rows[there], answer)


def tell(memory: Memory, vma: Vma, slot: Rows, rows: Rows, answer: Answer) -> None:
    """Fill in the translations of slots that are present and served.

    Who has one may use it, also if it was only wished for, and nobody hears of that: so the entry
    counts as accessed from now on.
    """
    vma.bits[slot] |= np.uint8(Pte.ACCESSED)
    answer.nid[rows], answer.pfn[rows] = vma.nid[slot], vma.pfn[slot]
    answer.generation[rows] = memory.generations(vma.nid[slot], vma.pfn[slot])
    granted = WRITE | DIRTY
    answer.writable[rows] = (vma.bits[slot] & granted) == granted


def _serve(
    memory: Memory, task: Task, vma: Vma, needs: Needs, node: int, access: Access
) -> Steps[bool]:
    """Do what needs no waiting, or else one thing that does; False if some page found no frame."""
    if needs.reuse.size:
        slot = needs.reuse
        grant = np.uint8(Pte.WRITE | Pte.DIRTY | Pte.ACCESSED | Pte.WRITTEN)
        if not vma.shared:
            grant |= np.uint8(Pte.ANON)
        bits = vma.bits[slot] | grant
        memory.map_existing(task, vma, slot, vma.nid[slot], vma.pfn[slot], bits)
    if needs.attach.size:
        assert vma.file is not None
        slot, index = needs.attach, needs.attach + vma.pgoff
        bits = np.full(slot.size, new_bits(vma, access), np.uint8)
        nid, pfn = vma.file.nid[index], vma.file.pfn[index]
        memory.map_existing(task, vma, slot, nid, pfn, bits)
    if needs.reuse.size or needs.attach.size:
        _fault_dirty_shared_page(memory, vma, np.union1d(needs.reuse, needs.attach), access)
        return True
    if needs.allocate.size and vma.name == UNCACHED:
        return (yield from allocate_granules(memory, task, vma, needs.allocate, node))
    if not vma.shared and (vma.file is None or not needs.allocate.size):
        anon_vma_prepare(memory, task, vma)
    if needs.allocate.size:
        return (yield from _first_touch(memory, task, vma, needs.allocate, node, access))
    if needs.copy.size:
        return (yield from copy_on_write(memory, task, vma, needs.copy, node))
    return True


def _fault_dirty_shared_page(memory: Memory, vma: Vma, slot: Rows, access: Access) -> None:
    """Who may write to a page of a cache makes the page dirty at once, for all who map it."""
    dirties = vma.shared and memory.profile.shared_write_dirties_page
    if dirties and access == Access.WRITE and not vma.vm_flags & VmFlag.PFNMAP:
        assert vma.file is not None
        index = slot + vma.pgoff
        clean = index[(vma.file.tags[index] & PageTag.DIRTY) == 0]
        memory.tag(vma.file, clean, vma.file.tags[clean] | np.uint8(PageTag.DIRTY))


def new_bits(vma: Vma, access: Access) -> int:
    """The bits of an entry that is made by a fault for ``access``."""
    bits = Pte.PRESENT | Pte.ACCESSED
    if vma.copies_file:
        return int(bits)
    if access == Access.WRITE:
        bits |= Pte.WRITE | Pte.DIRTY | Pte.WRITTEN
    elif access == Access.POPULATE_ANON and not vma.shared:
        bits |= Pte.DIRTY
    # A page that was not written to is not writable yet: the first store faults and makes it dirty.
    if access in (Access.WRITE, Access.POPULATE_ANON) and not vma.shared:
        bits |= Pte.ANON
    return int(bits)


def _first_touch(
    memory: Memory, task: Task, vma: Vma, slot: Rows, node: int, access: Access
) -> Steps[bool]:
    """Absent pages get zeroed frames; BUSY keeps other faults on them waiting meanwhile.

    A page of a page cache may be faulted on from several vmas: FILLING in the cache
    keeps the others waiting, so that only one of them allocates.
    """
    vma.set_bits(slot, vma.bits[slot] | np.uint8(Pte.BUSY))
    index = slot + vma.pgoff
    if vma.file is not None:
        vma.file.pfn[index] = FILLING
    bits = new_bits(vma, access)
    active = bits & Pte.ANON and memory.profile.new_anonymous_is_active
    mapped = ACTIVE if active else INACTIVE
    parts = yield from allocate_frames(memory, task, vma, slot, mapped=mapped, local=node)
    if vma.file is not None:
        vma.file.pfn[index] = 0
    vma.bits[slot] &= ~np.uint8(Pte.BUSY)
    for nid, rows, pfn in parts:
        memory.map_new(task, vma, slot[rows], nid, pfn, np.full(rows.size, bits, np.uint8))
        _fault_dirty_shared_page(memory, vma, slot[rows], access)
        if access <= Access.WRITE:
            memory.emulated.faulted(memory, task.pid, node, nid, rows.size)
    memory.woken = True
    return sum(rows.size for _, rows, _ in parts) == slot.size
