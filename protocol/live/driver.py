"""Run one Core: bytes from the transport, deadlines from the clock, orders from this process.

The order of effects is kept.  A Send leaves only when every Record before it is on disk; while a
Record is being written, everything behind it waits, and all Records that pile up meanwhile go in
one transaction.  A Core that records nothing, or little at a time, costs no hop between tasks.

A journal that has outgrown its last snapshot is replaced by a new one, in place of the next
transaction: the Core says what it is at that moment, and that covers every Record it has emitted,
those that wait included.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable

import trio

from protocol.core import (
    Command,
    Core,
    Deadline,
    Effect,
    Event,
    Frames,
    Received,
    Record,
    Report,
    Send,
)
from protocol.live.interference import Interference
from protocol.live.journal import Journal
from protocol.live.transport import Transport
from protocol.notes import JournalCompacted, JournalWritten, Note

#: Messages handled before the loop lets others run.
_MESSAGES_A_WAKE = 64
#: So long the loop may be kept from others by a driver that waits in place: for one message, and
#: in all.
_REST_MILLISECONDS = 1
_LINGER_SECONDS = 2e-3


def _ignore(note: Note) -> None:
    """For who wants to know nothing."""


class Driver:
    """One Core, its transport and its journal; ``run`` it in a nursery.

    Without a journal Records are not kept.  ``on_note`` is called in the loop, for every Report;
    it may call ``submit``.  ``interference``: faults of the journal's disk.  Events are handled at
    ``trio.current_time()``.

    ``snapshot`` gives entries that say together what all Records so far say; they may be drawn
    later, in another thread.  Without it the journal grows for ever.
    """

    def __init__(
        self,
        core: Core,
        transport: Transport,
        *,
        journal: Journal | None = None,
        snapshot: Callable[[], Iterable[bytes]] | None = None,
        on_note: Callable[[Note], None] = _ignore,
        interference: Interference | None = None,
    ) -> None:
        self._core = core
        self._transport = transport
        self._journal = journal
        self._snapshot = snapshot
        self._on_note = on_note
        self._interference = interference
        #: When the last event was handled.
        self._now = 0.0
        self._effects: deque[Effect] = deque()
        self._durable = 0
        self._written_notes: deque[Note] = deque()
        self._record_waits = trio.Event()
        self._rest = trio.CancelScope()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Drive the Core until cancelled.

        What the Core raises is raised here: an AssertionError means that we are wrong, and the
        process must end.  A JournalError likewise.
        """
        async with trio.open_nursery() as nursery:
            if self._journal is not None:
                nursery.start_soon(self._write, self._journal)
            task_status.started()
            await self._listen()

    def submit(self, order: object) -> None:
        """Hand the Core a Command at once; for tasks of the same loop."""
        self._handle(Command(order))
        self._heed_due()

    def _heed_due(self) -> None:
        """End the rest of who listens when the Core's next deadline comes."""
        due = self._due()
        if due < self._rest.deadline:
            self._rest.deadline = due

    def _due(self) -> float:
        due = self._core.next_deadline()
        return math.inf if due is None else due

    async def _listen(self) -> None:
        while True:
            # submit() moves the end of this rest when it gives the Core an earlier deadline.
            with trio.CancelScope(deadline=self._due()) as self._rest:
                await self._take_until_due()
            # A deadline that is due at every turn cuts every rest short, and must starve nobody.
            if self._rest.cancelled_caught:
                self._drain(self._transport.receive_nowait())
            if self._due() <= trio.current_time():
                self._handle(Deadline())

    async def _take_until_due(self) -> None:
        """Messages until a deadline has come; only a receive is cut short by it."""
        while True:
            if self._drain(await self._transport.receive()):
                self.linger()
            if self._due() <= trio.current_time():
                return
            # Not a later one: every question has its own, and nearly all are answered before it.
            self._heed_due()

    def linger(self, over: Callable[[], bool] = lambda: False) -> None:
        """Wait in place for what comes within a moment, as most answers do: it need not wait for a
        turn of the loop.

        Until ``over()``, until somebody else of the loop may go on, and not for long.
        """
        until = self._now + _LINGER_SECONDS
        try:
            while True:
                # What the Core has put off behind the effects of its last event.
                if self._due() <= self._now:
                    self._handle(Deadline())
                if over() or self._effects or trio.current_time() >= min(until, self._due()):
                    break
                if not self._transport.rest(_REST_MILLISECONDS):
                    break
                if not self._drain(self._transport.receive_nowait()):
                    break
        finally:
            self._transport.go_on()
        self._heed_due()

    def _drain(self, frames: Frames | None) -> bool:
        """Handle this message and those behind it, so many at most: whether there are no more."""
        budget = _MESSAGES_A_WAKE
        while frames is not None:
            self._handle(Received(frames))
            budget -= 1
            frames = self._transport.receive_nowait() if budget else None
        return budget > 0

    def _handle(self, event: Event) -> None:
        self._now = trio.current_time()
        self._effects.extend(self._core.handle(event, now=self._now))
        self._carry_out()

    def _carry_out(self) -> None:
        """Everything up to the first Record that is not on disk."""
        while self._effects and self._may_leave(self._effects[0]):
            # Taken before it is carried out: on_note may call submit, and so come here again.
            effect = self._effects.popleft()
            if type(effect) is Send:
                self._transport.send(effect.target, effect.frames)
            elif type(effect) is Report:
                self._on_note(effect.note)
        while self._written_notes:
            self._on_note(self._written_notes.popleft())

    def _may_leave(self, effect: Effect) -> bool:
        if type(effect) is not Record or self._journal is None:
            return True
        if self._durable or self._written_at_once(self._journal):
            self._durable -= 1
            return True
        self._record_waits.set()
        return False

    def _written_at_once(self, journal: Journal) -> bool:
        """All Records that wait, if that is quick."""
        if self._interference is not None:
            return False
        entries, began = self._entries(), trio.current_time()
        if not journal.append_small(entries):
            return False
        self._durable = len(entries)
        self._note_written(entries, began)
        return True

    def _entries(self) -> list[bytes]:
        return [effect.entry for effect in self._effects if type(effect) is Record]

    def _note_written(self, entries: list[bytes], began: float) -> None:
        size, seconds = sum(map(len, entries)), trio.current_time() - began
        self._written_notes.append(JournalWritten(len(entries), size, seconds))

    async def _write(self, journal: Journal) -> None:
        while True:
            if any(isinstance(effect, Record) for effect in self._effects):
                if self._interference is not None:
                    await self._interference.write()
                # Both as of this moment: a snapshot says what these entries say.
                entries = self._entries()
                began = trio.current_time()
                if self._snapshot is not None and journal.outgrown:
                    size = await journal.replace(self._snapshot())
                    self._on_note(JournalCompacted(size, trio.current_time() - began))
                else:
                    await journal.append(entries)
                    self._note_written(entries, began)
                self._durable = len(entries)
                self._carry_out()
            else:
                self._record_waits = trio.Event()
                await self._record_waits.wait()
