"""All the memory of the machine as the coordinator sees it: tasks, objects, frames, counters.

Every change of a mapping goes through here, is applied to arrays, and leaves an entry for the
journal in ``records``; the Core turns those into Record effects before its next Send.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from coordinator.cpuset import TOP, top_cpuset
from coordinator.emulated import Emulated
from coordinator.hotplug_records import NodeLet
from coordinator.inode import Inode, PageTag
from coordinator.job import Jobs
from coordinator.mem_map import CACHE_MAX, NO_NODE, MemMap, Nids, PageFlag, Pfns, gathered, grouped
from coordinator.mm import PROT_WRITE, Mapping, MigratePageMethod, Mm, Pte, Task, Vma, VmOperations
from coordinator.mmap_sem import MmapSem
from coordinator.pagelist import Columns, LoadedNewPage, PageList
from coordinator.records import (
    AllocationsCounted,
    EntriesChanged,
    FramesFreed,
    GenerationsSet,
    MigrationCounted,
    PagesCommitted,
    PagesCopied,
    PagesMapped,
    PagesTagged,
)
from coordinator.rows import Rows, kept, span
from coordinator.vmstat import Counters, Migrated, trace_lines
from protocol.messages import NewPageFrames, NewPages, NewUncachedPages, TakePages
from protocol.notes import Note, PagesAllocated
from protocol.profile import SEED, Profile
from protocol.schema import Message
from protocol.topology import Topology

_LIVE, _DIRTY, _ENTRY = map(np.uint8, (Pte.PRESENT | Pte.ENTRY, Pte.DIRTY, Pte.ENTRY))
_DIRTY_OR_ANON = np.uint8(Pte.DIRTY | Pte.ANON)
_PRESENT, _OLD = np.uint8(Pte.PRESENT), np.uint8(Pte.PRESENT | Pte.ACCESSED)
_KEEP_FROM_ENTRY = np.uint8(Pte.WRITE | Pte.DIRTY | Pte.ANON | Pte.BUSY | Pte.WRITTEN)
_KEEP_UNMOVED = _KEEP_FROM_ENTRY | np.uint8(Pte.ACCESSED)


class Memory:
    """Tasks, mappings and mem_map; arrays of frames are (nid, pfn) pairs of equal length."""

    def __init__(self, topology: Topology, profile: Profile = SEED) -> None:
        self.topology = topology
        self.profile = profile
        self.nids = tuple(node.nid for node in topology.nodes)
        self.mem_map = {node.nid: MemMap(node.frames) for node in topology.nodes}
        self.counters = Counters(max(self.nids) + 1)
        self.numastat = self.counters.numastat
        self.emulated = Emulated(topology)
        #: Times at which parked calls want to be woken.
        self.alarms: list[float] = []
        self.tasks: dict[int, Task] = {}
        #: By path, in the order of making.
        self.cpusets = {TOP: top_cpuset(topology)}
        #: Whoever changes cpusets, or attaches tasks to them, does so alone.
        self.cpuset_mutex = MmapSem()
        #: Of WEIGHTED_INTERLEAVE; 1 for a node that is not here (K 5.8).
        self.interleave_weights: dict[int, int] = {}
        self.mappings: dict[int, Mapping] = {}
        #: The page caches of files that were created, by path.
        self.files: dict[str, Mapping] = {}
        #: Writeback under way: when it ends, and which pages (indexes) of which file.
        self.writeback: list[tuple[float, Mapping, Rows]] = []
        #: The page lists of the migrations under way.
        self.page_lists: list[PageList] = []
        #: Calls that nobody's question waits for: the Core takes them up.
        self.started: list[Generator[Any, Any, Message]] = []
        #: The same, put off behind the effects of this event: taken up before the next one.
        self.later: list[Generator[Any, Any, Message]] = []
        #: Of the calls, those that another one waits for; and those that wait for theirs.
        self.threads = self.joining = 0
        self.jobs = Jobs()
        #: vm_ops and migratepage methods by the name of a vma (vm_operations.py).
        self.vm_operations: dict[str, VmOperations] = {}
        self.address_space_operations: dict[str, MigratePageMethod] = {}
        #: new_page_t callbacks that were loaded, by name: each makes one for one call.
        self.new_pages: dict[str, Callable[[], LoadedNewPage]] = {}
        self.records, self.notes = list[Message](), list[Note]()
        #: The time, and how many events there were.
        self.now, self.events = 0.0, 0
        #: Nodes that do not answer (nothing is asked of them that somebody would wait for), and
        #: those that give out no frame (hotplug.py).
        self.lost = self.offline = frozenset[int]()
        #: Who has leased which node (leases.py), None: nodes are not leased; and which cannot be.
        self.leases: dict[int, NodeLet] | None = None
        self.fixed = frozenset[int]()
        #: Seconds for which some page was a migration entry, at most; and: something changed that a
        #: parked fault or call may be waiting for.
        self.longest_entry, self.woken = 0.0, False
        #: The UUID of each node's zone, as far as they are known; the coordinator's epoch.
        self.zones: dict[int, str] = {}
        self.epoch, self.poisoned = 0, False
        self.next_mapping = self.next_pid = self._next_transfer = self.next_anon_vma = 1

    # ---- objects ---------------------------------------------------------------------------

    def new_pid(self) -> int:
        self.next_pid += 1
        return self.next_pid - 1

    def new_transfer(self) -> int:
        transfer = self._next_transfer
        self._next_transfer += 1
        return transfer

    def claim_pid(self, pid: int) -> None:
        """Replay: this pid is taken."""
        self.next_pid = max(self.next_pid, pid + 1)

    def new_mapping(
        self, *, shared: bool, pages: int, mapping_id: int | None = None, host: Inode | None = None
    ) -> Mapping:
        """An anon_vma, or a shared object of ``pages`` pages with its (empty) page cache.

        MemoryError: there is no room for a page cache of so many.
        """
        if shared and pages > CACHE_MAX:
            raise MemoryError
        number = self.next_mapping if mapping_id is None else mapping_id
        self.next_mapping = max(self.next_mapping, number + 1)
        mapping = Mapping(number, shared, host=host)
        if shared:
            mapping.nid = np.full(pages, NO_NODE, np.uint8)
            mapping.pfn = np.zeros(pages, np.uint32)
            mapping.tags = np.zeros(pages, np.uint8)
        self.mappings[number] = mapping
        return mapping

    # ---- frames ----------------------------------------------------------------------------

    def by_node(self, nid: Nids) -> Iterator[tuple[int, Rows]]:
        """Group rows by node, ascending."""
        return grouped(nid)

    def generations(self, nid: Nids, pfn: Pfns) -> npt.NDArray[np.uint32]:
        return gathered(self.mem_map, "generation", nid, pfn)

    def mapcounts(self, nid: Nids, pfn: Pfns) -> npt.NDArray[np.uint32]:
        return gathered(self.mem_map, "mapcount", nid, pfn)

    def flagged(self, nid: Nids, pfn: Pfns, flag: PageFlag) -> npt.NDArray[np.bool_]:
        flags = gathered(self.mem_map, "flags", nid, pfn)
        flagged: npt.NDArray[np.bool_] = flags & int(flag) != 0
        return flagged

    def hold(self, nid: Nids, pfn: Pfns) -> None:
        for node, rows in self.by_node(nid):
            assert not np.count_nonzero(self.mem_map[node].test(pfn[rows], PageFlag.HELD))
            self.mem_map[node].set(pfn[rows], PageFlag.HELD)

    def release(self, nid: Nids, pfn: Pfns, flags: PageFlag = PageFlag.HELD) -> None:
        for node, rows in self.by_node(nid):
            self.mem_map[node].clear(pfn[rows], flags)
        self.woken = True

    def set_generations(self, nid: int, pfn: Pfns, generation: npt.NDArray[np.uint32]) -> None:
        self.mem_map[nid].generation[pfn] = generation
        self.records.append(GenerationsSet(nid, pfn, generation))

    def count_allocation(
        self, node: int, preferred: int, local: int, pages: int, *, interleave: bool = False
    ) -> None:
        """``pages`` frames came from ``node``; ``local``: node of the cpu that asked (K 6.6).

        interleave: it was the turn of this very node (K 5.7).
        """
        if pages:
            self.numastat.count(
                node=node, preferred=preferred, local=local, pages=pages, interleave=interleave
            )
            counted = AllocationsCounted(node, preferred, local, int(interleave), pages)
            self.records.append(counted)
            self.notes.append(PagesAllocated(node, preferred, local, pages, interleave))

    def count_migration(self, done: Migrated) -> None:
        """A call of migrate_pages() has ended (K 6.11, 6.12)."""
        lines = trace_lines(self, done)
        self.counters.migrated(done.succeeded, done.failed, lines)
        self.records.append(MigrationCounted(done.succeeded, done.failed, lines))

    def given(
        self,
        nid: int,
        answer: NewPageFrames,
        rows: Rows,
        asked: NewPages | NewUncachedPages | TakePages,
        flags: PageFlag,
    ) -> Pfns:
        """These rows of an allocation got frames; a frame that was being put is free thereby."""
        frames, pfn = self.mem_map[nid], answer.pfn[rows].copy()
        self._free(nid, pfn[frames.test(pfn, PageFlag.PUTTING)])
        assert not np.count_nonzero(frames.flags[pfn]), f"node {nid} gave a frame that is in use"
        frames.allocate(pfn, answer.generation[rows], asked.owner[rows], asked.index[rows], flags)
        return pfn

    def putting(self, nid: int, pfn: Pfns) -> None:
        """The node is being asked to free these frames."""
        self.mem_map[nid].set(pfn, PageFlag.PUTTING)

    def put(self, nid: int, pfn: Pfns) -> None:
        """The node has acknowledged; but for frames that it has given away again since."""
        self._free(nid, pfn[self.mem_map[nid].test(pfn, PageFlag.PUTTING)])

    def _free(self, nid: int, pfn: Pfns) -> None:
        if pfn.size:
            self.mem_map[nid].free(pfn)
            self.records.append(FramesFreed(nid, pfn))
            self.woken = True

    # ---- page tables -----------------------------------------------------------------------

    def map_new(
        self,
        task: Task,
        vma: Vma,
        slot: Rows,
        nid: int,
        pfn: Pfns,
        bits: npt.NDArray[np.uint8],
    ) -> None:
        """First touch: these entries name these frames, which nobody mapped before."""
        self._enter(vma, slot, nid, pfn, bits)
        if vma.file is not None:
            index = slot + vma.pgoff
            vma.file.nid[index], vma.file.pfn[index] = nid, pfn
            host = vma.file.host
            vma.file.tags[index] = PageTag.PRIVATE if host is not None and host.buffers else 0
        page = (slot + vma.start).astype(np.uint64)
        generation = self.mem_map[nid].generation[pfn]
        self.records.append(PagesMapped(task.mm.pid, nid, page, pfn, generation, bits))

    def map_existing(
        self, task: Task, vma: Vma, slot: Rows, nid: Nids, pfn: Pfns, bits: npt.NDArray[np.uint8]
    ) -> None:
        """Entries for frames that exist: a shared object's page, or new bits of a present one."""
        for node, rows in self.by_node(nid):
            fresh = rows[(vma.bits[slot[rows]] & np.uint8(Pte.PRESENT)) == 0]
            self.mem_map[node].mapcount[pfn[fresh]] += 1
        vma.enter(slot, nid, pfn, bits)
        page = (slot + vma.start).astype(np.uint64)
        self.records.append(EntriesChanged(task.mm.pid, page, nid, pfn, bits))
        self.woken = True

    def map_zero(self, mm: Mm, vma: Vma, slot: Rows) -> None:
        """These entries name the zero page, which has no frame of ours (K 3.9)."""
        vma.set_bits(slot, Pte.ACCESSED)
        page, none = (slot + vma.start).astype(np.uint64), np.zeros(slot.size, np.uint8)
        bits = vma.bits[slot]
        self.records.append(EntriesChanged(mm.pid, page, none, none.astype(np.uint32), bits))

    def map_copy(self, task: Task, vma: Vma, slot: Rows, nid: int, pfn: Pfns) -> None:
        """Copy-on-write is done: the entries name the copies; the originals lose a mapper."""
        for old, rows in self.by_node(vma.nid[slot]):
            self.mem_map[old].mapcount[vma.pfn[slot[rows]]] -= 1
        bits = Pte.PRESENT | Pte.DIRTY | Pte.ACCESSED | Pte.ANON | Pte.WRITTEN
        if vma.prot & PROT_WRITE:
            bits |= Pte.WRITE
        self._enter(vma, slot, nid, pfn, np.full(slot.size, bits, np.uint8))
        page = (slot + vma.start).astype(np.uint64)
        generation = self.mem_map[nid].generation[pfn]
        self.records.append(PagesCopied(task.mm.pid, nid, page, pfn, generation))

    def _enter(self, vma: Vma, slot: Rows, nid: int, pfn: Pfns, bits: Columns) -> None:
        self.mem_map[nid].mapcount[pfn] += 1
        vma.enter(slot, nid, pfn, bits)
        self.woken = True

    def unmap(self, mm: Mm, start: int, end: int) -> tuple[Nids, Pfns]:
        """Drop the vmas of a range (split before at its edges); returns the frames they named."""
        nids: list[Nids] = []
        pfns: list[Pfns] = []
        doomed: list[Mapping] = []
        for vma in mm.overlapping(start, end):
            assert start <= vma.start and vma.end <= end
            assert not vma.marked(Pte.BUSY).size
            slot = vma.live()
            nids.append(vma.nid[slot])
            pfns.append(vma.pfn[slot])
            self.set_page_dirty(vma, slot)
            mm.remove(vma)
            doomed += vma.objects()
        nid = np.concatenate(nids) if nids else np.zeros(0, np.uint8)
        pfn = np.concatenate(pfns) if pfns else np.zeros(0, np.uint32)
        for node, rows in self.by_node(nid):
            np.subtract.at(self.mem_map[node].mapcount, pfn[rows], 1)
        return self.with_orphaned_caches(doomed, nid, pfn)

    def with_orphaned_caches(
        self, doomed: Sequence[Mapping], nid: Nids, pfn: Pfns
    ) -> tuple[Nids, Pfns]:
        """An object that no vma maps and no name leads to is gone, with all that its cache has."""
        for mapping in doomed:
            named = mapping.host is not None and mapping.host.linked
            if not mapping.vmas and not named and mapping.id in self.mappings:
                index = mapping.cached()
                nid = np.concatenate([nid, mapping.nid[index]])
                pfn = np.concatenate([pfn, mapping.pfn[index]])
                mapping.nid[:] = NO_NODE
                del self.mappings[mapping.id]
        return nid, pfn

    def set_page_dirty(self, vma: Vma, slot: Rows) -> None:
        """Dirty entries of cached pages are going: the pages are dirty from now on (K 1.38)."""
        if vma.file is None:
            return
        dirty = slot[vma.bits[slot] & _DIRTY_OR_ANON == _DIRTY]
        index = dirty + vma.pgoff
        fresh = index[(vma.file.tags[index] & np.uint8(PageTag.DIRTY)) == 0]
        vma.bits[dirty] &= ~_DIRTY
        self.tag(vma.file, fresh, vma.file.tags[fresh] | np.uint8(PageTag.DIRTY))

    def tag(self, mapping: Mapping, index: Rows, tags: npt.NDArray[np.uint8]) -> None:
        """Pages of a cache that no entry says are dirty have these tags now."""
        if not index.size:
            return
        mapping.tags[index] = tags
        told = tags & np.uint8(~PageTag.WRITEBACK & 0xFF)
        calls = 0 if mapping.host is None else mapping.host.writepages
        self.records.append(PagesTagged(mapping.id, calls, index.astype(np.uint32), told))

    # ---- rmap ------------------------------------------------------------------------------

    def mappers(self, nid: int, pfn: Pfns) -> Iterator[tuple[Vma, Rows, Rows]]:
        """Every live entry that names one of these frames: (vma, slots in it, rows of ``pfn``)."""
        objects = self.mem_map[nid].mapping[span(pfn)]
        index = self.mem_map[nid].index[span(pfn)].astype(np.intp)
        for number, mine in grouped(objects):
            owner = self.mappings.get(number)
            for vma in [] if owner is None else owner.vmas:
                slot = index[mine] - vma.pgoff
                slot, rows = kept((slot >= 0) & (slot < vma.pages), slot, mine)
                at = span(slot)
                live = (vma.nid[at] == nid) & (vma.pfn[at] == pfn[span(rows)])
                live &= (vma.bits[at] & _LIVE) != 0
                if np.count_nonzero(live):
                    yield vma, *kept(live, slot, rows)

    def try_to_unmap(self, nid: int, pfn: Pfns, *, young: bool = False) -> None:
        """Every present entry becomes a migration entry (K 1.35); ``young``: it stays accessed."""
        gone = _PRESENT if young else _OLD
        for vma, slot, _ in self.mappers(nid, pfn):
            self.set_page_dirty(vma, slot)
            at = span(slot)
            bits = vma.bits[at]
            assert not np.count_nonzero(bits & _ENTRY), "an entry of an entry"
            vma.bits[at] = (bits & ~gone) | _ENTRY

    def remove_migration_ptes(self, nid: int, pfn: Pfns, target: int, target_pfn: Pfns) -> None:
        """Entries that name (nid, pfn) become present entries of (target, target_pfn) (K 1.41).

        With target == nid and target_pfn is pfn this is the restoration after a failure.
        """
        moved = not (target == nid and np.array_equal(pfn, target_pfn))
        stays = _KEEP_FROM_ENTRY if moved else _KEEP_UNMOVED
        for vma, slot, rows in self.mappers(nid, pfn):
            at, mine = span(slot), span(rows)
            bits, new, old = vma.bits[at], target_pfn[mine], pfn[mine]
            assert np.count_nonzero(bits & _ENTRY) == bits.size, "a present entry is being moved"
            vma.nid[at], vma.pfn[at] = target, new
            vma.bits[at] = (bits & stays) | _PRESENT
            if moved:
                self.mem_map[target].mapcount[span(new)] += 1
                self.mem_map[nid].mapcount[span(old)] -= 1
        if moved:
            self._move_cache(nid, pfn, target, target_pfn)
        self.woken = True

    def _move_cache(self, nid: int, pfn: Pfns, target: int, target_pfn: Pfns) -> None:
        """A shared object's page cache names the new frame too (K 1.49)."""
        old = self.mem_map[nid]
        objects = old.mapping[pfn]
        for number, rows in grouped(objects):
            mapping = self.mappings.get(number)
            if mapping is not None and mapping.shared:
                index = old.index[pfn[rows]]
                mapping.nid[index], mapping.pfn[index] = target, target_pfn[rows]

    def commit(self, nid: int, pfn: Pfns, target: int, target_pfn: Pfns) -> None:
        """The move itself: entries -> new, in one place, recorded (design 6)."""
        self.remove_migration_ptes(nid, pfn, target, target_pfn)
        self.mem_map[target].referenced[span(target_pfn)] = self.mem_map[nid].referenced[span(pfn)]
        generation = self.mem_map[target].generation[target_pfn]
        self.records.append(PagesCommitted(nid, target, pfn, target_pfn, generation))
