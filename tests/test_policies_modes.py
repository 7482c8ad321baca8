"""Which policies there are, and what get_mempolicy and numa_maps tell of them (K 4.31 - 4.36)."""

from __future__ import annotations

import errno

import pytest

from coordinator.mpol import Mode
from protocol.policies import (
    DescribeInterleaveWeights,
    InterleaveWeights,
    SetInterleaveWeight,
)
from protocol.profile import MODERN, SEED, Profile
from protocol.user_mask import MAX_NUMNODES
from tests.lab import READ, Lab
from tests.policies import (
    ADDR,
    BALANCING,
    MEMS_ALLOWED,
    NODE,
    RELATIVE,
    STATIC,
    WEIGHTED,
    Labs,
    Policy,
    assert_the_journal_tells_all,
    at,
    both,
    by_profile,
    mbind,
    set_policy,
    texts,
    told,
)

EINVAL, EFAULT = -errno.EINVAL, -errno.EFAULT
ALL = (0, 1, 2, 3)
BAD: Policy = (EINVAL, 0, ())

#: mode, mask -> what modern makes of it (mode and nodes as they are told), or -EINVAL.
MODERN_RULES = [
    (Mode.DEFAULT, (), (0, Mode.DEFAULT, ())),
    (Mode.DEFAULT, (1,), BAD),
    (Mode.DEFAULT | STATIC, (), (0, Mode.DEFAULT, ())),
    (Mode.PREFERRED, (), (0, Mode.LOCAL, ())),
    (Mode.PREFERRED, (3, 2), (0, Mode.PREFERRED, (2,))),
    (Mode.PREFERRED | STATIC, (), BAD),
    (Mode.PREFERRED | RELATIVE, (), BAD),
    (Mode.PREFERRED | STATIC, (3, 2), (0, Mode.PREFERRED | STATIC, (2, 3))),
    (Mode.LOCAL, (), (0, Mode.LOCAL, ())),
    (Mode.LOCAL, (0,), BAD),
    (Mode.LOCAL | STATIC, (), BAD),
    (Mode.LOCAL | RELATIVE, (), BAD),
    (Mode.BIND, (), BAD),
    (Mode.BIND, (1, 9), (0, Mode.BIND, (1,))),
    (Mode.BIND, (9,), BAD),
    (Mode.BIND | STATIC, (1, 9), (0, Mode.BIND | STATIC, (1, 9))),
    (Mode.BIND | RELATIVE, (1, 5), (0, Mode.BIND | RELATIVE, (1, 5))),
    (Mode.BIND | STATIC | RELATIVE, (1,), BAD),
    (Mode.BIND | BALANCING, (1, 2), (0, Mode.BIND | BALANCING, (1, 2))),
    (Mode.BIND | BALANCING | STATIC, (1,), (0, Mode.BIND | BALANCING | STATIC, (1,))),
    (Mode.INTERLEAVE | BALANCING, (1,), BAD),
    (Mode.PREFERRED_MANY | BALANCING, (1,), BAD),
    (Mode.INTERLEAVE, (), BAD),
    (Mode.INTERLEAVE, (0, 3), (0, Mode.INTERLEAVE, (0, 3))),
    (Mode.PREFERRED_MANY, (), BAD),
    (Mode.PREFERRED_MANY, (0, 3), (0, Mode.PREFERRED_MANY, (0, 3))),
    (Mode.WEIGHTED_INTERLEAVE, (0,), BAD),
    (7, (0,), BAD),
    (1 << 12, (0,), BAD),
]

SEED_RULES = [
    (Mode.DEFAULT, (), (0, Mode.DEFAULT, ())),
    (Mode.DEFAULT, (1,), BAD),
    (Mode.PREFERRED, (), (0, Mode.PREFERRED, ALL)),
    (Mode.PREFERRED, (3, 2), (0, Mode.PREFERRED, (2,))),
    (Mode.PREFERRED, (9,), BAD),
    (Mode.BIND, (), BAD),
    (Mode.BIND, (1, 9), BAD),
    (Mode.BIND, (2, 1), (0, Mode.BIND, (1, 2))),
    (Mode.BIND | STATIC, (1,), BAD),
    (Mode.INTERLEAVE, (), BAD),
    (Mode.INTERLEAVE, (3, 0), (0, Mode.INTERLEAVE, (0, 3))),
    (Mode.LOCAL, (), BAD),
    (Mode.PREFERRED_MANY, (1,), BAD),
    (Mode.WEIGHTED_INTERLEAVE, (1,), BAD),
]
RULES = [(SEED, *rule) for rule in SEED_RULES] + [(MODERN, *rule) for rule in MODERN_RULES]


