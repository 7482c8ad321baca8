"""How many frames have which flags, and the gauges that follow from that."""

from __future__ import annotations

import numpy as np

from nodes.flags import FREEING, GAUGE_ROWS, GAUGES
from nodes.layout import U16

#: So many frames are counted quicker one by one.
FEW = 16


class Histogram:
    """A number for each combination of flags."""

    def __init__(self, flags: U16) -> None:
        self._counts = np.bincount(flags, minlength=FREEING)
        #: The last answer of ``gauges``, until something changes.
        self._gauges: dict[str, int] | None = None

    def change(self, before: U16, after: U16) -> None:
        """Frames that had the flags ``before`` have ``after``."""
        self._gauges = None
        if after.size > FEW:
            self._counts += np.bincount(after, minlength=FREEING)
            self._counts -= np.bincount(before, minlength=FREEING)
            return
        for was, now in zip(before.tolist(), after.tolist(), strict=True):
            self._counts[was] -= 1
            self._counts[now] += 1

    def gauges(self) -> dict[str, int]:
        """Frames that are free, active, inactive, pending, isolated, locked (in that order)."""
        if self._gauges is None:
            counted = (GAUGE_ROWS @ self._counts).tolist()
            self._gauges = dict(zip(GAUGES, counted, strict=True))
        return self._gauges

    def agrees(self, flags: U16) -> bool:
        """It is what these flags say."""
        return bool((self._counts == np.bincount(flags, minlength=FREEING)).all())
