"""mmap, munmap, mprotect, fork, exit: what they refuse, what they take away, and when they wait."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from coordinator.mm import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_POPULATE,
    MAP_PRIVATE,
    MAP_SHARED,
    PROT_READ,
    PROT_WRITE,
    TASK_SIZE,
)
from protocol.messages import CopyPages, Done, LoadBytes, NewPages, PutPages, SetGeneration
from protocol.notes import TaskEnded
from protocol.syscalls import Exit, Fault, Fork, Mmap, Mprotect, Munmap, Translations
from tests.calls import migration
from tests.lab import PAGE, READ, RW, WRITE, Lab, pages_from

MakeLab = Callable[..., Lab]
NO_RIGHTS = 0
ANON = MAP_PRIVATE | MAP_ANONYMOUS


def munmap(lab: Lab, pid: int, start: int, pages: int) -> int:
    return lab.call(Munmap(pid, start * PAGE, pages * PAGE))


def mprotect(lab: Lab, pid: int, start: int, pages: int, prot: int) -> int:
    return lab.call(Mprotect(pid, start * PAGE, pages * PAGE, prot))


def ranges(lab: Lab, pid: int) -> list[tuple[int, int, int]]:
    """(start, end, prot) of each vma."""
    return [(vma.start, vma.end, vma.prot) for vma in lab.memory.tasks[pid].mm.vmas]


# ---- mmap ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "length", "prot", "flags", "error"),
    [
        (0, 0, RW, ANON, errno.EINVAL),
        (0, PAGE, RW, MAP_ANONYMOUS, errno.EINVAL),
        (0, PAGE, RW, MAP_SHARED | MAP_PRIVATE, errno.EINVAL),
        (0, PAGE, 8, ANON, errno.EINVAL),
        (1, PAGE, RW, ANON | MAP_FIXED, errno.EINVAL),
        (0, (TASK_SIZE + 1) * PAGE, RW, ANON, errno.ENOMEM),
        (TASK_SIZE * PAGE, PAGE, RW, ANON | MAP_FIXED, errno.ENOMEM),
    ],
    ids=["no length", "neither", "both", "no such prot", "unaligned", "too long", "too high"],
)
def test_a_mapping_that_cannot_be_is_refused(
    lab: Lab, address: int, length: int, prot: int, flags: int, error: int
) -> None:
    pid = lab.spawn()
    assert lab.call(Mmap(pid, address, length, prot, flags, "", 0)) == -error
    assert ranges(lab, pid) == []


def test_a_length_is_rounded_up_to_pages(lab: Lab) -> None:
    pid = lab.spawn()
    address = lab.call(Mmap(pid, 0, PAGE + 1, RW, ANON, "", 0))
    assert lab.vma(pid, address // PAGE).pages == 2


def test_mappings_without_a_wish_do_not_overlap_and_fill_gaps(lab: Lab) -> None:
    pid = lab.spawn()
    first, second, third = (lab.mmap(pid, 4) for _ in range(3))
    assert (second - first, third - second) == (4, 4)
    munmap(lab, pid, second, 4)
    assert lab.mmap(pid, 2) == second
    assert lab.mmap(pid, 4) == third + 4


def test_a_taken_wish_is_a_hint_unless_it_is_fixed(lab: Lab) -> None:
    pid = lab.spawn()
    taken = lab.mapped(pid, 2, at=0x100)
    assert lab.mmap(pid, 1, at=0x100) != taken
    no_replace = Mmap(pid, 0x101 * PAGE, PAGE, RW, ANON | MAP_FIXED_NOREPLACE, "", 0)
    assert lab.call(no_replace) == -errno.EEXIST
    fixed = Mmap(pid, 0x101 * PAGE, PAGE, RW, ANON | MAP_FIXED, "", 0)
    assert lab.call(fixed) == 0x101 * PAGE
    assert lab.where(pid, taken, 2) == [0, -errno.ENOENT], "what was there is unmapped"


def test_populate_touches_every_page_and_stops_where_memory_does(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=2, frames=4)
    pid = lab.spawn(cpu=1)
    address = lab.call(Mmap(pid, 0, 3 * PAGE, RW, ANON | MAP_POPULATE, "", 0))
    assert lab.where(pid, address // PAGE, 3) == [1, 1, 1]
    address = lab.call(Mmap(pid, 0, 9 * PAGE, RW, ANON | MAP_POPULATE, "", 0))
    assert address > 0 and lab.free() == [0, 0]


def test_a_task_that_is_gone_maps_nothing(lab: Lab) -> None:
    for call in (
        Mmap(9, 0, PAGE, RW, ANON, "", 0),
        Munmap(9, 0, PAGE),
        Mprotect(9, 0, PAGE, 1),
        Fork(9, -1, 0),
        Exit(9),
    ):
        assert lab.call(call) == -errno.ESRCH


# ---- munmap --------------------------------------------------------------------------------


def test_munmap_frees_frames_and_cuts_vmas(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mapped(pid, 6)
    lab.write(pid, start + 4, 4)
    assert munmap(lab, pid, start + 1, 2) == 0
    assert ranges(lab, pid) == [(start, start + 1, RW), (start + 3, start + 6, RW)]
    assert lab.zone(0).free == 256 - 4
    assert lab.where(pid, start + 3, 3) == [0, 0, 0] and lab.read(pid, start + 4) == 4
    assert lab.fault(pid, start + 1).status.tolist() == [-errno.EFAULT]


def test_a_translation_of_what_was_unmapped_is_stale_when_the_call_returns(lab: Lab) -> None:
    pid = lab.spawn()
    where = lab.fault(pid, lab.mapped(pid, 1))
    lab.hold_back(PutPages)
    call = lab.start(Munmap(pid, int(lab.memory.tasks[pid].mm.vmas[0].start) * PAGE, PAGE))
    assert lab.answer_to(call) is None, "the node has not said that it serves the frame no more"
    lab.let_go(PutPages)
    assert lab.answer_to(call) is not None
    assert lab.store(where, 0, 1) == -errno.ESTALE


def test_munmap_of_nothing_is_no_error_and_of_half_a_page_is(lab: Lab) -> None:
    pid = lab.spawn()
    assert munmap(lab, pid, 0x500, 3) == 0
    assert lab.call(Munmap(pid, 1, PAGE)) == lab.call(Munmap(pid, 0, 0)) == -errno.EINVAL


def test_a_shared_object_lives_as_long_as_somebody_maps_it(lab: Lab) -> None:
    parent = lab.spawn()
    start = lab.mapped(parent, 2, shared=True)
    lab.write(parent, start, 5)
    child = lab.fork(parent)
    assert munmap(lab, parent, start, 2) == 0
    assert lab.read(child, start) == 5 and lab.zone(0).free == 254
    assert lab.exit(child) == 0
    assert lab.zone(0).free == 256 and not lab.memory.mappings


def test_the_last_mapping_of_an_object_goes_while_another_is_still_going(lab: Lab) -> None:
    """The parent's translations are being revoked while the child, who touched nothing, exits."""
    parent = lab.spawn()
    start = lab.mapped(parent, 2, shared=True)
    child = lab.fork(parent)
    lab.hold_back(SetGeneration)
    unmapping = lab.start(Munmap(parent, start * PAGE, 2 * PAGE))
    lab.run()
    exiting = lab.start(Exit(child))
    lab.run()
    lab.let_go(SetGeneration)
    assert lab.answer_to(unmapping) is not None and lab.answer_to(exiting) is not None
    assert lab.zone(0).free == 256


