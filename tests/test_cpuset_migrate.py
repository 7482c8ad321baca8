"""Where memory goes by a cpuset, and how it follows one that changes (K 5.12 - 5.16)."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from coordinator.memory import Memory
from coordinator.mm import Vma, VmOperations
from coordinator.mpol import Mode
from protocol.messages import CopyPages
from protocol.profile import MODERN, SEED, Profile
from protocol.syscalls import (
    CpusetWrite,
    CpusetWritten,
    Exit,
)
from tests.calls import binding
from tests.cpusets import attached, cpuset, mkdir, told, write
from tests.lab import PAGE, Lab

Labs = Callable[..., Lab]
BOTH = pytest.mark.parametrize("profile", [SEED, MODERN], ids=lambda profile: profile.name)
MOVE = 2


# ---- allocation (K 5.12) -----------------------------------------------------------------------


@pytest.mark.parametrize("mems", ["0", "1"])
@BOTH
def test_cs_01_pages_come_from_the_cpuset_wherever_the_cpu_is(
    make_lab: Labs, profile: Profile, mems: str
) -> None:
    lab = make_lab(profile=profile)
    pid = attached(lab, cpuset(lab, "/a", mems=mems))
    assert lab.where(pid, lab.mapped(pid, 2, cpu=0), 2) == [int(mems)] * 2


def test_k_5_12_a_full_cpuset_has_no_more_pages(make_lab: Labs) -> None:
    lab = make_lab(nodes=4, frames=4)
    pid = attached(lab, cpuset(lab, "/a", mems="1-2"))
    start = lab.mmap(pid, 9)
    status = lab.fault(pid, start, 9).status
    assert sorted(status.tolist()) == [-errno.ENOMEM] + [0] * 8
    assert sorted(set(lab.where(pid, start, 8))) == [1, 2]


def test_k_5_12_the_cpuset_outranks_the_policy(lab: Lab) -> None:
    pid = attached(lab, cpuset(lab, "/a", mems="1-2"))
    start = lab.mmap(pid, 2)
    assert lab.call(binding(pid, start * PAGE, 2 * PAGE, Mode.PREFERRED, (3,), 0)) in (0, -22)
    lab.fault(pid, start, 2)
    assert set(lab.where(pid, start, 2)) <= {1, 2}


def test_k_5_12_a_copy_on_write_is_an_allocation_too(lab: Lab) -> None:
    parent = lab.spawn()
    start = lab.mapped(parent, 1, cpu=0)
    child = lab.fork(parent)
    assert write(lab, cpuset(lab, "/a", mems="2"), "tasks", child) == 0
    lab.fault(child, start)
    assert (lab.where(parent, start), lab.where(child, start)) == ([0], [2])


# ---- the system calls (K 1.1, 1.18, 4.6, 4.8, 4.12) --------------------------------------------


@BOTH
def test_k_1_1_targets_outside_of_the_task_s_cpuset_take_cap_sys_nice(
    make_lab: Labs, profile: Profile
) -> None:
    lab = make_lab(profile=profile)
    pid = attached(lab, cpuset(lab, "/a", mems="0-1"), uid=7)
    start = lab.mapped(pid, 2)
    user = lab.spawn(uid=7, capable=False)
    assert lab.migrate(pid, 0, 2, caller=user) == -errno.EPERM
    assert lab.migrate(pid, 0, 1, caller=user) == 0
    assert lab.migrate(pid, 1, 2, caller=lab.spawn(capable=True)) == 0
    assert lab.where(pid, start, 2) == [2, 2]


@pytest.mark.parametrize(
    ("profile", "to_nodes", "value", "where"),
    [
        # The seed charges the caller's cpuset, and goes where that has a node (K 1.18).
        (SEED, (2,), 0, [3]),
        (SEED, (2, 3), 0, [3]),
        (MODERN, (2,), -errno.EINVAL, [0]),
        (MODERN, (2, 3), 0, [3]),
        (MODERN, (3, 9), 0, [3]),
        (SEED, (3, 9), -errno.EINVAL, [0]),
    ],
)
def test_k_4_8_the_cpuset_of_the_caller(
    make_lab: Labs, profile: Profile, to_nodes: tuple[int, ...], value: int, where: list[int]
) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn()
    start = lab.mapped(pid, 1)
    caller = attached(lab, cpuset(lab, "/a", mems="3"))
    assert lab.migrate(pid, 0, to_nodes, caller=caller) == value
    assert lab.where(pid, start) == where


@BOTH
def test_k_4_12_move_pages_to_a_node_outside_of_the_task_s_cpuset(
    make_lab: Labs, profile: Profile
) -> None:
    lab = make_lab(profile=profile)
    pid = attached(lab, cpuset(lab, "/a", mems="0-1"))
    start = lab.mapped(pid, 2)
    assert lab.move(pid, [start], [2]).value == -errno.EACCES
    assert lab.move(pid, [start], [9]).value == -errno.ENODEV
    assert lab.move(pid, [start], [1]).value == 0
    assert lab.where(pid, start, 2) == [1, 0]


# ---- memory_migrate (K 5.13) -------------------------------------------------------------------


@pytest.mark.parametrize("migrate", [False, True])
@BOTH
def test_cs_06_new_mems_of_a_cpuset(make_lab: Labs, profile: Profile, migrate: bool) -> None:
    lab = make_lab(profile=profile)
    pid = attached(lab, cpuset(lab, "/a", mems="1", migrate=migrate))
    start = lab.mapped(pid, 3)
    assert write(lab, "/a", "mems", "0") == 0
    assert lab.where(pid, start, 3) == [0 if migrate else 1] * 3
    assert lab.where(pid, lab.mapped(pid, 1)) == [0]
    assert told(lab) == []


@pytest.mark.parametrize(("first", "second"), [(False, False), (True, False), (False, True)])
@BOTH
def test_cs_05_attaching_goes_by_the_flag_of_the_destination(
    make_lab: Labs, profile: Profile, first: bool, second: bool
) -> None:
    lab = make_lab(profile=profile)
    cpuset(lab, "/one", mems="0", migrate=first)
    cpuset(lab, "/two", mems="1", migrate=second)
    pid = attached(lab, "/one")
    start = lab.mapped(pid, 2)
    assert write(lab, "/two", "tasks", pid) == 0
    assert lab.where(pid, start, 2) == [1 if second else 0] * 2
    assert lab.where(pid, lab.mapped(pid, 1)) == [1]
    assert told(lab) == []


@BOTH
def test_k_5_13_pages_keep_their_place_and_several_mms_follow(
    make_lab: Labs, profile: Profile
) -> None:
    lab = make_lab(profile=profile)
    cpuset(lab, "/a", mems="0-1", migrate=True)
    pids = [attached(lab, "/a") for _ in range(2)]
    starts = [lab.mapped(pid, 2, cpu=cpu) for cpu, pid in enumerate(pids)]
    assert write(lab, "/a", "mems", "2-3") == 0
    found = [lab.where(pid, start, 2) for pid, start in zip(pids, starts, strict=True)]
    assert found == [[2, 2], [3, 3]]


@BOTH
def test_k_5_13_shared_pages_move_whoever_writes(make_lab: Labs, profile: Profile) -> None:
    lab = make_lab(profile=profile)
    cpuset(lab, "/a", mems="0", migrate=True)
    pid = attached(lab, "/a")
    start = lab.mapped(pid, 1)
    lab.fork(pid)
    powerless = lab.spawn(uid=0, capable=False)
    assert write(lab, "/a", "mems", "2", caller=powerless) == 0
    assert lab.where(pid, start) == [2]


@BOTH
def test_k_5_13_what_cannot_move_is_no_error(make_lab: Labs, profile: Profile) -> None:
    lab = make_lab(profile=profile)
    pid = attached(lab, cpuset(lab, "/a", mems="0", migrate=True))
    start = lab.mapped(pid, 2)
    lab.hold_pages(lab.fault(pid, start), pinned=1)
    assert write(lab, "/a", "mems", "1") == 0
    assert lab.where(pid, start, 2) == [0, 1]


@BOTH
def test_k_5_13_a_new_node_that_is_full_gives_up_without_leaving_the_cpuset(
    make_lab: Labs, profile: Profile
) -> None:
    lab = make_lab(frames=4, profile=profile)
    pid = attached(lab, cpuset(lab, "/a", mems="0", migrate=True))
    start = lab.mapped(pid, 4)
    lab.mapped(lab.spawn(), 2, cpu=1)
    assert write(lab, "/a", "mems", "1") == 0
    assert sorted(set(lab.where(pid, start, 4))) == [0, 1]


def test_k_5_13_the_caller_s_own_cpuset_does_not_limit_where_pages_go(lab: Lab) -> None:
    pid = attached(lab, cpuset(lab, "/a", mems="0", migrate=True))
    start = lab.mapped(pid, 1)
    writer = attached(lab, cpuset(lab, "/b", mems="3"))
    assert write(lab, "/a", "mems", "1", caller=writer) == 0
    assert lab.where(pid, start) == [1]


@BOTH
def test_k_5_16_pages_outside_of_the_old_mems_stay(make_lab: Labs, profile: Profile) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn()
    elsewhere = lab.mapped(pid, 1, cpu=3)
    cpuset(lab, "/a", mems="0-1", migrate=True)
    assert write(lab, "/a", "tasks", pid) == 0
    assert lab.where(pid, elsewhere) == [1]
    assert lab.migrate(pid, 1, 3) == 0
    assert write(lab, "/a", "mems", "2") == 0
    assert lab.where(pid, elsewhere) == [3]


def test_with_migration_off_nothing_moves(make_lab: Labs) -> None:
    lab = make_lab(migration=False)
    pid = attached(lab, cpuset(lab, "/a", mems="0", migrate=True))
    start = lab.mapped(pid, 1)
    assert write(lab, "/a", "mems", "1") == 0
    assert int(lab.fault(pid, start, access=0).nid[0]) == 0


# ---- when (K 5.14) -----------------------------------------------------------------------------


@BOTH
def test_k_5_14_the_write_ends_with_the_migration(make_lab: Labs, profile: Profile) -> None:
    lab = make_lab(profile=profile)
    pid = attached(lab, cpuset(lab, "/a", mems="0", migrate=True))
    lab.mapped(pid, 2)
    lab.hold_back(CopyPages)
    ticket = lab.start(CpusetWrite(0, "/a", "mems", "1"))
    assert lab.answer_to(ticket) is None
    lab.let_go(CopyPages)
    assert isinstance(lab.answer_to(ticket), CpusetWritten)


@pytest.mark.parametrize(("profile", "waits"), [(SEED, True), (MODERN, False)])
def test_k_5_14_another_write_waits_for_it_at_the_seed(
    make_lab: Labs, profile: Profile, waits: bool
) -> None:
    lab = make_lab(profile=profile)
    pid = attached(lab, cpuset(lab, "/a", mems="0", migrate=True))
    lab.mapped(pid, 2)
    assert mkdir(lab, "/b") == 0
    lab.hold_back(CopyPages)
    first = lab.start(CpusetWrite(0, "/a", "mems", "1"))
    second = lab.start(CpusetWrite(0, "/b", "mems", "1"))
    assert (lab.answer_to(second) is None) == waits
    lab.let_go(CopyPages)
    assert lab.answer_to(first) is not None
    assert lab.answer_to(second) is not None


@pytest.mark.parametrize(("profile", "calls"), [(SEED, 1), (MODERN, 0)])
def test_k_5_14_equal_masks_are_skipped_in_modern(
    make_lab: Labs, profile: Profile, calls: int
) -> None:
    asked: list[frozenset[int]] = []

    def migrate(
        memory: Memory, vma: Vma, old: frozenset[int], new: frozenset[int], flags: int
    ) -> int:
        asked.append(new)
        return 0

    lab = make_lab(profile=profile, vm_operations={"/dev/x": VmOperations(migrate)})
    cpuset(lab, "/one", mems="0-1", migrate=True)
    cpuset(lab, "/two", mems="0-1", migrate=True)
    pid = attached(lab, "/one")
    lab.mmap(pid, 1, name="/dev/x", shared=True)
    asked.clear()
    assert write(lab, "/two", "tasks", pid) == 0
    assert asked == [frozenset({0, 1})] * calls


def test_an_exit_waits_while_its_cpuset_changes(lab: Lab) -> None:
    pid = attached(lab, cpuset(lab, "/a", mems="0", migrate=True))
    lab.mapped(pid, 2)
    lab.hold_back(CopyPages)
    ticket = lab.start(CpusetWrite(0, "/a", "mems", "1"))
    exiting = lab.start(Exit(pid))
    assert lab.answer_to(exiting) is None
    lab.let_go(CopyPages)
    assert lab.answer_to(ticket) is not None
    assert lab.answer_to(exiting) is not None
    assert pid not in lab.memory.tasks
    assert told(lab) == []
