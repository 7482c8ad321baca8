"""struct mempolicy: where new pages go, by vma or by task (K 5).

A policy answers two questions for a batch of pages: which node each is wanted on, and where the
allocator may look when that node is full.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from coordinator.mem_map import Rows
from coordinator.memory import Memory
from coordinator.mm import Mempolicy, Mode, Task, Vma
from protocol.nodemask import format_nodes
from protocol.profile import Profile

EINVAL = 22


def new_policy(mode: int, nodes: frozenset[int], online: frozenset[int]) -> Mempolicy | int | None:
    """The policy of a mode and a mask; None for DEFAULT; -EINVAL as K 4.22 and 4.33 have it."""
    if mode not in list(Mode) or not nodes <= online:
        return -EINVAL
    if mode == Mode.DEFAULT:
        return -EINVAL if nodes else None
    if not nodes and mode != Mode.PREFERRED:
        return -EINVAL
    return Mempolicy(Mode(mode), tuple(sorted(nodes)))


def interleave_index(vma: Vma, slot: Rows) -> npt.NDArray[np.int64]:
    """vma page offset + pages from its start (K 5.6); for private anonymous memory that offset is
    the page number of the address.
    """
    base = vma.pgoff if vma.mapping.shared or not vma.anonymous else vma.start
    return (slot + base).astype(np.int64)


def wanted_nodes(
    policy: Mempolicy | None, vma: Vma, slot: Rows, local: int, memory: Memory
) -> npt.NDArray[np.int32]:
    """The node that each slot of ``vma`` is wanted on, for an access by a cpu of node ``local``."""
    node = local
    if policy is not None and policy.nodes:
        nodes = np.array(policy.nodes, np.int32)
        if policy.mode == Mode.INTERLEAVE:
            interleaved: npt.NDArray[np.int32] = nodes[interleave_index(vma, slot) % nodes.size]
            return interleaved
        node = policy.nodes[0]
        if policy.mode == Mode.BIND:
            node = next(iter(policy_zonelist(policy, local, memory)), node)
    return np.full(slot.size, node, np.int32)


def policy_zonelist(policy: Mempolicy | None, node: int, memory: Memory) -> tuple[int, ...]:
    """Where to look for a page wanted on ``node``: BIND never leaves its nodes (K 5.4).

    With BIND, ``node`` may be any, as that of the cpu that faults.
    """
    zonelist = memory.zonelist(node)
    if policy is None or policy.mode != Mode.BIND:
        return zonelist
    if memory.profile.bind_in_node_order:
        zonelist = tuple(sorted(zonelist))
    return tuple(nid for nid in zonelist if nid in policy.nodes)


def effective_policy(task: Task, vma: Vma) -> Mempolicy | None:
    """The vma's policy, else the task's, else none: local allocation (K 5.2)."""
    return vma.policy or task.policy


def policy_text(policy: Mempolicy | None, profile: Profile) -> str:
    """As numa_maps writes it: ``default``, ``bind=0-1`` (K 6.2)."""
    if policy is None or not policy.nodes:
        return "default"
    name = {Mode.PREFERRED: "prefer", Mode.BIND: "bind", Mode.INTERLEAVE: "interleave"}[policy.mode]
    nodes = format_nodes(policy.nodes)
    return f"{name}{profile.policy_separator}{nodes}"