@pytest.mark.parametrize(("profile", "mode", "nodes", "expected"), RULES)
def test_k_4_22_and_4_33_which_policies_there_are(
    make_lab: Labs, profile: Profile, mode: int, nodes: tuple[int, ...], expected: Policy
) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn()
    page = lab.mmap(pid, 1)
    assert set_policy(lab, pid, mode, nodes) == expected[0]
    assert mbind(lab, pid, page, 1, mode, nodes) == expected[0]
    if not expected[0]:
        assert told(lab, pid) == expected
        assert at(lab, pid, page) == expected
    assert_the_journal_tells_all(lab)


def test_k_5_1_relative_nodes_count_the_allowed_ones(make_lab: Labs) -> None:
    lab = make_lab(profile=MODERN)
    pid = lab.spawn()
    assert set_policy(lab, pid, Mode.BIND | RELATIVE, (1, 6)) == 0
    assert texts(lab, pid) == []
    lab.mmap(pid, 1)
    assert texts(lab, pid) == ["bind=relative:1-2"]


@pytest.mark.parametrize(
    ("profile", "mode", "nodes", "text"),
    [
        (SEED, Mode.PREFERRED, (1,), "prefer=1"),
        (SEED, Mode.PREFERRED, (), "prefer"),
        (SEED, Mode.BIND, (0, 1), "bind=0-1"),
        (SEED, Mode.INTERLEAVE, ALL, "interleave=0-3"),
        (SEED, Mode.DEFAULT, (), "default"),
        (MODERN, Mode.PREFERRED, (1,), "prefer:1"),
        (MODERN, Mode.PREFERRED, (), "local"),
        (MODERN, Mode.LOCAL, (), "local"),
        (MODERN, Mode.BIND | STATIC, (0, 1, 2, 3), "bind=static:0-3"),
        (MODERN, Mode.INTERLEAVE | RELATIVE, (0, 2), "interleave=relative:0,2"),
        (MODERN, Mode.PREFERRED_MANY, (0, 1), "prefer (many):0-1"),
        (MODERN, Mode.BIND | BALANCING, (0,), "bind=balancing:0"),
        (MODERN, Mode.BIND | STATIC | BALANCING, (0,), "bind=static|balancing:0"),
        (WEIGHTED, Mode.WEIGHTED_INTERLEAVE, (0, 2), "weighted interleave:0,2"),
    ],
)
def test_k_6_2_how_numa_maps_writes_a_policy(
    make_lab: Labs, profile: Profile, mode: int, nodes: tuple[int, ...], text: str
) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn()
    lab.mmap(pid, 1)
    assert set_policy(lab, pid, mode, nodes) == 0
    assert texts(lab, pid) == [text]


# ---- get_mempolicy -------------------------------------------------------------------------------


@both
def test_k_4_35_the_flags_and_their_errors(make_lab: Labs, profile: Profile) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn(cpu=1)
    page = lab.mapped(pid, 1, cpu=1)
    assert told(lab, pid, page)[0] == EINVAL
    assert told(lab, pid, 1, ADDR)[0] == EFAULT
    assert told(lab, pid, 0, 8)[0] == EINVAL
    assert told(lab, pid, 0, NODE)[0] == EINVAL
    assert set_policy(lab, pid, Mode.INTERLEAVE, (1, 2)) == 0
    assert told(lab, pid, 0, NODE) == (0, 1, (1, 2))
    # A vma without a policy does not fall back to the task's.
    assert at(lab, pid, page) == (0, Mode.DEFAULT, ())
    assert told(lab, pid, page, NODE | ADDR) == (0, 1, ())
    assert mbind(lab, pid, page, 1, Mode.BIND, (3,)) == 0
    assert told(lab, pid, page, NODE | ADDR) == (0, 1, (3,))


@both
def test_k_4_35_node_and_addr_fault_the_page_in_for_reading(
    make_lab: Labs, profile: Profile
) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn(cpu=2)
    shared = lab.mmap(pid, 1, shared=True)
    assert told(lab, pid, shared, NODE | ADDR) == (0, 2, ())
    assert lab.where(pid, shared) == [2]
    # Private memory that nobody wrote to is the zero page, on the first node.
    private = lab.mmap(pid, 1)
    assert told(lab, pid, private, NODE | ADDR) == (0, 0, ())
    assert lab.where(pid, private)[0] < 0
    hidden = lab.mmap(pid, 1, prot=0)
    assert told(lab, pid, hidden, NODE | ADDR)[0] == EFAULT


@by_profile(BAD, (0, Mode.DEFAULT, ALL))
def test_k_4_35_mems_allowed(make_lab: Labs, profile: Profile, expected: Policy) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn()
    assert told(lab, pid, 0, MEMS_ALLOWED) == expected
    assert told(lab, pid, 0, MEMS_ALLOWED | NODE)[0] == EINVAL
    assert told(lab, pid, 0, MEMS_ALLOWED | ADDR)[0] == EINVAL


