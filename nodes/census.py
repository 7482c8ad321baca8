"""How many frames of a zone are in which condition, kept as they change."""

from __future__ import annotations

import numpy as np

from nodes.flags import FREEING, GAUGE_ROWS, GAUGES
from nodes.layout import U16

#: By the flags of a frame: the gauges that count it.
_COUNTED_IN = [GAUGE_ROWS[:, flags].nonzero()[0].tolist() for flags in range(FREEING)]
#: So many frames are counted quicker one by one.
FEW = 16


class Census:
    """Frames by their flags.  ``changed``: since somebody last set it to False."""

    def __init__(self, flags: U16) -> None:
        self._gauges = _count(flags)
        self.changed = True

    def move(self, before: U16, after: U16) -> None:
        """Frames had the flags ``before`` and have ``after``."""
        self.changed = True
        gauges = self._gauges
        if after.size > FEW:
            columns = zip(gauges, _count(before), _count(after), strict=True)
            self._gauges = [gauge - was + now for gauge, was, now in columns]
            return
        for was, now in zip(before.tolist(), after.tolist(), strict=True):
            for gauge in _COUNTED_IN[was]:
                gauges[gauge] -= 1
            for gauge in _COUNTED_IN[now]:
                gauges[gauge] += 1

    def count(self) -> dict[str, int]:
        """Frames that are free, active, inactive, pending, isolated, locked (in that order)."""
        return dict(zip(GAUGES, self._gauges, strict=True))

    def validate(self, flags: U16, where: str) -> None:
        """Raise AssertionError if it is not what the flags say."""
        assert self._gauges == _count(flags), f"{where}: counts"


def _count(flags: U16) -> list[int]:
    """How many of these frames each gauge counts."""
    counts: list[int] = (GAUGE_ROWS @ np.bincount(flags, minlength=FREEING)).tolist()
    return counts
