"""The uncached allocator: memory without page structs, which only vm_ops->migrate moves (K 2.7)."""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator

import pytest

from coordinator.mm import MAP_LOCKED, MAP_PRIVATE, MAP_SHARED, PROT_READ, UNCACHED, VmFlag
from coordinator.replay import differences, replay
from coordinator.uncached import GRANULE_PAGES as GRANULE
from protocol.messages import (
    CopyPages,
    Done,
    IsolateLruPage,
    NewUncachedPages,
    PutbackLruPages,
)
from protocol.profile import MODERN
from protocol.syscalls import Exit, Fault, Mmap, Mprotect, Munmap
from tests.calls import migration
from tests.cpusets import cpuset, write
from tests.lab import PAGE, READ, RW, Lab, pages_from

PAGES = 3 * GRANULE
MOVE = 2


@pytest.fixture
def lab() -> Iterator[Lab]:
    machine = Lab(frames=256)
    yield machine
    machine.validate()
    assert list(differences(replay(machine.topology, machine.records), machine.memory)) == []


def uncached(lab: Lab, pid: int, pages: int = PAGES, cpu: int = 0) -> int:
    """Uncached memory of which every page was written to, with its number; the first page."""
    start = lab.mmap(pid, pages, shared=True, name=UNCACHED)
    where = lab.fault(pid, start, pages, cpu=cpu)
    assert not where.status.any()
    for row in range(pages):
        assert lab.store(where, row, 1000 + row) == 0
    return start


def contents(lab: Lab, pid: int, start: int, pages: int = PAGES) -> list[int]:
    where = lab.fault(pid, start, pages, access=READ)
    return [lab.load(where, row)[1] for row in range(pages)]


def nodes(lab: Lab, pid: int, start: int) -> list[int]:
    """The node of each granule of an object, -1 where there is none."""
    cache = lab.vma(pid, start).mapping.nid[::GRANULE]
    return [-1 if nid == 255 else int(nid) for nid in cache]


WRITTEN = [1000 + row for row in range(PAGES)]


# ---- what it is ----------------------------------------------------------------------------


