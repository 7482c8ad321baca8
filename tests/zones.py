"""Small zones for tests."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nodes.flags import Flag
from nodes.zone import Zone

PAGE = 64
UUID = bytes(range(16))
U32 = npt.NDArray[np.uint32]


def u32(*values: int) -> U32:
    return np.array(values, np.uint32)


def ones(rows: int) -> npt.NDArray[np.uint8]:
    return np.ones(rows, np.uint8)


def make(frames: int = 256, page_size: int = PAGE) -> tuple[bytearray, Zone]:
    buffer = bytearray(Zone.size_of(frames, page_size))
    return buffer, Zone.format(buffer, nid=3, page_size=page_size, frames=frames, uuid=UUID)


def touch(zone: Zone, rows: int) -> tuple[U32, U32]:
    """First touches: mapped pages, on the LRU."""
    status, pfn, generation = zone.new_pages(1, np.arange(rows, dtype=np.uint32), u32(*range(rows)))
    assert not status.any()
    zone.migrate_prep()
    return pfn, generation


def flags_of(zone: Zone) -> dict[int, Flag]:
    pfn, flags, *_ = zone.inventory()
    return {int(p): Flag(int(f)) for p, f in zip(pfn, flags, strict=True)}


def state(buffer: bytearray, zone: Zone) -> tuple[bytes, dict[str, int]]:
    return bytes(buffer), zone.count()
