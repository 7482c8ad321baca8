"""Files, created by name: the page cache of each outlives its mappings until it is unlinked."""

from __future__ import annotations

import math

import numpy as np

from coordinator.address_space import KINDS, end_page_writeback, writeout
from coordinator.calls import Steps
from coordinator.desk import Desk, done, handles
from coordinator.frames import revoke
from coordinator.inode import PATH_MAX, Device, Inode, PageTag
from coordinator.mem_map import PageFlag
from coordinator.memory import Memory
from coordinator.mm import Mapping
from coordinator.records import DeviceSet, FileCreated, FileUnlinked
from protocol import files as m
from protocol.messages import Done
from protocol.schema import Message
from protocol.session import Question
from protocol.syscalls import Description

ENOENT, ENOMEM, EEXIST, EINVAL, ENAMETOOLONG = 2, 12, 17, 22, 36
PAGES_MAX = 1 << 32
DEVICE_ALL = sum(Device)


def create_file(memory: Memory, asked: m.CreateFile) -> int:
    """A file of ``pages`` pages, none of which is in memory.

    0, -EINVAL, -ENAMETOOLONG, -EEXIST or -ENOMEM.
    """
    seconds = asked.writeback_seconds
    if not asked.path.startswith("/") or asked.kind not in KINDS or not seconds >= 0:
        return -EINVAL
    if not 0 < asked.pages <= PAGES_MAX:
        return -EINVAL
    if len(asked.path.encode()) >= PATH_MAX:
        return -ENAMETOOLONG
    if asked.path in memory.files:
        return -EEXIST
    try:
        mapping = new_file(memory, asked.path, asked.kind, asked.pages, seconds)
    except MemoryError:
        return -ENOMEM
    memory.records.append(FileCreated(mapping.id, asked.path, asked.kind, asked.pages, seconds))
    return 0


def new_file(
    memory: Memory,
    path: str,
    kind: str,
    pages: int,
    seconds: float,
    mapping_id: int | None = None,
) -> Mapping:
    """Enter a file and its page cache."""
    host = Inode(path, kind, KINDS[kind].buffers, seconds)
    mapping = memory.new_mapping(shared=True, pages=pages, mapping_id=mapping_id, host=host)
    memory.files[path] = mapping
    return mapping


def unlink(memory: Memory, path: str) -> Steps[int]:
    """unlink(2): 0 or -ENOENT.  A file that somebody maps keeps its pages until nobody does."""
    if path not in memory.files:
        return -ENOENT
    mapping = memory.files[path]
    nid, pfn = forget_name(memory, path)
    # Nobody can tell the device anything any more.
    end_page_writeback(memory, lambda until, of: of is mapping and until == math.inf)
    memory.records.append(FileUnlinked(path))
    yield from revoke(memory, nid, pfn)
    return 0


def forget_name(memory: Memory, path: str) -> tuple[np.ndarray, np.ndarray]:
    """The path leads nowhere; returns the frames of the cache if nobody maps it either."""
    mapping = memory.files.pop(path)
    assert mapping.host is not None
    mapping.host.linked, mapping.host.device = False, Device(0)
    return memory.with_orphaned_caches([mapping], np.zeros(0, np.uint8), np.zeros(0, np.uint32))


def set_device(memory: Memory, path: str, device: int) -> int:
    """How the device beneath a file behaves from now on: 0, -ENOENT or -EINVAL."""
    mapping = memory.files.get(path)
    if mapping is None or mapping.host is None:
        return -ENOENT
    if device & ~DEVICE_ALL:
        return -EINVAL
    mapping.host.device = Device(device)
    memory.records.append(DeviceSet(path, device))
    if not device & Device.HOLD_WRITEBACK:
        end_page_writeback(memory, lambda until, of: of is mapping and until == math.inf)
    memory.woken = True
    return 0


def sync(memory: Memory, mapping: Mapping) -> Steps[int]:
    """Write the dirty pages of a file back, but for those that are on the move: 0.

    Their entries are clean then, so a store through an old translation must not be served.
    """
    index = np.flatnonzero(mapping.dirty())
    index = index[(mapping.tags[index] & PageTag.WRITEBACK) == 0]
    held = memory.flagged(mapping.nid[index], mapping.pfn[index], PageFlag.HELD)
    index = index[~held]
    for vma in mapping.vmas:
        slot = index - vma.pgoff
        memory.set_page_dirty(vma, slot[(slot >= 0) & (slot < vma.pages)])
    yield from revoke(memory, mapping.nid[index], mapping.pfn[index])
    held = memory.flagged(mapping.nid[index], mapping.pfn[index], PageFlag.HELD)
    clean = (mapping.tags[index] & (PageTag.DIRTY | PageTag.WRITEBACK)) != PageTag.DIRTY
    if mapping.id in memory.mappings:
        writeout(memory, mapping, index[~held & ~clean & ~mapping.dirty_entries()[index]])
    return 0


def describe_file(memory: Memory, path: str) -> Description:
    """Lines ``name value``; counts are pages, ``nodes`` gives those on each node."""
    mapping = memory.files.get(path)
    if mapping is None or mapping.host is None:
        return Description(-ENOENT, "")
    host, cached = mapping.host, mapping.cached()
    mapped = memory.mapcounts(mapping.nid[cached], mapping.pfn[cached]) > 0

    def tagged(tag: PageTag) -> int:
        return int(np.count_nonzero(mapping.tags & tag))

    nodes, counts = np.unique(mapping.nid[cached], return_counts=True)
    lines = {
        "kind": host.kind,
        "pages": mapping.nid.size,
        "cached": cached.size,
        "mapped": int(np.count_nonzero(mapped)),
        "dirty": int(np.count_nonzero(mapping.dirty())),
        "writeback": tagged(PageTag.WRITEBACK),
        "private": tagged(PageTag.PRIVATE),
        "writepages": host.writepages,
        "nodes": ",".join(f"N{nid}={count}" for nid, count in zip(nodes, counts, strict=True)),
    }
    return Description(0, "".join(f"{name} {value}\n" for name, value in lines.items()))


# ---- questions -----------------------------------------------------------------------------


@handles(m.CreateFile)
def on_create_file(desk: Desk, question: Question, asked: m.CreateFile) -> Message:
    return Done(create_file(desk.memory, asked))


@handles(m.Unlink)
def on_unlink(desk: Desk, question: Question, asked: m.Unlink) -> Message | Steps[Message]:
    return done(unlink(desk.memory, asked.path))


@handles(m.SetDevice)
def on_set_device(desk: Desk, question: Question, asked: m.SetDevice) -> Message | Steps[Message]:
    error = set_device(desk.memory, asked.path, asked.device)
    if error or not asked.sync:
        return Done(error)
    return done(sync(desk.memory, desk.memory.files[asked.path]))


@handles(m.DescribeFile)
def on_describe_file(desk: Desk, question: Question, asked: m.DescribeFile) -> Message:
    return describe_file(desk.memory, asked.path)