# ---- mprotect ------------------------------------------------------------------------------


def test_what_mprotect_takes_away_is_gone_when_it_returns(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mapped(pid, 3)
    where = lab.fault(pid, start, 3)
    lab.store(where, 1, 8)
    assert mprotect(lab, pid, start + 1, 1, PROT_READ) == 0
    assert [lab.store(where, row, 9) for row in range(3)] == [0, -errno.ESTALE, 0]
    assert lab.fault(pid, start + 1).status.tolist() == [-errno.EACCES]
    assert lab.read(pid, start + 1) == 8
    assert mprotect(lab, pid, start + 1, 1, NO_RIGHTS) == 0
    assert lab.fault(pid, start + 1, access=READ).status.tolist() == [-errno.EACCES]


def test_what_mprotect_gives_is_granted_by_the_next_fault(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mapped(pid, 1)
    where = lab.fault(pid, start)
    mprotect(lab, pid, start, 1, PROT_READ)
    mprotect(lab, pid, start, 1, RW)
    assert lab.store(where, 0, 1) == -errno.ESTALE
    lab.write(pid, start, 2)
    assert lab.read(pid, start) == 2


def test_giving_rights_disturbs_nobody(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mmap(pid, 1, prot=PROT_READ | PROT_WRITE)
    where = lab.fault(pid, start)
    assert mprotect(lab, pid, start, 1, RW) == 0
    assert lab.store(where, 0, 1) == 0


def test_a_hole_in_the_range_is_enomem_and_ends_the_change(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mapped(pid, 2, at=0x100)
    lab.mapped(pid, 2, at=0x103)
    above = (0x103, 0x105, RW)
    assert mprotect(lab, pid, start - 1, 2, PROT_READ) == -errno.ENOMEM
    assert ranges(lab, pid) == [(0x100, 0x102, RW), above]
    assert mprotect(lab, pid, start + 1, 4, PROT_READ) == -errno.ENOMEM
    assert ranges(lab, pid) == [(0x100, 0x101, RW), (0x101, 0x102, PROT_READ), above]


def test_no_length_is_no_change(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mapped(pid, 4)
    assert mprotect(lab, pid, start + 2, 0, PROT_READ) == 0
    assert ranges(lab, pid) == [(start, start + 4, RW)]
    assert lab.call(Mprotect(pid, 1, PAGE, 1)) == -errno.EINVAL
    assert mprotect(lab, pid, start, 1, 8) == -errno.EINVAL


# ---- fork ----------------------------------------------------------------------------------


def test_a_translation_from_before_a_fork_does_not_write_after_it(lab: Lab) -> None:
    parent = lab.spawn()
    start = lab.mapped(parent, 1)
    where = lab.fault(parent, start)
    lab.store(where, 0, 1)
    lab.hold_back(SetGeneration)
    forking = lab.start(Fork(parent, -1, 0))
    assert lab.answer_to(forking) is None
    assert lab.store(where, 0, 2) == 0, "fork has not returned yet"
    lab.let_go(SetGeneration)
    answer = lab.answer_to(forking)
    assert isinstance(answer, Done) and answer.value > 0
    assert lab.store(where, 0, 3) == -errno.ESTALE
    assert lab.read(parent, start) == lab.read(answer.value, start) == 2


def test_a_child_has_the_parents_vmas_and_identity(lab: Lab) -> None:
    parent = lab.spawn(cpu=2, uid=77, capable=False)
    lab.mmap(parent, 3, name="[heap]")
    lab.mmap(parent, 2, prot=PROT_READ, name="/bin/true")
    child = lab.memory.tasks[lab.fork(parent)]
    assert (child.ppid, child.cpu, child.uid, child.capable) == (parent, 2, 77, False)
    assert ranges(lab, child.pid) == ranges(lab, parent)
    assert [vma.name for vma in child.mm.vmas] == ["[heap]", "/bin/true"]


def test_generations_of_a_family_share_until_one_writes(lab: Lab) -> None:
    root = lab.spawn()
    start = lab.mapped(root, 1)
    lab.write(root, start, 100)
    child = lab.fork(root)
    grandchild = lab.fork(child)
    assert lab.memory.mem_map[0].mapcount.max() == 3
    lab.write(child, start, 200)
    assert [lab.read(pid, start) for pid in (root, child, grandchild)] == [100, 200, 100]


# ---- exit ----------------------------------------------------------------------------------


def test_exit_frees_all_that_nobody_else_maps(lab: Lab) -> None:
    parent = lab.spawn()
    start = lab.mapped(parent, 4)
    child = lab.fork(parent)
    lab.fault(child, start)
    assert lab.exit(parent) == 0
    assert sum(lab.free()) == 4 * 256 - 4
    assert lab.exit(child) == 0 and lab.free() == [256] * 4
    assert lab.noted(TaskEnded) == [TaskEnded(parent, "exit"), TaskEnded(child, "exit")]
    assert lab.exit(child) == -errno.ESRCH


def test_of_two_exits_at_once_one_finds_nobody(lab: Lab) -> None:
    pid = lab.spawn()
    lab.mapped(pid, 1)
    lab.hold_back(PutPages)
    tickets = [lab.start(Exit(pid)) for _ in range(2)]
    lab.run()
    lab.let_go(PutPages)
    answers = [lab.answer_to(ticket) for ticket in tickets]
    assert [answer.value for answer in answers if isinstance(answer, Done)] == [0, -errno.ESRCH]


# ---- map changes wait for a migration, and faults do not (K 1.5) ---------------------------


@pytest.mark.parametrize("change", ["mmap", "munmap", "mprotect", "fork", "exit"])
def test_a_change_of_the_map_waits_for_the_whole_migration(lab: Lab, change: str) -> None:
    # K 1.5.
    pid = lab.spawn()
    lab.mapped(pid, 2)
    elsewhere = lab.mapped(pid, 1, cpu=2)
    asked = {
        "mmap": Mmap(pid, 0, PAGE, RW, ANON, "", 0),
        "munmap": Munmap(pid, elsewhere * PAGE, PAGE),
        "mprotect": Mprotect(pid, elsewhere * PAGE, PAGE, PROT_READ),
        "fork": Fork(pid, -1, 0),
        "exit": Exit(pid),
    }[change]
    lab.hold_back(CopyPages)
    migrating = lab.start(migration(0, pid, (0,), (1,)))
    lab.run()
    changing = lab.start(asked)
    assert lab.answer_to(changing) is None
    assert not lab.fault(pid, elsewhere).status.any(), "a waiting writer does not stop faults"
    lab.let_go(CopyPages)
    migrated, changed = lab.answer_to(migrating), lab.answer_to(changing)
    assert isinstance(migrated, Done) and migrated.value == 0
    assert isinstance(changed, Done) and changed.value >= 0


def test_a_migration_waits_for_a_change_that_came_before_it(lab: Lab) -> None:
    # K 1.5.
    pid = lab.spawn()
    start = lab.mapped(pid, 2)
    lab.hold_back(PutPages)
    unmapping = lab.start(Munmap(pid, start * PAGE, PAGE))
    lab.run()
    migrating = lab.start(migration(0, pid, (0,), (1,)))
    assert lab.answer_to(migrating) is None
    lab.let_go(PutPages)
    assert lab.answer_to(unmapping) is not None and lab.answer_to(migrating) is not None
    assert lab.where(pid, start + 1) == [1]


def test_a_fault_that_waits_for_a_page_that_is_unmapped_gets_efault(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mapped(pid, 1)
    lab.hold_back(PutPages)
    lab.start(Munmap(pid, start * PAGE, PAGE))
    lab.run()
    waiting = lab.start(Fault(pid, 0, WRITE, pages_from(start, 1)))
    assert lab.answer_to(waiting) is None
    lab.let_go(PutPages)
    answer = lab.answer_to(waiting)
    assert isinstance(answer, Translations) and answer.status.tolist() == [-errno.EFAULT]
    assert not lab.asked(NewPages, "node1") and not lab.asked(LoadBytes)
