"""What tests of memory policies ask and look at."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from coordinator.mpol import MPOL_F_NUMA_BALANCING, MPOL_F_RELATIVE_NODES, MPOL_F_STATIC_NODES
from coordinator.replay import differences, replay
from protocol.policies import SetMempolicyHomeNode
from protocol.profile import MODERN, SEED, Profile
from protocol.syscalls import PolicyTold
from protocol.user_mask import nodes_of
from tests.calls import binding, getting, setting
from tests.lab import PAGE, Lab

MOVE, MOVE_ALL, STRICT = 2, 4, 1
NODE, ADDR, MEMS_ALLOWED = 1, 2, 4
STATIC, RELATIVE, BALANCING = MPOL_F_STATIC_NODES, MPOL_F_RELATIVE_NODES, MPOL_F_NUMA_BALANCING
WEIGHTED = replace(MODERN, weighted_interleave=True)
Labs = Callable[..., Lab]
Policy = tuple[int, int, tuple[int, ...]]

both = pytest.mark.parametrize("profile", [SEED, MODERN], ids=lambda profile: profile.name)


def by_profile(seed: object, modern: object) -> pytest.MarkDecorator:
    """Run in both profiles, each with what is expected of it."""
    return pytest.mark.parametrize(
        ("profile", "expected"), [(SEED, seed), (MODERN, modern)], ids=["seed", "modern"]
    )


def mbind(
    lab: Lab,
    pid: int,
    start: int,
    pages: int,
    mode: int,
    nodes: Iterable[int] = (),
    flags: int = 0,
) -> int:
    return lab.call(binding(pid, start * PAGE, pages * PAGE, mode, nodes, flags))


def set_policy(lab: Lab, pid: int, mode: int, nodes: Iterable[int] = ()) -> int:
    return lab.call(setting(pid, mode, nodes))


def told(lab: Lab, pid: int, page: int = 0, flags: int = 0) -> Policy:
    """get_mempolicy(2): value, mode and nodes."""
    answer = lab.ask(getting(pid, page * PAGE, flags), PolicyTold)
    return answer.value, answer.mode, nodes_of(answer.nodes or b"")


def at(lab: Lab, pid: int, page: int) -> Policy:
    """The policy of an address."""
    return told(lab, pid, page, ADDR)


def set_home_node(
    lab: Lab, pid: int, start: int, pages: int, home_node: int, flags: int = 0
) -> int:
    asked = SetMempolicyHomeNode(pid, start * PAGE, pages * PAGE, home_node, flags)
    return lab.call(asked)


def areas(lab: Lab, pid: int) -> list[tuple[int, int]]:
    """The vmas of the task: first page and how many."""
    return [(vma.start, vma.pages) for vma in lab.memory.tasks[pid].mm.vmas]


def texts(lab: Lab, pid: int) -> list[str]:
    """The policy of each line of numa_maps."""
    with_name = [line.split(" ", 1)[1] for line in lab.numa_maps(pid)]
    return [line.split(" anon=")[0].split(" mapped=")[0] for line in with_name]


def assert_the_journal_tells_all(lab: Lab) -> None:
    assert list(differences(replay(lab.topology, lab.records), lab.memory)) == []


def profiled(profile: Profile, **rows: Any) -> Profile:
    """The profile with some rows set by hand."""
    return replace(profile, **rows)
