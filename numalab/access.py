"""One access of a task to its memory: rows that are translated by the coordinator and then served
by nodes, until every row is served.

A row lies in one page.  It goes from WANTING (a translation) by way of FAULTING (asked for one),
READY and WORKING (its node was asked) to DONE.  A node that refuses it (-ESTALE, -EAGAIN) sends it
back to WANTING, from the third refusal in a row on by way of LATER.  Pure: whoever owns an Access
carries its questions to the peers and brings the answers back.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from numalab.orders import (
    AccessOrder,
    Fill,
    Hold,
    IndefiniteError,
    Isolate,
    Load,
    LoadMany,
    Pages,
    Store,
    StoreMany,
)
from numalab.work import (
    Bytes,
    FaultAccess,
    Holding,
    Isolating,
    Loading,
    Rows,
    Span,
    Status,
    Storing,
    Work,
)
from protocol.codec import WireError, check_message
from protocol.messages import Done
from protocol.schema import Message
from protocol.syscalls import Fault, Translations

FAULT_PAGES = 4096
FAULTS_AT_ONCE = 2
BATCH_PAGES = 256
BATCHES_AT_ONCE = 8
ROWS_MAX = 4096
#: A fault on a page under migration parks at the coordinator, so a refusal is rarely followed by
#: another one; three in a row mean that a node holds the page back for a while.
REFUSALS_AT_ONCE = 3
DELAY_FIRST = 0.001
DELAY_MAX = 0.05
#: What is repeatable is asked again, but a node that never answers has to end it.
LOSSES_MAX = 4
ADDRESS_END = 1 << 63

#: How far a row is.  Plain numbers: they are compared with arrays, many times for each access.
WANTING, FAULTING, READY, WORKING, LATER, DONE = range(6)


@dataclass(frozen=True, slots=True, eq=False)
class Translating:
    """A Fault question; ``inverse`` is the place of each row in it (a page is asked once)."""

    rows: Rows
    inverse: Rows
    message: Fault


@dataclass(frozen=True, slots=True, eq=False)
class Working:
    """A question to node ``nid`` about rows of one span.

    ``losses``: how often nodes had failed to answer when it was asked.
    """

    nid: int
    span: Span
    rows: Rows
    message: Message
    losses: int


class Translation(NamedTuple):
    """Where a page is; served by its node for as long as the generation is that."""

    nid: int
    pfn: int
    generation: int
    writable: bool


class Access:
    """The rows of one order.  ``error`` is set once the order can only fail."""

    def __init__(self, pid: int, cpu: int, page: Pages, start: Pages, work: Work) -> None:
        rows = page.size
        self.pid = pid
        self.page = page
        self.spans: list[Span] = []
        self.retry_at: float | None = None
        self.error: OSError | None = None
        self.fault = work.fault
        #: When it was ordered, and the emulated seconds of what nodes have served.
        self.started = 0.0
        self.emulated = 0.0
        self.cpu = cpu
        self._work = work
        self._start = start.astype(np.uint32)
        self._step = np.full(rows, WANTING, np.uint8)
        self._nid = np.zeros(rows, np.int32)
        self._pfn = np.zeros(rows, np.uint32)
        self._generation = np.zeros(rows, np.uint32)
        self._refusals = np.zeros(rows, np.uint16)
        self._faulting = 0
        self._working = 0
        self._losses = 0
        self._left = rows

    @property
    def ended(self) -> bool:
        """Nothing may follow any more: all rows are served, or it failed and no node is at work."""
        if self.error is not None:
            return self._working == 0
        return self._left == 0

    def result(self) -> bytes | OSError | None:
        """The result of the order, once it has ended."""
        return self.error if self.error is not None else self._work.result()

    def preset(self, row: int, known: Translation) -> None:
        """The translation of this row is known already."""
        self._nid[row], self._pfn[row], self._generation[row], _ = known
        self._step[row] = READY

    def next_fault(self) -> Translating | None:
        """The next question to the coordinator, if there is one to ask now."""
        if self.error is not None or self._faulting == FAULTS_AT_ONCE:
            return None
        rows = (self._step == WANTING).nonzero()[0][:FAULT_PAGES]
        if not rows.size:
            return None
        pages, inverse = self.page[rows], np.arange(rows.size)
        if np.count_nonzero(pages[1:] <= pages[:-1]):
            pages, inverse = np.unique(pages, return_inverse=True)
        self._step[rows] = FAULTING
        self._faulting += 1
        return Translating(rows, inverse, Fault(self.pid, self.cpu, int(self.fault), pages))

    def translated(self, asked: Translating, answer: Message | None, *, now: float) -> None:
        """The coordinator answered; None: it restarted, so the rows have to be asked again."""
        self._faulting -= 1
        rows = asked.rows
        if answer is None:
            self._step[rows] = WANTING
            return
        if isinstance(answer, Done) and answer.value < 0:
            self._settle(rows, np.full(rows.size, answer.value, np.int32), now)
            return
        if not isinstance(answer, Translations) or answer.status.size != asked.message.page.size:
            self._fail(OSError(errno.EPROTO, "the coordinator's answer does not fit its question"))
            return
        status = answer.status[asked.inverse]
        nid = answer.nid[asked.inverse]
        self._nid[rows] = nid
        self._pfn[rows] = answer.pfn[asked.inverse]
        self._generation[rows] = answer.generation[asked.inverse]
        self._step[rows] = READY
        zero = (status == 0) & (nid < 0)
        if self._work.zero_page:
            self._serve(rows[zero])
        else:
            status = np.where(zero, -errno.EAGAIN, status)
        self._settle(rows, status, now)

    def next_work(self) -> Working | None:
        """The next question to a node, if there is one to ask now."""
        if self.error is not None or self._working == BATCHES_AT_ONCE:
            return None
        for span in self.spans:
            ready = (self._step[span.first : span.last] == READY).nonzero()[0]
            if not ready.size:
                continue
            rows = ready + span.first
            nid = int(self._nid[rows[0]])
            rows = rows[self._nid[rows] == nid][: span.limit]
            self._step[rows] = WORKING
            self._working += 1
            question = self._work.question(
                span, rows, self._pfn[rows], self._generation[rows], self._start[rows]
            )
            return Working(nid, span, rows, question, self._losses)
        return None

    def worked(self, asked: Working, answer: Message | None, *, now: float) -> Rows:
        """A node answered (None: it did not, or it restarted); gives the rows it did not serve."""
        self._working -= 1
        status: Status | None = None
        if isinstance(answer, Done) and answer.value < 0:
            status = np.full(asked.rows.size, answer.value, np.int32)
        elif answer is not None:
            status = self._work.take(asked.span, asked.rows, answer)
        if status is None:
            self._lose(asked)
            return asked.rows
        if not np.count_nonzero(status):
            self._serve(asked.rows)
            return asked.rows[:0]
        self._serve(asked.rows[status == 0])
        self._settle(asked.rows, status, now)
        refused: Rows = asked.rows[status != 0]
        return refused

    def wake(self, *, now: float) -> None:
        """The time ``retry_at`` has come: what was refused too often may fault again."""
        if self.retry_at is not None and self.retry_at <= now:
            self.retry_at = None
            self._step[self._step == LATER] = WANTING

    def validate(self) -> None:
        """What is at work is counted, and an access that has not ended waits for something."""
        left = int((self._step != DONE).sum())
        assert left == self._left, f"{left} rows are left, {self._left} are counted"
        if self.ended:
            return
        waits = self._faulting + self._working + (self.retry_at is not None)
        assert waits > 0, f"the access of task {self.pid} waits for nothing"
        later = bool((self._step == LATER).any())
        assert not later or self.retry_at is not None, "refused rows that nobody wakes"

    def _serve(self, rows: Rows) -> None:
        self._step[rows] = DONE
        self._left -= rows.size

    def _settle(self, rows: Rows, status: Status, now: float) -> None:
        """Send refused rows back; any other status but 0 is the errno of the whole order."""
        if not np.count_nonzero(status):
            return
        refused = (status == -errno.ESTALE) | (status == -errno.EAGAIN)
        wrong = (status != 0) & ~refused
        if np.count_nonzero(wrong):
            first = int(np.argmax(wrong))
            number = abs(int(status[first]))
            where = f"page {int(self.page[rows[first]]):#x} of task {self.pid}"
            self._fail(OSError(number, f"{os.strerror(number)}: {where}"))
        again = rows[refused]
        if not again.size:
            return
        self._refusals[again] += 1
        self._step[again] = WANTING
        later = again[self._refusals[again] >= REFUSALS_AT_ONCE]
        if later.size:
            self._step[later] = LATER
            exponent = min(int(self._refusals[later].max()) - REFUSALS_AT_ONCE, 6)
            if self.retry_at is None:
                self.retry_at = now + min(DELAY_MAX, DELAY_FIRST * 2**exponent)

    def _lose(self, asked: Working) -> None:
        """Nobody knows what the node did: a load is asked again, a store is indefinite."""
        # All that were outstanding when a node went are lost at once, and count as one loss.
        self._losses = max(self._losses, asked.losses + 1)
        what = f"node {asked.nid} did not answer for {asked.rows.size} pages of task {self.pid}"
        if not self._work.repeatable:
            self._fail(IndefiniteError(errno.EIO, what))
        elif self._losses > LOSSES_MAX:
            self._fail(OSError(errno.EIO, what))
        else:
            self._step[asked.rows] = WANTING

    def _fail(self, error: OSError) -> None:
        """The first error is the order's, but that something may have happened outweighs it."""
        if self.error is None or isinstance(error, IndefiniteError):
            self.error = error


