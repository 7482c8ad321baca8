"""mm_struct, vm_area_struct and page tables as arrays.

A page-table entry is (nid, pfn, bits): six bytes.  Its generation is that of its frame
(``mem_map.py``): one truth for all who map it.  An entry is present, or a migration entry
(``Pte.ENTRY``, READ or WRITE by ``Pte.WRITE``; K 1.35), or nothing.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntFlag
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from coordinator.cred import SYS_NICE, Credentials
from coordinator.inode import Inode, PageTag
from coordinator.mem_map import NO_NODE, Nids, Pfns, Rows
from coordinator.mmap_sem import MmapSem
from coordinator.mpol import Mempolicy
from coordinator.rows import PORTION
from coordinator.touched import BLOCK, Touched
from protocol.values import at_hand

if TYPE_CHECKING:
    from coordinator.calls import Steps
    from coordinator.memory import Memory

PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4
MAP_SHARED, MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS = 0x01, 0x02, 0x10, 0x20
MAP_LOCKED, MAP_POPULATE, MAP_FIXED_NOREPLACE = 0x2000, 0x8000, 0x100000

#: Virtual page numbers: mappings without a wish start here and grow upwards.
MMAP_BASE = 0x7000_0000_0
TASK_SIZE = 1 << 35

Pages = npt.NDArray[np.uint64]


@at_hand
class Pte(IntFlag):
    """Bits of a page-table entry.  ACCESSED without PRESENT is the zero page (K 3.9)."""

    PRESENT = 1
    WRITE = 2
    DIRTY = 4
    ACCESSED = 8
    #: A migration entry: nid and pfn name the old frame; whoever faults on it waits (K 1.45).
    ENTRY = 16
    ANON = 32
    #: A fault on this page is being served.
    BUSY = 64
    #: A task was granted a writable translation at some time (for comparisons with an image).
    WRITTEN = 128


#: For numpy, which asks an enum for everything that an array could have.
PRESENT, WRITE, DIRTY, _, ENTRY, ANON, BUSY, _ = map(np.uint8, Pte)


@at_hand
class VmFlag(IntFlag):
    """vm_flags that matter to migration (K 3.6)."""

    LOCKED = 1
    IO = 2
    PFNMAP = 4
    RESERVED = 8
    #: Private memory that may be written to, or could once: it counts as committed.
    ACCOUNT = 16


#: The name of memory of the uncached allocator (uncached.py).
UNCACHED = "[uncached]"
#: vm_flags of mappings with these names, as a driver's mmap method would set them (K 3.6).
SPECIAL_MAPPINGS = {
    "[io]": VmFlag.IO,
    "[pfnmap]": VmFlag.PFNMAP,
    "[reserved]": VmFlag.RESERVED,
    UNCACHED: VmFlag.IO | VmFlag.PFNMAP,
}
#: Plain numbers, for ``int(vm_flags)``: an enum combines by a function.
LOCKED = int(VmFlag.LOCKED)
NOT_MIGRATABLE = int(VmFlag.IO | VmFlag.PFNMAP | VmFlag.RESERVED)


#: vm_ops->migrate(memory, vma, from, to, flags) -> 0, -errno, or positive (K 2.2, 2.5); a hook that
#: asks nodes is a generator of steps (calls.py).
MigrateHook = Callable[["Memory", "Vma", frozenset[int], frozenset[int], int], "int | Steps[int]"]
#: a_ops->migratepage(mapping, rows) -> one status for each row: 0 copy it, or -errno for good.
MigratePageMethod = Callable[["Mapping", int], npt.NDArray[np.int32]]


@dataclass(frozen=True, slots=True)
class VmOperations:
    """struct vm_operations_struct, as far as migration knows it."""

    migrate: MigrateHook | None = None


@dataclass(eq=False, slots=True)
class Mapping:
    """An object that pages belong to: an anon_vma, or a shared object with a page cache.

    ``vmas`` are all that may map its pages (the kernel's rmap); page ``index`` of the object is at
    ``vma.start + index - vma.pgoff``.  A shared object has a page cache: (nid, pfn, tags) for each
    index.  One with a ``host`` is a file's, and outlives its vmas while the file has a name.
    """

    id: int
    shared: bool
    vmas: list[Vma] = field(default_factory=list)
    nid: npt.NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    pfn: npt.NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.uint32))
    tags: npt.NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    host: Inode | None = None
    migratepage: MigratePageMethod | None = None
    #: Of shared memory: (first index, end, policy) of ranges that have one, ascending (K 5.2).
    policies: list[tuple[int, int, Mempolicy]] = field(default_factory=list)

    def cached(self) -> npt.NDArray[np.intp]:
        """Indexes that have a frame."""
        index: npt.NDArray[np.intp] = (self.nid != NO_NODE).nonzero()[0]
        return index

    def dirty(self) -> npt.NDArray[np.bool_]:
        """For each page of the cache: it is dirty, or an entry that names it is."""
        dirty: npt.NDArray[np.bool_] = (self.tags & np.uint8(PageTag.DIRTY)) != 0
        return dirty | self.dirty_entries()

    def dirty_entries(self) -> npt.NDArray[np.bool_]:
        """For each page of the cache: some entry that names it is dirty."""
        dirty = np.zeros(self.nid.size, np.bool_)
        for vma in self.vmas:
            slot = vma.marked(DIRTY)
            dirty[slot[(vma.bits[slot] & ANON) == 0] + vma.pgoff] = True
        return dirty


class Vma:
    """vm_area_struct: pages ``start`` .. ``end`` (virtual page numbers) and their entries.

    ``mapping`` owns the pages that are the vma's own; ``file`` has the page cache that it reads:
    the same object if it is shared, another one (or None) if it is private.
    """

    __slots__ = (
        "anon_root",
        "anon_vma",
        "bits",
        "end",
        "file",
        "flags",
        "mapping",
        "name",
        "nid",
        "opened",
        "pfn",
        "pgoff",
        "policy",
        "prot",
        "start",
        "touched",
        "vm_flags",
        "vm_mm",
        "vm_ops",
    )

    def __init__(
        self,
        start: int,
        end: int,
        prot: int,
        flags: int,
        name: str,
        pgoff: int,
        mapping: Mapping,
        file: Mapping | None = None,
    ) -> None:
        self.start, self.end, self.prot, self.flags = start, end, prot, flags
        self.name, self.pgoff, self.mapping = name, pgoff, mapping
        self.file = mapping if mapping.shared else file
        #: struct file: each mmap opens what it maps anew, so only its own parts can be joined.
        self.opened = object()
        self.vm_flags = VmFlag.LOCKED if flags & MAP_LOCKED else VmFlag(0)
        self.protect(prot)
        self.vm_mm: Mm | None = None
        self.vm_ops: VmOperations | None = None
        self.policy: Mempolicy | None = None
        #: Its anon_vma, 0 before its first anonymous page; the one that it was forked from.
        self.anon_vma = self.anon_root = 0
        self.nid = np.zeros(end - start, np.uint8)
        self.pfn = np.zeros(end - start, np.uint32)
        self.bits = np.zeros(end - start, np.uint8)
        self.touched = Touched(end - start)
        for mine in self.objects():
            mine.vmas.append(self)

    @property
    def pages(self) -> int:
        return self.end - self.start

    @property
    def shared(self) -> bool:
        return bool(self.flags & MAP_SHARED)

    @property
    def copies_file(self) -> bool:
        """A private mapping of a page cache: what is written to is copied first."""
        return self.file is not None and self.file is not self.mapping

    def protect(self, prot: int) -> None:
        """It has this protection from now on; what was accounted for once stays so."""
        self.prot = prot
        if prot & PROT_WRITE and not self.shared:
            self.vm_flags |= VmFlag.ACCOUNT

    def objects(self) -> list[Mapping]:
        """Those whose pages it may map: each knows of it (anon_vma and i_mmap in the kernel)."""
        if self.file is not None and self.file is not self.mapping:
            return [self.mapping, self.file]
        return [self.mapping]

    @property
    def anonymous(self) -> bool:
        return not self.name.startswith("/")

    def marked(self, mask: int | np.uint8) -> Rows:
        """Slots (offsets into the arrays) whose entry has any of these bits."""
        if self.pages <= BLOCK:
            return (self.bits & np.uint8(mask)).nonzero()[0]
        return np.concatenate([np.zeros(0, np.intp), *self.marked_parts(mask)])

    def marked_parts(self, mask: int | np.uint8) -> Iterator[Rows]:
        """The same in pieces."""
        if self.pages <= PORTION:
            yield self.marked(mask)
            return
        for part in self.touched.parts(self.pages):
            for start in range(part.start, part.stop, PORTION):
                bits = self.bits[start : min(start + PORTION, part.stop)]
                yield (bits & np.uint8(mask)).nonzero()[0] + start

    def present(self) -> Rows:
        """Slots whose page is present."""
        return self.marked(PRESENT)

    def live(self) -> Rows:
        """Slots whose page is present or a migration entry."""
        return self.marked(PRESENT | ENTRY)

    def set_bits(self, slot: Rows, bits: npt.NDArray[np.uint8] | int) -> None:
        """What these entries are now; they may have been empty."""
        self.touched.add(slot)
        self.bits[slot] = bits

    def enter(self, slot: Rows, nid: Nids | int, pfn: Pfns, bits: npt.NDArray[np.uint8]) -> None:
        """These entries name these frames."""
        self.nid[slot], self.pfn[slot] = nid, pfn
        self.set_bits(slot, bits)

    def split(self, page: int) -> Vma:
        """Cut at ``page``: this vma keeps what lies below, the new one has the rest."""
        assert self.start < page < self.end
        offset = page - self.start
        upper = Vma.__new__(Vma)
        upper.start, upper.end, upper.prot, upper.flags = page, self.end, self.prot, self.flags
        upper.name, upper.pgoff, upper.mapping = self.name, self.pgoff + offset, self.mapping
        upper.file, upper.opened = self.file, self.opened
        upper.vm_flags, upper.vm_ops, upper.policy = self.vm_flags, self.vm_ops, self.policy
        upper.vm_mm, upper.anon_vma, upper.anon_root = self.vm_mm, self.anon_vma, self.anon_root
        upper.nid, self.nid = self.nid[offset:], self.nid[:offset]
        upper.pfn, self.pfn = self.pfn[offset:], self.pfn[:offset]
        upper.bits, self.bits = self.bits[offset:], self.bits[:offset]
        upper.touched = self.touched.split(offset)
        self.end = page
        for mine in self.objects():
            mine.vmas.append(upper)
        return upper

    def extend(self, upper: Vma) -> None:
        """This vma has what its upper neighbour had too, which is of the same object."""
        self.nid = np.concatenate([self.nid, upper.nid])
        self.pfn = np.concatenate([self.pfn, upper.pfn])
        self.bits = np.concatenate([self.bits, upper.bits])
        self.touched = Touched(self.bits.size, all=True)
        self.end = upper.end


class Mm:
    """mm_struct: the vmas of one process in address order.

    ``pid`` is that of the task that it was made for; the mm may outlive it with other threads.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        #: Tasks that have it: the threads of one process.
        self.users = 0
        #: Whether others with the same user ids may look into it (K 4.8).
        self.dumpable = True
        self.vmas: list[Vma] = []
        self.mmap_sem = MmapSem()

    def find(self, page: int) -> Vma | None:
        """The vma that contains ``page``."""
        at = bisect_right(self.vmas, page, key=lambda vma: vma.start) - 1
        return self.vmas[at] if at >= 0 and page < self.vmas[at].end else None

    def overlapping(self, start: int, end: int) -> list[Vma]:
        return [vma for vma in self.vmas if vma.start < end and start < vma.end]

    def insert(self, vma: Vma) -> None:
        assert not self.overlapping(vma.start, vma.end)
        vma.vm_mm = self
        insort(self.vmas, vma, key=lambda other: other.start)

    def remove(self, vma: Vma) -> None:
        self.vmas.remove(vma)
        for mine in vma.objects():
            mine.vmas.remove(vma)

    def isolate_range(self, start: int, end: int) -> list[Vma]:
        """The vmas of exactly ``start`` .. ``end``, split at its edges where needed."""
        for edge in (start, end):
            vma = self.find(edge)
            if vma is not None and vma.start < edge:
                insort(self.vmas, vma.split(edge), key=lambda other: other.start)
        return self.overlapping(start, end)

    def unmapped_area(self, pages: int) -> int:
        """The lowest gap of ``pages`` at or above MMAP_BASE, or -1."""
        at = MMAP_BASE
        for vma in self.vmas:
            if vma.start >= at + pages:
                break
            at = max(at, vma.end)
        return at if at + pages <= TASK_SIZE else -1

    def by_vma(self, page: Pages) -> Iterator[tuple[Vma | None, npt.NDArray[np.intp]]]:
        """Group page numbers by the vma that contains them (None: no vma); yields (vma, rows)."""
        if page.size == 0:
            return
        first = self.find(int(page[0]))
        if first is not None:
            outside = (page < first.start) | (page >= first.end)
            if not np.count_nonzero(outside):
                yield first, np.arange(page.size)
                return
        starts = np.array([vma.start for vma in self.vmas], np.uint64)
        ends = np.array([vma.end for vma in self.vmas], np.uint64)
        at = np.searchsorted(starts, page, side="right") - 1
        inside = at >= 0
        if ends.size:
            inside &= page < ends[np.maximum(at, 0)]
        at[~inside] = -1
        for which in np.unique(at):
            yield (None if which < 0 else self.vmas[which]), np.flatnonzero(at == which)


@dataclass(eq=False, slots=True)
class Task:
    """task_struct: one thread; ``tgid`` is the process, whose threads share ``mm``.

    ``client`` is who holds its lease, or None.  ``cpuset`` is the path of the cpuset that it is
    attached to, ``cpus_allowed`` the cpus that it had when the task was last told (None: all).
    ``exiting``: it is taking the mm down.  ``il_prev``: the node on which its last page went that
    was interleaved without a vma (-1: none yet), ``il_weight`` how many more go there.
    """

    pid: int
    ppid: int
    cred: Credentials
    cpu: int
    comm: str
    mm: Mm
    client: str | None
    tgid: int
    policy: Mempolicy | None = None
    cpuset: str = "/"
    cpus_allowed: frozenset[int] | None = None
    il_prev: int = -1
    il_weight: int = 0
    exiting: bool = False

    @property
    def uid(self) -> int:
        """Its real user id."""
        return self.cred.uid

    @property
    def capable(self) -> bool:
        """It has CAP_SYS_NICE."""
        return int(self.cred.effective) & SYS_NICE != 0
