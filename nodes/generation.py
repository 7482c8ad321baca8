"""What a generation counts (design 4): how often a frame was freed, and its rights taken away.

The upper 24 bits are the incarnation of the frame, one for each time that it is allocated; in it,
the lower 8 bits count how often rights were taken away or a migration failed.  A translation is
good for a whole generation only.  Who holds a frame keeps it from being freed by migration and
needs to name no more than its incarnation to let go of it.  Counting past 255 carries into the
incarnation, which does no harm: whoever holds the frame has to look up its generation.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

U32 = npt.NDArray[np.uint32]

REVOCATIONS = 0xFF


def next_incarnation(generation: U32) -> U32:
    """The first generation of the next incarnation; after the last one it starts again."""
    return (generation | np.uint32(REVOCATIONS)) + np.uint32(1)


def same_incarnation(one: U32, other: U32) -> npt.NDArray[np.bool_]:
    same: npt.NDArray[np.bool_] = (one ^ other) <= REVOCATIONS
    return same
