"""Copy-on-write: who writes to a private page that others map too gets a copy of it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from coordinator.calls import Ask, Reply, Steps, ask_all, statuses_of
from coordinator.frames import ACTIVE_COPY, COPY, allocate_frames, put_unused, revoke_held
from coordinator.mem_map import Nids, PageFlag, Pfns, Rows
from coordinator.memory import Memory
from coordinator.mm import Pte, Task, Vma
from protocol.messages import CopyPages, PutbackLruPages
from protocol.schema import node_name


def copy_on_write(memory: Memory, task: Task, vma: Vma, slot: Rows, node: int) -> Steps[bool]:
    """These slots, all shared with other page tables, get copies on ``node``; False: no frames.

    The originals are held meanwhile, so that no migration takes them away under the copy; nobody
    can write to them, as all who map them have read-only entries.
    """
    vma.bits[slot] |= np.uint8(Pte.BUSY)
    nid, pfn = vma.nid[slot].copy(), vma.pfn[slot].copy()
    memory.hold(nid, pfn)
    mapped = ACTIVE_COPY if memory.profile.new_anonymous_is_active else COPY
    parts = yield from allocate_frames(memory, task, vma, slot, mapped=mapped, local=node)
    done, settled = 0, list[tuple[int, Pfns]]()
    for target, rows, target_pfn in parts:
        copied = yield from _copy(memory, nid[rows], pfn[rows], target, target_pfn)
        vma.bits[slot[rows]] &= ~np.uint8(Pte.BUSY)
        good, bad = np.flatnonzero(copied), np.flatnonzero(~copied)
        if good.size:
            for source, mine in memory.by_node(nid[rows[good]]):
                memory.mem_map[source].set(pfn[rows[good]][mine], PageFlag.REVOKING)
            yield from _settle(memory, task, vma, slot[rows[good]], target, target_pfn[good])
            settled.append((target, target_pfn[good]))
            memory.emulated.faulted(memory, task.pid, node, target, good.size)
        if bad.size:
            yield from put_unused(memory, target, target_pfn[bad])
        done += rows.size
    vma.bits[slot] &= ~np.uint8(Pte.BUSY)
    # The writer's other threads may have the originals cached for reading.
    yield from revoke_held(memory, nid, pfn)
    # Not before: what one of them stored in a copy, another would not see in the original.
    for target, target_pfn in settled:
        memory.mem_map[target].clear(target_pfn, PageFlag.UNSETTLED | PageFlag.HELD)
    memory.woken = True
    return done == slot.size


def _copy(
    memory: Memory, nid: Nids, pfn: Pfns, target: int, target_pfn: Pfns
) -> Steps[npt.NDArray[np.bool_]]:
    """Copy frames as they are, without locking; which of them arrived."""
    copied = np.zeros(pfn.size, np.bool_)
    target_map = memory.mem_map[target]
    for source, rows in memory.by_node(nid):
        message = CopyPages(
            memory.new_transfer(),
            target,
            0,
            0,
            pfn[rows],
            memory.mem_map[source].generation[pfn[rows]],
            target_pfn[rows],
            target_map.generation[target_pfn[rows]],
        )
        reply = yield [Ask(node_name(source), message)]
        assert isinstance(reply, Reply)
        copied[rows] = statuses_of(reply, rows.size) == 0
    return copied


def _settle(
    memory: Memory, task: Task, vma: Vma, slot: Rows, target: int, pfn: Pfns
) -> Steps[None]:
    """Entries name the copies, which nobody is told of yet."""
    frames = memory.mem_map[target]
    frames.set(pfn, PageFlag.UNSETTLED)
    memory.map_copy(task, vma, slot, target, pfn)
    yield from ask_all([Ask(node_name(target), PutbackLruPages(pfn, frames.generation[pfn]))])
