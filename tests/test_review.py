"""Rare interleavings and contracts at the edge: late answers, restarts, hostile sizes."""

from __future__ import annotations

import errno

import numpy as np
import pytest

from coordinator.mm import MAP_ANONYMOUS, MAP_PRIVATE, MAP_SHARED, Vma
from nodes import layout
from nodes.node import LOAD_BYTES_MAX
from protocol.files import CreateFile
from protocol.labels import CALL, Role
from protocol.messages import Done, LoadBytes, LoadedBytes, PutPages, SetGeneration
from protocol.notes import PagesNotMoved, SyscallEnded
from protocol.observe import Accrue, EmulatedTime, ReadEmulated
from protocol.syscalls import (
    AddressSpace,
    DescribeMm,
    Exit,
    ListTasks,
    Mmap,
    Mprotect,
    Munmap,
    Spawn,
    TaskList,
)
from protocol.topology import (
    FRAMES_MAX,
    NID_MAX,
    PAGE_SIZE_MIN,
    Topology,
    TopologyNode,
    uniform_distances,
)
from tests.calls import migration
from tests.lab import PAGE, READ, RW, Lab


def test_a_put_that_is_asked_again_does_not_free_who_has_the_frame_now() -> None:
    # 1. Node 1 frees the old frame of a page that moved, but its answer is lost.
    lab = Lab(nodes=2, frames=1)
    mover, heir = lab.spawn(cpu=1), lab.spawn(cpu=1)
    lab.mapped(mover, 1, cpu=1)
    lab.hold_back(PutPages, "node1")
    moving = lab.start(migration(0, mover, (1,), (0,)))
    assert lab.answer_to(moving) is None
    lab.let_pass(PutPages, answered=False)
    # 2. It gives the frame to another task, which stores to it.
    where = lab.fault(heir, start := lab.mmap(heir, 1), cpu=1)
    assert where.nid.tolist() == [1] and lab.store(where, 0, 7) == 0
    # 3. The node restarts, and is asked again to free what the migration left behind.
    lab.restart(1)
    lab.fault(heir, lab.mmap(heir, 1), cpu=1)
    lab.let_go(PutPages)
    assert lab.answer_to(moving) is not None
    assert lab.read(heir, start) == 7
    lab.validate()


def test_an_exit_that_waits_for_one_frame_has_taken_the_others() -> None:
    # 1. A page of a shared object that only one task touched is being taken away from it.
    lab = Lab()
    parent = lab.spawn()
    shared = lab.mmap(parent, 1, shared=True)
    private = lab.mapped(parent, 1, cpu=1)
    other, child = lab.fork(parent), lab.fork(parent)
    assert lab.call(Munmap(child, shared * PAGE, PAGE)) == 0
    assert not lab.fault(other, shared).status.any()
    lab.hold_back(SetGeneration, "node0")
    unmapping = lab.start(Munmap(other, shared * PAGE, PAGE))
    assert lab.answer_to(unmapping) is None
    # 2. The last who maps the object exits, and has to wait for that.
    leaving = lab.start(Exit(parent))
    assert lab.answer_to(leaving) is None
    # 3. Meanwhile a child moves a private page that it has from the parent.
    moving = lab.start(migration(0, child, (1,), (2,)))
    lab.answer_to(moving)
    lab.let_go(SetGeneration)
    for ticket in (unmapping, leaving, moving):
        answer = lab.answer_to(ticket)
        assert isinstance(answer, Done) and answer.value == 0
    assert lab.where(child, private) == [2]
    lab.validate()


@pytest.mark.parametrize("shared", [False, True])
def test_a_mapping_whose_page_table_finds_no_memory_is_enomem(
    monkeypatch: pytest.MonkeyPatch, *, shared: bool
) -> None:
    lab = Lab()
    pid = lab.spawn()

    def full(self: Vma, *what: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Vma, "__init__", full)
        flags = (MAP_SHARED if shared else MAP_PRIVATE) | MAP_ANONYMOUS
        assert lab.call(Mmap(pid, 0, PAGE << 30, RW, flags, "", 0)) == -errno.ENOMEM
    assert not lab.memory.mappings
    lab.mapped(pid, 2)
    lab.validate()


def test_no_object_has_more_pages_than_an_index_or_a_page_cache_has_room_for() -> None:
    lab = Lab()
    pid = lab.spawn()
    for flags, pages in ((MAP_PRIVATE, 1 << 32), (MAP_SHARED, 1 << 28)):
        asked = Mmap(pid, 0, (pages + 1) * PAGE, RW, flags | MAP_ANONYMOUS, "", 0)
        assert lab.call(asked) == -errno.ENOMEM
    assert lab.call(CreateFile("/file", (1 << 28) + 1, "shmem", 0.0)) == -errno.ENOMEM
    lab.validate()


def test_a_name_is_no_longer_than_a_path() -> None:
    """So that answers that have many of them still fit into a message."""
    lab = Lab()
    pid = lab.spawn()
    longest, longer = "/" + "x" * 4094, "/" + "é" * 2048
    for name, error in ((longest, 0), (longer, -errno.ENAMETOOLONG)):
        assert min(lab.call(Spawn(0, 0, 1, 0, name)), 0) == error
        value = lab.call(Mmap(pid, 0, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, name, 0))
        assert min(value, 0) == error
        assert lab.call(CreateFile(name, 1, "shmem", 0.0)) == error


