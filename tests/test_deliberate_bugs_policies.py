"""Bugs on purpose in policies and cpusets, and that the oracle sees each (deliberate.py)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from coordinator import cpuset_calls, placement, policy, syscalls
from coordinator.memory import Memory
from tests.deliberate import CALLS, ORACLE, Bug, Load, Patch, is_caught, wrap

CPUSETS = Load(CALLS, {"cpuset": 12, "mbind": 6, "policy": 3})
MODERN = Load(CALLS | {"profile": "modern"}, {"mbind": 6, "policy": 10})
MODERN_CPUSETS = Load(CALLS | {"profile": "modern"}, {"cpuset": 12, "mbind": 6, "policy": 10})


def memory_does_not_follow_its_cpuset(patch: Patch) -> None:
    patch.setattr(cpuset_calls, "_migrate_mm", lambda change, mm, old, new: iter(()))


def policies_do_not_follow_their_cpuset(patch: Patch) -> None:
    patch.setattr(cpuset_calls, "rebind_mm", lambda mm, mems, *, preferred: False)


def relative_nodes_are_taken_as_they_are(patch: Patch) -> None:
    patch.setattr(policy, "relative_nodes", lambda user, mems: tuple(sorted({*user} & {*mems})))


def migration_leaves_the_cpuset(patch: Patch) -> None:
    patch.setattr(syscalls, "mems_charged", lambda memory, caller: frozenset(memory.nids))


def weights_are_ignored(patch: Patch) -> None:
    def turns(original: Any, policy: Any, memory: Memory) -> Any:
        return np.array(policy.nodes, np.int32)

    wrap(patch, placement, "turns", turns)


BUGS = [
    (memory_does_not_follow_its_cpuset, CPUSETS),
    (policies_do_not_follow_their_cpuset, CPUSETS),
    (relative_nodes_are_taken_as_they_are, MODERN_CPUSETS),
    (migration_leaves_the_cpuset, CPUSETS),
    (weights_are_ignored, MODERN),
]


@pytest.mark.parametrize(("bug", "load"), BUGS, ids=lambda p: getattr(p, "__name__", ""))
def test_the_bug_is_caught(bug: Bug, load: Load) -> None:
    is_caught(bug, ORACLE, load)
