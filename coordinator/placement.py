"""Where new pages go by a policy: which node each is wanted on, and where to look next (K 5).

The functions work on a batch of pages that have one policy.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from coordinator.cpuset import mems_allowed
from coordinator.mem_map import Rows
from coordinator.memory import Memory
from coordinator.mm import Task, Vma
from coordinator.mpol import NUMA_NO_NODE, Mempolicy, Mode
from coordinator.policy import policy_columns
from coordinator.records import TaskPolicySet
from protocol.values import value

INTERLEAVING = (Mode.INTERLEAVE, Mode.WEIGHTED_INTERLEAVE)
_BY_NODEMASK = (Mode.BIND, Mode.PREFERRED_MANY)

Index = npt.NDArray[np.int64]


@value
class Zonelist:
    """``nodes`` to try in turn; who gets a frame of one counts it as wanted on ``preferred``."""

    nodes: tuple[int, ...]
    preferred: tuple[int, ...]

    def only(self, nid: int) -> Zonelist:
        """This node and no other (__GFP_THISNODE)."""
        rows = [at for at, node in enumerate(self.nodes) if node == nid]
        return Zonelist((nid,) * len(rows), (nid,) * len(rows))

    def after_first(self) -> Zonelist:
        """What is left when the first node is full."""
        return Zonelist(self.nodes[1:], self.preferred[1:])


def interleave_index(vma: Vma, slot: Rows, bias: int = 0) -> Index:
    """vma page offset + pages from its start (K 5.6); for private anonymous memory that offset is
    the page number of the address.
    """
    base = vma.start if vma.file is None and vma.anonymous else vma.pgoff
    return (slot + base + bias).astype(np.int64)


def turns(policy: Mempolicy, memory: Memory) -> npt.NDArray[np.int32]:
    """One round of interleaving: every node, as often as its weight says (K 5.6, 5.8)."""
    nodes = np.array(policy.nodes, np.int32)
    if policy.mode != Mode.WEIGHTED_INTERLEAVE:
        return nodes
    return np.repeat(nodes, [memory.interleave_weights.get(nid, 1) for nid in policy.nodes])


def next_interleave_node(policy: Mempolicy, task: Task, memory: Memory) -> int:
    """Where the next page goes that is interleaved without a vma (K 4.35)."""
    if policy.mode == Mode.WEIGHTED_INTERLEAVE and task.il_weight:
        return task.il_prev
    return next((nid for nid in policy.nodes if nid > task.il_prev), policy.nodes[0])


def _take_turns(memory: Memory, task: Task, policy: Mempolicy, pages: int) -> npt.NDArray[np.int32]:
    """The next ``pages`` turns of the task, which are recorded as taken."""
    weights = memory.interleave_weights if policy.mode == Mode.WEIGHTED_INTERLEAVE else {}
    taken = np.zeros(pages, np.int32)
    at = 0
    while at < pages:
        if not task.il_weight or task.il_prev not in policy.nodes:
            task.il_weight = 0
            task.il_prev = next_interleave_node(policy, task, memory)
            task.il_weight = weights.get(task.il_prev, 1)
        now = min(task.il_weight, pages - at)
        taken[at : at + now] = task.il_prev
        task.il_weight -= now
        at += now
    # A thread may exit while a fault of its own is being served.
    if task.pid in memory.tasks:
        told = TaskPolicySet(task.pid, *policy_columns(task.policy), task.il_prev, task.il_weight)
        memory.records.append(told)
    return taken


def wanted_nodes(
    memory: Memory,
    task: Task,
    policy: Mempolicy | None,
    index: Index | None,
    pages: int,
    local: int,
) -> npt.NDArray[np.int32]:
    """The node whose zonelist is to be used, for each page of an access by a cpu of ``local``.

    index: of each page in its vma's object (``interleave_index``); None: there is no vma.
    """
    node = local
    if policy is not None and policy.nodes:
        if policy.mode in INTERLEAVING:
            if index is None:
                return _take_turns(memory, task, policy, pages)
            order = turns(policy, memory)
            interleaved: npt.NDArray[np.int32] = order[index % order.size]
            return interleaved
        if policy.mode == Mode.PREFERRED:
            node = policy.nodes[0]
        elif policy.home_node != NUMA_NO_NODE:
            node = policy.home_node
    return np.full(pages, node, np.int32)


def policy_zonelist(
    policy: Mempolicy | None, node: int, memory: Memory, allowed: frozenset[int]
) -> Zonelist:
    """Where to look for a page whose policy wants the zonelist of ``node`` (K 5.3 - 5.5, 5.9).

    ``allowed``: nodes of the task's cpuset, which outranks the policy (K 5.12).
    """
    profile = memory.profile
    by_rank = profile.zonelist_load_by_rank
    everywhere = memory.topology.zonelist(node, load_by_rank=by_rank)
    within: tuple[int, ...] = ()
    if policy is not None and policy.mode in _BY_NODEMASK:
        within = tuple(nid for nid in everywhere if nid in policy.nodes)
    if within and policy is not None and policy.mode == Mode.BIND:
        if allowed.isdisjoint(within):
            within = ()
        else:
            nodes = tuple(sorted(within)) if profile.bind_in_node_order else within
            return _usable(memory, allowed, nodes, nodes[:1] * len(nodes))
    outside = tuple(nid for nid in everywhere if nid not in within)
    first = node
    if not profile.cpuset_misses_count:
        first = next((nid for nid in everywhere if nid in allowed), node)
    preferred = within[:1] * len(within) + (first,) * len(outside)
    return _usable(memory, allowed, within + outside, preferred)


def _usable(
    memory: Memory, allowed: frozenset[int], nodes: tuple[int, ...], preferred: tuple[int, ...]
) -> Zonelist:
    """Of these, what the cpuset allows, what answers and is online."""
    rows = [
        (nid, wanted)
        for nid, wanted in zip(nodes, preferred, strict=True)
        if nid in allowed and nid not in memory.lost and nid not in memory.offline
    ]
    return Zonelist(tuple(nid for nid, _ in rows), tuple(wanted for _, wanted in rows))


def allowed_nodes(memory: Memory, task: Task) -> frozenset[int]:
    """The nodes that the machine has and the task's cpuset allows."""
    return mems_allowed(memory, task) & frozenset(memory.nids)
