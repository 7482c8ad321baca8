"""What the machine counts: events as in /proc/vmstat, pages of nodes as in meminfo (K 6.5 - 6.12).

The counters of allocations and of migrations are in the journal, so they outlive a coordinator as
they outlive every process of a real machine; what meminfo says is counted when it is read.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from coordinator.inode import PageTag
from coordinator.mem_map import Nids, Pfns
from coordinator.mm import Mapping, Pte, VmFlag

if TYPE_CHECKING:
    from coordinator.memory import Memory

#: The kind of a file (address_space.py) whose pages count as shmem.
SHMEM = "shmem"
#: Lines of the trace that are kept.
TRACE_LINES = 1024
#: Events that this machine has no cause for; a kernel of the profile lists them all the same.
_NEVER = ("thp_migration_success", "thp_migration_fail", "thp_migration_split")
#: The names of numastat's counters in vmstat.
NUMA_EVENTS = {
    "numa_hit": "numa_hit",
    "numa_miss": "numa_miss",
    "numa_foreign": "numa_foreign",
    "numa_interleave": "interleave_hit",
    "numa_local": "local_node",
    "numa_other": "other_node",
}


class NumaStat:
    """The six counters of numastat, one element for each nid (K 6.6)."""

    def __init__(self, nids: int) -> None:
        self.numa_hit = np.zeros(nids, np.uint64)
        self.numa_miss = np.zeros(nids, np.uint64)
        self.numa_foreign = np.zeros(nids, np.uint64)
        self.interleave_hit = np.zeros(nids, np.uint64)
        self.local_node = np.zeros(nids, np.uint64)
        self.other_node = np.zeros(nids, np.uint64)

    def count(
        self, *, node: int, preferred: int, local: int, pages: int, interleave: bool = False
    ) -> None:
        """``pages`` frames of ``node`` were given where ``preferred`` was wanted.

        interleave: an interleave policy wanted it (K 5.7).
        """
        add = np.uint64(pages)
        if node == preferred:
            self.numa_hit[node] += add
            if interleave:
                self.interleave_hit[node] += add
        else:
            self.numa_miss[node] += add
            self.numa_foreign[preferred] += add
        if node == local:
            self.local_node[node] += add
        else:
            self.other_node[node] += add


class Trace:
    """The last lines of the trace, numbered from 0 since the machine began."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=TRACE_LINES)
        self.next = 0

    def add(self, line: str) -> None:
        self.lines.append(line)
        self.next += 1

    def since(self, first: int) -> str:
        """The lines from number ``first`` on, as far as they are kept."""
        skipped = max(0, first - (self.next - len(self.lines)))
        return "".join(f"{line}\n" for line in islice(self.lines, skipped, None))


class Migrated(NamedTuple):
    """One call of migrate_pages() that has ended, as a trace line tells it (K 6.12).

    started: when, in seconds of the coordinator's clock.
    """

    succeeded: int
    failed: int
    reason: str
    caller: int
    started: float


class Counters:
    """Everything that only grows; ``numastat`` by node, the others for the whole machine."""

    def __init__(self, nids: int) -> None:
        self.numastat = NumaStat(nids)
        self.pgmigrate_success = 0
        self.pgmigrate_fail = 0
        self.trace = Trace()

    def migrated(self, succeeded: int, failed: int, lines: tuple[str, ...]) -> None:
        """K 6.11: pages, and of the failures only the final ones."""
        self.pgmigrate_success += succeeded
        self.pgmigrate_fail += failed
        for line in lines:
            self.trace.add(line)

    def events(self) -> dict[str, int]:
        """Names and values of /proc/vmstat (K 6.10)."""
        events = {name: int(getattr(self.numastat, of).sum()) for name, of in NUMA_EVENTS.items()}
        events |= {
            "pgmigrate_success": self.pgmigrate_success,
            "pgmigrate_fail": self.pgmigrate_fail,
        }
        return events | dict.fromkeys(_NEVER, 0)


# ---- trace lines ---------------------------------------------------------------------------


def trace_lines(memory: Memory, done: Migrated) -> tuple[str, ...]:
    """What trace_pipe would say of the call: time in seconds of the coordinator's clock (K 6.12).

    Both system calls are MIGRATE_SYNC (K 6.13).
    """
    task = memory.tasks.get(done.caller)
    comm, cpu = ("numalab", memory.topology.cpus[0]) if task is None else (task.comm, task.cpu)
    head = f"{comm[:16] or '<...>':>16}-{done.caller:<7} [{cpu:03}] ....."
    values = {"nr_succeeded": done.succeeded, "nr_failed": done.failed}
    names = memory.profile.migrate_trace_counts
    counts = " ".join(f"{name}={values.get(name, 0)}" for name in names)
    how = f"mode=MIGRATE_SYNC reason={done.reason}"
    ended = f"{head} {memory.now:12.6f}: mm_migrate_pages: {counts} {how}"
    if memory.profile.migrate_start_is_traced:
        return (f"{head} {done.started:12.6f}: mm_migrate_pages_start: {how}", ended)
    return (ended,)


# ---- pages of each node --------------------------------------------------------------------

#: The columns of ``pages_by_kind``, in the order of the message Vmstat.
KINDS = ("anon", "file", "shmem", "mapped", "dirty", "writeback", "mlocked")
_Columns = dict[str, npt.NDArray[np.uint64]]


def is_file(mapping: Mapping) -> bool:
    """Whether its pages are of a file, and not anonymous or shmem."""
    if mapping.host is not None:
        return mapping.host.kind != SHMEM
    return any(not vma.anonymous and vma.file in (None, mapping) for vma in mapping.vmas)


class _Marks:
    """Frames of each kind, each counted once whoever maps it how often."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._marks = {
            nid: {kind: np.zeros(frames.frames, np.bool_) for kind in KINDS}
            for nid, frames in memory.mem_map.items()
        }

    def mark(self, kind: str, nid: Nids, pfn: Pfns) -> None:
        for node, rows in self._memory.by_node(nid):
            self._marks[node][kind][pfn[rows]] = True

    def counts(self) -> _Columns:
        return {
            kind: np.array([np.count_nonzero(of[kind]) for of in self._marks.values()], np.uint64)
            for kind in KINDS
        }


def pages_by_kind(memory: Memory) -> _Columns:
    """Pages of each node (rows in the order of ``memory.nids``) by what meminfo calls them.

    anon: mapped and anonymous; file: in a page cache, shmem among them; mapped: of those, mapped;
    dirty, writeback: of those, as their tags say; mlocked: mapped by a vma with VM_LOCKED.
    """
    marks = _Marks(memory)
    for mapping in memory.mappings.values():
        if mapping.shared:
            index = mapping.cached()
            nid, pfn = mapping.nid[index], mapping.pfn[index]
            marks.mark("file", nid, pfn)
            if not is_file(mapping):
                marks.mark("shmem", nid, pfn)
            for kind, tag in (("dirty", PageTag.DIRTY), ("writeback", PageTag.WRITEBACK)):
                tagged = (mapping.tags[index] & tag) != 0
                marks.mark(kind, nid[tagged], pfn[tagged])
    for task in memory.tasks.values():
        for vma in task.mm.vmas:
            slot = vma.present()
            nid, pfn = vma.nid[slot], vma.pfn[slot]
            anon = (vma.bits[slot] & Pte.ANON) != 0
            marks.mark("anon", nid[anon], pfn[anon])
            for kind in ("file", "mapped"):
                marks.mark(kind, nid[~anon], pfn[~anon])
            if vma.vm_flags & VmFlag.LOCKED:
                marks.mark("mlocked", nid, pfn)
    return marks.counts()
