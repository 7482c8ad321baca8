"""Policies follow the cpuset of their task, and each thread its own (K 5.13, 5.15)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from coordinator.mpol import Mode
from protocol.messages import CopyPages
from protocol.profile import MODERN, SEED, Profile
from protocol.syscalls import CpusetWrite, PolicyTold
from protocol.task_calls import Clone
from protocol.user_mask import nodes_of
from tests.calls import binding, getting, setting
from tests.cpusets import attached, cpuset, told, write
from tests.lab import PAGE, Lab

Labs = Callable[..., Lab]
BOTH = pytest.mark.parametrize("profile", [SEED, MODERN], ids=lambda profile: profile.name)


def policy_of(lab: Lab, pid: int) -> tuple[int, ...]:
    return nodes_of(lab.ask(getting(pid), PolicyTold).nodes or b"")


@BOTH
def test_k_5_15_policies_of_vmas_follow_at_once(make_lab: Labs, profile: Profile) -> None:
    lab = make_lab(profile=profile)
    pid = attached(lab, cpuset(lab, "/a", mems="0-1"))
    start = lab.mmap(pid, 1)
    assert lab.call(binding(pid, start * PAGE, PAGE, Mode.BIND, (1,), 0)) == 0
    assert write(lab, "/a", "mems", "2-3") == 0
    assert lab.vma(pid, start).policy is not None
    assert f"bind{profile.policy_separator}3" in lab.numa_maps(pid)[0]
    lab.fault(pid, start)
    assert lab.where(pid, start) == [3]
    assert told(lab) == []


@pytest.mark.parametrize(("profile", "shown"), [(SEED, "1"), (MODERN, "3")])
def test_k_5_15_the_task_s_policy_follows_when_it_allocates_next_at_the_seed(
    make_lab: Labs, profile: Profile, shown: str
) -> None:
    lab = make_lab(profile=profile)
    pid = attached(lab, cpuset(lab, "/a", mems="0-1"))
    assert lab.call(setting(pid, Mode.BIND, (1,))) == 0
    start = lab.mmap(pid, 1)
    assert write(lab, "/a", "mems", "2-3") == 0
    assert f"bind{profile.policy_separator}{shown}" in lab.numa_maps(pid)[0]
    lab.fault(pid, start)
    assert lab.where(pid, start) == [3]
    assert f"bind{profile.policy_separator}3" in lab.numa_maps(pid)[0]
    assert told(lab) == []


@BOTH
def test_k_5_15_asking_for_the_policy_brings_it_up_to_date(
    make_lab: Labs, profile: Profile
) -> None:
    lab = make_lab(profile=profile)
    pid = attached(lab, cpuset(lab, "/a", mems="0-1"))
    assert lab.call(setting(pid, Mode.INTERLEAVE, (0, 1))) == 0
    assert write(lab, "/a", "mems", "1-2") == 0
    assert policy_of(lab, pid) == (1, 2)
    cpuset(lab, "/b", mems="3")
    assert write(lab, "/b", "tasks", pid) == 0
    assert policy_of(lab, pid) == (3,)


@BOTH
def test_k_5_15_a_child_s_policies_follow_its_own_cpuset(make_lab: Labs, profile: Profile) -> None:
    lab = make_lab(profile=profile)
    pid = attached(lab, cpuset(lab, "/a", mems="0-1"))
    assert lab.call(setting(pid, Mode.BIND, (1,))) == 0
    child = lab.fork(pid)
    cpuset(lab, "/b", mems="2-3")
    assert write(lab, "/b", "tasks", child) == 0
    assert (policy_of(lab, pid), policy_of(lab, child)) == ((1,), (3,))


def test_a_fork_while_a_cpuset_changes_leaves_no_old_policy_behind(make_lab: Labs) -> None:
    profile = replace(MODERN, cpuset_migration_is_queued=False)
    lab = make_lab(profile=profile)
    cpuset(lab, "/a", mems="0-1", migrate=True)
    first, second = attached(lab, "/a"), attached(lab, "/a")
    lab.mapped(first, 1)
    start = lab.mmap(second, 1)
    assert lab.call(binding(second, start * PAGE, PAGE, Mode.BIND, (0,), 0)) == 0
    lab.hold_back(CopyPages)
    ticket = lab.start(CpusetWrite(0, "/a", "mems", "2-3"))
    child = lab.fork(second)
    lab.let_go(CopyPages)
    assert lab.answer_to(ticket) is not None
    for pid in (second, child):
        assert lab.vma(pid, start).policy == lab.vma(second, start).policy
        assert f"bind{profile.policy_separator}2" in lab.numa_maps(pid)[0]


# ---- as a real kernel has it -------------------------------------------------------------------

#: Seen on Linux 6.1.0-56-cloud-amd64 of Debian, four nodes in QEMU, 2026-11-22: the policy in
#: numa_maps and the node of a page of node 1, in a cpuset with mems 0-1, after each of: mems 2-3;
#: memory_migrate 1 and mems 1; mems 0,3; attached to a cpuset with mems 2-3 and memory_migrate 1.
REAL: list[tuple[Mode, tuple[int, ...], list[str]]] = [
    (Mode.PREFERRED, (1,), ["prefer:1", "prefer:1", "prefer:1", "prefer:1"]),
    (Mode.BIND, (1,), ["bind:3", "bind:1", "bind:0", "bind:2"]),
    (Mode.BIND, (0, 1), ["bind:2-3", "bind:1", "bind:0", "bind:2"]),
    (Mode.INTERLEAVE, (0, 1), ["interleave:2-3", "interleave:1", "interleave:0", "interleave:2"]),
]


@pytest.mark.parametrize(("mode", "nodes", "policies"), REAL, ids=[row[2][0] for row in REAL])
def test_policies_and_pages_go_where_linux_6_1_has_them(
    make_lab: Labs, mode: Mode, nodes: tuple[int, ...], policies: list[str]
) -> None:
    lab = make_lab(profile=MODERN)
    pid = attached(lab, cpuset(lab, "/a", mems="0-1"))
    cpuset(lab, "/b", mems="2-3", migrate=True)
    page = lab.mapped(pid, 1, cpu=1)
    assert lab.call(setting(pid, mode, nodes)) == 0
    writes = [
        [("/a", "mems", "2-3")],
        [("/a", "memory_migrate", "1"), ("/a", "mems", "1")],
        [("/a", "mems", "0,3")],
        [("/b", "tasks", str(pid))],
    ]
    seen, where = [], []
    for group in writes:
        for path, file, text in group:
            assert write(lab, path, file, text) == 0
        seen.append(lab.numa_maps(pid)[0].split()[1])
        where += lab.where(pid, page)
    assert seen == policies
    assert where == [1, 1, 0, 2]


# ---- threads -----------------------------------------------------------------------------------


@pytest.mark.parametrize("migrate", [False, True])
@BOTH
def test_cs_08_mems_are_those_of_the_thread(
    make_lab: Labs, profile: Profile, migrate: bool
) -> None:
    lab = make_lab(profile=profile)
    cpuset(lab, "/one", mems="0")
    cpuset(lab, "/two", mems="1", migrate=migrate)
    leader = attached(lab, "/one")
    thread = lab.call(Clone(leader, 0, 0))
    old = lab.mapped(leader, 1)
    assert write(lab, "/two", "tasks", thread) == 0
    # Of an mm that two cpusets share, the seed moves all with any thread, 6.1 with its leader.
    assert lab.where(leader, old) == [1 if migrate and profile is SEED else 0]
    first, second = lab.mmap(leader, 1), lab.mmap(leader, 1)
    lab.fault(leader, first)
    lab.fault(thread, second)
    assert lab.where(leader, first) + lab.where(leader, second) == [0, 1]
    assert told(lab) == []


@BOTH
def test_cs_09_each_thread_goes_on_in_its_own_cpuset(make_lab: Labs, profile: Profile) -> None:
    lab = make_lab(profile=profile)
    cpuset(lab, "/one", mems="0", migrate=True)
    cpuset(lab, "/two", mems="1", migrate=True)
    leader = attached(lab, "/one")
    thread = lab.call(Clone(leader, 0, 0))
    assert write(lab, "/two", "tasks", thread) == 0
    start = lab.mmap(leader, 3)
    for page, task in enumerate((leader, thread, leader)):
        lab.fault(task, start + page)
    assert lab.where(leader, start, 3) == [0, 1, 0]
    # The mm follows whichever of the two cpusets changes.
    assert write(lab, "/two", "mems", "2") == 0
    assert lab.where(leader, start, 3) == [0, 2, 0]
    assert write(lab, "/one", "mems", "3") == 0
    assert lab.where(leader, start, 3) == [3, 2, 3]


def test_a_thread_starts_on_a_cpu_of_its_cpuset(lab: Lab) -> None:
    leader = attached(lab, cpuset(lab, "/a", mems="0-3", cpus="2-3"))
    inside, outside = (lab.call(Clone(leader, cpu, 0)) for cpu in (3, 0))
    assert [lab.memory.tasks[tid].cpu for tid in (leader, inside, outside)] == [2, 3, 2]
    assert told(lab) == []
