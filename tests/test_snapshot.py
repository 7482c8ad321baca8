"""A snapshot and what follows it say what the whole journal says, wherever it was taken."""

from __future__ import annotations

import random
from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest

from coordinator.cred import Credentials
from coordinator.frames import unused
from coordinator.inode import Device, Inode
from coordinator.mem_map import MemMap, PageFlag
from coordinator.memory import Memory
from coordinator.mm import MAP_ANONYMOUS, MAP_PRIVATE, Mapping, Mm, Pte, Task, Vma, VmOperations
from coordinator.mpol import Mode
from coordinator.replay import differences, replay
from coordinator.saved import EntriesSaved
from coordinator.snapshot import ROWS_MAX, snapshot
from numalab.simulation.compaction import entries_of
from numalab.simulation.seeds import Run, plan_of
from protocol.codec import decode_entry, encode_entry
from protocol.messages import CopyPages, PutbackLruPages
from protocol.schema import COORDINATOR
from protocol.task_calls import Clone
from protocol.topology import Topology
from tests.calls import migration, setting
from tests.filing import PATH, create, map_file, set_device, unlink
from tests.lab import PAGE, READ, WRITE, Lab
from tests.test_replay import live_for_a_while

MIB = 1 << 20


def compacted(lab: Lab) -> None:
    """The journal is a snapshot from now on."""
    lab.records[:] = entries_of(lab.memory)


def told(lab: Lab) -> Memory:
    """What the journal says."""
    return replay(lab.topology, lab.records)


def agrees(lab: Lab) -> bool:
    return list(differences(told(lab), lab.memory)) == []


def without_orphans(memory: Memory) -> Memory:
    """Frames that nothing names are free, as whoever recovers has them freed."""
    for nid, frames in memory.mem_map.items():
        pfn = np.flatnonzero(frames.flags).astype(np.uint32)
        if pfn.size:
            frames.free(pfn[unused(memory, nid, pfn)])
    return memory


# ---- at any moment -------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_a_snapshot_gives_back_what_the_coordinator_knows(seed: int) -> None:
    lab = Lab()
    live_for_a_while(lab, random.Random(seed), steps=40)
    compacted(lab)
    assert agrees(lab)
    live_for_a_while(lab, random.Random(~seed), steps=20)
    assert agrees(lab)


@pytest.mark.parametrize("seed", range(0, 24, 2))
def test_amid_calls_it_says_what_the_journal_says_so_far(seed: int) -> None:
    run, draw = Run(plan_of(seed)), random.Random(seed)
    memory, journal = run.cluster.memory, run.world.processes[COORDINATOR].journal
    compared = 0

    def compare(name: str) -> None:
        nonlocal compared
        if name == COORDINATOR and (not compared or draw.random() < 0.04):
            compared += 1
            entries = entries_of(memory)
            restored = replay(run.cluster.topology, entries)
            before = without_orphans(replay(run.cluster.topology, journal))
            assert list(differences(restored, before)) == []
            assert entries_of(restored) == entries

    run.world.watches.append(compare)
    run.to_the_end()
    assert compared


@pytest.mark.parametrize("question", [CopyPages, PutbackLruPages])
def test_a_migration_under_way_has_moved_what_it_has_committed(question: type) -> None:
    lab = Lab()
    pid = lab.spawn()
    start = lab.mapped(pid, 8)
    lab.hold_back(question)
    lab.start(migration(0, pid, (0,), (1,)))
    lab.run()
    compacted(lab)
    there = told(lab).tasks[pid].mm.find(start)
    assert there is not None and (there.bits & (Pte.ENTRY | Pte.BUSY) == 0).all()
    assert there.nid.tolist() == [0 if question is CopyPages else 1] * 8
    lab.let_go(question)
    lab.run()
    assert lab.where(pid, start, 8) == [1] * 8
    assert agrees(lab)


# ---- of everything -------------------------------------------------------------------------


def test_threads_outlive_the_task_that_their_mm_was_made_for(lab: Lab) -> None:
    leader = lab.spawn(cpu=1)
    threads = [lab.call(Clone(leader, cpu, 0)) for cpu in (2, 3)]
    lab.mapped(leader, 2)
    lab.call(setting(threads[1], Mode.BIND, (2,)))
    lab.exit(leader)
    compacted(lab)
    restored = told(lab)
    assert list(restored.tasks) == threads
    assert restored.tasks[threads[0]].mm is restored.tasks[threads[1]].mm
    assert restored.tasks[threads[0]].mm.pid == leader
    assert agrees(lab)
    assert restored.next_pid == lab.spawn()


