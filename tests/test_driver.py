"""What a driver owes a Core: effects in order, Records before Sends, deadlines in time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

import pytest
import trio
import trio.testing

from protocol.core import Command, Deadline, Effect, Event, Frames, Received, Record, Report, Send
from protocol.live.driver import Driver
from protocol.live.journal import Journal
from protocol.live.journal_file import Synchronous
from protocol.live.transport import Transport, open_transport
from protocol.notes import JournalCompacted, JournalWritten, Note
from protocol.values import value


@value
class Said(Note):
    word: str


class Script:
    """A Core that does what an event tells it: the order of a Command, or ``reply``."""

    name = "script"

    def __init__(self, reply: Callable[[Event], Sequence[Effect]] = lambda _: ()) -> None:
        self.reply = reply
        self.due: float | None = None
        self.seen: list[tuple[Event, float]] = []

    def handle(self, event: Event, *, now: float) -> Sequence[Effect]:
        self.seen.append((event, now))
        if isinstance(event, Deadline):
            self.due = None
        if isinstance(event, Command) and isinstance(event.order, list):
            return event.order
        return self.reply(event)

    def next_deadline(self) -> float | None:
        return self.due

    def validate(self) -> None:
        return None


class Wire(Transport):
    """A transport without sockets, for virtual time: what comes and what went."""

    def __init__(self) -> None:
        self.inbox: deque[Frames] = deque()
        self.sent: list[tuple[str, Frames]] = []
        self.arrived = trio.lowlevel.ParkingLot()

    def send(self, target: str, frames: Frames) -> bool:
        self.sent.append((target, frames))
        return True

    def receive_nowait(self) -> Frames | None:
        return self.inbox.popleft() if self.inbox else None

    def rest(self, milliseconds: int) -> bool:
        return bool(self.inbox)

    def go_on(self) -> None:
        self.arrived.unpark()

    async def receive(self) -> Frames:
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self.inbox:
            await self.arrived.park()
        await trio.lowlevel.cancel_shielded_checkpoint()
        return self.inbox.popleft()

    def deliver(self, frames: Frames) -> None:
        self.inbox.append(frames)
        self.arrived.unpark()


class SlowJournal(Journal):
    """A disk that is done when it is told so."""

    outgrown = False

    def __init__(self) -> None:
        self.commits: list[list[bytes]] = []
        self.snapshots: list[list[bytes]] = []
        self.done = trio.lowlevel.ParkingLot()

    async def replace(self, entries: Iterable[bytes]) -> int:
        self.snapshots.append(list(entries))
        await self.done.park()
        return 77

    def append_small(self, entries: Sequence[bytes]) -> bool:
        return False

    async def append(self, entries: Sequence[bytes]) -> None:
        self.commits.append(list(entries))
        await self.done.park()


def word_of(sent: tuple[str, Frames]) -> bytes:
    return bytes(sent[1][0])


def send(word: bytes) -> Send:
    return Send("peer", (word,))


async def test_a_question_from_a_peer_is_answered_over_the_wire() -> None:
    def shout(event: Event) -> Sequence[Effect]:
        assert isinstance(event, Received)
        return [Send("client", (bytes(event.frames[0]).upper(),))]

    with trio.fail_after(5):
        async with (
            open_transport("node0", bind="tcp://127.0.0.1:0", peers={}) as server,
            open_transport("client", bind=None, peers={"node0": server.bound_address}) as client,
            trio.open_nursery() as nursery,
        ):
            await nursery.start(Driver(Script(shout), server).run)
            while not client.send("node0", (b"hello",)):
                await trio.lowlevel.checkpoint()
            assert await client.receive() == (b"HELLO",)
            nursery.cancel_scope.cancel()


async def test_effects_leave_in_their_order_and_at_once() -> None:
    wire, notes = Wire(), list[Note]()
    with trio.fail_after(5):
        driver = Driver(Script(), wire, on_note=notes.append)
        driver.submit([send(b"one"), Report(Said("two")), Record(b"not kept"), send(b"three")])
        await trio.lowlevel.checkpoint()
    assert [word_of(sent) for sent in wire.sent] == [b"one", b"three"]
    assert notes == [Said("two")]


async def test_a_send_waits_for_the_records_before_it_and_for_no_other() -> None:
    wire, journal, notes = Wire(), SlowJournal(), list[Note]()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            driver = Driver(Script(), wire, journal=journal, on_note=notes.append)
            await nursery.start(driver.run)
            driver.submit([send(b"before"), Record(b"r1"), send(b"after"), Report(Said("after"))])
            driver.submit([send(b"later")])
            await trio.testing.wait_all_tasks_blocked()
            assert [word_of(sent) for sent in wire.sent] == [b"before"]
            assert (journal.commits, notes) == ([[b"r1"]], [])
            journal.done.unpark()
            await trio.testing.wait_all_tasks_blocked()
            assert [word_of(sent) for sent in wire.sent] == [b"before", b"after", b"later"]
            assert notes[0] == Said("after")
            assert isinstance(notes[1], JournalWritten)
            assert (notes[1].entries, notes[1].bytes) == (1, 2)
            driver.submit([send(b"free again")])
            assert word_of(wire.sent[-1]) == b"free again"
            nursery.cancel_scope.cancel()


async def test_records_that_pile_up_share_one_transaction() -> None:
    wire, journal = Wire(), SlowJournal()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            driver = Driver(Script(), wire, journal=journal)
            await nursery.start(driver.run)
            driver.submit([Record(b"r1"), send(b"s1")])
            await trio.testing.wait_all_tasks_blocked()
            driver.submit([Record(b"r2"), send(b"s2"), Record(b"r3"), send(b"s3")])
            driver.submit([Record(b"r4"), send(b"s4")])
            journal.done.unpark()
            await trio.testing.wait_all_tasks_blocked()
            assert journal.commits == [[b"r1"], [b"r2", b"r3", b"r4"]]
            assert [word_of(sent) for sent in wire.sent] == [b"s1"]
            journal.done.unpark()
            await trio.testing.wait_all_tasks_blocked()
            assert [word_of(sent) for sent in wire.sent] == [b"s1", b"s2", b"s3", b"s4"]
            nursery.cancel_scope.cancel()


async def test_a_snapshot_covers_the_records_that_wait_and_no_later_ones() -> None:
    wire, journal, notes = Wire(), SlowJournal(), list[Note]()
    state: list[bytes] = []
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            driver = Driver(
                Script(),
                wire,
                journal=journal,
                snapshot=lambda: [b"all of " + b"+".join(state)],
                on_note=notes.append,
            )
            await nursery.start(driver.run)

            def record(word: bytes) -> None:
                state.append(word)
                driver.submit([Record(word), send(b"after " + word)])

            record(b"r1")
            await trio.testing.wait_all_tasks_blocked()
            record(b"r2")
            record(b"r3")
            journal.outgrown = True
            journal.done.unpark()
            await trio.testing.wait_all_tasks_blocked()
            assert journal.snapshots == [[b"all of r1+r2+r3"]]
            record(b"r4")
            await trio.testing.wait_all_tasks_blocked()
            assert [word_of(sent) for sent in wire.sent] == [b"after r1"]
            journal.outgrown = False
            journal.done.unpark()
            await trio.testing.wait_all_tasks_blocked()
            assert [word_of(sent) for sent in wire.sent][1:] == [b"after r2", b"after r3"]
            assert isinstance(notes[-1], JournalCompacted) and notes[-1].bytes == 77
            assert journal.commits == [[b"r1"], [b"r4"]]
            journal.done.unpark()
            await trio.testing.wait_all_tasks_blocked()
            assert word_of(wire.sent[-1]) == b"after r4"
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("synchronous", Synchronous)
@pytest.mark.parametrize("commit", [b"small", bytes(1 << 20)])
async def test_a_real_journal_has_the_record_when_the_send_leaves(
    tmp_path: object, synchronous: Synchronous, commit: bytes
) -> None:
    wire = Wire()
    path = f"{tmp_path}/journal"
    with trio.fail_after(5):
        async with (
            Journal(path, synchronous=synchronous) as journal,
            trio.open_nursery() as nursery,
        ):
            driver = Driver(Script(), wire, journal=journal)
            await nursery.start(driver.run)
            driver.submit([Record(commit), send(b"committed")])
            in_the_loop = synchronous == Synchronous.NORMAL and commit == b"small"
            assert bool(wire.sent) == in_the_loop
            while not wire.sent:
                await trio.lowlevel.checkpoint()
            assert await journal.read_all() == [commit]
            nursery.cancel_scope.cancel()


async def test_a_deadline_is_handled_when_it_comes(autojump_clock: object) -> None:
    core, start = Script(), trio.current_time()
    core.due = start + 3
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await nursery.start(Driver(core, Wire()).run)
            await trio.sleep(5)
            nursery.cancel_scope.cancel()
    assert core.seen == [(Deadline(), start + 3)]


async def test_an_order_can_bring_the_deadline_forward(autojump_clock: object) -> None:
    core, start = Script(), trio.current_time()
    core.due = start + 1_000
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            driver = Driver(core, Wire())
            await nursery.start(driver.run)
            await trio.sleep(1)
            core.due = start + 2
            driver.submit([])
            await trio.sleep(5)
            nursery.cancel_scope.cancel()
    assert core.seen == [(Command([]), start + 1), (Deadline(), start + 2)]


async def test_a_flood_holds_up_neither_a_deadline_nor_another_task() -> None:
    wire = Wire()
    wire.inbox.extend([(b"flood",)] * 1_000)

    def want_a_deadline_now(event: Event) -> Sequence[Effect]:
        core.due = trio.current_time()
        return ()

    core = Script(want_a_deadline_now)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            await nursery.start(Driver(core, wire).run)
            while not core.seen:
                await trio.lowlevel.checkpoint()
            assert len(wire.inbox) > 800
            while wire.inbox:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    assert Deadline() in [event for event, _ in core.seen[:100]]


async def test_an_order_given_by_a_note_takes_its_turn() -> None:
    wire = Wire()

    def order_more(note: Note) -> None:
        driver.submit([send(b"ordered by the note")])

    with trio.fail_after(5):
        driver = Driver(Script(), wire, on_note=order_more)
        driver.submit([Report(Said("order")), send(b"was there first")])
        await trio.lowlevel.checkpoint()
    assert [word_of(sent) for sent in wire.sent] == [b"was there first", b"ordered by the note"]


async def test_a_broken_core_ends_the_process() -> None:
    def break_down(event: Event) -> Sequence[Effect]:
        raise AssertionError("frame 12 is on two lists")

    wire = Wire()
    wire.deliver((b"anything",))
    with trio.fail_after(5):
        with pytest.RaisesGroup(pytest.RaisesExc(AssertionError, match="frame 12")):
            await Driver(Script(break_down), wire).run()
        with pytest.raises(AssertionError, match="frame 12"):
            Driver(Script(break_down), wire).submit("anything")
