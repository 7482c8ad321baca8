"""mlock(2), MAP_LOCKED, and what a locked page means for migration (K 1.31, 3.6 - 3.8)."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from coordinator.mm import MAP_ANONYMOUS, MAP_LOCKED, MAP_PRIVATE, PROT_READ, VmFlag
from coordinator.replay import differences, replay
from protocol.profile import MODERN, SEED, Profile
from protocol.syscalls import Mmap, Mprotect
from protocol.task_calls import Mlock, Munlock
from tests.calls import binding
from tests.filing import create, map_file
from tests.lab import PAGE, RW, Lab

MakeLab = Callable[..., Lab]
PROFILE = pytest.mark.parametrize("profile", [SEED, MODERN], ids=["seed", "modern"])
PREFERRED, BIND, MOVE, STRICT = 1, 2, 2, 1


def mlock(lab: Lab, pid: int, start: int, pages: int) -> int:
    return lab.call(Mlock(pid, start * PAGE, pages * PAGE))


def munlock(lab: Lab, pid: int, start: int, pages: int) -> int:
    return lab.call(Munlock(pid, start * PAGE, pages * PAGE))


def locked(lab: Lab, pid: int) -> list[tuple[int, int, bool]]:
    vmas = lab.memory.tasks[pid].mm.vmas
    return [(vma.start, vma.end, bool(vma.vm_flags & VmFlag.LOCKED)) for vma in vmas]


def journal_agrees(lab: Lab) -> bool:
    return list(differences(replay(lab.topology, lab.records), lab.memory)) == []


def test_mlock_splits_the_vma_and_makes_the_pages_present(lab: Lab) -> None:
    pid = lab.spawn(cpu=2)
    start = lab.mmap(pid, 6)
    assert mlock(lab, pid, start + 2, 2) == 0
    assert locked(lab, pid) == [
        (start, start + 2, False),
        (start + 2, start + 4, True),
        (start + 4, start + 6, False),
    ]
    absent = -errno.ENOENT
    assert lab.where(pid, start, 6) == [absent, absent, 2, 2, absent, absent]
    assert munlock(lab, pid, start, 6) == 0
    assert not any(flag for _, _, flag in locked(lab, pid))
    assert journal_agrees(lab)


def test_the_range_is_of_whole_pages(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mmap(pid, 4)
    assert lab.call(Mlock(pid, start * PAGE + PAGE - 1, 2)) == 0
    assert [end - at for at, end, flag in locked(lab, pid) if flag] == [2]
    assert lab.call(Mlock(pid, (start + 2) * PAGE, 0)) == 0
    assert [end - at for at, end, flag in locked(lab, pid) if flag] == [2]


def test_what_lies_before_a_hole_is_locked_and_the_call_says_enomem(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mmap(pid, 2, at=0x100)
    lab.mmap(pid, 2, at=0x104)
    assert mlock(lab, pid, start, 6) == -errno.ENOMEM
    assert [flag for _, _, flag in locked(lab, pid)] == [True, False]
    assert mlock(lab, pid, 0x102, 4) == -errno.ENOMEM
    assert mlock(lab, pid, 0x104, 3) == -errno.ENOMEM
    assert [flag for _, _, flag in locked(lab, pid)] == [True, True]
    assert mlock(lab, 99, 0x100, 1) == -errno.ESRCH


def test_a_page_that_may_not_be_read_is_locked_and_says_enomem(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mmap(pid, 1, prot=0)
    assert mlock(lab, pid, start, 1) == -errno.ENOMEM
    assert locked(lab, pid) == [(start, start + 1, True)]


def test_without_frames_it_is_eagain(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=1, frames=4)
    pid = lab.spawn()
    assert mlock(lab, pid, lab.mmap(pid, 6), 6) == -errno.EAGAIN


def test_map_locked_locks_and_populates_and_a_child_inherits_no_locks(lab: Lab) -> None:
    pid = lab.spawn(cpu=1)
    flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED
    start = lab.call(Mmap(pid, 0, 3 * PAGE, RW, flags, "", 0)) // PAGE
    assert locked(lab, pid) == [(start, start + 3, True)]
    assert lab.where(pid, start, 3) == [1, 1, 1]
    child = lab.fork(pid)
    assert locked(lab, child) == [(start, start + 3, False)]
    assert journal_agrees(lab)


def test_mlock_breaks_copy_on_write_of_a_writable_mapping(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mapped(pid, 2)
    child = lab.fork(pid)
    assert mlock(lab, child, start, 2) == 0
    assert lab.memory.mem_map[0].mapcount.max() == 1


# ---- migration -------------------------------------------------------------------------------


@PROFILE
def test_k_3_6_the_scan_leaves_locked_vmas_out_at_the_seed(
    make_lab: MakeLab, profile: Profile
) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn()
    start = lab.mapped(pid, 3)
    assert mlock(lab, pid, start + 1, 1) == 0
    # They are not counted as pages that stayed (K 1.15).
    assert lab.migrate(pid, 0, 1) == 0
    assert lab.where(pid, start, 3) == ([1, 0, 1] if profile is SEED else [1, 1, 1])


@PROFILE
def test_k_1_31_and_3_7_move_pages_tries_and_gets_eperm_at_the_seed(
    make_lab: MakeLab, profile: Profile
) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn()
    start = lab.mapped(pid, 3)
    lab.write(pid, start + 1, 55)
    assert mlock(lab, pid, start + 1, 1) == 0
    answer = lab.move(pid, [start, start + 1, start + 2], [1, 2, 3])
    if profile is SEED:
        assert (answer.value, answer.status.tolist()) == (1, [1, -errno.EPERM, 3])
    else:
        assert (answer.value, answer.status.tolist()) == (0, [1, 2, 3])
    assert lab.read(pid, start + 1) == 55
    lab.validate()
    assert munlock(lab, pid, start, 3) == 0
    assert lab.move(pid, [start + 1], [0 if profile is MODERN else 1]).value == 0


def test_k_1_31_a_lock_of_any_mapper_counts(lab: Lab) -> None:
    """A scan of the one that did not lock takes the page, and unmapping it fails for good."""
    parent = lab.spawn()
    start = lab.mapped(parent, 2, prot=RW)
    child = lab.fork(parent)
    vma = lab.vma(child, start)
    assert mlock(lab, child, start, 1) == 0
    assert lab.vma(child, start).vm_flags & VmFlag.LOCKED and vma.mapping.vmas
    shared = lab.spawn()
    base = lab.mapped(shared, 2, shared=True)
    other = lab.fork(shared)
    assert mlock(lab, other, base, 1) == 0
    assert lab.migrate(shared, 0, 1) == 1
    assert lab.where(shared, base, 2) == [0, 1]
    lab.validate()


def test_k_3_8_strict_and_move_scan_locked_vmas_too_at_the_seed(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mapped(pid, 2)
    assert mlock(lab, pid, start, 2) == 0
    assert lab.call(binding(pid, start * PAGE, 2 * PAGE, BIND, (1,), MOVE)) == 0
    assert lab.where(pid, start, 2) == [0, 0]
    strict = binding(pid, start * PAGE, 2 * PAGE, BIND, (1,), MOVE | STRICT)
    assert lab.call(strict) == -errno.EIO
    assert lab.where(pid, start, 2) == [0, 0]
    lab.validate()


def test_a_locked_mapping_that_is_read_only_reads_the_zero_page(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mmap(pid, 1, prot=PROT_READ)
    assert mlock(lab, pid, start, 1) == 0
    assert lab.free() == [256] * 4


def test_a_page_beyond_the_end_of_its_file_says_enomem(lab: Lab) -> None:
    pid = lab.spawn()
    create(lab, pages=2)
    assert mlock(lab, pid, map_file(lab, pid, 3), 3) == -errno.ENOMEM


@PROFILE
def test_locked_memory_that_becomes_writable_is_written_to_in_61(
    make_lab: MakeLab, profile: Profile
) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn(cpu=2)
    start = lab.mmap(pid, 3, prot=PROT_READ)
    assert mlock(lab, pid, start, 2) == 0
    assert lab.free() == [256] * 4, "it was filled in with the zero page"
    assert lab.call(Mprotect(pid, start * PAGE, 3 * PAGE, RW)) == 0
    assert lab.free()[2] == (254 if profile is MODERN else 256)
    assert journal_agrees(lab)


@PROFILE
def test_what_was_writable_once_does_not_join_what_never_was(
    make_lab: MakeLab, profile: Profile
) -> None:
    """The first is accounted for, as a store to it takes memory: VM_ACCOUNT stays."""
    lab = make_lab(profile=profile)
    pid = lab.spawn()
    first = lab.mmap(pid, 2, at=0x100)
    assert lab.call(Mprotect(pid, first * PAGE, 2 * PAGE, PROT_READ)) == 0
    lab.mmap(pid, 2, at=0x102, prot=PROT_READ)
    assert locked(lab, pid) == [(0x100, 0x102, False), (0x102, 0x104, False)]
    assert lab.call(Mprotect(pid, 0x102 * PAGE, 2 * PAGE, RW)) == 0
    assert lab.call(Mprotect(pid, 0x102 * PAGE, 2 * PAGE, PROT_READ)) == 0
    assert locked(lab, pid) == [(0x100, 0x104, False)]
    assert journal_agrees(lab)
