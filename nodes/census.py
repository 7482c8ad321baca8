"""How many frames of a zone are in which condition, kept as they change."""

from __future__ import annotations

import numpy as np

from nodes.flags import FREEING, GAUGE_ROWS, GAUGES
from nodes.layout import U16

#: So many frames are counted quicker one by one.
FEW = 16


class Census:
    """Frames by their flags.  ``changed``: since somebody last set it to False."""

    def __init__(self, flags: U16) -> None:
        self._histogram = np.bincount(flags, minlength=FREEING)
        self.changed = True

    def move(self, before: U16, after: U16) -> None:
        """Frames had the flags ``before`` and have ``after``."""
        self.changed = True
        if after.size > FEW:
            self._histogram += np.bincount(after, minlength=FREEING)
            self._histogram -= np.bincount(before, minlength=FREEING)
            return
        for was, now in zip(before.tolist(), after.tolist(), strict=True):
            self._histogram[was] -= 1
            self._histogram[now] += 1

    def count(self) -> dict[str, int]:
        """Frames that are free, active, inactive, pending, isolated, locked (in that order)."""
        # Of all the flags that there could be, few are.
        there = self._histogram.nonzero()[0]
        counts = GAUGE_ROWS[:, there] @ self._histogram[there]
        return dict(zip(GAUGES, counts.tolist(), strict=True))

    def validate(self, flags: U16, where: str) -> None:
        """Raise AssertionError if it is not what the flags say."""
        wrong = np.count_nonzero(self._histogram != np.bincount(flags, minlength=FREEING))
        assert not wrong, f"{where}: counts"
