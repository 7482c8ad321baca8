"""The client: a Core that carries out orders of tasks against the coordinator and the nodes.

It caches translations of small accesses and never has to be told that one is out of date: its node
refuses the generation, and the page is faulted again (design 4).  Of the frames that it holds it
keeps the names (``numalab/holds.py``).  Pure; ``numalab/machine.py`` and the simulator drive it.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any

from numalab.access import Access, Translating, Working, access_of
from numalab.asking import Accessing, Asking
from numalab.direct import Direct, place_of, question_of, served
from numalab.holds import Holds
from numalab.meter import Meter, Rests
from numalab.orders import (
    Ask,
    Fill,
    Forget,
    Hold,
    IndefiniteError,
    Isolate,
    Load,
    LoadMany,
    Order,
    Store,
    StoreMany,
)
from numalab.translations import FAULT_AROUND, TranslationCache
from numalab.work import FaultAccess
from protocol.codec import WireError
from protocol.core import Command, Deadline, Effect, Event, Received, Report
from protocol.messages import Done, LoadedBytes
from protocol.notes import FrameDropped, OperationEnded, PeersTold
from protocol.schema import COORDINATOR, ROWS, Message, node_name
from protocol.session import Answer, Session
from protocol.syscalls import (
    Attach,
    Attached,
    Exit,
    Fork,
    Mprotect,
    Munmap,
    Renew,
    Translations,
)

__all__ = [
    "Ask",
    "Client",
    "Fill",
    "Forget",
    "Hold",
    "IndefiniteError",
    "Load",
    "LoadMany",
    "Order",
    "Store",
    "StoreMany",
]

#: Accesses of at most so many pages use cached translations and leave theirs behind.
CACHED_PAGES = 16
NODE_SECONDS = 10.0
LEASE_PARTS = 3


class Client:
    """Carries out orders (``numalab/orders.py``); any number of them may be under way at once.

    name: unique among all clients of the machine.  boot_id, key and the session options are those
    of ``protocol.session.Session``.  page_size: bytes.  node_seconds: how long a node may take to
    answer before a load faults again and a store is indefinite.  fault_around: of TranslationCache.
    """

    def __init__(
        self,
        name: str,
        *,
        boot_id: int,
        key: bytes,
        page_size: int = 4096,
        node_seconds: float = NODE_SECONDS,
        fault_around: int = FAULT_AROUND,
        **session_options: Any,
    ) -> None:
        self._name = name
        self._page_size = page_size
        self._node_seconds = node_seconds
        self._session = Session(name, boot_id=boot_id, key=key, **session_options)
        self._cache = TranslationCache(fault_around)
        self._holds = Holds()
        #: What is accessed, for its emulated time (numalab/meter.py).
        self.meter = Meter()
        self._rests = Rests()
        self._accesses: dict[int, Access] = {}
        self._questions: dict[int, Asking | Accessing | Direct] = {}
        self._tickets: dict[int, list[int]] = {}
        self._lease: float | None = None
        self._renew_at: float | None = None
        self._renewing: int | None = None
        self._nodes = 0
        self._renews_with: type[Message] = Renew
        self._reports: list[Report] = []

    @property
    def name(self) -> str:
        return self._name

    def handle(self, event: Event, *, now: float) -> Sequence[Effect]:
        match event:
            case Received(frames):
                try:
                    ended = self._session.receive(frames, now=now)
                except WireError as error:
                    self._reports.append(Report(FrameDropped(error.reason)))
                    ended = []
                for end in ended:
                    if isinstance(end, Answer):
                        self._answered(end, now)
                    else:
                        self._reports.append(Report(FrameDropped("question")))
            case Command(order):
                self._start(order, now)
            case Deadline():
                for answer in self._session.tick(now=now):
                    self._answered(answer, now)
                self._wake(now)
        reports, self._reports = self._reports, []
        return [*self._session.take_effects(), *reports]

    def next_deadline(self) -> float | None:
        times = [access.retry_at for access in self._accesses.values()]
        times += [self._session.next_deadline(), self._renew_at, self._rests.next()]
        known = [time for time in times if time is not None]
        return min(known) if known else None

    def validate(self) -> None:
        self._session.validate()
        self._cache.validate()
        for access in self._accesses.values():
            assert not access.ended, f"{self._name}: an order has ended and was not reported"
            access.validate()
        asked = sorted(question for tickets in self._tickets.values() for question in tickets)
        assert asked == sorted(self._questions), f"{self._name}: a question belongs to no order"

    # ---- orders ----------------------------------------------------------------------------

    def _start(self, order: object, now: float) -> None:
        match order:
            case Ask(within=within):
                self._forget_translations(order.message)
                self._ask(order, None if within is None else now + within, now)
            case Forget(ticket):
                self._forget_order(ticket)
            case Load() | Store() if self._direct(order, now):
                return
            case Load() | Store() | LoadMany() | StoreMany() | Fill() | Hold() | Isolate():
                try:
                    access = access_of(order, self._page_size)
                except OSError as error:
                    self._end(order.ticket, error)
                    return
                access.started = now
                self._accesses[order.ticket] = access
                if _keeps_translations(access):
                    self._preset(access)
                if isinstance(order, Hold):
                    self._holds.preset(access, order.locked, order.pinned)
                self._advance(order.ticket, now)
            case _:
                raise AssertionError(f"{self._name}: {order!r} is no order")

    def _direct(self, order: Load | Store, now: float) -> bool:
        """Whether it went the quick way (numalab/direct.py)."""
        place = place_of(order, self._page_size)
        if place is None:
            return False
        page, offset = place
        known = self._cache.find(order.pid, page, isinstance(order, Store))
        if known is None:
            return False
        message = question_of(order, known, offset)
        ticket = self._session.ask(
            node_name(known.nid), message, now=now, within=self._node_seconds
        )
        self._questions[ticket] = Direct(order, known, message, now)
        self._tickets.setdefault(order.ticket, []).append(ticket)
        return True

    def _preset(self, access: Access) -> None:
        for row, page in enumerate(access.page.tolist()):
            known = self._cache.find(access.pid, page, access.fault == FaultAccess.WRITE)
            if known is not None:
                access.preset(row, known)

    def _ask(self, order: Ask, until: float | None, now: float) -> None:
        within = None if until is None else max(0.0, until - now)
        question = self._session.ask(order.peer, order.message, now=now, within=within)
        self._questions[question] = Asking(order, until)
        self._tickets.setdefault(order.ticket, []).append(question)

    def _advance(self, ticket: int, now: float) -> None:
        """Ask all that this access may ask now; report its end if that has come."""
        access = self._accesses[ticket]
        while (fault := access.next_fault()) is not None:
            if _keeps_translations(access):
                fault = self._cache.wishing(fault)
            self._put(ticket, fault, COORDINATOR, None, now)
        while (work := access.next_work()) is not None:
            self._put(ticket, work, node_name(work.nid), self._node_seconds, now)
        if access.ended:
            self._end_access(ticket, access, now)

    def _end_access(self, ticket: int, access: Access, now: float) -> None:
        """It ends now, or at a pace when its emulated time is over."""
        until = access.started + access.emulated * self.meter.pace
        if access.fault <= FaultAccess.WRITE:
            self.meter.waited(access.pid, max(until, now) - access.started)
        self._end_at(ticket, until, access.result(), now)

    def _end_at(self, ticket: int, until: float, result: object, now: float) -> None:
        if until > now:
            self._drop(ticket)
            self._rests.add(ticket, until, result)
        else:
            self._end(ticket, result)

    def _put(
        self, ticket: int, step: Translating | Working, peer: str, within: float | None, now: float
    ) -> None:
        question = self._session.ask(peer, step.message, now=now, within=within)
        self._questions[question] = Accessing(ticket, step)
        self._tickets.setdefault(ticket, []).append(question)

    def _end(self, ticket: int, result: object) -> None:
        self._drop(ticket)
        self._reports.append(Report(OperationEnded(ticket, result)))

    def _forget_order(self, ticket: int) -> None:
        for question in self._tickets.get(ticket, []):
            asking = self._questions[question]
            if isinstance(asking, Accessing) and isinstance(asking.step, Working):
                self._holds.lost(self._accesses[ticket], asking.step)
        self._rests.forget(ticket)
        self._drop(ticket)

    def _drop(self, ticket: int) -> None:
        for question in self._tickets.pop(ticket, []):
            del self._questions[question]
            self._session.cancel(question)
        self._accesses.pop(ticket, None)

    # ---- answers ---------------------------------------------------------------------------

    def _answered(self, answer: Answer, now: float) -> None:
        if answer.ticket == self._renewing:
            self._renewed(answer, now)
            return
        question = self._questions.pop(answer.ticket, None)
        if question is None:
            return
        ticket = question.ticket if isinstance(question, Accessing) else question.order.ticket
        self._tickets[ticket].remove(answer.ticket)
        if isinstance(question, Direct):
            if served(question, answer.message):
                self._end_direct(question, answer.message, now)
                return
            question = self._as_access(question)
        elif isinstance(question, Asking):
            self._asked(question, answer, now)
            return
        access = self._accesses[ticket]
        if isinstance(question.step, Translating):
            access.translated(question.step, answer.message, now=now)
            self._keep_translations(access, question.step, answer.message)
        else:
            refused = access.worked(question.step, answer.message, now=now)
            self._count(access, question.step, refused.size)
            if access.page.size <= CACHED_PAGES:
                for page in access.page[refused].tolist():
                    self._cache.refused(access.pid, page)
            if answer.message is None:
                self._holds.lost(access, question.step)
            else:
                self._holds.answered(access, question.step, refused)
        self._advance(ticket, now)

    def _end_direct(self, direct: Direct, answer: Message | None, now: float) -> None:
        order, message = direct.order, direct.message
        emulated = self.meter.served(order.pid, order.cpu, direct.known.nid, message, 1)
        until = direct.started + emulated * self.meter.pace
        self.meter.waited(order.pid, max(until, now) - direct.started)
        result = bytes(answer.data) if isinstance(answer, LoadedBytes) else None
        self._end_at(order.ticket, until, result, now)

    def _as_access(self, direct: Direct) -> Accessing:
        """What it would be had it not gone the quick way."""
        order = direct.order
        access = self._accesses[order.ticket] = access_of(order, self._page_size)
        access.started = direct.started
        access.preset(0, direct.known)
        step = access.next_work()
        assert step is not None, f"{order!r} had a translation and asks nothing"
        return Accessing(order.ticket, step)

    def _count(self, access: Access, step: Working, refused: int) -> None:
        """Filling in an image is no access of a task."""
        if access.fault <= FaultAccess.WRITE and refused < step.rows.size:
            rows = step.rows.size - refused
            access.emulated += self.meter.served(
                access.pid, access.cpu, step.nid, step.message, rows
            )

    def _asked(self, question: Asking, answer: Answer, now: float) -> None:
        order = question.order
        if answer.status == -errno.ENODEV and ROWS[type(order.message)].idempotent:
            self._ask(order, question.until, now)
            return
        if answer.message is None:
            what = "has restarted" if answer.status == -errno.ENODEV else "did not answer"
            said = f"{order.peer} {what}: 'numalab status' tells which processes live"
            self._end(order.ticket, IndefiniteError(-answer.status, said))
            return
        self._forget_translations(order.message)
        if isinstance(answer.message, Done) and answer.message.value >= 0:
            self._holds.unmapped(order.message, answer.message.value, self._page_size)
        if isinstance(answer.message, Attached):
            self._lease = answer.message.lease
            self._page_size = answer.message.page_size
            self._nodes = len(answer.message.names)
            self._renew_at = now + self._lease / LEASE_PARTS
        self._end(order.ticket, answer.message)

    def _keep_translations(
        self, access: Access, asked: Translating, answer: Message | None
    ) -> None:
        pages = asked.message.page
        if _keeps_translations(access) and isinstance(answer, Translations):
            if answer.status.size == pages.size:
                self._cache.learn(access.pid, pages.tolist(), answer)

    def _forget_translations(self, message: Message) -> None:
        """Calls that take rights away make all of the task's translations stale, or most."""
        if isinstance(message, Munmap | Mprotect | Fork | Exit):
            self._cache.drop_task(message.pid)

    # ---- time ------------------------------------------------------------------------------

    def _wake(self, now: float) -> None:
        due = [
            ticket
            for ticket, access in self._accesses.items()
            if access.retry_at is not None and access.retry_at <= now
        ]
        for ticket in due:
            self._accesses[ticket].wake(now=now)
            self._advance(ticket, now)
        for ticket, result in self._rests.over(now):
            self._end(ticket, result)
        if self._renew_at is not None and self._renew_at <= now:
            self._renew(Renew(), now)
            counted = self.meter.take()
            if counted is not None:
                # Nobody waits for the answer.
                self._session.ask(COORDINATOR, counted, now=now)

    def _renew(self, message: Renew | Attach, now: float) -> None:
        self._renew_at = None
        self._renews_with = type(message)
        self._renewing = self._session.ask(COORDINATOR, message, now=now)

    def _renewed(self, answer: Answer, now: float) -> None:
        """A coordinator that restarted, or that does not know the lease, is attached to anew."""
        assert self._lease is not None
        self._renewing = None
        if isinstance(answer.message, Attached):
            self._lease = answer.message.lease
            self._nodes = len(answer.message.names)
            self._reports.append(Report(PeersTold(answer.message.names, answer.message.addresses)))
        # Less than none: the lease is not known; another number: nodes have come.
        differs = isinstance(answer.message, Done) and answer.message.value != self._nodes
        if answer.message is None or (differs and self._renews_with is Renew):
            self._renew(Attach(), now)
        else:
            self._renew_at = now + self._lease / LEASE_PARTS


def _keeps_translations(access: Access) -> bool:
    """Whether it uses cached translations, and leaves its own behind."""
    return access.page.size <= CACHED_PAGES and access.fault <= FaultAccess.WRITE
