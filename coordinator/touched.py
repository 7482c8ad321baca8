"""Which parts of a page table may have entries: most of a huge vma is never touched.

An array of entries that were never written takes no memory of this host, and reading all of it
takes seconds.  So who looks for entries looks at the blocks that were written to, one at a time.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from coordinator.mem_map import Rows

BLOCK = 1 << 18


class Touched:
    """A mark for each block of ``size`` entries; a block without one is empty."""

    def __init__(self, size: int, *, all: bool = False) -> None:
        #: Where in its block the first entry is: what is split off begins anywhere.
        self._skew = 0
        self._marks = np.full(-(-size // BLOCK), all, np.bool_)

    def add(self, slot: Rows) -> None:
        """These entries are about to be written."""
        self._marks[(slot + self._skew) // BLOCK] = True

    def parts(self, size: int) -> Iterator[slice]:
        """The blocks of these ``size`` entries that may not be empty, ascending."""
        for block in np.flatnonzero(self._marks).tolist():
            start = block * BLOCK - self._skew
            yield slice(max(start, 0), min(start + BLOCK, size))

    def split(self, slot: int) -> Touched:
        """The marks from entry ``slot`` on; those below stay here."""
        at = slot + self._skew
        upper = Touched(0)
        upper._skew, upper._marks = at % BLOCK, self._marks[at // BLOCK :].copy()
        self._marks = self._marks[: -(-at // BLOCK)]
        return upper
