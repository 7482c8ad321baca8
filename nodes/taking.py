"""Few pages by one question: isolated, locked and sent to new frames of another node.

``Takes`` is the source's half: it answers when the target has answered, or has been silent for too
long.  ``Givings`` is the target's half.  It gives frames that the coordinator knows of by the
source's answer alone, so it remembers to which transfer: when nobody can say whether they were
given, the coordinator has them put by that number, and nothing is given to it from then on.
"""

from __future__ import annotations

import errno
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nodes.layout import U32
from nodes.zone import Zone
from protocol.messages import LandNewPages, NewPageFrames, TakePages
from protocol.schema import Message, node_name
from protocol.session import Answer, Question, Session

Rows = npt.NDArray[np.intp]
Statuses = npt.NDArray[np.int32]

#: From so many transfers on that were given frames, those whose pages have moved are looked for.
UNDECIDED = 64
#: So many transfers that get nothing any more are remembered.  One is closed when a source or a
#: target has failed, and its contents are late by seconds at most.
CLOSED_MAX = 1 << 16


@dataclass(frozen=True, slots=True, eq=False)
class Take:
    """A TakePages question that is not answered yet; ``rows`` of it are on their way."""

    question: Question
    transfer: int
    status: Statuses
    rows: Rows


class Takes:
    """The source's half.  seconds: how long a target may take to answer."""

    def __init__(self, zone: Zone, session: Session, seconds: float) -> None:
        self._zone, self._session, self._seconds = zone, session, seconds
        self._takes: dict[int, Take] = {}

    def start(self, question: Question, message: TakePages, now: float) -> Message | None:
        """Take what can be taken, and send it; the answer if that is nothing."""
        zone, pfn, generation = self._zone, message.pfn, message.generation
        if message.target == zone.nid:
            return _answer(np.full(pfn.size, -errno.EINVAL, np.int32))
        zone.migrate_prep()
        status = zone.isolate_lru_page(pfn, generation)
        status[status != 0] = -errno.ENOENT
        ours = (status == 0).nonzero()[0]
        status[ours] = zone.lock(pfn[ours], generation[ours])
        rows = (status == 0).nonzero()[0]
        if not rows.size:
            return _answer(status)
        owner, index = message.owner[rows], message.index[rows]
        contents = zone.active(pfn[rows]), zone.gather(pfn[rows])
        asked = LandNewPages(message.transfer, owner, index, *contents)
        target = node_name(message.target)
        ticket = self._session.ask(target, asked, now=now, within=self._seconds)
        self._takes[ticket] = Take(question, message.transfer, status, rows)
        return None

    def answered(self, answer: Answer) -> int | None:
        """If this is of a take: how many pages have landed.  -ENODEV: nobody knows which."""
        take = self._takes.pop(answer.ticket, None)
        if take is None:
            return None
        given, told = answer.message, _answer(take.status)
        if isinstance(given, NewPageFrames) and given.status.size == take.rows.size:
            told.status[take.rows] = given.status
            told.pfn[take.rows], told.generation[take.rows] = given.pfn, given.generation
        else:
            told.status[take.rows] = -errno.ENODEV
        self._session.answer(take.question, told)
        return int(np.count_nonzero(told.status == 0))

    def stop(self, transfer: int | None = None) -> None:
        """Who asked knows better by now, or is gone; None: all of them."""
        for ticket, take in list(self._takes.items()):
            if transfer in (None, take.transfer):
                self._session.cancel(ticket)
                del self._takes[ticket]
                take.status[take.rows] = -errno.ENODEV
                self._session.answer(take.question, _answer(take.status))


class Givings:
    """The target's half: frames for pages that come with their contents."""

    def __init__(self, zone: Zone) -> None:
        self._zone = zone
        self._given: dict[int, tuple[U32, U32]] = {}
        self._closed: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        """Transfers that are remembered for what they were given."""
        return len(self._given)

    def land(self, message: LandNewPages) -> NewPageFrames:
        """Frames for all of them, or for none."""
        zone, rows = self._zone, message.owner.size
        whole = memoryview(message.data).nbytes == rows * zone.page_size
        if message.transfer in self._closed or not whole:
            return _answer(np.full(rows, -errno.EAGAIN, np.int32))
        zone.migrate_prep()
        status, pfn, generation = zone.new_pages(0, message.owner, message.index)
        if np.count_nonzero(status):
            given = status == 0
            zone.put_pages(pfn[given], generation[given])
            return _answer(np.full(rows, -errno.ENOMEM, np.int32))
        status = zone.land(pfn, generation, message.active, message.data)
        if len(self._given) >= UNDECIDED:
            self._forget_decided()
        self._given[message.transfer] = pfn, generation
        return NewPageFrames(status, pfn, generation)

    def put(self, transfer: int) -> None:
        """Free what was given to this transfer, and give nothing to it any more."""
        pfn, generation = self._given.pop(transfer, (np.zeros(0, np.uint32),) * 2)
        self._zone.put_pages(pfn, generation)
        self._closed[transfer] = None
        if len(self._closed) > CLOSED_MAX:
            self._closed.popitem(last=False)

    def restart(self) -> None:
        """There is a new coordinator: it counts anew, and says which frames are in use."""
        self._given.clear()
        self._closed.clear()

    def _forget_decided(self) -> None:
        """Frames that are mapped, or another's by now, are those of pages that have moved."""
        for transfer, (pfn, generation) in list(self._given.items()):
            if not (self._zone.mapped(pfn, generation) == -errno.EAGAIN).any():
                del self._given[transfer]


def _answer(status: Statuses) -> NewPageFrames:
    """An answer without frames so far."""
    pfn, generation = np.zeros((2, status.size), np.uint32)
    return NewPageFrames(status, pfn, generation)
