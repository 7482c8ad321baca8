"""Copies of pages to other nodes that are under way: the source's half, over its zone."""

from __future__ import annotations

import errno
from dataclasses import dataclass

import numpy as np

from nodes.zone import U8, Zone
from protocol.bulk import Batch, Batching, Sending
from protocol.messages import CopyPages, LandPages, Statuses
from protocol.schema import node_name
from protocol.session import Answer, Question, Session


@dataclass(frozen=True, slots=True, eq=False)
class Transfer:
    """A CopyPages question that is not answered yet."""

    question: Question
    message: CopyPages
    sending: Sending


class Transfers:
    """First come, first sent; at most ``credit`` batches are in flight for all of them together.

    seconds: so long a batch may be on its way; then its pages are -EAGAIN.
    """

    def __init__(self, zone: Zone, session: Session, batching: Batching, seconds: float) -> None:
        self._zone, self._session = zone, session
        self._batching, self._seconds = batching, seconds
        self._transfers: list[Transfer] = []
        self._flights: dict[int, tuple[Transfer, Batch]] = {}

    def __len__(self) -> int:
        return len(self._transfers)

    def start(self, question: Question, message: CopyPages) -> None:
        batch_pages = self._batching.pages_of(self._zone.page_size)
        columns = (message.pfn, message.target_pfn, message.target_generation)
        sending = Sending(*columns, batch_pages=batch_pages)
        self._transfers.append(Transfer(question, message, sending))

    def stop(self, number: int | None = None) -> None:
        """Cancel the transfer of that number; None: all."""
        for transfer in self._transfers.copy():
            if number is None or transfer.message.transfer == number:
                self._cancel(transfer)

    def advance(self, now: float) -> None:
        """Send what can be sent, and answer what is over."""
        for transfer in self._transfers.copy():
            self._lock_parked(transfer)
            if transfer.message.target == self._zone.nid:
                self._copy_here(transfer)
            else:
                self._send(transfer, now)
            if transfer.sending.done:
                self._finish(transfer)

    def answered(self, answer: Answer) -> int | None:
        """If this is of a batch: how many of its pages have landed.

        No answer, or a peer that restarted: the page is here, so -EAGAIN.
        """
        flight = self._flights.pop(answer.ticket, None)
        if flight is None:
            return None
        transfer, batch = flight
        if isinstance(answer.message, Statuses):
            transfer.sending.landed(batch, answer.message.status)
        else:
            transfer.sending.failed(batch, -errno.EAGAIN)
        return int(np.count_nonzero(transfer.sending.status[batch.rows] == 0))

    def validate(self) -> None:
        where, flights = f"node {self._zone.nid}", len(self._flights)
        assert flights <= self._batching.credit, f"{where}: {flights} batches in flight"
        for transfer in self._transfers:
            transfer.sending.validate()
            assert not transfer.sending.done, f"{where}: a transfer is over and not answered"
        for transfer, _ in self._flights.values():
            assert transfer in self._transfers, f"{where}: a batch of no transfer is in flight"

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
                within=self._seconds,
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
