"""TABLE: kinds of files by their address_space_operations; the migratepage methods (K 1.47 - 1.57).

A migratepage method is called when no entry names the pages any more and before they are copied.
It gives one status for each page: 0 to copy it, -EAGAIN to try again, another -errno to give up.
The contents of a file are in its page cache and nowhere else: writepage cleans a page, no more.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from coordinator.inode import Device, PageTag
from coordinator.mem_map import Rows
from coordinator.memory import Memory
from coordinator.mm import Mapping
from coordinator.pagelist import Statuses32

EIO, EAGAIN, EBUSY, EINVAL = 5, 11, 16, 22

Method = Callable[[Memory, Mapping, Rows], Statuses32]


def _all(index: Rows, status: int) -> Statuses32:
    return np.full(index.size, status, np.int32)


def migrate_page(memory: Memory, mapping: Mapping, index: Rows) -> Statuses32:
    """Pages without private data: copied as they are (K 1.52)."""
    return _all(index, 0)


def buffer_migrate_page(memory: Memory, mapping: Mapping, index: Rows) -> Statuses32:
    """Pages with buffers, which go along (K 1.53).  Who calls has waited for their locks."""
    return _all(index, 0)


def fail_migrate_page(memory: Memory, mapping: Mapping, index: Rows) -> Statuses32:
    """Pages that must stay: -EIO (K 1.54)."""
    return _all(index, -EIO)


def fallback_migrate_page(memory: Memory, mapping: Mapping, index: Rows) -> Statuses32:
    """A mapping without a method: a dirty page is written first, buffers are released (K 1.55)."""
    status = _all(index, 0)
    tags = mapping.tags[index]
    dirty = (tags & PageTag.DIRTY) != 0
    private = ~dirty & ((tags & PageTag.PRIVATE) != 0)
    if memory.profile.fallback_writes_out:
        status[dirty] = writeout_status(mapping)
    else:
        status[dirty] = -EBUSY
    if mapping.host is not None and mapping.host.device & Device.KEEP_BUFFERS:
        status[private] = -EAGAIN
    else:
        released = index[private]
        memory.tag(mapping, released, mapping.tags[released] & np.uint8(~PageTag.PRIVATE & 0xFF))
    return status


def writeout_status(mapping: Mapping) -> int:
    """What comes of writing a dirty page: -EAGAIN, or -EIO, or -EINVAL without writepage."""
    host = mapping.host
    if host is None or not KINDS[host.kind].writepage:
        return -EINVAL
    return -EIO if host.device & Device.FAIL_WRITEPAGE else -EAGAIN


def entries_restored(memory: Memory, mapping: Mapping, index: Rows) -> None:
    """An attempt failed, and no old translation is served any more: now dirty pages are written.

    The kernel's writeout() puts the entries back, too, before it calls writepage (K 1.56).
    """
    host = mapping.host
    if host is None or KINDS[host.kind].migratepage is not fallback_migrate_page:
        return
    if memory.profile.fallback_writes_out:
        writeout(memory, mapping, index[(mapping.tags[index] & PageTag.DIRTY) != 0])


def writeout(memory: Memory, mapping: Mapping, index: Rows) -> None:
    """Call writepage for dirty pages that no entry says are dirty, if the file has it."""
    host = mapping.host
    if host is None or not index.size or not KINDS[host.kind].writepage:
        return
    host.writepages += index.size
    tags = mapping.tags[index]
    if host.device & Device.FAIL_WRITEPAGE:
        # What could not be written is as dirty as before.
        memory.tag(mapping, index, tags)
        return
    tags &= np.uint8(~PageTag.DIRTY & 0xFF)
    if host.device & Device.HOLD_WRITEBACK:
        memory.writeback.append((math.inf, mapping, index))
    elif host.writeback_seconds:
        memory.writeback.append((memory.now + host.writeback_seconds, mapping, index))
    else:
        # It has ended before anybody can look.
        memory.tag(mapping, index, tags)
        return
    memory.tag(mapping, index, tags | np.uint8(PageTag.WRITEBACK))


def end_page_writeback(memory: Memory, due: Callable[[float, Mapping], bool]) -> None:
    """Writeback for which ``due(when it ends, file)`` is over; who waits for it wakes."""
    rest: list[tuple[float, Mapping, Rows]] = []
    for until, mapping, index in memory.writeback:
        if due(until, mapping):
            mapping.tags[index] &= np.uint8(~PageTag.WRITEBACK & 0xFF)
            memory.woken = True
        else:
            rest.append((until, mapping, index))
    memory.writeback = rest


def next_writeback(memory: Memory) -> float | None:
    """When some writeback ends, in seconds; None if there is none that ends by itself."""
    times = (until for until, _, _ in memory.writeback if until < math.inf)
    return min(times, default=None)


class AddressSpaceOperations(NamedTuple):
    """One kind of file.  ``buffers``: its pages have some (PagePrivate)."""

    name: str
    migratepage: Method
    writepage: bool
    buffers: bool
    meaning: str


KINDS = {
    row.name: row
    for row in (
        AddressSpaceOperations("shmem", migrate_page, True, False, "tmpfs, POSIX shared memory"),
        AddressSpaceOperations("ext3", buffer_migrate_page, True, True, "as ext2, xfs and ntfs"),
        AddressSpaceOperations(
            "ext3-journal", fallback_migrate_page, True, True, "ext3 mounted with data=journal"
        ),
        AddressSpaceOperations("nfs", fallback_migrate_page, True, False, "no method of its own"),
        AddressSpaceOperations("ramfs", fallback_migrate_page, False, False, "no writepage either"),
        AddressSpaceOperations("xfs-metadata", fail_migrate_page, True, True, "must not move"),
    )
}


def migratepage(memory: Memory, mapping: Mapping, index: Rows) -> Statuses32:
    """Dispatch of move_to_new_page (K 1.47)."""
    if mapping.host is not None:
        return KINDS[mapping.host.kind].migratepage(memory, mapping, index)
    if mapping.migratepage is not None:
        return mapping.migratepage(mapping, index.size)
    return _all(index, 0)


def buffers_locked(mapping: Mapping) -> bool:
    """Whether buffer_migrate_page has to wait for this file's buffers (K 1.53)."""
    host = mapping.host
    return (
        host is not None
        and bool(host.device & Device.LOCK_BUFFERS)
        and KINDS[host.kind].migratepage is buffer_migrate_page
    )
