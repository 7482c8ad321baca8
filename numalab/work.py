"""What an access does with a page once its frame is known: load, store, or hold it.

A work turns rows into one question to a node and takes the answer.  Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import numpy as np
import numpy.typing as npt

from protocol.messages import HoldPages, IsolatePages, LoadBytes, LoadedBytes, Statuses, StoreBytes
from protocol.schema import Message
from protocol.values import at_hand

Rows = npt.NDArray[np.intp]
Bytes = npt.NDArray[np.uint8]
Column = npt.NDArray[np.uint32]
Status = npt.NDArray[np.int32]


@at_hand
class FaultAccess(IntEnum):
    """``Fault.access``: what the translation is for."""

    READ = 0
    WRITE = 1
    POPULATE_ANONYMOUS = 2
    POPULATE_FILE = 3


@dataclass(frozen=True, slots=True)
class Span:
    """Rows ``first`` to ``last`` (exclusive) of equal ``size`` (bytes).

    limit: rows of one question.  view: shape (rows, size), what is loaded or stored.
    """

    first: int
    last: int
    size: int
    limit: int
    view: Bytes

    def slots(self, rows: Rows) -> slice | Rows:
        """Where the rows are in ``view``: a slice, which copies nothing, if they are neighbours."""
        low, high = int(rows[0]) - self.first, int(rows[-1]) - self.first
        return slice(low, high + 1) if high - low + 1 == rows.size else rows - self.first


class Work(Protocol):
    """What is done with the rows of an access.

    repeatable: asking twice is harmless, so a question that got no answer may be asked again.
    zero_page: a row on the zero page is served as it is.
    """

    fault: FaultAccess
    repeatable: bool
    zero_page: bool

    def question(
        self, span: Span, rows: Rows, pfn: Column, generation: Column, start: Column
    ) -> Message:
        """The question to the node that has the frames of the rows."""

    def take(self, span: Span, rows: Rows, answer: Message) -> Status | None:
        """The status of each row; None if this cannot be an answer to that question."""

    def result(self) -> bytes | None:
        """What the whole access gives."""


class Loading:
    """Read into ``contents``: zeros at first, which is what the zero page holds."""

    fault = FaultAccess.READ
    repeatable = True
    zero_page = True

    def __init__(self, contents: Bytes) -> None:
        self._contents = contents

    def question(
        self, span: Span, rows: Rows, pfn: Column, generation: Column, start: Column
    ) -> Message:
        return LoadBytes(span.size, pfn, generation, start)

    def take(self, span: Span, rows: Rows, answer: Message) -> Status | None:
        if not isinstance(answer, LoadedBytes) or answer.status.size != rows.size:
            return None
        if memoryview(answer.data).nbytes != rows.size * span.size:
            return None
        loaded = np.frombuffer(answer.data, np.uint8).reshape(rows.size, span.size)
        served = answer.status == 0
        if served.all():
            span.view[span.slots(rows)] = loaded
        else:
            span.view[rows[served] - span.first] = loaded[served]
        return answer.status

    def result(self) -> bytes | None:
        return self._contents.tobytes()


class Storing:
    """Write what the spans show.  A store that got no answer may have happened."""

    repeatable = False
    zero_page = False

    def __init__(self, fault: FaultAccess = FaultAccess.WRITE) -> None:
        self.fault = fault

    def question(
        self, span: Span, rows: Rows, pfn: Column, generation: Column, start: Column
    ) -> Message:
        data = np.ascontiguousarray(span.view[span.slots(rows)])
        return StoreBytes(span.size, pfn, generation, start, data.data.cast("B"))

    def take(self, span: Span, rows: Rows, answer: Message) -> Status | None:
        return _statuses(rows, answer)

    def result(self) -> bytes | None:
        return None


class Holding:
    """Play another user of the frames; the zero page does not move, so nothing has to hold it."""

    fault = FaultAccess.READ
    repeatable = True
    zero_page = True

    def __init__(self, locked: bool, pinned: bool) -> None:
        self._locked = locked
        self._pinned = pinned

    def question(
        self, span: Span, rows: Rows, pfn: Column, generation: Column, start: Column
    ) -> Message:
        locked = np.full(rows.size, self._locked, np.uint8)
        pinned = np.full(rows.size, self._pinned, np.uint8)
        return HoldPages(pfn, generation, locked, pinned)

    def take(self, span: Span, rows: Rows, answer: Message) -> Status | None:
        return _statuses(rows, answer)

    def result(self) -> bytes | None:
        return None


class Isolating:
    """Take frames off the LRU, or put them back; the zero page is on none."""

    fault = FaultAccess.READ
    repeatable = True
    zero_page = True

    def __init__(self, isolated: bool) -> None:
        self._isolated = isolated

    def question(
        self, span: Span, rows: Rows, pfn: Column, generation: Column, start: Column
    ) -> Message:
        return IsolatePages(pfn, generation, np.full(rows.size, self._isolated, np.uint8))

    def take(self, span: Span, rows: Rows, answer: Message) -> Status | None:
        return _statuses(rows, answer)

    def result(self) -> bytes | None:
        return None


def _statuses(rows: Rows, answer: Message) -> Status | None:
    if not isinstance(answer, Statuses) or answer.status.size != rows.size:
        return None
    return answer.status