def test_a_first_touch_brings_a_whole_granule_from_the_node_of_the_cpu(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mmap(pid, 2 * GRANULE + 3, shared=True, name=UNCACHED)
    assert lab.free() == [256] * 4
    lab.fault(pid, start + GRANULE, cpu=2)
    assert lab.free() == [256, 256, 256 - GRANULE, 256] and nodes(lab, pid, start) == [-1, 2, -1]
    lab.fault(pid, start + 2 * GRANULE, access=READ, cpu=1)
    assert lab.free() == [256, 256 - 3, 256 - GRANULE, 256], "the last granule is short"
    assert lab.read(pid, start + GRANULE + 5) == 0


def test_it_is_on_no_lru_and_nothing_that_looks_for_pages_finds_it(lab: Lab) -> None:
    # K 1.15, 2.7, 3.6, 4.17.
    pid = lab.spawn()
    start = uncached(lab, pid)
    zone = lab.zone(0)
    assert (zone.active, zone.inactive, zone.pending) == (0, 0, 0)
    assert lab.numa_maps(pid) == [f"{start * PAGE:08x} default"]
    assert lab.where(pid, start) == [-errno.ENOENT]
    assert lab.move(pid, [start], [1]).value == -errno.ENOENT
    assert lab.vma(pid, start).vm_flags == VmFlag.IO | VmFlag.PFNMAP


def test_move_pages_of_today_says_efault() -> None:
    lab = Lab(profile=MODERN)
    pid = lab.spawn()
    start = uncached(lab, pid)
    assert lab.move(pid, [start], [1]).status.tolist() == [-errno.EFAULT]


def test_a_private_mapping_of_it_is_refused(lab: Lab) -> None:
    pid = lab.spawn()
    assert lab.call(Mmap(pid, 0, PAGE, RW, MAP_PRIVATE, UNCACHED, 0)) == -errno.EINVAL


def test_a_cpuset_says_where_granules_come_from_and_its_migration_asks_the_method(
    lab: Lab,
) -> None:
    # K 2.1, 5.12, 5.13.
    pid = lab.spawn()
    path = cpuset(lab, "/one", mems="1-2", migrate=True)
    assert write(lab, path, "tasks", pid) == 0
    start = uncached(lab, pid)
    assert nodes(lab, pid, start) == [1, 1, 1]
    assert write(lab, path, "mems", "3") == 0
    lab.run()
    assert nodes(lab, pid, start) == [3, 3, 3] and contents(lab, pid, start) == WRITTEN


def test_a_node_without_a_whole_granule_is_passed_over() -> None:
    lab = Lab(nodes=2, frames=GRANULE + 5)
    pid = lab.spawn()
    lab.mapped(pid, 6)
    start = uncached(lab, pid, GRANULE)
    assert nodes(lab, pid, start) == [1] and lab.free() == [GRANULE - 1, 5]
    more = lab.mmap(pid, 1 + GRANULE, shared=True, name=UNCACHED)
    assert lab.fault(pid, more).status.tolist() == [-errno.ENOMEM]
    assert not lab.fault(pid, more + GRANULE).status.any(), "a short one fits"
    lab.validate()


def test_two_tasks_that_touch_one_granule_at_once_get_the_same(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mmap(pid, GRANULE, shared=True, name=UNCACHED)
    child = lab.fork(pid)
    lab.hold_back(NewUncachedPages)
    first = lab.start(_fault(pid, start))
    second = lab.start(_fault(child, start + 1, cpu=3))
    lab.run()
    assert len(lab.held(NewUncachedPages)) == 1
    lab.let_go(NewUncachedPages)
    assert lab.answer_to(first) is not None and lab.answer_to(second) is not None
    lab.write(pid, start + 2, 7)
    assert lab.read(child, start + 2) == 7 and lab.free()[0] == 256 - GRANULE


def test_fork_shares_it_and_the_last_exit_frees_it(lab: Lab) -> None:
    pid = lab.spawn()
    start = uncached(lab, pid)
    child = lab.fork(pid)
    lab.write(child, start, 77)
    assert lab.read(pid, start) == 77
    lab.exit(pid)
    assert lab.read(child, start + 1) == 1001 and lab.free()[0] == 256 - PAGES
    lab.exit(child)
    assert lab.free() == [256] * 4


def test_munmap_of_a_part_keeps_the_granules_until_the_rest_goes(lab: Lab) -> None:
    pid = lab.spawn()
    start = uncached(lab, pid)
    assert lab.call(Munmap(pid, start * PAGE, (GRANULE + 4) * PAGE)) == 0
    assert lab.free()[0] == 256 - PAGES
    assert lab.migrate(pid, 0, 1) == 0
    assert nodes(lab, pid, start + GRANULE + 4) == [0, 1, 1], "the first is not mapped here"
    assert contents(lab, pid, start + GRANULE + 4, 5) == WRITTEN[GRANULE + 4 : GRANULE + 9]
    assert lab.call(Munmap(pid, start * PAGE, PAGES * PAGE)) == 0
    assert lab.free() == [256] * 4


def test_mprotect_takes_rights_away_and_splits_no_granule(lab: Lab) -> None:
    pid = lab.spawn()
    start = uncached(lab, pid)
    old = lab.fault(pid, start + 3)
    assert lab.call(Mprotect(pid, (start + 3) * PAGE, PAGE, PROT_READ)) == 0
    assert lab.store(old, 0, 5) == -errno.ESTALE
    assert len(lab.memory.tasks[pid].mm.vmas) == 3
    assert lab.migrate(pid, (0, 1), (1, 2)) == 0
    assert nodes(lab, pid, start) == [1, 1, 1], "no granule was moved on by the next of its vmas"
    assert contents(lab, pid, start) == WRITTEN


# ---- migration -----------------------------------------------------------------------------


def test_it_migrates_by_its_own_method_with_all_that_is_in_it(lab: Lab) -> None:
    pid = lab.spawn()
    start, plain = uncached(lab, pid), lab.mapped(pid, 5)
    assert lab.migrate(pid, 0, 2) == 0
    assert nodes(lab, pid, start) == [2, 2, 2] and contents(lab, pid, start) == WRITTEN
    assert lab.where(pid, plain, 5) == [2] * 5
    assert lab.free() == [256, 256, 256 - PAGES - 5, 256]
    assert lab.zone(2).pending == 5, "and it is on no LRU there either"


def test_each_granule_goes_from_its_node_to_the_one_in_its_place(lab: Lab) -> None:
    # K 1.7.
    pid = lab.spawn()
    start = lab.mmap(pid, PAGES, shared=True, name=UNCACHED)
    for granule, cpu in enumerate((0, 1, 3)):
        lab.fault(pid, start + granule * GRANULE, cpu=cpu)
    assert lab.migrate(pid, (0, 1), (1, 2)) == 0
    assert nodes(lab, pid, start) == [1, 2, 3]
    assert not lab.asked(IsolateLruPage)


@pytest.mark.parametrize(("capable", "moved_to"), [(True, 1), (False, 0)])
def test_move_leaves_what_another_mm_maps_and_move_all_does_not(
    lab: Lab, capable: bool, moved_to: int
) -> None:
    pid = lab.spawn(uid=5, capable=capable)
    start = uncached(lab, pid)
    child = lab.fork(pid)
    assert lab.migrate(pid, 0, 1, caller=pid) == 0
    assert nodes(lab, pid, start) == [1, 1, 1], "the child has touched nothing yet"
    lab.fault(child, start + GRANULE)
    assert lab.migrate(pid, 1, 0, caller=pid) == 0
    assert nodes(lab, pid, start) == [0, 1 - moved_to, 0]
    assert contents(lab, child, start) == WRITTEN


def test_who_reads_all_the_time_waits_and_never_sees_old_or_torn_bytes(lab: Lab) -> None:
    pid = lab.spawn()
    start = uncached(lab, pid)
    old = lab.fault(pid, start, PAGES)
    lab.hold_back(CopyPages)
    call = lab.start(migration(0, pid, (0,), (3,)))
    lab.run()
    waits = lab.start(_fault(pid, start))
    assert lab.answer_to(waits) is None, "it is a migration entry"
    lab.let_go(CopyPages)
    assert lab.answer_to(call) is not None and lab.answer_to(waits) is not None
    assert lab.load(old, 0)[0] == -errno.ESTALE and lab.store(old, 1, 9) == -errno.ESTALE
    assert contents(lab, pid, start) == WRITTEN


def test_a_sharer_waits_for_granules_on_the_move_whatever_it_wants(lab: Lab) -> None:
    """It faults on a page that it never touched, migrates them itself, protects one, or exits."""
    pid = lab.spawn()
    start = uncached(lab, pid)
    late, mover, guard, leaver = (lab.fork(pid) for _ in range(4))
    for sharer in (mover, guard, leaver):
        assert contents(lab, sharer, start) == WRITTEN
    lab.hold_back(CopyPages)
    first = lab.start(migration(0, pid, (0,), (1,)))
    lab.run()
    waiting = [
        lab.start(_fault(late, start)),
        lab.start(migration(0, mover, (0,), (2,))),
        lab.start(Mprotect(guard, start * PAGE, PAGE, PROT_READ)),
        lab.start(Exit(leaver)),
    ]
    assert [lab.answer_to(call) for call in waiting] == [None] * 4
    lab.let_go(CopyPages)
    for call in (first, *waiting[1:]):
        done = lab.answer_to(call)
        assert isinstance(done, Done) and done.value == 0
    assert lab.answer_to(waiting[0]) is not None
    assert nodes(lab, pid, start) == [1, 1, 1], "the second migration found none on node 0"
    assert contents(lab, late, start) == WRITTEN


def test_a_full_target_gives_enomem_and_leaves_whole_granules() -> None:
    lab = Lab(nodes=2, frames=PAGES + 4)
    pid = lab.spawn()
    start = uncached(lab, pid)
    other = lab.spawn(cpu=1)
    lab.mapped(other, GRANULE, cpu=1)
    plain = lab.mapped(pid, 2)
    assert lab.migrate(pid, 0, 1) == -errno.ENOMEM
    assert nodes(lab, pid, start) == [1, 1, 0] and contents(lab, pid, start) == WRITTEN
    assert lab.where(pid, plain, 2) == [0, 0], "the regular migration was skipped"
    lab.validate()


def test_a_pinned_page_keeps_its_whole_granule_and_the_call_says_ebusy(lab: Lab) -> None:
    pid = lab.spawn()
    start, plain = uncached(lab, pid), lab.mapped(pid, 2)
    pinned = lab.fault(pid, start + GRANULE + 7)
    lab.hold_pages(pinned, pinned=1)
    assert lab.migrate(pid, 0, 1) == -errno.EBUSY
    assert nodes(lab, pid, start) == [1, 0, 1] and contents(lab, pid, start) == WRITTEN
    assert lab.where(pid, plain) == [0]
    lab.hold_pages(pinned)
    assert lab.migrate(pid, 0, 1) == 0
    assert nodes(lab, pid, start) == [1, 1, 1] and contents(lab, pid, start) == WRITTEN


def test_a_page_lock_is_waited_for(lab: Lab) -> None:
    pid = lab.spawn()
    start = uncached(lab, pid, GRANULE)
    locked = lab.fault(pid, start + 3)
    lab.hold_pages(locked, locked=1)
    call = lab.start(migration(0, pid, (0,), (1,)))
    assert lab.answer_to(call) is None
    lab.hold_pages(locked)
    assert lab.answer_to(call) is not None and nodes(lab, pid, start) == [1]
    assert contents(lab, pid, start, GRANULE) == WRITTEN[:GRANULE]


@pytest.mark.parametrize("node", [0, 1])
@pytest.mark.parametrize("at", [NewUncachedPages, CopyPages, PutbackLruPages])
def test_a_node_that_restarts_in_between_loses_nothing(lab: Lab, node: int, at: type) -> None:
    pid = lab.spawn()
    start = uncached(lab, pid)
    lab.hold_back(at)
    call = lab.start(migration(0, pid, (0,), (1,)))
    lab.run()
    lab.restart(node)
    lab.let_go(at)
    lab.wait(60.0)
    assert lab.answer_to(call) is not None
    assert contents(lab, pid, start) == WRITTEN


def test_a_lost_node_is_enodev_at_once() -> None:
    lab = Lab(heartbeat=1.0)
    pid = lab.spawn()
    start = uncached(lab, pid, cpu=2)
    lab.memory.lost = frozenset({2})
    assert lab.migrate(pid, (0, 2), (1, 3)) == -errno.ENODEV
    assert nodes(lab, pid, start) == [2, 2, 2]


@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_done_to_it_the_journal_tells_and_the_contents_stay(
    lab: Lab, seed: int
) -> None:
    rng = random.Random(seed)
    pids = [lab.spawn(cpu=0)]
    start = uncached(lab, pids[0])
    for _ in range(25):
        pid = rng.choice(pids)
        match rng.randrange(6):
            case 0 if len(pids) < 4:
                pids.append(lab.fork(pid))
            case 1 if len(pids) > 1:
                pids.remove(pid)
                lab.exit(pid)
            case 2:
                at = (start + rng.randrange(PAGES)) * PAGE
                lab.call(Mprotect(pid, at, PAGE, rng.choice([PROT_READ, RW])))
            case 3:
                lab.fault(pid, start, PAGES, access=READ)
            case _:
                assert lab.migrate(pid, rng.sample(range(4), 2), rng.sample(range(4), 2)) == 0
        lab.validate()
    assert contents(lab, pids[0], start) == WRITTEN, f"seed {seed}"


def _fault(pid: int, page: int, cpu: int = 0) -> Fault:
    return Fault(pid, cpu, 1, pages_from(page, 1))


def test_a_granule_of_which_a_page_is_locked_stays_as_a_whole(lab: Lab) -> None:
    """MAP_LOCKED of device memory: some of a granule's pages have an entry in a locked vma."""
    pid = lab.spawn()
    flags = MAP_SHARED | MAP_LOCKED
    start = lab.call(Mmap(pid, 0, GRANULE // 2 * PAGE, RW, flags, UNCACHED, 0)) // PAGE
    # Locking fills in no device memory: a first access does.
    assert nodes(lab, pid, start) == [-1]
    assert not lab.fault(pid, start, GRANULE // 2).status.any()
    assert lab.call(Munmap(pid, (start + 2) * PAGE, PAGE)) == 0
    lab.migrate(pid, 0, 1)
    assert nodes(lab, pid, start) in ([0], [1])
    lab.validate()
