"""Memory hot-remove and hot-add of a whole node (mm/memory_hotplug.c)."""

from __future__ import annotations

import numpy as np

from coordinator.calls import Steps
from coordinator.desk import Desk, done, handles
from coordinator.few import coming
from coordinator.hotplug_records import NodeOnline
from coordinator.mem_map import PageFlag
from coordinator.memory import Memory
from coordinator.mempolicy import migrate_prep, new_node_page
from coordinator.migrate import migrate_pages
from coordinator.pagelist import PageList, Settings
from protocol import hotplug as m
from protocol.messages import Done
from protocol.notes import NodeTakenOffline
from protocol.schema import Message
from protocol.session import Question

EBUSY, EINVAL, ENOSYS = 16, 22, 38


@handles(m.OfflinePages)
def on_offline_pages(
    desk: Desk, question: Question, asked: m.OfflinePages
) -> Message | Steps[Message]:
    memory = desk.memory
    if asked.nid not in memory.mem_map:
        return Done(-EINVAL)
    if not desk.kernel.migration:
        return Done(-ENOSYS)
    if not set(memory.nids) - memory.offline - memory.lost - {asked.nid}:
        return Done(-EBUSY)
    return done(offline_pages(memory, asked.nid, desk.kernel.chunk_pages))


@handles(m.OnlinePages)
def on_online_pages(desk: Desk, question: Question, asked: m.OnlinePages) -> Message:
    if asked.nid not in desk.memory.mem_map:
        return Done(-EINVAL)
    set_online(desk.memory, asked.nid, online=True)
    return Done(0)


def offline_pages(memory: Memory, nid: int, chunk_pages: int) -> Steps[int]:
    """One round of moving everything off; gives the frames that are in use, or may come to be.

    Pages go to the nearest node that has room, whatever their policies say, and with all who map
    them; what no task maps, but a page cache has, as well (do_migrate_range).
    """
    set_online(memory, nid, online=False)
    yield from migrate_prep(memory)
    frames = memory.mem_map[nid]
    pfn = np.flatnonzero(frames.flags).astype(np.uint32)
    idle = np.uint8(PageFlag.HELD | PageFlag.PUTTING | PageFlag.UNSETTLED)
    pfn = pfn[(frames.flags[pfn] & idle) == 0]
    if pfn.size and nid not in memory.lost:
        frames.set(pfn, PageFlag.HELD)
        pages = PageList(0)
        pages.add(np.full(pfn.size, nid, np.uint8), pfn, np.zeros(pfn.size, np.int64))
        settings = Settings(chunk_pages, reason="memory_hotplug")
        yield from migrate_pages(memory, pages, new_node_page, nid, settings)
    return frames.used + coming(memory, nid)


def set_online(memory: Memory, nid: int, *, online: bool) -> None:
    """Whether frames of the node are given out."""
    if online == (nid in memory.offline):
        memory.offline = memory.offline - {nid} if online else memory.offline | {nid}
        memory.records.append(NodeOnline(nid, int(online)))
        memory.notes.append(NodeTakenOffline(nid, not online))
        memory.woken = True