def test_a_file_that_was_unlinked_and_its_namesake_stay_two_files(lab: Lab) -> None:
    pid = lab.spawn()
    create(lab, "ext3")
    first = map_file(lab, pid)
    lab.fault(pid, first, 8, access=WRITE)
    unlink(lab)
    create(lab, "nfs", seconds=2.5)
    set_device(lab, Device.FAIL_WRITEPAGE)
    second = map_file(lab, pid, shared=False)
    lab.fault(pid, second, 4, access=READ)
    lab.fault(pid, second, 2, access=WRITE)
    child = lab.fork(pid)
    compacted(lab)
    restored = told(lab)
    old, new = (restored.tasks[child].mm.find(page) for page in (first, second))
    assert old is not None and new is not None and old.file is not None
    assert restored.files[PATH] is new.file is not old.file
    assert old.file.host is not None and not old.file.host.linked
    assert agrees(lab)
    unlink(lab)
    lab.exit(pid)
    lab.exit(child)
    assert agrees(lab)
    assert told(lab).mappings == {}


def test_parts_of_one_mmap_can_be_joined_again_and_others_cannot(lab: Lab) -> None:
    pid = lab.spawn()
    create(lab)
    whole = map_file(lab, pid)
    other = map_file(lab, pid)
    lab.memory.tasks[pid].mm.isolate_range(whole + 2, whole + 4)
    compacted(lab)
    mm = told(lab).tasks[pid].mm
    parts = [mm.find(page) for page in (whole, whole + 2, whole + 4, other)]
    opened = [part.opened for part in parts if part is not None]
    assert len({*map(id, opened[:3])}) == 1
    assert opened[3] is not opened[0]


def test_counters_and_numbers_go_on_where_they_were(lab: Lab) -> None:
    pid = lab.spawn()
    lab.mapped(pid, 4)
    for _ in range(3):
        lab.migrate(pid, 0, 1)
        lab.migrate(pid, 1, 0)
    compacted(lab)
    restored = told(lab)
    assert restored.counters.trace.next == lab.memory.counters.trace.next == 6
    assert restored.counters.trace.since(4) == lab.memory.counters.trace.since(4)
    for name, column in vars(lab.memory.numastat).items():
        assert getattr(restored.numastat, name).tolist() == column.tolist(), name
    for name in ("next_pid", "next_mapping", "next_anon_vma"):
        assert getattr(restored, name) == getattr(lab.memory, name), name


