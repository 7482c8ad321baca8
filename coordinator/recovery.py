"""After a crash: nodes are made to agree with the journal, and what is lost is declared (design 7).

A coordinator that starts from a journal knows of nothing under way: what was committed counts,
what was not is undone, and calls wait until every node has settled.  A node that has opened its
zone again, while the coordinator lived, frees what nobody ever heard of, and goes on.
"""

from __future__ import annotations

import numpy as np

from coordinator.calls import Ask, Reply, Steps
from coordinator.few import outlive
from coordinator.frames import unused
from coordinator.mem_map import PageFlag
from coordinator.memory import Memory
from coordinator.poison import poison, poison_zone
from coordinator.records import EpochBegan, ZoneKnown
from protocol import notes
from protocol.messages import RecoveredFrames, RecoverFrames
from protocol.schema import node_name

ENODEV = 19
#: Frames that one question is about: 8 bytes for each that is in use.
FRAMES_AT_ONCE = 1 << 20


def to_settle(memory: Memory) -> set[int]:
    """The nodes that calls have to wait for, after the journal was read; an empty one has none.

    A node that is offline and has no page can serve nothing that was taken away.
    """
    if not memory.epoch:
        return set()
    return {nid for nid in memory.nids if nid not in memory.offline or memory.mem_map[nid].used}


def begin_epoch(memory: Memory, epoch: int) -> None:
    """A coordinator has started; this is on disk before anybody hears of it."""
    memory.epoch = epoch
    memory.records.append(EpochBegan(epoch))
    memory.notes.append(notes.EpochBegan(epoch))
    memory.notes += [notes.NodeTakenOffline(nid, True) for nid in sorted(memory.offline)]


def know_zone(memory: Memory, nid: int, uuid: str) -> None:
    """This is the zone of the node from now on; what an earlier one had is gone."""
    if memory.zones.get(nid) != uuid:
        if nid in memory.zones:
            poison_zone(memory, nid)
        memory.zones[nid] = uuid
        memory.records.append(ZoneKnown(nid, uuid))


def free_unused(memory: Memory, nid: int) -> None:
    """A new coordinator: what nothing names was on its way to be freed, or was left by a move."""
    used = np.flatnonzero(memory.mem_map[nid].flags).astype(np.uint32)
    old = used[unused(memory, nid, used)]
    memory.putting(nid, old)
    memory.put(nid, old)


def recover_node(memory: Memory, nid: int, *, revoke: bool) -> Steps[int]:
    """Tell a node which of its frames are in use; it serves when this is done.

    revoke: every translation that was ever given is void: the coordinator is new, and cannot know
    of which frames its predecessor had taken rights away and not told the node.
    Returns how many frames the node has lost, or -ENODEV: it has restarted meanwhile, and has to
    be told again.
    """
    frames, lost = memory.mem_map[nid], 0
    outlive(memory, nid)
    for first in range(0, frames.frames, FRAMES_AT_ONCE):
        end = min(first + FRAMES_AT_ONCE, frames.frames)
        pfn = (np.flatnonzero(frames.flags[first:end]) + first).astype(np.uint32)
        last = int(end == frames.frames)
        idle = ~frames.test(pfn, PageFlag.HELD)
        asked = RecoverFrames(
            first, end, last, int(revoke), pfn, frames.generation[pfn], idle.astype(np.uint8)
        )
        reply = yield [Ask(node_name(nid), asked)]
        assert isinstance(reply, Reply)
        if reply.message is None:
            return -ENODEV
        assert isinstance(reply.message, RecoveredFrames)
        lost += _take(memory, nid, asked, reply.message)
    return lost


def _take(memory: Memory, nid: int, asked: RecoverFrames, answer: RecoveredFrames) -> int:
    """What the node says of its frames; gives how many it does not have any more."""
    frames = memory.mem_map[nid]
    there = answer.status == 0
    changed = there & (asked.settle != 0) & (answer.generation != asked.generation)
    # Who has revoked rights meanwhile has given the frame a generation of its own.
    changed &= frames.generation[asked.pfn] == asked.generation
    if changed.any():
        memory.set_generations(nid, asked.pfn[changed], answer.generation[changed])
    # An answer may be late: one that was freed, and is given out again, is another frame.
    same = frames.generation[asked.pfn] == asked.generation
    gone = asked.pfn[~there & same]
    # Of those that it has been asked to free it need not have any.
    kept = frames.test(gone, PageFlag.ALLOCATED) & ~frames.test(gone, PageFlag.PUTTING)
    gone = gone[kept & ~frames.test(gone, PageFlag.HELD)]
    poison(memory, nid, gone)
    return int(gone.size)
