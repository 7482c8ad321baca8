"""set_mempolicy(2), get_mempolicy(2), set_mempolicy_home_node(2), weights (K 4.33 - 4.36, 5.8)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from coordinator.calls import Steps, down_write, up_write
from coordinator.cpuset import contextualized, mems_allowed
from coordinator.fault import Access, handle_mm_fault
from coordinator.lru import frames_of, mark_page_accessed, set_page_referenced
from coordinator.mbind import mbind_range
from coordinator.memory import Memory
from coordinator.mm import TASK_SIZE, Pte, Task, Vma
from coordinator.mpol import MPOL_MODE_FLAGS, Mempolicy, Mode
from coordinator.placement import INTERLEAVING, allowed_nodes, next_interleave_node
from coordinator.policy import mpol_new, policy_columns, sanitize_mpol_flags, vma_policy_at
from coordinator.rebind import update_task_memory_state
from coordinator.records import InterleaveWeightSet, TaskPolicySet
from coordinator.syscalls import Kernel, read_mask
from protocol.nodemask import NodeSet
from protocol.policies import SetMempolicyHomeNode
from protocol.profile import Profile
from protocol.syscalls import GetMempolicy, PolicyTold, SetMempolicy, Translations
from protocol.user_mask import MAX_NUMNODES, copy_nodes_to_user

ENOENT, ESRCH, EACCES, EFAULT, EINVAL, ENOSYS, EOPNOTSUPP = 2, 3, 13, 14, 22, 38, 95
MPOL_F_NODE, MPOL_F_ADDR, MPOL_F_MEMS_ALLOWED = 1, 2, 4
WEIGHT_MAX = 255


@dataclass(frozen=True, slots=True)
class Told:
    """0 or -errno; a mode, or with MPOL_F_NODE a node; the nodes of the policy."""

    value: int
    mode: int = 0
    nodes: NodeSet = ()


def sys_set_mempolicy(memory: Memory, kernel: Kernel, task: Task, asked: SetMempolicy) -> int:
    """0, -EINVAL or -EFAULT, the mode first; moves no page (K 4.33, 4.34)."""
    error = sanitize_mpol_flags(asked.mode, kernel.profile)
    if error:
        return error
    nodes = read_mask(kernel, asked.maxnode, asked.nodes)
    if isinstance(nodes, int):
        return nodes
    policy = mpol_new(asked.mode, nodes, allowed_nodes(memory, task), kernel.profile)
    if isinstance(policy, int):
        return policy
    task.policy = policy = contextualized(memory, task, policy)
    if policy is not None and policy.mode in INTERLEAVING:
        task.il_prev, task.il_weight = -1, 0
    told = TaskPolicySet(task.pid, *policy_columns(policy), task.il_prev, task.il_weight)
    memory.records.append(told)
    return 0


def sys_get_mempolicy(
    memory: Memory, kernel: Kernel, task: Task, asked: GetMempolicy
) -> Steps[PolicyTold]:
    """The policy and, where the caller has a pointer for it, its mask as K 4.4 writes it."""
    nr_node_ids = max(memory.nids) + 1
    least = MAX_NUMNODES if kernel.profile.get_mempolicy_wants_all_bits else nr_node_ids
    if asked.room is not None and asked.maxnode < least:
        return PolicyTold(-EINVAL, 0, None)
    told = yield from do_get_mempolicy(memory, task, asked.address, asked.flags)
    if told.value or asked.room is None:
        return PolicyTold(told.value, told.mode, None)
    mask = copy_nodes_to_user(told.nodes, asked.maxnode, asked.room)
    if isinstance(mask, int):
        return PolicyTold(mask, told.mode, None)
    return PolicyTold(0, told.mode, mask)


def do_get_mempolicy(memory: Memory, task: Task, address: int, flags: int) -> Steps[Told]:
    """Mode and nodes, or with MPOL_F_NODE a node in the place of the mode (K 4.35)."""
    update_task_memory_state(memory, task)
    known = MPOL_F_NODE | MPOL_F_ADDR
    if memory.profile.mems_allowed_is_told:
        known |= MPOL_F_MEMS_ALLOWED
    if flags & ~known:
        return Told(-EINVAL)
    if flags & MPOL_F_MEMS_ALLOWED:
        if flags & ~MPOL_F_MEMS_ALLOWED:
            return Told(-EINVAL)
        return Told(0, Mode.DEFAULT, tuple(sorted(mems_allowed(memory, task))))
    if not flags & MPOL_F_ADDR:
        return Told(-EINVAL) if address else _task_policy(memory, task, flags)
    page = address // memory.topology.page_size
    vma = task.mm.find(page)
    if vma is None:
        return Told(-EFAULT)
    policy = vma_policy_at(vma, page)
    nodes = _nodes_told(policy, memory)
    if not flags & MPOL_F_NODE:
        return Told(0, _mode_told(policy), nodes)
    asked = np.array([page], np.uint64)
    mapped = bool(vma.bits[page - vma.start] & Pte.PRESENT)
    found = yield from handle_mm_fault(memory, task, task.cpu, Access.READ, asked)
    error = min(int(found.status[0]), 0)
    if not error:
        yield from _note_access(memory, found, mapped=mapped)
    # The zero page is the kernel's, on its first node.
    return Told(
        -EFAULT if error == -EACCES else error, max(int(found.nid[0]), memory.nids[0]), nodes
    )


def _note_access(memory: Memory, found: Translations, *, mapped: bool) -> Steps[None]:
    """get_user_pages_fast() of a page that an entry named already makes no page active."""
    nid, pfn = frames_of(found, 1)
    if mapped and memory.profile.mapped_is_looked_up_fast:
        set_page_referenced(memory, nid, pfn)
    else:
        yield from mark_page_accessed(memory, nid, pfn)


def _task_policy(memory: Memory, task: Task, flags: int) -> Told:
    policy = task.policy
    nodes = _nodes_told(policy, memory)
    if not flags & MPOL_F_NODE:
        return Told(0, _mode_told(policy), nodes)
    if policy is None or policy.mode not in INTERLEAVING:
        return Told(-EINVAL)
    return Told(0, next_interleave_node(policy, task, memory), nodes)


def _mode_told(policy: Mempolicy | None) -> int:
    return Mode.DEFAULT if policy is None else policy.mode | policy.flags


def _nodes_told(policy: Mempolicy | None, memory: Memory) -> NodeSet:
    """The mask as the user gave it, if a mode flag says so; else the nodes (K 4.36)."""
    if policy is None:
        return ()
    if policy.flags & MPOL_MODE_FLAGS:
        return policy.user_nodes
    if policy.mode == Mode.PREFERRED and not policy.nodes:
        return memory.nids
    return policy.nodes


def sys_set_mempolicy_home_node(
    memory: Memory, profile: Profile, task: Task, asked: SetMempolicyHomeNode
) -> Steps[int]:
    """0; -ENOSYS, -EINVAL; -ENOENT: no vma of the range has a policy; -EOPNOTSUPP: one of another
    mode than BIND or PREFERRED_MANY, those before it have the home node by then (K 5.9).
    """
    size = memory.topology.page_size
    if not profile.home_node:
        return -ENOSYS
    if asked.address % size or asked.flags or asked.home_node not in memory.nids:
        return -EINVAL
    start = asked.address // size
    end = start - (-asked.length // size)
    if end > TASK_SIZE:
        return -EINVAL
    if start == end:
        return 0
    yield from down_write(task.mm)
    try:
        if task.pid not in memory.tasks:
            return -ESRCH
        return _set_home_node(memory, task, start, end, asked.home_node)
    finally:
        up_write(memory, task.mm)


def _set_home_node(memory: Memory, task: Task, start: int, end: int, home_node: int) -> int:
    error = -ENOENT
    ranges = [_part(vma, start, end) for vma in task.mm.overlapping(start, end)]
    for first, last in ranges:
        vma = task.mm.find(first)
        assert vma is not None
        if vma.policy is None:
            continue
        if vma.policy.mode not in (Mode.BIND, Mode.PREFERRED_MANY):
            return -EOPNOTSUPP
        mbind_range(memory, task, first, last, replace(vma.policy, home_node=home_node))
        error = 0
    return error


def _part(vma: Vma, start: int, end: int) -> tuple[int, int]:
    """What of the vma lies in the range."""
    return max(vma.start, start), min(vma.end, end)


def set_interleave_weight(memory: Memory, profile: Profile, node: int, weight: int) -> int:
    """What a write to weighted_interleave/nodeN does: 0, -EINVAL, -ENOENT: no such file (K 5.8)."""
    if not profile.weighted_interleave or node not in memory.nids:
        return -ENOENT
    if not 1 <= weight <= WEIGHT_MAX:
        return -EINVAL
    memory.interleave_weights[node] = weight
    memory.records.append(InterleaveWeightSet(node, weight))
    return 0