def access_of(order: AccessOrder, page_size: int) -> Access:
    """The access that carries out ``order``.  Raises OSError (EFAULT, EINVAL) for a wrong order."""
    try:
        check_message(Fault(order.pid, order.cpu, int(FaultAccess.READ), np.zeros(0, np.uint64)))
    except WireError as error:
        raise OSError(errno.EINVAL, f"the coordinator does not take this: {error}") from None
    match order:
        case Load(pid=pid, cpu=cpu, address=address, length=length):
            contents = np.zeros(_checked(address, length), np.uint8)
            return _range_access(pid, cpu, address, contents, Loading(contents), page_size)
        case Store(pid=pid, cpu=cpu, address=address, data=data):
            contents = np.frombuffer(data, np.uint8)
            _checked(address, contents.size)
            return _range_access(pid, cpu, address, contents, Storing(), page_size)
        case LoadMany(pid=pid, cpu=cpu, addresses=addresses, size=size):
            contents = np.zeros(addresses.size * max(size, 0), np.uint8)
            work: Work = Loading(contents)
            return _row_access(pid, cpu, addresses, size, contents, work, page_size)
        case StoreMany(pid=pid, cpu=cpu, addresses=addresses, size=size, data=data):
            contents = np.frombuffer(data, np.uint8)
            return _row_access(pid, cpu, addresses, size, contents, Storing(), page_size)
        case Fill(pid=pid, cpu=cpu, pages=pages, file=file, data=data):
            contents = np.frombuffer(data, np.uint8)
            kind = FaultAccess.POPULATE_FILE if file else FaultAccess.POPULATE_ANONYMOUS
            addresses = pages * np.uint64(page_size)
            return _row_access(pid, cpu, addresses, page_size, contents, Storing(kind), page_size)
        case Hold(pid=pid, cpu=cpu, addresses=addresses, locked=locked, pinned=pinned):
            work = Holding(locked, pinned)
            contents = np.zeros(addresses.size, np.uint8)
            return _row_access(pid, cpu, addresses, 1, contents, work, page_size)
        case Isolate(pid=pid, cpu=cpu, addresses=addresses, isolated=isolated):
            contents = np.zeros(addresses.size, np.uint8)
            return _row_access(pid, cpu, addresses, 1, contents, Isolating(isolated), page_size)


