"""The journal read back: policies, and vmas that join."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coordinator.mbind import install_policy
from coordinator.memory import Memory
from coordinator.merge import adopt, join
from coordinator.mpol import Mempolicy, Mode
from coordinator.records import (
    AnonVmaPrepared,
    InterleaveWeightSet,
    PolicySet,
    TaskPolicySet,
    VmasMerged,
)
from coordinator.replay_tasks import user_of
from coordinator.saved import SharedPolicySet, VmaSaved
from protocol.schema import Message


def policy_of(
    entry: PolicySet | TaskPolicySet | SharedPolicySet | VmaSaved,
) -> Mempolicy | None:
    """What the columns of an entry say."""
    if not entry.mode:
        return None
    return Mempolicy(
        Mode(entry.mode),
        entry.nodes,
        entry.flags,
        entry.user_nodes,
        entry.mems_allowed,
        entry.home_node,
    )


def _policy_set(memory: Memory, entry: PolicySet) -> None:
    install_policy(user_of(memory, entry.pid).mm, entry.start, entry.end, policy_of(entry))


def _task_policy_set(memory: Memory, entry: TaskPolicySet) -> None:
    task = memory.tasks[entry.pid]
    task.policy = policy_of(entry)
    task.il_prev, task.il_weight = entry.il_prev, entry.il_weight


def _interleave_weight_set(memory: Memory, entry: InterleaveWeightSet) -> None:
    memory.interleave_weights[entry.node] = entry.weight


def _anon_vma_prepared(memory: Memory, entry: AnonVmaPrepared) -> None:
    vma = user_of(memory, entry.pid).mm.find(entry.start)
    assert vma is not None, f"the journal prepares a vma of pid {entry.pid} that is not there"
    memory.next_anon_vma = max(memory.next_anon_vma, entry.anon_vma + 1)
    vma.anon_vma, vma.anon_root = entry.anon_vma, entry.anon_root
    adopt(memory, vma, memory.mappings[entry.mapping], entry.pgoff)


def _vmas_merged(memory: Memory, entry: VmasMerged) -> None:
    join(memory, user_of(memory, entry.pid).mm, entry.page)


APPLY: dict[type[Message], Callable[[Memory, Any], None]] = {
    PolicySet: _policy_set,
    TaskPolicySet: _task_policy_set,
    InterleaveWeightSet: _interleave_weight_set,
    AnonVmaPrepared: _anon_vma_prepared,
    VmasMerged: _vmas_merged,
}