@both
def test_k_4_33_a_policy_is_inherited_by_fork_and_then_one_s_own(
    make_lab: Labs, profile: Profile
) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn()
    assert set_policy(lab, pid, Mode.BIND, (2,)) == 0
    child = lab.fork(pid)
    assert told(lab, child) == (0, Mode.BIND, (2,))
    assert set_policy(lab, child, Mode.DEFAULT) == 0
    assert told(lab, pid) == (0, Mode.BIND, (2,))


@both
def test_k_4_34_set_mempolicy_moves_nothing(make_lab: Labs, profile: Profile) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn(cpu=0)
    start = lab.mapped(pid, 3)
    assert set_policy(lab, pid, Mode.BIND, (2,)) == 0
    assert lab.where(pid, start, 3) == [0, 0, 0]


# ---- turns of interleaving -----------------------------------------------------------------------


@both
def test_k_5_6_without_a_vma_it_is_the_task_s_turn(make_lab: Labs, profile: Profile) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn(cpu=0)
    assert set_policy(lab, pid, Mode.INTERLEAVE, (0, 1, 3)) == 0
    # Pages of the page cache go by turns, whatever their place in the file is.
    start = lab.mmap(pid, 6, shared=True, name="/data")
    places = []
    for page in (4, 0, 2):
        places.append(told(lab, pid, 0, NODE)[1])
        lab.fault(pid, start + page, access=READ)
    assert places == [0, 1, 3]
    assert [lab.where(pid, start + page)[0] for page in (4, 0, 2)] == places
    lab.fault(pid, start, 6)
    assert sorted(lab.where(pid, start, 6)) == [0, 0, 1, 1, 3, 3]
    child = lab.fork(pid)
    assert told(lab, child, 0, NODE)[1] == told(lab, pid, 0, NODE)[1]
    assert set_policy(lab, pid, Mode.INTERLEAVE, (0, 1, 3)) == 0
    assert told(lab, pid, 0, NODE)[1] == 0
    assert_the_journal_tells_all(lab)


# ---- weights -------------------------------------------------------------------------------------


def weigh(lab: Lab, node: int, weight: int) -> int:
    return lab.call(SetInterleaveWeight(node, weight))


def test_k_5_8_weights_say_how_many_pages_of_a_round_a_node_gets(make_lab: Labs) -> None:
    lab = make_lab(profile=WEIGHTED)
    pid = lab.spawn(cpu=0)
    assert weigh(lab, 2, 3) == 0
    start = lab.mmap(pid, 8)
    assert mbind(lab, pid, start, 8, Mode.WEIGHTED_INTERLEAVE, (1, 2)) == 0
    lab.fault(pid, start, 8)
    turn = (1, 2, 2, 2)
    assert lab.where(pid, start, 8) == [turn[(start + page) % 4] for page in range(8)]
    assert int(lab.memory.numastat.interleave_hit.sum()) == 8
    told_weights = lab.ask(DescribeInterleaveWeights(), InterleaveWeights)
    assert told_weights.weight.tolist() == [1, 1, 3, 1]
    assert_the_journal_tells_all(lab)


def test_k_5_8_turns_of_a_task_have_weights_too(make_lab: Labs) -> None:
    lab = make_lab(profile=WEIGHTED)
    pid = lab.spawn(cpu=0)
    assert weigh(lab, 0, 2) == 0
    assert set_policy(lab, pid, Mode.WEIGHTED_INTERLEAVE, (0, 3)) == 0
    start = lab.mmap(pid, 7, shared=True, name="/data")
    for page in range(7):
        next_node = told(lab, pid, 0, NODE)[1]
        lab.fault(pid, start + page, access=READ)
        assert lab.where(pid, start + page) == [next_node]
    assert lab.where(pid, start, 7) == [0, 0, 3, 0, 0, 3, 0]
    assert_the_journal_tells_all(lab)


def test_k_5_8_weights_are_1_to_255_and_only_where_there_are_any(make_lab: Labs) -> None:
    lab = make_lab(profile=WEIGHTED)
    assert [weigh(lab, 0, weight) for weight in (0, 1, 255, 256)] == [EINVAL, 0, 0, EINVAL]
    assert weigh(lab, 9, 1) == -errno.ENOENT
    plain = make_lab(profile=MODERN)
    assert weigh(plain, 0, 1) == -errno.ENOENT
    assert plain.ask(DescribeInterleaveWeights(), InterleaveWeights).value == -errno.ENOENT


def test_the_journal_keeps_whatever_mask_a_user_gave(make_lab: Labs) -> None:
    """RELATIVE counts numbers of nodes that no machine has."""
    lab = make_lab(profile=MODERN)
    pid = lab.spawn()
    start = lab.mmap(pid, 2)
    assert set_policy(lab, pid, Mode.INTERLEAVE | RELATIVE, range(MAX_NUMNODES)) == 0
    assert mbind(lab, pid, start, 1, Mode.BIND | RELATIVE, (700, 1023)) == 0
    assert_the_journal_tells_all(lab)
