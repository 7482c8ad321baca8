"""mem_map: what the coordinator knows of every page frame, an element for each ``struct page``.

The frames themselves belong to the nodes; this is the kernel's side of them: how many page-table
entries map a frame (mapcount, K 3.2), which object it belongs to (page->mapping, page->index), the
generation that the node serves, and whether somebody is busy with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import IntFlag
from typing import Any

import numpy as np
import numpy.typing as npt

from coordinator.rows import FEW, span
from protocol.values import at_hand

Rows = npt.NDArray[np.intp]
Pfns = npt.NDArray[np.uint32]
Nids = npt.NDArray[np.uint8]

#: Nid of a page that a shared object's cache has not; its pfn is FILLING while one is asked for,
#: and POISONED if the cache had it and its contents are gone.
NO_NODE = 255
FILLING, POISONED = 1, 2
#: Pages of a shared object: its cache takes six bytes for each of them from the start.
CACHE_MAX = 1 << 28


@at_hand
class PageFlag(IntFlag):
    """Bits of ``MemMap.flags``."""

    ALLOCATED = 1
    #: Somebody has taken the frame for more than one step: a migration from isolate to putback, a
    #: copy-on-write, a revocation.  Everybody else leaves its mapping alone until that ends.
    HELD = 2
    #: A page-table entry names it, but its node has not yet said that it serves it.
    UNSETTLED = 4
    #: Its node has been asked to free it.  The node may do so, and give the frame away again, long
    #: before its answer is here.
    PUTTING = 8
    #: It has a new generation that its node has not acknowledged yet.
    REVOKING = 16


_FIRST: Rows = np.zeros(1, np.intp)
_FIRST.flags.writeable = False


def grouped(keys: npt.NDArray[Any]) -> Iterator[tuple[int, Rows]]:
    """Each value among whole numbers, ascending, with its rows; quick if there is only one."""
    if keys.size == 1:
        yield int(keys[0]), _FIRST
        return
    if keys.size < FEW:
        different = sorted(set(keys.tolist()))
    elif not np.count_nonzero(keys != keys[0]):
        different = [int(keys[0])]
    else:
        different = np.unique(keys).tolist()
    if len(different) == 1:
        yield different[0], np.arange(keys.size)
        return
    for key in different:
        yield key, (keys == key).nonzero()[0]


def gathered(nodes: Mapping[int, MemMap], column: str, nid: Nids, pfn: Pfns) -> npt.NDArray[Any]:
    """This column of mem_map at the frames (nid, pfn), which are on any nodes."""
    parts = [(rows, getattr(nodes[node], column)[pfn[rows]]) for node, rows in grouped(nid)]
    result: npt.NDArray[Any]
    if len(parts) == 1:
        [(_, result)] = parts
        return result
    result = np.zeros(pfn.size, getattr(next(iter(nodes.values())), column).dtype)
    for rows, part in parts:
        result[rows] = part
    return result


class MemMap:
    """The frames of one node: arrays of length ``frames``; 18 bytes a frame."""

    def __init__(self, frames: int) -> None:
        self.generation = np.zeros(frames, np.uint32)
        self.mapcount = np.zeros(frames, np.uint32)
        self.mapping = np.zeros(frames, np.uint32)
        self.index = np.zeros(frames, np.uint32)
        self.flags = np.zeros(frames, np.uint8)
        #: PageReferenced: an access was noted (lru.py); it moves with the page.
        self.referenced = np.zeros(frames, np.bool_)
        self.used = 0

    @property
    def frames(self) -> int:
        return self.flags.size

    @property
    def nbytes(self) -> int:
        arrays = (self.generation, self.mapcount, self.mapping, self.index, self.flags)
        return sum(array.nbytes for array in arrays) + self.referenced.nbytes

    def allocate(
        self,
        pfn: Pfns,
        generation: npt.NDArray[np.uint32],
        mapping: npt.NDArray[np.uint32],
        index: npt.NDArray[np.uint32],
        flags: PageFlag,
    ) -> None:
        """The node gave these frames; nobody maps them yet."""
        at = span(pfn)
        assert not np.count_nonzero(self.flags[at]), "a frame was allocated twice"
        self.generation[at] = generation
        self.mapcount[at] = 0
        self.mapping[at] = mapping
        self.index[at] = index
        self.referenced[at] = False
        self.flags[at] = int(PageFlag.ALLOCATED) | int(flags)
        self.used += pfn.size

    def free(self, pfn: Pfns) -> None:
        """The node has the frames back."""
        at = span(pfn)
        assert not np.count_nonzero(self.mapcount[at]), "a frame was freed while it is mapped"
        allocated = np.count_nonzero(self.flags[at] & int(PageFlag.ALLOCATED))
        assert allocated == pfn.size, "a frame was freed twice"
        self.flags[at] = 0
        self.used -= pfn.size

    def set(self, pfn: Pfns, flag: PageFlag) -> None:
        self.flags[span(pfn)] |= np.uint8(flag)

    def clear(self, pfn: Pfns, flag: PageFlag) -> None:
        self.flags[span(pfn)] &= np.uint8(~int(flag) & 0xFF)

    def test(self, pfn: Pfns, flag: PageFlag) -> npt.NDArray[np.bool_]:
        flagged: npt.NDArray[np.bool_] = (self.flags[span(pfn)] & int(flag)) != 0
        return flagged
