"""Policies follow the cpuset of their task: mpol_rebind_policy() (K 5.15)."""

from __future__ import annotations

from dataclasses import replace

from coordinator.cpuset import mems_allowed
from coordinator.memory import Memory
from coordinator.mm import Mm, Task
from coordinator.mpol import MPOL_F_RELATIVE_NODES, MPOL_F_STATIC_NODES, Mempolicy, Mode
from coordinator.records import PoliciesRebound
from protocol.nodemask import NodeSet, node_remap


def relative_nodes(user: NodeSet, allowed: NodeSet) -> NodeSet:
    """MPOL_F_RELATIVE_NODES: number n is the n-th allowed node, modulo their number (K 5.15)."""
    return tuple(sorted({allowed[nid % len(allowed)] for nid in user}))


def rebind_policy(
    policy: Mempolicy | None, allowed: frozenset[int], *, preferred: bool
) -> Mempolicy | None:
    """The policy when its task may use the nodes ``allowed``, not those of its last binding.

    STATIC keeps to what the user gave, RELATIVE counts it out anew, else every node moves to the
    place in the new set that it had in the old one (K 1.7, 5.15).  If no node is left, all are.
    ``preferred``: PREFERRED is rebound too.
    """
    new = tuple(sorted(allowed))
    if policy is None or not policy.nodes or not new:
        return policy
    if policy.mems_allowed == new:
        return policy
    many = policy.mode == Mode.PREFERRED_MANY
    if many or (policy.mode == Mode.PREFERRED and not preferred):
        return replace(policy, mems_allowed=new)
    if policy.flags & MPOL_F_STATIC_NODES:
        nodes = tuple(nid for nid in policy.user_nodes if nid in allowed)
    elif policy.flags & MPOL_F_RELATIVE_NODES:
        nodes = relative_nodes(policy.user_nodes, new)
    else:
        old = policy.mems_allowed
        nodes = tuple(sorted({node_remap(nid, old, new) for nid in policy.nodes}))
    return replace(policy, nodes=nodes or new, mems_allowed=new)


def rebind_mm(mm: Mm, allowed: frozenset[int], *, preferred: bool) -> bool:
    """mpol_rebind_mm(): the policies of all vmas; whether one has changed."""
    changed = False
    for vma in mm.vmas:
        before, vma.policy = vma.policy, rebind_policy(vma.policy, allowed, preferred=preferred)
        changed |= vma.policy is not before
    return changed


def rebind_task(task: Task, allowed: frozenset[int], *, preferred: bool) -> bool:
    """mpol_rebind_task(): the policy of the task; whether it has changed."""
    before, task.policy = task.policy, rebind_policy(task.policy, allowed, preferred=preferred)
    return task.policy is not before


def update_task_memory_state(memory: Memory, task: Task) -> None:
    """cpuset_update_task_memory_state(): the task's policy follows its cpuset, if it does not yet.

    Before a task allocates or asks for its policy; the profile says whether that is the first time
    that it hears of it.  One that has exited, and of which a call goes on, hears no more.
    """
    mems, preferred = mems_allowed(memory, task), memory.profile.preferred_is_rebound
    if task.pid not in memory.tasks:
        return
    if rebind_task(task, mems, preferred=preferred):
        told = tuple(sorted(mems))
        memory.records.append(PoliciesRebound(task.pid, 1, int(preferred), told))