def _checked(address: int, length: int) -> int:
    if length < 0:
        raise OSError(errno.EINVAL, f"a length of {length} bytes is negative")
    if not 0 <= address <= ADDRESS_END - length:
        raise OSError(errno.EFAULT, f"{length} bytes at {address:#x} lie outside any address space")
    return length


def _range_access(
    pid: int, cpu: int, address: int, contents: Bytes, work: Work, page_size: int
) -> Access:
    """One row a page: a first part, whole pages, a last part; each kind is a span of its own."""
    first, offset = divmod(address, page_size)
    rows = -(-(offset + contents.size) // page_size) if contents.size else 0
    page = np.arange(first, first + rows, dtype=np.uint64)
    start = np.zeros(rows, np.uint64)
    start[:1] = offset
    access = Access(pid, cpu, page, start, work)
    row = done = 0
    while done < contents.size:
        size = min(page_size - (offset if row == 0 else 0), contents.size - done)
        count = (contents.size - done) // page_size if size == page_size else 1
        view = contents[done : done + count * size].reshape(count, size)
        access.spans.append(Span(row, row + count, size, _limit(size, page_size), view))
        row, done = row + count, done + count * size
    return access


def _row_access(
    pid: int, cpu: int, addresses: Pages, size: int, contents: Bytes, work: Work, page_size: int
) -> Access:
    rows = addresses.size
    page, start = np.divmod(addresses.astype(np.uint64), np.uint64(page_size))
    if size < 1 or (start + np.uint64(size) > page_size).any():
        raise OSError(errno.EINVAL, f"a row of {size} bytes does not lie in one page")
    if contents.size != rows * size:
        raise OSError(errno.EINVAL, f"{contents.size} bytes of data for {rows} rows of {size}")
    access = Access(pid, cpu, page, start, work)
    if rows:
        view = contents.reshape(rows, size)
        access.spans.append(Span(0, rows, size, _limit(size, page_size), view))
    return access


def _limit(size: int, page_size: int) -> int:
    return max(1, min(ROWS_MAX, BATCH_PAGES * page_size // size))
