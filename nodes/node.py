"""The Core of a node: it owns page frames, copies pages straight to a peer, and knows no mm.

One handler for each message that the table (``protocol/messages.py``) lets somebody ask a node,
found by its name.  ``CopyPages`` and ``TakePages`` alone are answered later, when the target has
answered for each page.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nodes.holds import Holds
from nodes.isolations import Isolations
from nodes.lists import count_lru, page_active
from nodes.recovery import Gate, recover_frames
from nodes.taking import Givings, Takes
from nodes.transfer import Transfers
from nodes.zone import Zone
from protocol.bulk import BATCHING, Batching, land_pages
from protocol.codec import WireError
from protocol.core import Deadline, Effect, Event, Frames, Received, Report
from protocol.hotplug import PeersAre
from protocol.messages import (
    CopyPages,
    CountZone,
    Describe,
    Done,
    DropHolds,
    FrameInventory,
    HoldPages,
    Inventory,
    IsolateLruPage,
    IsolatePages,
    LandNewPages,
    LandPages,
    LoadBytes,
    LoadedBytes,
    MigratePrep,
    NewPageFrames,
    NewPages,
    NewUncachedPages,
    NodeDescription,
    PutbackLruPages,
    PutPages,
    PutTransfer,
    RecoverFrames,
    SetGeneration,
    Statuses,
    StoreBytes,
    TakePages,
    UnlockPages,
    ZoneCount,
)
from protocol.notes import (
    AccessRefused,
    AccessServed,
    FrameDropped,
    NodeRecovered,
    Note,
    PagesLanded,
    PagesSent,
    PeersTold,
    ZoneCounted,
)
from protocol.observe import CountLru, LruCount, PageActive, SetPageActive
from protocol.schema import MESSAGES, Message, node_name, snake_case
from protocol.session import Answer, Question, Session

#: A load has no more bytes, whoever asks: the answer is made in memory.
LOAD_BYTES_MAX = 8 << 20
#: So long (seconds) contents may be on their way; then nobody knows whether they have landed.
LAND_SECONDS = 5.0


class Node:
    """Node ``nid`` over its zone.

    boot_id, key, epoch and further ``session`` options: see Session.  ``epoch`` and the one in the
    zone: the higher counts.  ValueError if the zone is another node's.
    """

    def __init__(
        self,
        nid: int,
        zone: Zone,
        *,
        boot_id: int,
        key: bytes,
        epoch: int = 0,
        land_seconds: float = LAND_SECONDS,
        batching: Batching = BATCHING,
        **session: Any,
    ) -> None:
        if zone.nid != nid:
            raise ValueError(f"this is the zone of node {zone.nid}; start node {nid} on its own")
        self.name = node_name(nid)
        self._zone = zone
        self._session = Session(
            self.name, boot_id=boot_id, key=key, epoch=max(epoch, zone.epoch), **session
        )
        self._transfers = Transfers(zone, self._session, batching, land_seconds)
        self._takes = Takes(zone, self._session, land_seconds)
        self._givings = Givings(zone)
        self._now = 0.0
        self._holds = Holds(zone)
        self._isolations = Isolations(zone)
        # Until the coordinator has recovered the zone, what others ask waits (design 7).
        self.gate = Gate()
        self._counted, self._reports = dict[str, int](), list[Effect]()

    def handle(self, event: Event, *, now: float) -> Sequence[Effect]:
        """Take one event at ``now`` (seconds); return what is to be done.  Takes no Command."""
        self._now = now
        match event:
            case Received(frames):
                self._receive(frames, now)
            case Deadline():
                for answer in self._session.tick(now=now):
                    self._answered(answer)
            case _:
                raise AssertionError(f"{self.name} takes no orders, but was given {event}")
        self._transfers.advance(now)
        self._count()
        effects = self._session.take_effects() + self._reports
        self._reports = []
        return effects

    def next_deadline(self) -> float | None:
        """When to call ``handle(Deadline())`` at the latest; None for never."""
        return self._session.next_deadline()

    def validate(self) -> None:
        """Raise AssertionError if an invariant of the node, its zone or its session is broken."""
        self._zone.validate()
        self._session.validate()
        assert self._zone.epoch == self._session.epoch, f"{self.name}: the zone's epoch"
        self._transfers.validate()

    # ---- what comes in ---------------------------------------------------------------------

    def _receive(self, frames: Frames, now: float) -> None:
        try:
            received = self._session.receive(frames, now=now)
        except WireError as error:
            self._report(FrameDropped(error.reason))
            return
        self._heed_epoch()
        for item in received:
            if isinstance(item, Answer):
                self._answered(item)
            else:
                self._execute(item)

    def _execute(self, question: Question) -> None:
        if self.gate.keeps(question):
            return
        handler = _HANDLERS.get(type(question.message))
        if handler is None:
            self._report(FrameDropped("question"))
            return
        answer = handler(self, question, question.message)
        if answer is not None:
            self._session.answer(question, answer)

    def _heed_epoch(self) -> None:
        """A new coordinator knows nothing of the transfers of the one before: end them.

        Else a page that waits for its lock would be locked behind the new one's back.
        """
        if self._session.epoch > self._zone.epoch:
            self._zone.epoch = self._session.epoch
            self._transfers.stop()
            self._takes.stop()
            self._givings.restart()
            self.gate.shut()

    def _answered(self, answer: Answer) -> None:
        """What was asked of another node is over: pages have gone there, or have not."""
        sent = self._transfers.answered(answer)
        if sent is None:
            sent = self._takes.answered(answer)
        # Neither: the same message told of a new epoch, and that has cancelled what this was of.
        self._report_pages(PagesSent, answer.peer, sent or 0)

    # ---- transfers -------------------------------------------------------------------------

    def on_copy_pages(self, question: Question, message: CopyPages) -> None:
        self._transfers.start(question, message)

    def on_unlock_pages(self, _: Question, message: UnlockPages) -> Statuses:
        self._transfers.stop(message.transfer)
        self._takes.stop(message.transfer)
        status = self._zone.unlock(message.pfn, message.generation, message.new_generation)
        if message.isolate:
            self._zone.migrate_prep()
            self._zone.isolate_lru_page(message.pfn, message.new_generation)
        return Statuses(status)

    def on_take_pages(self, question: Question, message: TakePages) -> Message | None:
        return self._takes.start(question, message, self._now)

    def on_land_new_pages(self, question: Question, message: LandNewPages) -> NewPageFrames:
        answer = self._givings.land(message)
        self._report_pages(PagesLanded, question.peer, np.count_nonzero(answer.status == 0))
        return answer

    def on_put_transfer(self, _: Question, message: PutTransfer) -> Done:
        self._givings.put(message.transfer)
        return Done(0)

    def on_land_pages(self, question: Question, message: LandPages) -> Statuses:
        answer = land_pages(self._zone, message)
        self._report_pages(PagesLanded, question.peer, np.count_nonzero(answer.status == 0))
        return answer

    # ---- frames ----------------------------------------------------------------------------

    def on_describe(self, _: Question, message: Describe) -> NodeDescription:
        zone, recovered = self._zone, int(self.gate.is_open)
        free, uuid = zone.count()["free"], zone.uuid.hex()
        return NodeDescription(zone.nid, zone.page_size, zone.frames, free, uuid, recovered)

    def on_recover_frames(self, question: Question, message: RecoverFrames) -> None:
        """Answered here: what has waited comes after it."""
        shut = not self.gate.is_open
        answer = recover_frames(self._zone, message, free=shut)
        self._session.answer(question, answer)
        if message.last and shut:
            self._report(NodeRecovered(answer.freed))
            for waiting in self.gate.open():
                self._execute(waiting)

    def on_migrate_prep(self, _: Question, message: MigratePrep) -> Done:
        self._zone.migrate_prep()
        return Done(0)

    def on_isolate_lru_page(self, _: Question, message: IsolateLruPage) -> Statuses:
        if message.drain:
            self._zone.migrate_prep()
        return Statuses(self._zone.isolate_lru_page(message.pfn, message.generation))

    def on_putback_lru_pages(self, _: Question, message: PutbackLruPages) -> Statuses:
        return Statuses(self._zone.putback_lru_pages(message.pfn, message.generation))

    def on_new_pages(self, _: Question, message: NewPages) -> NewPageFrames:
        if message.drain:
            self._zone.migrate_prep()
        return NewPageFrames(*self._zone.new_pages(message.mapped, message.owner, message.index))

    def on_new_uncached_pages(self, _: Question, message: NewUncachedPages) -> NewPageFrames:
        wanted = message.mapped, message.owner, message.index
        return NewPageFrames(*self._zone.new_pages(*wanted, uncached=True))

    def on_put_pages(self, _: Question, message: PutPages) -> Statuses:
        return Statuses(self._zone.put_pages(message.pfn, message.generation))

    def on_set_generation(self, _: Question, message: SetGeneration) -> Statuses:
        status = self._zone.set_generation(message.pfn, message.generation, message.new_generation)
        return Statuses(status)

    def on_inventory(self, _: Question, message: Inventory) -> FrameInventory:
        return FrameInventory(*self._zone.inventory())

    def on_count_zone(self, _: Question, message: CountZone) -> ZoneCount:
        return ZoneCount(frames=self._zone.frames, **self._zone.count())

    def on_page_active(self, _: Question, message: PageActive) -> Statuses:
        return Statuses(page_active(self._zone, message.pfn))

    def on_set_page_active(self, _: Question, message: SetPageActive) -> Statuses:
        return Statuses(self._zone.set_active(message.pfn, message.generation, message.active))

    def on_count_lru(self, _: Question, message: CountLru) -> LruCount:
        return count_lru(self._zone, message.file)

    # ---- tasks -----------------------------------------------------------------------------

    def on_load_bytes(self, _: Question, message: LoadBytes) -> LoadedBytes:
        if message.size * message.pfn.size > LOAD_BYTES_MAX:
            return LoadedBytes(np.full(message.pfn.size, -errno.EINVAL, np.int32), b"")
        status, data = self._zone.load(message.size, message.pfn, message.generation, message.start)
        self._report_access("load", status)
        return LoadedBytes(status, data)

    def on_store_bytes(self, _: Question, message: StoreBytes) -> Statuses:
        where = message.pfn, message.generation, message.start
        status = self._zone.store(message.size, *where, message.data)
        self._report_access("store", status)
        return Statuses(status)

    def on_hold_pages(self, question: Question, message: HoldPages) -> Statuses:
        return Statuses(self._holds.hold(question.peer, message))

    def on_isolate_pages(self, question: Question, message: IsolatePages) -> Statuses:
        return Statuses(self._isolations.isolate(question.peer, message))

    def on_drop_holds(self, _: Question, message: DropHolds) -> Done:
        self._isolations.drop(message.client)
        self._holds.drop(message.client)
        return Done(0)

    def on_peers_are(self, _: Question, message: PeersAre) -> Done:
        self._report(PeersTold(message.names, message.addresses))
        return Done(0)

    # ---- notes -----------------------------------------------------------------------------

    def _report(self, note: Note) -> None:
        self._reports.append(Report(note))

    def _report_pages(
        self, note: type[PagesSent | PagesLanded], peer: str, pages: np.intp | int
    ) -> None:
        if pages:
            self._report(note(peer, int(pages), int(pages) * self._zone.page_size))

    def _report_access(self, kind: str, status: np.typing.NDArray[np.int32]) -> None:
        refused = int(np.count_nonzero(status))
        if status.size > refused:
            self._report(AccessServed(kind, status.size - refused))
        if refused:
            self._report(AccessRefused(kind, refused))

    def _count(self) -> None:
        census = self._zone.census
        if census.changed and (counted := census.count()) != self._counted:
            self._counted = counted
            self._report(ZoneCounted(**counted))
        census.changed = False


_Handler = Callable[[Node, Question, Any], Message | None]
_HANDLERS: dict[type[Message], _Handler] = {
    row.cls: getattr(Node, f"on_{snake_case(row.name)}")
    for row in MESSAGES.values()
    if row.answerer == "node" and row.answer is not None
}