def test_a_page_may_be_mapped_more_often_than_sixteen_bits_count() -> None:
    lab = Lab(nodes=1)
    pid = lab.spawn()
    start = lab.mapped(pid, 1)
    count = lab.memory.mem_map[0].mapcount
    pfn = lab.vma(pid, start).pfn[0]
    count[pfn] = (1 << 16) - 1
    lab.fork(pid)
    assert count[pfn] == 1 << 16


def test_emulated_time_beyond_its_columns_ends_at_their_edge() -> None:
    lab = Lab(nodes=1)
    pid = np.array([lab.spawn()], np.int32)
    most, none = np.array([(1 << 64) - 1], np.uint64), np.zeros(1, np.uint8)
    lab.call(Accrue(pid, none.astype(np.uint32), none, none, most, most, pid, most))
    told = lab.ask(ReadEmulated(), EmulatedTime)
    assert told.task_ns.max() == told.node_ns.max() == 1 << 63


def test_numbers_too_large_for_their_columns_are_refused() -> None:
    lab = Lab()
    assert lab.call(Spawn(0, 1 << 32, 1, 0, "task")) == -errno.EINVAL
    pid = lab.spawn()
    asked = Mmap(pid, 0, PAGE, RW, 1 << 32 | MAP_PRIVATE | MAP_ANONYMOUS, "", 0)
    assert lab.call(asked) == -errno.EINVAL
    assert list(lab.ask(ListTasks(), TaskList).pid) == [pid]
    assert lab.ask(DescribeMm(pid), AddressSpace).value == 0


def test_numa_maps_escapes_what_the_kernel_does() -> None:
    lab = Lab()
    pid = lab.spawn()
    lab.mmap(pid, 1, name="/a b=c\\d")
    assert lab.numa_maps(pid)[0].endswith(" file=/a\\040b\\075c\\d")


def test_shared_anonymous_memory_is_not_anon() -> None:
    lab = Lab()
    pid = lab.spawn()
    lab.mapped(pid, 2, shared=True)
    assert lab.numa_maps(pid)[0].split()[2:] == ["dirty=2", "active=0", "N0=2"]


def test_a_store_to_a_shared_page_that_was_read_first_makes_it_dirty() -> None:
    lab = Lab()
    pid = lab.spawn()
    start = lab.mmap(pid, 1, shared=True)
    assert not lab.fault(pid, start, access=READ).writable.any()
    lab.write(pid, start, 5)
    assert "dirty=1" in lab.numa_maps(pid)[0]


def test_pages_that_were_not_attempted_end_with_the_error_of_the_call() -> None:
    lab = Lab(nodes=2, frames=8, chunk_pages=2)
    pid = lab.spawn()
    lab.mapped(pid, 8)
    lab.mapped(lab.spawn(cpu=1), 6, cpu=1)
    assert lab.migrate(pid, 0, 1) == -errno.ENOMEM
    assert {note.status for note in lab.noted(PagesNotMoved)} == {-errno.ENOMEM}


def test_node_254_is_a_node_like_any_other() -> None:
    nodes = (TopologyNode(0, 8, (0,)), TopologyNode(254, 8, (1,)))
    lab = Lab(topology=Topology(nodes, uniform_distances(2), PAGE))
    parent = lab.spawn(cpu=1)
    start = lab.mapped(parent, 2, cpu=1, shared=True)
    child = lab.fork(parent)
    assert lab.fault(child, start, 2).nid.tolist() == [254, 254]
    assert lab.exit(parent) == lab.exit(child) == 0
    assert lab.free() == [8, 8]
    lab.validate()


def test_every_machine_that_can_be_described_has_zones_that_can_be_made() -> None:
    assert PAGE_SIZE_MIN == layout.PAGE_SIZE_MIN
    assert FRAMES_MAX == layout.FRAMES_MAX and NID_MAX == layout.NID_MAX


def test_a_load_whose_answer_no_transport_would_carry_is_refused() -> None:
    lab = Lab()
    where = lab.fault(pid := lab.spawn(), lab.mmap(pid, 1))
    rows = 2 * LOAD_BYTES_MAX // PAGE
    columns = np.repeat(where.pfn, rows), np.repeat(where.generation, rows)
    asked = LoadBytes(PAGE, *columns, np.zeros(rows, np.uint32))
    answer = lab.ask(asked, LoadedBytes, "node0")
    assert (answer.status == -errno.EINVAL).all() and not len(answer.data)


def test_calls_are_counted_under_names_that_their_metric_knows() -> None:
    lab = Lab()
    pid = lab.spawn()
    start = lab.mapped(pid, 1)
    lab.call(Mprotect(pid, start * PAGE, PAGE, 1))
    lab.move(pid, [start], [1])
    lab.migrate(pid, 1, 0)
    lab.exit(lab.fork(pid))
    lab.call(Munmap(pid, start * PAGE, PAGE))
    known = CALL.values(Role.COORDINATOR, ())
    assert {note.call for note in lab.noted(SyscallEnded)} == set(known)
