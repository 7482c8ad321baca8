"""Who may move whose pages: user ids and capabilities (K 1.1 - 1.3, 4.8)."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from coordinator.cred import ALL_CAPABILITIES, Capability
from coordinator.replay import differences, replay
from protocol.profile import MODERN, SEED, Profile
from protocol.syscalls import MovedPages
from protocol.task_calls import Capset, Setresuid
from tests.calls import moving
from tests.lab import PAGE, Lab

MakeLab = Callable[..., Lab]
PROFILE = pytest.mark.parametrize("profile", [SEED, MODERN], ids=["seed", "modern"])
KEEP = -1
MOVE_ALL = 4


def setresuid(lab: Lab, pid: int, ruid: int, euid: int, suid: int) -> int:
    return lab.call(Setresuid(pid, ruid, euid, suid))


def ids(lab: Lab, pid: int) -> tuple[int, int, int]:
    cred = lab.memory.tasks[pid].cred
    return cred.uid, cred.euid, cred.suid


def user(lab: Lab, ruid: int, euid: int, suid: int) -> int:
    """A task with these ids and no capabilities."""
    pid = lab.spawn(uid=0)
    assert setresuid(lab, pid, ruid, euid, suid) == 0
    assert not lab.memory.tasks[pid].cred.effective
    return pid


# ---- setresuid(2) and capset(2) --------------------------------------------------------------


def test_who_leaves_root_for_good_loses_all_capabilities(lab: Lab) -> None:
    pid = lab.spawn(uid=0)
    assert setresuid(lab, pid, 1000, 1000, 1000) == 0
    assert lab.memory.tasks[pid].cred.permitted == 0
    assert setresuid(lab, pid, 0, 0, 0) == -errno.EPERM


def test_who_leaves_root_only_effectively_has_them_back_with_it(lab: Lab) -> None:
    pid = lab.spawn(uid=0)
    assert setresuid(lab, pid, KEEP, 1000, KEEP) == 0
    assert lab.memory.tasks[pid].cred.effective == 0
    assert ids(lab, pid) == (0, 1000, 0)
    assert lab.migrate(lab.spawn(uid=5), 0, 1, caller=pid) == -errno.EPERM
    assert setresuid(lab, pid, KEEP, 0, KEEP) == 0
    assert lab.memory.tasks[pid].cred.effective == ALL_CAPABILITIES


def test_without_cap_setuid_one_chooses_among_ones_own_ids(lab: Lab) -> None:
    pid = user(lab, 1, 2, 3)
    assert setresuid(lab, pid, KEEP, 4, KEEP) == -errno.EPERM
    assert setresuid(lab, pid, 3, 1, 2) == 0 and ids(lab, pid) == (3, 1, 2)
    assert setresuid(lab, pid, -2, KEEP, KEEP) == -errno.EINVAL
    assert setresuid(lab, pid, (1 << 32) - 1, KEEP, KEEP) == -errno.EINVAL
    assert setresuid(lab, 99, KEEP, KEEP, KEEP) == -errno.ESRCH


def test_capabilities_can_be_dropped_and_not_gained(lab: Lab) -> None:
    pid = lab.spawn(uid=7)
    nice = int(Capability.SYS_NICE)
    assert lab.call(Capset(pid, 0, nice)) == 0
    assert lab.call(Capset(pid, nice, nice)) == 0
    assert lab.call(Capset(pid, nice, int(ALL_CAPABILITIES))) == -errno.EPERM
    assert lab.call(Capset(pid, int(ALL_CAPABILITIES), nice)) == -errno.EPERM
    assert lab.call(Capset(pid, 0, 0)) == 0
    assert lab.call(Capset(pid, nice, nice)) == -errno.EPERM


def test_k_3_3_who_dropped_cap_sys_nice_may_not_ask_for_move_all(lab: Lab) -> None:
    pid = lab.spawn(uid=0)
    start = lab.mapped(pid, 1)
    assert lab.move(pid, [start], [1], MOVE_ALL, caller=pid).value == 0
    assert lab.call(Capset(pid, 0, 0)) == 0
    assert lab.move(pid, [start], [2], MOVE_ALL, caller=pid).value == -errno.EPERM


def test_k_1_3_migrate_pages_leaves_shared_pages_of_who_dropped_the_capability(lab: Lab) -> None:
    pid = lab.spawn(uid=0)
    start = lab.mapped(pid, 1)
    lab.fork(pid)
    assert lab.call(Capset(pid, 0, 0)) == 0
    assert lab.migrate(0, 0, 1, caller=pid) == 0 and lab.where(pid, start) == [0]


# ---- whose pages -----------------------------------------------------------------------------

#: (ids of the caller, ids of the target, whether it may at the seed, and in modern).
PAIRS = [
    ((5, 5, 5), (5, 5, 5), True, True),
    ((5, 5, 5), (6, 6, 6), False, False),
    ((5, 6, 5), (6, 6, 6), True, False),
    ((5, 6, 5), (5, 5, 5), True, True),
    ((5, 5, 5), (5, 6, 5), True, False),
    ((5, 5, 5), (6, 5, 6), False, False),
    ((5, 5, 5), (6, 6, 5), True, False),
    ((5, 6, 7), (7, 7, 7), False, False),
]


@PROFILE
@pytest.mark.parametrize(("mine", "theirs", "seed", "modern"), PAIRS)
def test_k_1_2_and_4_8_which_ids_are_compared(
    make_lab: MakeLab,
    profile: Profile,
    mine: tuple[int, int, int],
    theirs: tuple[int, int, int],
    seed: bool,
    modern: bool,
) -> None:
    lab = make_lab(profile=profile)
    caller, target = user(lab, *mine), user(lab, *theirs)
    # A change of the effective id makes a task that nobody looks into: ask about the ids alone.
    lab.memory.tasks[target].mm.dumpable = True
    start = lab.mapped(target, 1)
    expected = 0 if (seed if profile is SEED else modern) else -errno.EPERM
    assert lab.migrate(target, 0, 1, caller=caller) == expected
    assert min(lab.move(target, [start], [2], caller=caller).value, 0) == expected
    query = lab.ask(moving(target, [start * PAGE], None, caller=caller), MovedPages)
    assert query.value == expected


@PROFILE
def test_k_4_8_a_task_that_changed_its_effective_id_is_closed_to_its_equals(
    make_lab: MakeLab, profile: Profile
) -> None:
    lab = make_lab(profile=profile)
    changed, same = user(lab, 5, 5, 5), lab.spawn(uid=5, capable=False)
    expected = 0 if profile is SEED else -errno.EPERM
    assert lab.migrate(changed, 0, 1, caller=same) == expected
    assert lab.migrate(lab.fork(changed), 0, 1, caller=same) == expected
    # It may look into itself, and into those that never changed; who has CAP_SYS_PTRACE may.
    assert lab.migrate(0, 0, 1, caller=changed) == 0
    assert lab.migrate(same, 0, 1, caller=changed) == 0
    assert lab.migrate(changed, 0, 1, caller=lab.spawn(uid=9)) == 0


@PROFILE
def test_k_4_8_which_capability_opens_the_tasks_of_others(
    make_lab: MakeLab, profile: Profile
) -> None:
    lab = make_lab(profile=profile)
    target, nice, ptrace = lab.spawn(uid=1), lab.spawn(uid=2), lab.spawn(uid=3)
    assert lab.call(Capset(nice, int(Capability.SYS_NICE), int(Capability.SYS_NICE))) == 0
    assert lab.call(Capset(ptrace, int(Capability.SYS_PTRACE), int(Capability.SYS_PTRACE))) == 0
    seed = profile is SEED
    assert lab.migrate(target, 0, 1, caller=nice) == (0 if seed else -errno.EPERM)
    assert lab.migrate(target, 0, 1, caller=ptrace) == (-errno.EPERM if seed else 0)


def test_fork_inherits_and_the_journal_tells(lab: Lab) -> None:
    pid = user(lab, 1, 2, 3)
    child = lab.fork(pid)
    assert ids(lab, child) == (1, 2, 3)
    assert setresuid(lab, child, 3, 3, 3) == 0 and ids(lab, pid) == (1, 2, 3)
    told = replay(lab.topology, lab.records)
    assert list(differences(told, lab.memory)) == []
    told.tasks[pid].mm.dumpable = True
    assert list(differences(told, lab.memory))
