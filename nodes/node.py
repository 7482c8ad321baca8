"""The Core of a node: it owns page frames, copies pages straight to a peer, and knows no mm.

One handler for each message that the table (``protocol/messages.py``) lets somebody ask a node,
found by its name.  ``CopyPages`` alone is answered later, when every page of it has ended.
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
from nodes.transfer import Transfer
from nodes.zone import U8, Zone
from protocol.bulk import BATCHING, Batch, Batching, Sending, land_pages
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
    RecoverFrames,
    SetGeneration,
    Statuses,
    StoreBytes,
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
#: So long (seconds) a batch may be on its way; then its pages are -EAGAIN.
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
        self._nid, self._zone = nid, zone
        self._land_seconds, self._batching = land_seconds, batching
        self._session = Session(
            self.name, boot_id=boot_id, key=key, epoch=max(epoch, zone.epoch), **session
        )
        # First come, first sent; at most ``credit`` batches are in flight for all of them together.
        self._transfers: list[Transfer] = []
        self._flights: dict[int, tuple[Transfer, Batch]] = {}
        self._holds = Holds(zone)
        self._isolations = Isolations(zone)
        # Until the coordinator has recovered the zone, what others ask waits (design 7).
        self.gate = Gate()
        self._counted, self._reports = dict[str, int](), list[Effect]()

    def handle(self, event: Event, *, now: float) -> Sequence[Effect]:
        """Take one event at ``now`` (seconds); return what is to be done.  Takes no Command."""
        match event:
            case Received(frames):
                self._receive(frames, now)
            case Deadline():
                for answer in self._session.tick(now=now):
                    self._answered(answer)
            case _:
                raise AssertionError(f"{self.name} takes no orders, but was given {event}")
        self._advance(now)
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
        flights, credit = len(self._flights), self._batching.credit
        assert flights <= credit, f"{self.name}: {flights} batches in flight"
        for transfer in self._transfers:
            transfer.sending.validate()
            assert not transfer.sending.done, f"{self.name}: a transfer is over and not answered"
        for transfer, _ in self._flights.values():
            assert transfer in self._transfers, f"{self.name}: a batch of no transfer is in flight"

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
            for transfer in self._transfers.copy():
                self._cancel(transfer)
            self.gate.shut()

    def _answered(self, answer: Answer) -> None:
        """A batch is over.  No answer, or a peer that restarted: the page is here, so -EAGAIN."""
        flight = self._flights.pop(answer.ticket, None)
        if flight is None:
            # The same message told of a new epoch, and that has cancelled the transfer.
            return
        transfer, batch = flight
        if isinstance(answer.message, Statuses):
            transfer.sending.landed(batch, answer.message.status)
        else:
            transfer.sending.failed(batch, -errno.EAGAIN)
        pages = int(np.count_nonzero(transfer.sending.status[batch.rows] == 0))
        if pages:
            self._report(PagesSent(answer.peer, pages, pages * self._zone.page_size))

    # ---- transfers -------------------------------------------------------------------------

    def on_copy_pages(self, question: Question, message: CopyPages) -> None:
        batch_pages = self._batching.pages_of(self._zone.page_size)
        columns = (message.pfn, message.target_pfn, message.target_generation)
        sending = Sending(*columns, batch_pages=batch_pages)
        self._transfers.append(Transfer(question, message, sending))

    def on_unlock_pages(self, _: Question, message: UnlockPages) -> Statuses:
        for transfer in self._transfers.copy():
            if transfer.message.transfer == message.transfer:
                self._cancel(transfer)
        return Statuses(self._zone.unlock(message.pfn, message.generation, message.new_generation))

    def _advance(self, now: float) -> None:
        """Send what can be sent, and answer what is over."""
        for transfer in self._transfers.copy():
            self._lock_parked(transfer)
            if transfer.message.target == self._nid:
                self._copy_here(transfer)
            else:
                self._send(transfer, now)
            if transfer.sending.done:
                self._finish(transfer)

    def _lock_parked(self, transfer: Transfer) -> None:
        """Pages go once they are locked; with ``force``, one that another user holds waits."""
        sending, message = transfer.sending, transfer.message
        rows = sending.parked
        if rows.size == 0:
            return
        pfn, generation = message.pfn[rows], message.generation[rows]
        waits = np.zeros(rows.size, np.bool_)
        if not message.lock:
            status = self._zone.mapped(pfn, generation)
        else:
            status = self._zone.lock(pfn, generation)
            if message.force:
                waits = self._zone.held(pfn, generation)
        refused = (status != 0) & ~waits
        sending.release(rows[status == 0])
        sending.refuse(rows[refused], status[refused])

    def _copy_here(self, transfer: Transfer) -> None:
        """From frames of this node to others of it."""
        while batches := transfer.sending.next_batches():
            for batch in batches:
                data, active = self._zone.gather(batch.pfn), self._active(transfer, batch)
                target = (batch.target_pfn, batch.target_generation)
                transfer.sending.landed(batch, self._zone.land(*target, active, data))

    def _active(self, transfer: Transfer, batch: Batch) -> U8:
        """PageActive goes with a page (K 1.50); a copy of it goes where new pages go."""
        return self._zone.active(batch.pfn) * np.uint8(transfer.message.lock)

    def _send(self, transfer: Transfer, now: float) -> None:
        message = transfer.message
        for batch in transfer.sending.next_batches(self._batching.credit - len(self._flights)):
            # A page that is not locked may change while it is under way: send a copy of it.
            data = self._zone.gather(batch.pfn, copy=not message.lock)
            active = self._active(transfer, batch)
            target = (batch.target_pfn, batch.target_generation)
            ticket = self._session.ask(
                node_name(message.target),
                LandPages(message.transfer, *target, active, data),
                now=now,
                within=self._land_seconds,
            )
            self._flights[ticket] = (transfer, batch)

    def _cancel(self, transfer: Transfer) -> None:
        for ticket, (owner, _) in list(self._flights.items()):
            if owner is transfer:
                self._session.cancel(ticket)
                del self._flights[ticket]
        transfer.sending.cancel()
        self._finish(transfer)

    def _finish(self, transfer: Transfer) -> None:
        self._transfers.remove(transfer)
        self._session.answer(transfer.question, Statuses(transfer.sending.status))

    def on_land_pages(self, question: Question, message: LandPages) -> Statuses:
        answer = land_pages(self._zone, message)
        pages = int(np.count_nonzero(answer.status == 0))
        if pages:
            self._report(PagesLanded(question.peer, pages, pages * self._zone.page_size))
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
