"""TABLE: what can be the answer for one page, as in move_pages(2): a node id >= 0 or -errno.

A status is part of the protocol and expected.
"""

from __future__ import annotations

import errno
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from protocol.values import at_hand


@at_hand
class StatusClass(IntEnum):
    """The columns of the table of a page's life (coordinator/life.py)."""

    OK = 0
    AGAIN = 1
    NOMEM = 2
    PERMANENT = 3
    NODEV = 4


class StatusRow(NamedTuple):
    number: int
    name: str
    column: StatusClass
    meaning: str


def _row(name: str, column: StatusClass, meaning: str) -> StatusRow:
    return StatusRow(-getattr(errno, name), name, column, meaning)


OK = 0

STATUSES: tuple[StatusRow, ...] = (
    StatusRow(OK, "OK", StatusClass.OK, "done (or: the node that holds the page)"),
    _row("EAGAIN", StatusClass.AGAIN, "not now: locked, pinned, or the peer did not answer"),
    _row("EBUSY", StatusClass.AGAIN, "not on the LRU, or already isolated (K 1.16)"),
    _row("ESTALE", StatusClass.AGAIN, "the frame has another generation by now"),
    _row("ENOMEM", StatusClass.NOMEM, "no free frame"),
    _row("EIO", StatusClass.PERMANENT, "the mapping's migratepage refuses (K 1.54)"),
    _row("EPERM", StatusClass.PERMANENT, "not allowed (K 1.31)"),
    _row("EINVAL", StatusClass.PERMANENT, "an argument is wrong"),
    _row("EACCES", StatusClass.PERMANENT, "mapped more than once and no MOVE_ALL; protection"),
    _row("EFAULT", StatusClass.PERMANENT, "no mapping at that address"),
    _row("ENOENT", StatusClass.PERMANENT, "no page present"),
    _row("ENOSYS", StatusClass.PERMANENT, "built without it"),
    _row("ESRCH", StatusClass.PERMANENT, "no such process"),
    _row("ENODEV", StatusClass.NODEV, "the node went away with the question unanswered"),
)

BY_NUMBER = {row.number: row for row in STATUSES}


def status_class(status: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
    """Column of the life table for each status; a status that is not in the table is PERMANENT."""
    if status.size and status.min() >= 0:
        return np.zeros(status.shape, dtype=np.uint8)
    column = np.full(status.shape, StatusClass.PERMANENT, dtype=np.uint8)
    column[status >= 0] = StatusClass.OK
    for row in STATUSES[1:]:
        if row.column != StatusClass.PERMANENT:
            column[status == row.number] = row.column
    return column


def describe(status: int) -> str:
    """``-EAGAIN`` for -11, ``node 2`` for 2."""
    if status >= 0:
        return f"node {status}"
    row = BY_NUMBER.get(status)
    return f"-{row.name}" if row else f"-{errno.errorcode.get(-status, str(-status))}"
