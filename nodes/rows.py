"""Columns of frame numbers: in order, each once; and of statuses."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nodes.free_area import Frames

#: The statuses of one row that is served; nobody writes to it.
ONE_SERVED = np.zeros(1, np.int32)


def ascending(frame: Frames) -> bool:
    """Whether each is larger than the one before, so that none comes twice."""
    return frame.size < 2 or not np.count_nonzero(frame[1:] <= frame[:-1])


def repeated(frame: Frames) -> bool:
    """Whether one comes twice.  To sort numbers takes a tenth of sorting where they stand."""
    return not ascending(frame) and not ascending(np.sort(frame))


def distinct(frame: Frames) -> Frames:
    """Each frame once, in the order of first appearance."""
    if not repeated(frame):
        return frame
    _, first = np.unique(frame, return_index=True)
    return frame[np.sort(first)]


def refuse(status: npt.NDArray[np.int32], where: npt.NDArray[np.bool_], error: int) -> None:
    """-error in the rows that were not refused before."""
    if np.count_nonzero(where):
        status[where & (status == 0)] = -error
