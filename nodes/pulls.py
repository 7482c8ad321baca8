"""Few pages by one question: the target gives frames and fetches the contents from the source.

The target gives frames first, so that a source is asked only for pages that have a place; what did
not come has its frame put again.  So frames are a matter of the target and who asked it alone: if
the source dies, the target knows, and if the target dies, its recovery frees what nobody knows of.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

import numpy as np

from nodes.layout import U32
from nodes.zone import Zone
from protocol.messages import NewPageFrames, PullPages, TakenPages, TakePages
from protocol.schema import Message, node_name
from protocol.session import Answer, Question, Session


def take_pages(zone: Zone, message: TakePages) -> TakenPages:
    """The source's half: off the LRU, locked, and the contents of those that are both."""
    pfn, generation = message.pfn, message.generation
    zone.migrate_prep()
    status = zone.isolate_lru_page(pfn, generation)
    status[status != 0] = -errno.ENOENT
    ours = np.flatnonzero(status == 0)
    status[ours] = zone.lock(pfn[ours], generation[ours])
    taken = np.flatnonzero(status == 0)
    active = np.zeros(pfn.size, np.uint8)
    active[taken] = zone.active(pfn[taken])
    # The answer is kept for as long as it may be asked for again, and the page changes meanwhile.
    return TakenPages(status, active, bytes(zone.gather(pfn[taken])))


@dataclass(frozen=True, slots=True, eq=False)
class Pull:
    """A PullPages question that is not answered yet, and the frames that its pages have."""

    question: Question
    pfn: U32
    generation: U32


class Pulls:
    """The target's half.  seconds: how long a source may take to answer."""

    def __init__(self, zone: Zone, session: Session, seconds: float) -> None:
        self._zone, self._session, self._seconds = zone, session, seconds
        self._pulls: dict[int, Pull] = {}

    def start(self, question: Question, message: PullPages, now: float) -> Message | None:
        """Ask the source; the answer if there are not frames for all."""
        zone = self._zone
        zone.migrate_prep()
        status, pfn, generation = zone.new_pages(0, message.owner, message.index)
        if np.count_nonzero(status):
            given = status == 0
            zone.put_pages(pfn[given], generation[given])
            status[:] = -errno.ENOMEM
            return NewPageFrames(status, pfn, generation)
        asked = TakePages(message.pfn, message.generation)
        source = node_name(message.source)
        ticket = self._session.ask(source, asked, now=now, within=self._seconds)
        self._pulls[ticket] = Pull(question, pfn, generation)
        return None

    def answered(self, answer: Answer) -> int | None:
        """If this is of a pull: how many pages have landed, and who asked has its answer."""
        pull = self._pulls.pop(answer.ticket, None)
        if pull is None:
            return None
        status = self._land(pull, answer.message)
        left = status != 0
        self._zone.put_pages(pull.pfn[left], pull.generation[left])
        self._session.answer(pull.question, NewPageFrames(status, pull.pfn, pull.generation))
        return int(status.size - np.count_nonzero(left))

    def _land(self, pull: Pull, taken: Message | None) -> np.typing.NDArray[np.int32]:
        """A status for each page; -ENODEV: nobody knows what the source has done."""
        if not isinstance(taken, TakenPages) or not self._fits(pull, taken):
            return np.full(pull.pfn.size, -errno.ENODEV, np.int32)
        status = taken.status.copy()
        came = np.flatnonzero(status == 0)
        where = pull.pfn[came], pull.generation[came]
        status[came] = self._zone.land(*where, taken.active[came], taken.data)
        return status

    def _fits(self, pull: Pull, taken: TakenPages) -> bool:
        pages = int(np.count_nonzero(taken.status == 0))
        whole = memoryview(taken.data).nbytes == pages * self._zone.page_size
        possible = taken.status.size == pull.pfn.size and taken.status.max(initial=0) == 0
        return whole and possible

    def drop(self) -> None:
        """There is a new coordinator: who asked is gone.  The frames are not its, so it frees them
        (nodes/recovery.py)."""
        for ticket in self._pulls:
            self._session.cancel(ticket)
        self._pulls.clear()

    def validate(self) -> None:
        for pull in self._pulls.values():
            alive = self._zone.mapped(pull.pfn, pull.generation) == -errno.EAGAIN
            assert alive.all(), f"node {self._zone.nid}: a frame was put while contents are fetched"
