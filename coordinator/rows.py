"""Rows of arrays: the same rows in a form that is quicker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.intp]
_Rows = TypeVar("_Rows", bound=npt.NDArray[Any])

#: So many numbers are quicker one by one than as an array.
FEW = 64
#: Of a long array so many are looked at together: what that needs meanwhile is little, and stays in
#: the processor's cache.
PORTION = 1 << 15


def span(rows: _Rows) -> _Rows | slice:
    """The same rows as a slice, where they follow one another: quicker, and what is read by it is
    a view.  For reading at once, and for writing.
    """
    if rows.size < FEW or int(rows[-1]) - int(rows[0]) != rows.size - 1:
        return rows
    if np.count_nonzero(rows[1:] - rows[:-1] == 1) != rows.size - 1:
        return rows
    assert rows[0] >= 0, "a row before the first"
    return slice(int(rows[0]), int(rows[0]) + rows.size)


def portions(rows: int, size: int = PORTION) -> Iterator[Rows]:
    """The numbers below ``rows``, ascending, in pieces of ``size``."""
    for at in range(0, rows, size):
        yield np.arange(at, min(at + size, rows))


def kept(where: npt.NDArray[np.bool_], slot: Rows, rows: Rows) -> tuple[Rows, Rows]:
    """Both where that holds; as they are, if it holds everywhere."""
    everywhere = np.count_nonzero(where) == where.size
    return (slot, rows) if everywhere else (slot[where], rows[where])
