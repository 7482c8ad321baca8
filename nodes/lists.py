"""What is told of the LRU lists of a zone: which frames are active, how many of which kind."""

from __future__ import annotations

import errno

import numpy as np
import numpy.typing as npt

from nodes.flags import ACTIVE, LRU
from nodes.zone import Zone
from protocol.observe import LruCount


def page_active(zone: Zone, pfn: npt.NDArray[np.uint32]) -> npt.NDArray[np.int32]:
    """PageActive of each frame: 1 or 0; -EINVAL for a frame that is not there."""
    here = pfn < zone.frames
    status = np.full(pfn.size, -errno.EINVAL, np.int32)
    status[here] = zone.active(pfn[here])
    return status


def count_lru(zone: Zone, file: npt.NDArray[np.uint32]) -> LruCount:
    """Frames of each list; ``file``: the objects whose pages are those of files."""
    _, flags, _, owner, _ = zone.inventory()
    listed = (flags & LRU) != 0
    active, of_file = listed & ((flags & ACTIVE) != 0), np.isin(owner, file)
    inactive = listed & ~active
    counts = (active & ~of_file, inactive & ~of_file, active & of_file, inactive & of_file)
    return LruCount(*(int(np.count_nonzero(rows)) for rows in counts))