def test_methods_are_bound_again_by_the_name_of_the_mapping(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ring = VmOperations(lambda *_: 0)
    lab = Lab(vm_operations={"[ring]": ring})
    pid = lab.spawn()
    start, plain = lab.mapped(pid, 1, name="[ring]"), lab.mapped(pid, 1)
    compacted(lab)
    started = Memory(lab.topology)
    started.vm_operations = lab.memory.vm_operations
    monkeypatch.setattr("coordinator.replay.Memory", lambda _: started)
    mm = told(lab).tasks[pid].mm
    named, other = mm.find(start), mm.find(plain)
    assert named is not None and named.vm_ops is ring
    assert other is not None and other.vm_ops is None


# ---- of much -------------------------------------------------------------------------------


def scattered(pages: int) -> Memory:
    """One task with so many pages, each anywhere on two nodes."""
    memory = Memory(Topology.uniform(2, pages * PAGE, page_size=PAGE))
    task = Task(1, 0, Credentials.of(0, capable=True), 0, "big", Mm(1), None, 1)
    task.mm.users = 1
    memory.tasks[1] = task
    mapping = memory.new_mapping(shared=False, pages=0)
    vma = Vma(16, 16 + pages, 3, MAP_PRIVATE | MAP_ANONYMOUS, "", 16, mapping)
    task.mm.insert(vma)
    draw = np.random.default_rng(1)
    nids, pfn = draw.integers(0, 2, pages), draw.permutation(pages)
    bits = np.full(pages, Pte.PRESENT | Pte.ANON, np.uint8)
    vma.enter(np.arange(pages), nids.astype(np.uint8), pfn.astype(np.uint32), bits)
    for nid, rows in memory.by_node(vma.nid):
        owner = np.full(rows.size, mapping.id, np.uint32)
        index = (rows + 16).astype(np.uint32)
        frames = memory.mem_map[nid]
        frames.allocate(vma.pfn[rows], index, owner, index, PageFlag.ALLOCATED)
        frames.mapcount[vma.pfn[rows]] = 1
    return memory


def test_no_entry_is_larger_than_a_few_mebibytes() -> None:
    memory = scattered(3 * ROWS_MAX + 5)
    entries = [encode_entry(entry) for entry in snapshot(memory)]
    assert max(map(len, entries)) < 4 * MIB
    assert sum(isinstance(decode_entry(entry), EntriesSaved) for entry in entries) == 4
    assert list(differences(replay(memory.topology, entries), memory)) == []


def test_what_was_snapped_does_not_change_with_memory(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mapped(pid, 64)
    entries = lab.coordinator.snapshot()
    expected = entries_of(lab.memory)
    lab.migrate(pid, 0, 1)
    lab.fault(pid, start, 64, access=WRITE)
    lab.exit(pid)
    assert list(entries) == expected


def test_a_thread_stays_where_it_was_when_its_leader_was_attached_elsewhere(lab: Lab) -> None:
    pid = lab.spawn()
    thread = lab.call(Clone(pid, 1, 0))
    lab.memory.cpusets["/b"] = replace(lab.memory.cpusets["/"], path="/b")
    leader = lab.memory.tasks[pid]
    leader.cpuset, leader.cpus_allowed = "/b", frozenset({0})
    told = replay(lab.topology, entries_of(lab.memory))
    assert (told.tasks[pid].cpuset, told.tasks[thread].cpuset) == ("/b", "/")


# ---- nothing is forgotten ------------------------------------------------------------------

#: What a snapshot does not have, and why.
LEFT_OUT = {
    Memory: {
        **dict.fromkeys(
            ("topology", "profile", "nids", "vm_operations", "address_space_operations"),
            "given when the coordinator starts",
        ),
        **dict.fromkeys(("new_pages", "emulated", "fixed"), "given when the coordinator starts"),
        **dict.fromkeys(
            (
                "alarms",
                "cpuset_mutex",
                "writeback",
                "page_lists",
                "started",
                "later",
                "threads",
                "joining",
                "records",
                "notes",
                "woken",
            ),
            "of calls under way",
        ),
        **dict.fromkeys(("now", "events", "lost", "longest_entry"), "of this process"),
        "poisoned": "by entries and caches",
        "_next_transfer": "of this epoch",
    },
    Task: {"exiting": "of a call under way"},
    Mm: {"users": "counted", "mmap_sem": "of calls under way"},
    Vma: {"vm_mm": "where it is", "vm_ops": "bound by name", "touched": "by entries"},
    Mapping: {"vmas": "counted", "migratepage": "bound by name"},
    MemMap: {
        **dict.fromkeys(("mapcount", "used"), "counted"),
        "flags": "of calls under way",
        "referenced": "a hint (coordinator/lru.py)",
    },
    Inode: {"buffers": "by kind"},
}
#: What it has.
SAVED = {
    Memory: (
        *("mem_map", "counters", "numastat", "tasks", "cpusets", "interleave_weights"),
        *("mappings", "files", "next_mapping", "next_pid", "next_anon_vma"),
        *("epoch", "zones", "offline", "leases", "jobs"),
    ),
    Task: (
        *("pid", "ppid", "cred", "cpu", "comm", "mm", "client", "tgid", "policy", "cpuset"),
        *("cpus_allowed", "il_prev", "il_weight"),
    ),
    Mm: ("pid", "dumpable", "vmas"),
    Vma: (
        *("anon_root", "anon_vma", "bits", "end", "file", "flags", "mapping", "name", "nid"),
        *("opened", "pfn", "pgoff", "policy", "prot", "start", "vm_flags"),
    ),
    Mapping: ("id", "shared", "nid", "pfn", "tags", "host", "policies"),
    MemMap: ("generation", "mapping", "index"),
    Inode: ("path", "kind", "writeback_seconds", "linked", "device", "writepages"),
}


@pytest.mark.parametrize("cls", SAVED, ids=lambda cls: cls.__name__)
def test_every_field_is_saved_or_excused(cls: type) -> None:
    if is_dataclass(cls):
        names = {field.name for field in fields(cls)}
    elif cls is Vma:
        names = set(Vma.__slots__)
    else:
        names = set(vars({Memory: scattered(1), Mm: Mm(1), MemMap: MemMap(1)}[cls]))
    assert names == {*SAVED[cls], *LEFT_OUT[cls]}
