"""Asking nodes for frames, giving them back, and taking translations away."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from coordinator.calls import PARKED, Ask, Steps, ask_all
from coordinator.cpuset import mems_allowed
from coordinator.mem_map import Nids, PageFlag, Pfns, Rows, grouped
from coordinator.memory import Memory
from coordinator.mm import Mapping, Task, Vma
from coordinator.mpol import NUMA_NO_NODE, Mempolicy
from coordinator.placement import (
    INTERLEAVING,
    Index,
    Zonelist,
    interleave_index,
    policy_zonelist,
    wanted_nodes,
)
from coordinator.policy import keeps_policy, policies_of
from coordinator.rebind import update_task_memory_state
from coordinator.rows import span
from protocol.messages import NewPageFrames, NewPages, PutPages, SetGeneration
from protocol.schema import node_name

#: ``NewPages.mapped``: a first touch by the list the page goes to, and a copy of either kind.
ACTIVE, INACTIVE, COPY, ACTIVE_COPY = 1, 2, 0, 3
Parts = list[tuple[int, Rows, Pfns]]
#: In these bits the generations of one incarnation of a frame differ (nodes/generation.py).
_REVOCATIONS = np.uint32(0xFF)


class Counted(NamedTuple):
    """How numastat counts an allocation: node of the cpu, and the node whose turn it is, or -1."""

    local: int
    interleave: int


def allocate_frames(
    memory: Memory, task: Task, vma: Vma, slot: Rows, *, mapped: int, local: int
) -> Steps[Parts]:
    """Frames for these slots where the policy wants them: (nid, rows of ``slot``, pfn) parts.

    ``mapped``: of NewPages.  ``local``: node of the cpu that faults.  The task's cpuset outranks
    its policy (K 5.12), and a BIND outside of it is ignored (K 5.5).  Fewer rows than asked come
    back when every node that both allow is full.
    """
    update_task_memory_state(memory, task)
    allowed = mems_allowed(memory, task)
    # What is touched first in a mapping of a file is the file's; a copy is the mapping's own.
    cache = vma.file if mapped in (ACTIVE, INACTIVE) else None
    parts: Parts = []
    for policy, rows in _policies(task, vma, slot, cache):
        index = _index(memory, vma, slot[rows], cache)
        wanted = wanted_nodes(memory, task, policy, index, rows.size, local)
        for node, mine in grouped(wanted):
            zonelist = policy_zonelist(policy, node, memory, allowed)
            interleave = policy is not None and policy.mode in INTERLEAVING
            counted = Counted(local, node if interleave else NUMA_NO_NODE)
            asked = rows[mine]
            parts += yield from _from_zonelist(memory, vma, slot, asked, zonelist, counted, mapped)
    return parts


def _policies(
    task: Task, vma: Vma, slot: Rows, cache: Mapping | None
) -> Iterable[tuple[Mempolicy | None, Rows]]:
    """The policy of each slot; the page cache of a file goes by the task's alone (K 5.2)."""
    if cache is not None and not keeps_policy(vma):
        return [(task.policy, np.arange(slot.size))]
    return policies_of(task, vma, slot)


def _index(memory: Memory, vma: Vma, slot: Rows, cache: Mapping | None) -> Index | None:
    """What INTERLEAVE goes by; None: the task's turns, as there is no vma (K 5.6)."""
    if cache is None:
        return interleave_index(vma, slot)
    if not keeps_policy(vma):
        return None
    bias = cache.id if memory.profile.shared_interleave_biased else 0
    return interleave_index(vma, slot, bias)


def _from_zonelist(
    memory: Memory,
    vma: Vma,
    slot: Rows,
    rest: Rows,
    zonelist: Zonelist,
    counted: Counted,
    mapped: int,
) -> Steps[Parts]:
    """Frames for the rows ``rest`` of ``slot``, all wanted from one zonelist."""
    parts: Parts = []
    touched = mapped in (ACTIVE, INACTIVE)
    owned_by = vma.file if touched and vma.file is not None else vma.mapping
    for nid, preferred in zip(zonelist.nodes, zonelist.preferred, strict=True):
        owner = np.full(rest.size, owned_by.id, np.uint32)
        index = (slot[rest] + vma.pgoff).astype(np.uint32)
        asked = NewPages(mapped, owner, index)
        [answer] = yield from ask_all([Ask(node_name(nid), asked)])
        assert isinstance(answer, NewPageFrames)
        given = np.flatnonzero(answer.status == 0)
        if given.size:
            flags = PageFlag.ALLOCATED if touched else PageFlag.HELD
            pfn = memory.given(nid, answer, given, asked, flags)
            hit = nid == counted.interleave
            memory.count_allocation(nid, preferred, counted.local, given.size, interleave=hit)
            parts.append((nid, rest[given], pfn))
        rest = rest[answer.status != 0]
        if not rest.size:
            break
    return parts


