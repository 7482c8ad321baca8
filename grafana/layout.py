"""Where things lie in a picture, in pixels from its upper left corner: Grafana's grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from grafana.panel import COLUMNS, Json

WIDTH = 1400
#: Of one row of Grafana's grid, and what of it lies between two panels.
ROW, GAP = 38, 8
HEADER = 64


class Box(NamedTuple):
    """Left, top, width, height."""

    x: float
    y: float
    w: float
    h: float

    def inner(self, left: float = 0, top: float = 0, right: float = 0, bottom: float = 0) -> Box:
        return Box(self.x + left, self.y + top, self.w - left - right, self.h - top - bottom)


def box_of(at: Json) -> Box:
    """Where a place on the grid is."""
    column = (WIDTH - GAP) / COLUMNS
    x, y = GAP + at["x"] * column, HEADER + at["y"] * ROW
    return Box(x, y, at["w"] * column - GAP, at["h"] * ROW - GAP)


def wrapped(widths: Sequence[float], room: float) -> list[tuple[int, float]]:
    """For things in a row that is broken where it is full: the line and the place of each."""
    places, line, x = [], 0, 0.0
    for width in widths:
        if x and x + width > room:
            line, x = line + 1, 0.0
        places.append((line, x))
        x += width
    return places


def height_of(page: Json) -> int:
    """Of the whole picture of a dashboard."""
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in page["panels"])
    return int(HEADER + rows * ROW)
