"""Where new pages go by the policies of both profiles, and how they are counted (K 5.2 - 5.12)."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from coordinator.cpuset import Cpuset
from coordinator.mpol import Mode
from protocol.profile import MODERN, SEED, Profile
from protocol.topology import Topology, TopologyNode
from tests.lab import PAGE, READ, Lab
from tests.policies import (
    MOVE,
    Labs,
    assert_the_journal_tells_all,
    at,
    both,
    by_profile,
    mbind,
    set_home_node,
    set_policy,
    texts,
)

#: A line of four nodes.
LINE = ((10, 20, 30, 40), (20, 10, 20, 30), (30, 20, 10, 20), (40, 30, 20, 10))


def line(frames: int = 4) -> Topology:
    flat = Topology.uniform(4, frames * PAGE, page_size=PAGE)
    return Topology(flat.nodes, LINE, PAGE)


def confine(lab: Lab, pid: int, mems: set[int]) -> None:
    """Put the task into a cpuset of these nodes, without its policies knowing."""
    lab.memory.cpusets["/few"] = Cpuset("/few", frozenset({0, 1, 2, 3}), frozenset(mems))
    lab.memory.tasks[pid].cpuset = "/few"


def counters(lab: Lab, name: str) -> list[int]:
    return [int(value) for value in getattr(lab.memory.numastat, name)]


@both
def test_k_5_2_vma_then_task_then_local(make_lab: Labs, profile: Profile) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn(cpu=0)
    start = lab.mmap(pid, 3)
    lab.fault(pid, start)
    assert set_policy(lab, pid, Mode.PREFERRED, (2,)) == 0
    lab.fault(pid, start + 1)
    assert mbind(lab, pid, start + 2, 1, Mode.BIND, (3,)) == 0
    lab.fault(pid, start + 2)
    assert lab.where(pid, start, 3) == [0, 2, 3]
    # Preferred without a node is local for this vma, whatever the task wants (K 5.3).
    local = lab.mmap(pid, 1)
    assert mbind(lab, pid, local, 1, Mode.PREFERRED) == 0
    lab.fault(pid, local, cpu=1)
    assert lab.where(pid, local) == [1]


@both
def test_k_5_3_preferred_falls_back_along_the_list_of_its_node(
    make_lab: Labs, profile: Profile
) -> None:
    lab = make_lab(topology=line(frames=2), profile=profile)
    pid = lab.spawn(cpu=0)
    assert set_policy(lab, pid, Mode.PREFERRED, (3, 2)) == 0
    start = lab.mapped(pid, 6)
    assert lab.where(pid, start, 6) == [2, 2, 3, 3, 1, 1]
    assert counters(lab, "numa_foreign") == [0, 0, 4, 0]
    assert counters(lab, "numa_miss") == [0, 2, 0, 2]


@by_profile([1, 1, 3, 3], [3, 3, 1, 1])
def test_k_5_4_bind_order(make_lab: Labs, profile: Profile, expected: list[int]) -> None:
    lab = make_lab(topology=line(frames=2), profile=profile)
    pid = lab.spawn(cpu=3)
    assert set_policy(lab, pid, Mode.BIND, (1, 3)) == 0
    start = lab.mmap(pid, 5)
    status = lab.fault(pid, start, 5, cpu=3).status.tolist()
    assert status == [0, 0, 0, 0, -errno.ENOMEM]
    assert lab.where(pid, start, 4) == expected
    # The first node of the bind list is the one that was wanted.
    assert counters(lab, "numa_hit")[expected[0]] == 2
    assert counters(lab, "numa_foreign")[expected[0]] == 2


@both
def test_k_5_5_a_bind_outside_of_the_cpuset_is_ignored(make_lab: Labs, profile: Profile) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn(cpu=1)
    start = lab.mmap(pid, 2)
    assert mbind(lab, pid, start, 1, Mode.BIND, (3,)) == 0
    assert mbind(lab, pid, start + 1, 1, Mode.BIND, (1, 3)) == 0
    confine(lab, pid, {0, 1})
    lab.fault(pid, start, 2, cpu=1)
    assert lab.where(pid, start, 2) == [1, 1]


@both
def test_k_5_6_the_offset_of_interleave_is_that_of_the_page(
    make_lab: Labs, profile: Profile
) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn(cpu=0)
    start = lab.mmap(pid, 9)
    # The cuts of the vma, and the order of touching, are of no matter.
    assert mbind(lab, pid, start + 4, 5, Mode.INTERLEAVE, (0, 1, 3)) == 0
    assert mbind(lab, pid, start, 4, Mode.INTERLEAVE, (0, 1, 3)) == 0
    for page in (8, 3, 0, 5):
        lab.fault(pid, start + page)
    order = (0, 1, 3)
    for page in (8, 3, 0, 5):
        assert lab.where(pid, start + page) == [order[(start + page) % 3]]


@by_profile(False, True)
def test_k_5_6_interleave_of_shared_memory_starts_at_a_node_of_the_object(
    make_lab: Labs, profile: Profile, expected: bool
) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn(cpu=0)
    assert set_policy(lab, pid, Mode.INTERLEAVE, (0, 1, 2, 3)) == 0
    firsts = []
    for at_page in (1000, 2000, 3000, 4000):
        start = lab.mmap(pid, 2, shared=True, at=at_page)
        lab.fault(pid, start, 2)
        first, second = lab.where(pid, start, 2)
        assert second == (first + 1) % 4
        firsts.append(first)
    assert (len(set(firsts)) == 4) is expected


@both
def test_k_5_7_interleave_hit_is_for_pages_that_came_from_their_node(
    make_lab: Labs, profile: Profile
) -> None:
    lab = make_lab(nodes=2, frames=3, profile=profile)
    pid = lab.spawn(cpu=0)
    assert set_policy(lab, pid, Mode.PREFERRED, (1,)) == 0
    lab.mapped(pid, 2)
    assert set_policy(lab, pid, Mode.INTERLEAVE, (0, 1)) == 0
    lab.mapped(pid, 4)
    assert counters(lab, "interleave_hit") == [2, 1]
    assert counters(lab, "numa_miss") == [1, 0]


def test_k_5_9_preferred_many_tries_its_nodes_nearest_first_and_then_all(make_lab: Labs) -> None:
    lab = make_lab(topology=line(frames=2), profile=MODERN)
    pid = lab.spawn(cpu=0)
    assert set_policy(lab, pid, Mode.PREFERRED_MANY, (3, 2)) == 0
    start = lab.mapped(pid, 8)
    assert lab.where(pid, start, 8) == [2, 2, 3, 3, 0, 0, 1, 1]
    # The second try is an ordinary one from the node of the cpu.
    assert counters(lab, "numa_miss") == [0, 2, 0, 2]
    assert counters(lab, "numa_foreign") == [2, 0, 2, 0]


def test_k_5_9_a_home_node_is_where_bind_and_preferred_many_begin(make_lab: Labs) -> None:
    lab = make_lab(topology=line(frames=2), profile=MODERN)
    pid = lab.spawn(cpu=0)
    start = lab.mmap(pid, 4)
    assert mbind(lab, pid, start, 4, Mode.BIND, (0, 1, 3)) == 0
    assert set_home_node(lab, pid, start, 4, 3) == 0
    lab.fault(pid, start, 4)
    assert lab.where(pid, start, 4) == [3, 3, 1, 1]
    assert texts(lab, pid)[0].startswith("bind:0-1,3")
    assert_the_journal_tells_all(lab)


def test_k_5_9_the_errors_of_set_mempolicy_home_node(make_lab: Labs) -> None:
    lab = make_lab(profile=MODERN)
    pid = lab.spawn()
    start = lab.mmap(pid, 4)
    assert set_home_node(lab, pid, start, 4, 1) == -errno.ENOENT
    assert mbind(lab, pid, start, 1, Mode.BIND, (0, 1)) == 0
    assert mbind(lab, pid, start + 2, 1, Mode.INTERLEAVE, (0, 1)) == 0
    assert set_home_node(lab, pid, start, 4, 1, flags=1) == -errno.EINVAL
    assert set_home_node(lab, pid, start, 4, 9) == -errno.EINVAL
    assert set_home_node(lab, pid, start, 0, 1) == 0
    # What lies before the vma that has another mode has its home node by then.
    assert set_home_node(lab, pid, start, 4, 1) == -errno.EOPNOTSUPP
    policy = lab.vma(pid, start).policy
    assert policy is not None and policy.home_node == 1
    assert set_home_node(lab, pid, start, 2, 0) == 0
    seed = make_lab(profile=SEED)
    assert set_home_node(seed, seed.spawn(), start, 1, 0) == -errno.ENOSYS


# ---- zonelists -----------------------------------------------------------------------------------


def machine(cpus: list[tuple[int, ...]], distances: tuple[tuple[int, ...], ...]) -> Topology:
    nodes = tuple(TopologyNode(nid, 4, on_it) for nid, on_it in enumerate(cpus))
    return Topology(nodes, distances, PAGE)


def test_k_5_10_a_node_without_cpus_comes_before_its_equals() -> None:
    flat = Topology.uniform(4, 4 * PAGE, page_size=PAGE).distances
    headless = machine([(0,), (1,), (2,), ()], flat)
    assert headless.zonelist(0) == (0, 3, 1, 2)


def test_k_5_10_equal_neighbours_take_turns() -> None:
    flat = Topology.uniform(4, 4 * PAGE, page_size=PAGE)
    assert [flat.zonelist(nid) for nid in range(4)] == [
        (0, 1, 2, 3),
        (1, 2, 3, 0),
        (2, 3, 0, 1),
        (3, 0, 1, 2),
    ]


def test_k_5_10_what_a_place_in_a_list_weighs_has_changed() -> None:
    # Two rings: the second nearest of one list are tied with the nearest of another.
    distances = (
        (10, 12, 14, 14, 16),
        (12, 10, 14, 14, 16),
        (14, 14, 10, 16, 12),
        (14, 14, 16, 10, 12),
        (14, 14, 14, 14, 10),
    )
    topology = machine([(0,), (1,), (2,), (3,), (4,)], distances)
    by_rank = [topology.zonelist(nid) for nid in range(5)]
    by_count = [topology.zonelist(nid, load_by_rank=False) for nid in range(5)]
    assert by_rank[:2] == by_count[:2]
    assert by_rank[4] != by_count[4]


# ---- cpusets outrank policies --------------------------------------------------------------------


@both
def test_k_5_12_allocations_skip_nodes_outside_of_the_cpuset(
    make_lab: Labs, profile: Profile
) -> None:
    lab = make_lab(frames=4, profile=profile)
    pid = lab.spawn(cpu=0)
    start = lab.mmap(pid, 12)
    assert mbind(lab, pid, start, 3, Mode.PREFERRED, (3,)) == 0
    assert mbind(lab, pid, start + 3, 3, Mode.BIND, (0, 2, 3)) == 0
    confine(lab, pid, {1, 2})
    status = lab.fault(pid, start, 12).status.tolist()
    assert sorted(status) == [-errno.ENOMEM] * 4 + [0] * 8
    assert {node for node in lab.where(pid, start, 12) if node >= 0} == {1, 2}


@by_profile([[0, 0, 0, 0], [0, 1, 0, 0]], [[0, 1, 0, 0], [0, 0, 0, 0]])
def test_k_6_6_what_a_cpuset_keeps_away_counts_as_a_miss_at_the_seed(
    make_lab: Labs, profile: Profile, expected: list[list[int]]
) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn(cpu=0)
    confine(lab, pid, {1})
    lab.mapped(pid, 1)
    assert [counters(lab, "numa_hit"), counters(lab, "numa_miss")] == expected


# ---- shared memory -------------------------------------------------------------------------------


@both
def test_k_5_2_shared_memory_has_one_policy_for_all_who_map_it(
    make_lab: Labs, profile: Profile
) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn(cpu=0)
    start = lab.mmap(pid, 6, shared=True)
    child = lab.fork(pid)
    assert mbind(lab, child, start + 2, 2, Mode.BIND, (3,)) == 0
    # The parent's vma is not cut, and yet its pages have the policy.
    assert at(lab, pid, start + 2) == (0, Mode.BIND, (3,))
    assert at(lab, pid, start + 4) == (0, Mode.DEFAULT, ())
    lab.fault(pid, start, 6)
    assert lab.where(pid, start, 6) == [0, 0, 3, 3, 0, 0]
    assert mbind(lab, pid, start, 3, Mode.PREFERRED, (1,)) == 0
    assert [at(lab, child, start + page)[2] for page in range(5)] == [(1,), (1,), (1,), (3,), ()]
    assert_the_journal_tells_all(lab)


@both
def test_the_policy_of_shared_memory_outlives_a_mapping_of_it(
    make_lab: Labs, profile: Profile
) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn(cpu=0)
    start = lab.mmap(pid, 2, shared=True)
    child = lab.fork(pid)
    assert mbind(lab, pid, start, 2, Mode.BIND, (2,)) == 0
    assert lab.exit(pid) == 0
    lab.fault(child, start, 2)
    assert lab.where(child, start, 2) == [2, 2]
    assert mbind(lab, child, start, 1, Mode.BIND, (1,), MOVE) == 0
    assert lab.where(child, start, 2) == [1, 2]


@both
def test_private_memory_keeps_its_policy_to_itself(make_lab: Labs, profile: Profile) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn(cpu=0)
    start = lab.mmap(pid, 1)
    assert mbind(lab, pid, start, 1, Mode.BIND, (2,)) == 0
    child = lab.fork(pid)
    assert mbind(lab, child, start, 1, Mode.BIND, (3,)) == 0
    lab.fault(pid, start)
    lab.fault(child, start)
    assert [lab.where(pid, start), lab.where(child, start)] == [[2], [3]]


@both
def test_the_page_cache_of_a_file_goes_by_the_task_not_by_the_vma(
    make_lab: Labs, profile: Profile
) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn(cpu=0)
    start = lab.mmap(pid, 2, shared=True, name="/data")
    assert mbind(lab, pid, start, 2, Mode.BIND, (3,)) == 0
    assert set_policy(lab, pid, Mode.PREFERRED, (1,)) == 0
    lab.fault(pid, start, 2, access=READ)
    assert lab.where(pid, start, 2) == [1, 1]
    # But what mbind moves goes where it says.
    assert mbind(lab, pid, start, 2, Mode.BIND, (2,), MOVE) == 0
    assert lab.where(pid, start, 2) == [2, 2]


def test_a_profile_can_be_put_together_by_hand(make_lab: Labs) -> None:
    lab = make_lab(profile=replace(SEED, bind_in_node_order=False), topology=line())
    pid = lab.spawn(cpu=3)
    assert set_policy(lab, pid, Mode.BIND, (0, 3)) == 0
    assert lab.where(pid, lab.mapped(pid, 1, cpu=3)) == [3]


@pytest.mark.parametrize("mode", [Mode.BIND, Mode.PREFERRED, Mode.INTERLEAVE])
@both
def test_a_policy_is_followed_by_copy_on_write(
    make_lab: Labs, profile: Profile, mode: Mode
) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn(cpu=0)
    start = lab.mapped(pid, 1)
    child = lab.fork(pid)
    assert set_policy(lab, child, mode, (2,)) == 0
    lab.write(child, start, 1)
    assert [lab.where(pid, start), lab.where(child, start)] == [[0], [2]]