def put_unused(memory: Memory, nid: int, pfn: Pfns) -> Steps[None]:
    """Give back frames that were never mapped."""
    memory.putting(nid, pfn)
    generation = memory.mem_map[nid].generation[pfn]
    yield from ask_all([Ask(node_name(nid), PutPages(pfn, generation))])
    memory.put(nid, pfn)


def revoke(memory: Memory, nid: Nids, pfn: Pfns) -> Steps[None]:
    """No translation handed out so far is served any more when this returns (design 4).

    What somebody holds is waited for, unless that revokes or frees it anyway: whoever holds a frame
    frees it in the end if nothing names it any more, and a frame that a migration has left, or
    has put back after an attempt, is served under none of its old generations.
    """
    nid, pfn = distinct(nid, pfn)
    before = memory.generations(nid, pfn)
    while nid.size:
        served = memory.generations(nid, pfn) == before
        served |= memory.flagged(nid, pfn, PageFlag.REVOKING)
        served |= _left(memory, nid, pfn, before)
        served &= memory.flagged(nid, pfn, PageFlag.ALLOCATED)
        nid, pfn, before = nid[served], pfn[served], before[served]
        held = memory.flagged(nid, pfn, PageFlag.HELD)
        mine, theirs = np.flatnonzero(~held), np.flatnonzero(held)
        if mine.size:
            memory.hold(nid[mine], pfn[mine])
            yield from revoke_held(memory, nid[mine], pfn[mine])
            nid, pfn, before = nid[theirs], pfn[theirs], before[theirs]
        elif theirs.size:
            yield PARKED


def _left(
    memory: Memory, nid: Nids, pfn: Pfns, before: npt.NDArray[np.uint32]
) -> npt.NDArray[np.bool_]:
    """Frames of the same incarnation that nothing names, nobody holds and nobody has put.

    A node that came back gives generations (nodes/recovery.py), and frees nothing that was named.
    """
    left = memory.generations(nid, pfn) ^ before <= _REVOCATIONS
    left &= ~memory.flagged(nid, pfn, PageFlag.HELD | PageFlag.PUTTING)
    for node, rows in memory.by_node(nid):
        left[rows] &= unused(memory, node, pfn[rows])
    return left


def revoke_held(memory: Memory, nid: Nids, pfn: Pfns) -> Steps[None]:
    """``revoke`` for frames, each once, that the caller holds; releases them.

    Frames that no entry maps and no object caches are freed; the others get a new generation,
    acknowledged by their nodes.
    """
    asks: list[Ask] = []
    freeing: list[tuple[int, Pfns]] = []
    keeping: list[tuple[int, Pfns]] = []
    for node, rows in memory.by_node(nid):
        frames, mine = memory.mem_map[node], pfn[rows]
        gone = unused(memory, node, mine)
        old, kept = mine[gone], mine[~gone]
        if old.size:
            asks.append(Ask(node_name(node), PutPages(old, frames.generation[old])))
            memory.putting(node, old)
            freeing.append((node, old))
        if kept.size:
            before = frames.generation[kept]
            after = before + np.uint32(1)
            asks.append(Ask(node_name(node), SetGeneration(kept, before, after)))
            memory.set_generations(node, kept, after)
            frames.set(kept, PageFlag.REVOKING)
            keeping.append((node, kept))
    yield from ask_all(asks)
    for node, old in freeing:
        memory.put(node, old)
    for node, kept in keeping:
        memory.mem_map[node].clear(kept, PageFlag.HELD | PageFlag.REVOKING)
    memory.woken = True


def distinct(nid: Nids, pfn: Pfns) -> tuple[Nids, Pfns]:
    """Each frame once, whoever mapped it how often."""
    key = np.unique((nid.astype(np.uint64) << np.uint64(32)) | pfn)
    return (key >> np.uint64(32)).astype(np.uint8), key.astype(np.uint32)


def unused(memory: Memory, nid: int, pfn: Pfns) -> npt.NDArray[np.bool_]:
    """Which of these frames no entry maps and no object caches."""
    result: npt.NDArray[np.bool_] = memory.mem_map[nid].mapcount[span(pfn)] == 0
    if np.count_nonzero(result):
        result &= ~_cached(memory, nid, pfn)
    return result


def _cached(memory: Memory, nid: int, pfn: Pfns) -> npt.NDArray[np.bool_]:
    """Which of these frames a shared object's cache names."""
    frames = memory.mem_map[nid]
    cached = np.zeros(pfn.size, np.bool_)
    for number, rows in grouped(frames.mapping[pfn]):
        mapping = memory.mappings.get(number)
        if mapping is not None and mapping.shared:
            index = frames.index[pfn[rows]]
            cached[rows] = (mapping.nid[index] == nid) & (mapping.pfn[index] == pfn[rows])
    return cached
