"""Landing in place: page contents that are read straight into their frames, before it is known
whether the message is sound, and while the Core may be doing something else with these frames.

So a frame is open for that only from its allocation until somebody begins to land in it: contents
that come twice cannot be written over those that were answered for.  Whoever writes looks before
each piece whether the frames are still its own, and holds ``guard`` meanwhile.  They are not once
the Core has landed in one, has had it mapped, or has allocated it anew: it says so first, under the
same guard.  Pure: where nobody else writes, nothing is guarded.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import numpy.typing as npt

from nodes.flags import ALLOCATED, MAPPED
from protocol.codec import WireError, decode_beginning
from protocol.core import Buffer
from protocol.messages import LandPages

U16 = npt.NDArray[np.uint16]
U32 = npt.NDArray[np.uint32]
Frames = npt.NDArray[np.intp]

_OPEN, _CLOSED = 0, 1


class Landing:
    """Neighbouring frames that somebody has begun to land in; ``view``: their contents."""

    def __init__(self, view: memoryview) -> None:
        self.view = view
        self.is_over = False

    def is_mine(self) -> bool:
        """Whether it may still be written to."""
        return not self.is_over


class Landings:
    """Who lands where in one zone: ``flags``, ``generation`` and ``pages`` (bytes) are the zone's.

    Frames that were allocated before are closed: what landed in them is not known.
    """

    def __init__(self, flags: U16, generation: U32, pages: npt.NDArray[np.uint8]) -> None:
        #: Of each frame: open, closed, or the number of its landing.
        self.of: U32 = np.full(flags.size, _CLOSED, np.uint32)
        self.number = _CLOSED
        #: By number, those that may still be written to.
        self._under_way: dict[int, Landing] = {}
        self._flags, self._generation, self._pages = flags, generation, pages
        #: Held by whoever writes to a landing, for as long as that takes.
        self.guard: AbstractContextManager[object] = nullcontext()

    def open(self, frame: Frames) -> None:
        """These were allocated; contents may come to those that no page maps yet."""
        with self.guard:
            self._set(frame, _OPEN)

    def close(self, frame: Frames) -> None:
        """Contents have come to these, or they are somebody else's."""
        with self.guard:
            self._set(frame, _CLOSED)

    def _set(self, frame: Frames, value: int) -> None:
        """Whoever lands in one of these frames may write to none of his any more."""
        if self._under_way:
            of = self.of[frame]
            for number in np.unique(of[of > _CLOSED]).tolist():
                landing = self._under_way.pop(number, None)
                if landing is not None:
                    landing.is_over = True
        self.of[frame] = value

    def begin(self, pfn: U32, generation: U32, size: int) -> Landing | None:
        """Land ``size`` bytes in these frames; None where they have to be put there afterwards.

        They are neighbours in ascending order, of these generations, and open.  Called under the
        guard.
        """
        if not pfn.size or (np.diff(pfn.astype(np.intp)) != 1).any():
            return None
        at = slice(int(pfn[0]), int(pfn[-1]) + 1)
        page_size = self._pages.size // self._flags.size
        if at.stop > self._flags.size or size != pfn.size * page_size:
            return None
        there = self._flags[at] & (ALLOCATED | MAPPED) == ALLOCATED
        there &= (self.of[at] == _OPEN) & (self._generation[at] == generation)
        if not there.all():
            return None
        self.number += 1
        self.of[at] = self.number
        landing = Landing(self._pages[at.start * page_size : at.stop * page_size].data)
        self._under_way[self.number] = landing
        return landing

    def expect(self, frames: Sequence[Buffer], size: int, key: bytes) -> Landing | None:
        """The same for a message that has come but for its last frame, of ``size`` bytes."""
        try:
            message = decode_beginning(frames, size, key)
        except WireError:
            return None
        if not isinstance(message, LandPages):
            return None
        return self.begin(message.pfn, message.generation, size)
