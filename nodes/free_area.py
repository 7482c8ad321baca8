"""Which frames are free: a count for each block of neighbours, derived from the flags.

Whole blocks are handed out to those who ask for many pages and broken blocks to those who ask for
few, so that large requests keep finding runs: what lies together is copied together.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nodes.layout import U16

BLOCK = 64

Frames = npt.NDArray[np.intp]


class FreeArea:
    """The free frames of a zone.  ``flags`` (u2, 0 is free) stays the caller's, who writes it."""

    def __init__(self, flags: U16) -> None:
        self._flags = flags
        self._free = self._count()

    def take(self, wanted: int) -> Frames:
        """Up to ``wanted`` free frames, ascending; the caller sets their flags at once.

        It looks at one number for each block of the zone, and at the frames of no more blocks than
        it takes from.
        """
        if wanted < BLOCK:
            return np.sort(self._take_near(wanted))
        whole = np.flatnonzero(self._free == BLOCK)[: wanted // BLOCK]
        frame = _frames_of(whole)
        self._free[whole] = 0
        rest = wanted - frame.size
        if rest:
            frame = np.sort(np.concatenate((frame, self._take_near(rest))))
        return frame

    def _take_near(self, wanted: int) -> Frames:
        """Of broken blocks first."""
        usable = self._free.nonzero()[0]
        free = self._free[usable]
        broken = free < BLOCK
        usable = np.concatenate((usable[broken], usable[~broken]))
        enough = self._free[usable].cumsum().searchsorted(wanted) + 1
        near: Frames = _frames_of(usable[:enough])
        near = near[near < self._flags.size]
        near = near[self._flags[near] == 0][:wanted]
        np.subtract.at(self._free, near // BLOCK, 1)
        return near

    def put(self, frame: Frames) -> None:
        """Distinct frames that were not free and are now."""
        np.add.at(self._free, frame // BLOCK, 1)

    def validate(self) -> None:
        """Raise AssertionError if a count is not what the flags say."""
        wrong = (self._free != self._count()).nonzero()[0]
        assert wrong.size == 0, (
            f"block {wrong[0]} has {self._free[wrong[0]]} free frames on its list"
        )

    def _count(self) -> npt.NDArray[np.intp]:
        free = (self._flags == 0).nonzero()[0]
        return np.bincount(free // BLOCK, minlength=-(-self._flags.size // BLOCK))


def _frames_of(block: npt.NDArray[np.intp]) -> Frames:
    return (block[:, None] * BLOCK + np.arange(BLOCK)).ravel()
