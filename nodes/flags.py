"""TABLE: the flags of a frame, which of them go together, what is counted of them."""

from __future__ import annotations

from enum import IntFlag

import numpy as np
import numpy.typing as npt

from protocol.values import at_hand


@at_hand
class Flag(IntFlag):
    """What is true of a frame; a free frame has none."""

    ALLOCATED = 1
    MAPPED = 2
    LRU = 4  # PageLRU
    ACTIVE = 8  # PageActive; kept while the page is off the LRU (K 1.50)
    ISOLATED = 16
    LOCKED = 32  # the page lock, held by migration
    HELD = 64  # the page lock, held by another user
    PINNED = 128  # extra references (K 1.48)
    UNCACHED = 256  # has no page struct: on no LRU, and never isolated from one (K 2.7)


# Plain numbers, because numpy widens u2 arrays that meet an IntFlag.
ALLOCATED, MAPPED, LRU, ACTIVE, ISOLATED, LOCKED, HELD, PINNED, UNCACHED = map(int, Flag)
FREEING = 512
#: Of these a frame that waits for the LRU has MAPPED alone.
PENDING_MASK = MAPPED | LRU | ISOLATED | UNCACHED
#: Flags of a new frame by ``NewPages.mapped``: a migration target, a first touch of either list,
#: a copy.
NEW = (ALLOCATED, ALLOCATED | MAPPED | ACTIVE, ALLOCATED | MAPPED, ALLOCATED | ACTIVE)


def _is_legal(flags: int) -> bool:
    """May a frame have just these flags?"""
    if not flags & ALLOCATED:
        return flags == 0
    if not flags & MAPPED:
        return flags & ~(ACTIVE | UNCACHED) == ALLOCATED
    if flags & LOCKED and flags & (HELD | PINNED):
        return False
    if flags & UNCACHED and flags & (LRU | ISOLATED):
        return False
    return not (flags & LRU and flags & ISOLATED)


LEGAL = np.array([_is_legal(flags) for flags in range(FREEING)])
REFCOUNT = np.array(
    [sum(map(bool, (f & ALLOCATED, f & ISOLATED, f & PINNED))) for f in range(FREEING)], np.uint16
)
_ALL = np.arange(FREEING)
#: The gauges of a zone: which flags are looked at, and what they are then.
GAUGES = {
    "free": (ALLOCATED, 0),
    "active": (LRU | ACTIVE, LRU | ACTIVE),
    "inactive": (LRU | ACTIVE, LRU),
    "pending": (PENDING_MASK, MAPPED),
    "isolated": (ISOLATED, ISOLATED),
    "locked": (LOCKED, LOCKED),
}
GAUGE_ROWS = np.array([_ALL & mask == value for mask, value in GAUGES.values()], np.int64)


def check_flags(flags: npt.NDArray[np.uint16], nid: int) -> None:
    """Raise ValueError with a sentence if these cannot be the flags of the frames of a zone."""
    damaged = np.flatnonzero(flags > FREEING)
    if damaged.size == 0:
        damaged = np.flatnonzero(~np.append(LEGAL, True)[flags])
    if damaged.size:
        raise ValueError(
            f"the zone of node {nid} is damaged: frame {damaged[0]} has flags "
            f"{flags[damaged[0]]:#x}; format a new zone, its pages are lost"
        )
