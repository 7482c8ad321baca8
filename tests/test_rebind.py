"""Policies follow the cpuset of their task (K 5.15)."""

from __future__ import annotations

import pytest

from coordinator.mpol import MPOL_F_RELATIVE_NODES, MPOL_F_STATIC_NODES, Mempolicy, Mode
from coordinator.rebind import rebind_policy
from protocol.profile import MODERN, SEED, Profile

Nodes = tuple[int, ...]


@pytest.mark.parametrize("mode", [Mode.BIND, Mode.INTERLEAVE])
@pytest.mark.parametrize("profile", [SEED, MODERN], ids=lambda profile: profile.name)
@pytest.mark.parametrize(
    ("nodes", "old", "new", "expected"),
    [
        ((0, 1), (0, 1), (2, 3), (2, 3)),
        ((1,), (0, 1), (2, 3), (3,)),
        ((0, 2), (0, 1, 2), (1, 3), (1,)),
        ((0, 1), (0, 1, 2, 3), (3,), (3,)),
        ((5,), (0, 1), (2, 3), (5,)),
        ((0,), (0,), (1, 2), (1,)),
        ((0, 1), (0, 1), (0, 1), (0, 1)),
    ],
)
def test_k_5_15_without_flags_each_node_keeps_its_place(
    mode: Mode, profile: Profile, nodes: Nodes, old: Nodes, new: Nodes, expected: Nodes
) -> None:
    policy = Mempolicy(mode, nodes, mems_allowed=old)
    rebound = rebind_policy(policy, frozenset(new), preferred=profile.preferred_is_rebound)
    assert rebound is not None
    assert (rebound.nodes, rebound.mems_allowed) == (expected, new)


@pytest.mark.parametrize(
    ("flag", "user", "new", "expected"),
    [
        (MPOL_F_STATIC_NODES, (0, 2), (2, 3), (2,)),
        (MPOL_F_STATIC_NODES, (0,), (2, 3), (2, 3)),
        (MPOL_F_RELATIVE_NODES, (0, 1), (2, 3), (2, 3)),
        (MPOL_F_RELATIVE_NODES, (1, 3), (4, 5, 6), (4, 5)),
        (MPOL_F_RELATIVE_NODES, (0, 2), (7,), (7,)),
    ],
)
def test_k_5_15_static_keeps_the_user_s_nodes_and_relative_counts_them_out(
    flag: int, user: Nodes, new: Nodes, expected: Nodes
) -> None:
    policy = Mempolicy(Mode.BIND, (1,), flag, user, (1,))
    rebound = rebind_policy(policy, frozenset(new), preferred=False)
    assert rebound is not None
    assert (rebound.nodes, rebound.user_nodes) == (expected, user)


def test_k_5_15_a_static_policy_has_its_nodes_again_when_they_are_allowed_again() -> None:
    policy: Mempolicy | None = Mempolicy(Mode.BIND, (0, 1), MPOL_F_STATIC_NODES, (0, 1), (0, 1))
    for new, expected in (((1, 2), (1,)), ((3,), (3,)), ((0, 1, 2), (0, 1))):
        policy = rebind_policy(policy, frozenset(new), preferred=False)
        assert policy is not None
        assert policy.nodes == expected


@pytest.mark.parametrize(("profile", "expected"), [(SEED, (3,)), (MODERN, (1,))])
def test_k_5_15_preferred_is_rebound_at_the_seed_only(profile: Profile, expected: Nodes) -> None:
    policy = Mempolicy(Mode.PREFERRED, (1,), mems_allowed=(0, 1))
    rebound = rebind_policy(policy, frozenset({2, 3}), preferred=profile.preferred_is_rebound)
    assert rebound is not None
    assert (rebound.nodes, rebound.mems_allowed) == (expected, (2, 3))


@pytest.mark.parametrize("profile", [SEED, MODERN], ids=lambda profile: profile.name)
def test_k_5_15_local_and_no_policy_have_nothing_to_rebind(profile: Profile) -> None:
    local = Mempolicy(Mode.PREFERRED, ())
    assert rebind_policy(local, frozenset({2}), preferred=profile.preferred_is_rebound) is local
    assert rebind_policy(None, frozenset({2}), preferred=profile.preferred_is_rebound) is None
