"""Page contents between two nodes: the source's half and the target's half, both pure (design 3).

The source pushes: it asks the target ``LandPages`` questions of ``BATCH_PAGES`` pages, ``CREDIT``
of them at a time; the session sees to loss, the codec sums every frame.  The target lands a page
only in a frame of the named generation that no page maps yet, so a batch that comes twice, or after
its transfer was cancelled and the frame put, does no harm.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import numpy as np
import numpy.typing as npt

from protocol.core import Buffer
from protocol.messages import LandPages, Statuses
from protocol.values import at_hand

U8 = npt.NDArray[np.uint8]
U32 = npt.NDArray[np.uint32]
I32 = npt.NDArray[np.int32]
Rows = npt.NDArray[np.intp]

#: 8 MiB of pages of 4 KiB in one frame: what a message costs is small beside its contents then.
BATCH_PAGES = 2048
BATCH_BYTES = 8 << 20
#: Batches in flight: the target always has one to land, the next is on its way.
CREDIT = 4


@dataclass(frozen=True, slots=True)
class Batching:
    """pages: of a batch at most.  credit: batches in flight.  They decide how fast it goes, no
    more; ``numalab bench --sweep`` sets them, and a machine has what was found best.
    """

    pages: int = BATCH_PAGES
    credit: int = CREDIT

    def pages_of(self, page_size: int) -> int:
        """The same for pages of this size (bytes)."""
        return max(1, min(self.pages, BATCH_BYTES // page_size))


#: As shipped.
BATCHING = Batching()


@at_hand
class _Row(IntEnum):
    """How far a page of a transfer is."""

    PARKED = 0
    READY = 1
    FLYING = 2
    ENDED = 3


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Pages that travel together: their rows in the transfer, and the columns of those rows."""

    rows: Rows
    pfn: U32
    target_pfn: U32
    target_generation: U32


class Sending:
    """The source's half of one transfer: which pages have to go, are under way, are answered.

    Every row is parked at first: ``release`` lets it go, ``refuse`` ends it.  ``status`` is the
    answer for each row and means something where the row has ended, for all when ``done``.
    """

    def __init__(
        self, pfn: U32, target_pfn: U32, target_generation: U32, *, batch_pages: int = BATCH_PAGES
    ) -> None:
        assert batch_pages > 0
        self._pfn = pfn
        self._target_pfn = target_pfn
        self._target_generation = target_generation
        self._batch_pages = batch_pages
        self._row = np.full(pfn.size, _Row.PARKED, np.uint8)
        self._unended = pfn.size
        self._flying: list[Batch] = []
        self.status: I32 = np.zeros(pfn.size, np.int32)

    @property
    def done(self) -> bool:
        """Every row has its answer."""
        return self._unended == 0

    @property
    def parked(self) -> Rows:
        """The rows that were neither released nor refused."""
        return np.flatnonzero(self._row == _Row.PARKED)

    def release(self, rows: Rows) -> None:
        """These parked rows may go."""
        assert (self._row[rows] == _Row.PARKED).all(), "a page that is not parked was released"
        self._row[rows] = _Row.READY

    def refuse(self, rows: Rows, status: I32) -> None:
        """These parked rows will not go."""
        assert (self._row[rows] == _Row.PARKED).all(), "a page that is not parked was refused"
        self._end(rows, status)

    def next_batches(self, room: int = CREDIT) -> list[Batch]:
        """What is to be sent now: up to ``room`` batches, which are in flight from here on."""
        if room <= 0 or self.done:
            return []
        ready = np.flatnonzero(self._row == _Row.READY)[: room * self._batch_pages]
        batches = []
        for start in range(0, ready.size, self._batch_pages):
            rows = ready[start : start + self._batch_pages]
            self._row[rows] = _Row.FLYING
            columns = (self._pfn, self._target_pfn, self._target_generation)
            batches.append(Batch(rows, *(column[rows] for column in columns)))
        self._flying.extend(batches)
        return batches

    def landed(self, batch: Batch, statuses: I32) -> None:
        """The target answered, a status for each row.  After ``cancel`` it is ignored.

        An answer that cannot be one (rows missing, a status that is no errno) is -EAGAIN.
        """
        if batch not in self._flying:
            return
        if statuses.size != batch.rows.size or statuses.max(initial=0) > 0:
            self.failed(batch, -errno.EAGAIN)
            return
        self._flying.remove(batch)
        self._end(batch.rows, statuses)

    def failed(self, batch: Batch, status: int) -> None:
        """The target did not answer: ``status`` in every row.  After ``cancel`` it is ignored."""
        if batch in self._flying:
            self._flying.remove(batch)
            self._end(batch.rows, np.full(batch.rows.size, status, np.int32))

    def cancel(self) -> None:
        """-EAGAIN for every page that did not end in a refusal: nothing of it may be relied on."""
        self._flying.clear()
        taken_back = (self._row != _Row.ENDED) | (self.status == 0)
        self.status[taken_back] = -errno.EAGAIN
        self._row[:] = _Row.ENDED
        self._unended = 0

    def validate(self) -> None:
        """Raise AssertionError if the rows and the batches in flight do not fit."""
        flying = sum(batch.rows.size for batch in self._flying)
        assert flying == np.count_nonzero(self._row == _Row.FLYING), "pages in flight"
        assert self._unended == np.count_nonzero(self._row != _Row.ENDED), "pages without answer"

    def _end(self, rows: Rows, status: I32) -> None:
        self.status[rows] = status
        self._row[rows] = _Row.ENDED
        self._unended -= rows.size


class Landing(Protocol):
    """What the target's half needs of a zone."""

    def land(self, pfn: U32, generation: U32, active: U8, data: Buffer) -> I32: ...


def land_pages(zone: Landing, message: LandPages) -> Statuses:
    """The target's half: contents into their frames, and a status for each."""
    return Statuses(zone.land(message.pfn, message.generation, message.active, message.data))
