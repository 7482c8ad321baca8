"""All of memory as entries of the journal: replayed, they give what the whole journal gives.

The meaning is that of the journal so far, also while calls are under way: a migration that has not
committed has moved nothing, so its entries are present ones of the old frames; who waits for whom
is nobody's memory.  A frame that no entry maps and no object caches is left out: who replays a
journal has nodes free such frames.

Columns are copies, so that they can be encoded while memory changes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from coordinator.hotplug_records import NodeOnline
from coordinator.inode import Inode, PageTag
from coordinator.mem_map import NO_NODE, POISONED, Rows
from coordinator.memory import Memory
from coordinator.mm import Mapping, Mm, Pte, Task, Vma
from coordinator.policy import policy_columns
from coordinator.records import (
    CpusetChanged,
    CredentialsSet,
    EpochBegan,
    InterleaveWeightSet,
    TaskAttached,
    TaskCloned,
    TaskExited,
    TaskPolicySet,
    TaskSpawned,
    ZoneKnown,
)
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

#: Rows of one entry: it has 2.3 MiB at most.
ROWS_MAX = 1 << 17

_LIVE = np.uint8(Pte.PRESENT | Pte.ENTRY)
_NO_HOST = Inode("", "", buffers=False, linked=False)

#: struct file: (mm, page) of the first vma that has it.
_Opened = dict[object, tuple[int, int]]


def snapshot(memory: Memory) -> list[Message]:
    """The entries, between two events of the Core."""
    return [
        EpochBegan(memory.epoch),
        *(ZoneKnown(nid, uuid) for nid, uuid in memory.zones.items()),
        *(NodeOnline(nid, 0) for nid in sorted(memory.offline)),
        *(lease for _, lease in sorted((memory.leases or {}).items())),
        _counters(memory),
        *_cpusets(memory),
        *_objects(memory),
        *_tasks(memory),
        *_page_tables(memory),
        *(job.noted(memory.now) for job in memory.jobs),
    ]


def _counters(memory: Memory) -> Message:
    counters, numastat = memory.counters, memory.counters.numastat
    return CountersSaved(
        memory.next_mapping,
        memory.next_pid,
        memory.next_anon_vma,
        counters.pgmigrate_success,
        counters.pgmigrate_fail,
        counters.trace.next,
        tuple(counters.trace.lines),
        numastat.numa_hit.copy(),
        numastat.numa_miss.copy(),
        numastat.numa_foreign.copy(),
        numastat.interleave_hit.copy(),
        numastat.local_node.copy(),
        numastat.other_node.copy(),
    )


def _cpusets(memory: Memory) -> Iterator[Message]:
    for path, cpuset in memory.cpusets.items():
        cpus, mems = tuple(sorted(cpuset.cpus)), tuple(sorted(cpuset.mems))
        yield CpusetChanged(path, cpus, mems, cpuset.flags)
    for node, weight in memory.interleave_weights.items():
        yield InterleaveWeightSet(node, weight)


def _objects(memory: Memory) -> Iterator[Message]:
    for mapping in memory.mappings.values():
        host = mapping.host or _NO_HOST
        yield MappingSaved(
            mapping.id,
            int(mapping.shared),
            mapping.nid.size,
            host.path,
            host.kind,
            host.writeback_seconds,
            int(host.linked),
            host.device,
            host.writepages,
        )
        for start, end, policy in mapping.policies:
            yield SharedPolicySet(mapping.id, start, end, *policy_columns(policy))
        for index in _chunks(mapping.cached()):
            yield _pages_cached(memory, mapping, index)
        lost = (mapping.nid == NO_NODE) & (mapping.pfn == POISONED)
        for index in _chunks(np.flatnonzero(lost)):
            yield CachePoisoned(mapping.id, index.astype(np.uint32))


def _pages_cached(memory: Memory, mapping: Mapping, index: Rows) -> Message:
    nid, pfn = mapping.nid[index], mapping.pfn[index]
    tags = mapping.tags[index] & np.uint8(~PageTag.WRITEBACK & 0xFF)
    generation = memory.generations(nid, pfn)
    return PagesCached(mapping.id, index.astype(np.uint32), nid, pfn, generation, tags)


def _tasks(memory: Memory) -> Iterator[Message]:
    """A process begins with the task that its mm was made for, though that may be gone.

    All begin before anything else is said of one: a thread begins as its leader is.
    """
    first: dict[Mm, int] = {}
    for task in memory.tasks.values():
        leader, client = task.mm.pid, task.client or ""
        if task.mm not in first:
            first[task.mm] = leader
            uid, comm = task.cred.uid, task.comm
            yield TaskSpawned(leader, task.ppid, uid, task.cpu, 0, client, comm)
        if task.pid != leader:
            yield TaskCloned(first[task.mm], task.pid, task.cpu, client)
        if leader not in memory.tasks and first[task.mm] == leader:
            yield TaskExited(leader)
            first[task.mm] = task.pid
    for task in memory.tasks.values():
        yield from _of_task(task)


def _of_task(task: Task) -> Iterator[Message]:
    cred, columns = task.cred, policy_columns(task.policy)
    sets = cred.permitted, cred.effective, int(task.mm.dumpable)
    yield CredentialsSet(task.pid, cred.uid, cred.euid, cred.suid, *sets)
    if task.cpus_allowed is not None:
        cpus = tuple(sorted(task.cpus_allowed))
        yield TaskAttached(task.pid, task.cpuset, cpus, task.cpu)
    yield TaskPolicySet(task.pid, *columns, task.il_prev, task.il_weight)


def _page_tables(memory: Memory) -> Iterator[Message]:
    opened: _Opened = {}
    for mm in dict.fromkeys(task.mm for task in memory.tasks.values()):
        for vma in mm.vmas:
            yield _vma(mm, vma, opened.setdefault(vma.opened, (mm.pid, vma.start)))
            # ACCESSED alone is the zero page, ANON alone a page whose contents are gone.
            for slot in _chunks(vma.marked(int(_LIVE) | Pte.ACCESSED | Pte.ANON)):
                yield _entries(memory, mm, vma, slot)


def _vma(mm: Mm, vma: Vma, opened: tuple[int, int]) -> Message:
    return VmaSaved(
        mm.pid,
        vma.start,
        vma.end,
        vma.prot,
        vma.flags,
        vma.name,
        vma.pgoff,
        vma.mapping.id,
        0 if vma.file is None else vma.file.id,
        opened[0],
        opened[1],
        vma.vm_flags,
        vma.anon_vma,
        vma.anon_root,
        *policy_columns(vma.policy),
    )


def _entries(memory: Memory, mm: Mm, vma: Vma, slot: Rows) -> Message:
    bits = vma.bits[slot]
    live = (bits & _LIVE) != 0
    bits &= np.uint8(~(Pte.ENTRY | Pte.BUSY) & 0xFF)
    bits[live] |= np.uint8(Pte.PRESENT)
    # What an entry without a frame names is left from before.
    nid, pfn = vma.nid[slot] * live, vma.pfn[slot] * live
    generation = np.zeros(slot.size, np.uint32)
    generation[live] = memory.generations(nid[live], pfn[live])
    page = (slot + vma.start).astype(np.uint64)
    return EntriesSaved(mm.pid, page, nid, pfn, generation, bits)


def _chunks(rows: Rows) -> Iterator[Rows]:
    for first in range(0, rows.size, ROWS_MAX):
        yield rows[first : first + ROWS_MAX]
