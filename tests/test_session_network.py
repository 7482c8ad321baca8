"""Two sessions ask each other over a network that loses, repeats, reorders; either restarts."""

from __future__ import annotations

import errno
import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from protocol import codec
from protocol.codec import Kind
from protocol.core import Frames, Send
from protocol.messages import Done
from protocol.reply_cache import SLOTS, ReplyCache
from protocol.schema import Message
from protocol.session import Answer, Question, Session
from protocol.syscalls import Exit

KEY = b"k" * 16
FAULTS_END = 20.0
HEALED_BY = 40.0


@dataclass
class Party:
    """A session, what it executed and how its questions ended; it may be restarted."""

    session: Session
    boot: int = 1
    executed: Counter[tuple[int, int]] = field(default_factory=Counter)
    asked: dict[int, int] = field(default_factory=dict)
    ended: dict[int, Answer] = field(default_factory=dict)


class World:
    """Two parties that ask each other for Exit(serial), on virtual time, all from one seed."""

    def __init__(self, seed: int, *, restarts: bool) -> None:
        self.random = random.Random(seed)
        self.restarts = restarts
        self.serial = 0
        self.step = 0
        self.now = 0.0
        self.heap: list[tuple[float, int, Callable[[], None]]] = []
        self.bytes_sent: list[bytes] = []
        self.lost: set[int] = set()
        self.status: dict[int, int] = {}
        self.parties = {name: Party(self.new_session(name, 1)) for name in ("node0", "node1")}

    def new_session(self, name: str, boot: int) -> Session:
        return Session(name, boot_id=boot, key=KEY, epoch=1, window=4)

    def at(self, delay: float, act: Callable[[], None]) -> None:
        self.step += 1
        heapq.heappush(self.heap, (self.now + delay, self.step, act))

    def run(self) -> None:
        for name in self.parties:
            self.at(0.0, lambda name=name: self.load(name))  # type: ignore[misc]
            if self.restarts:
                self.at(self.random.uniform(1, 15), lambda name=name: self.restart(name))  # type: ignore[misc]
        while True:
            deadlines = [
                (due, name)
                for name, party in self.parties.items()
                if (due := party.session.next_deadline()) is not None
            ]
            due, name = min(deadlines, default=(float("inf"), ""))
            if self.heap and self.heap[0][0] <= due:
                self.now, _, act = heapq.heappop(self.heap)
                act()
            elif name:
                self.now = max(self.now, due)
                self.over(name, self.parties[name].session.tick(now=self.now))
                self.carry(name)
            else:
                return
            assert self.now < HEALED_BY, "something is never answered"

    def load(self, name: str) -> None:
        party = self.parties[name]
        other = "node1" if name == "node0" else "node0"
        for _ in range(self.random.randrange(1, 8)):
            self.serial += 1
            within = self.random.choice((None, None, 3.0))
            ticket = party.session.ask(other, Exit(self.serial), now=self.now, within=within)
            party.asked[ticket] = self.serial
        self.carry(name)
        if self.now < FAULTS_END:
            self.at(self.random.uniform(0.1, 1.0), lambda: self.load(name))

    def restart(self, name: str) -> None:
        """SIGKILL: what it had asked and not heard of is nobody's any more."""
        party = self.parties[name]
        self.lost.update(s for t, s in party.asked.items() if t not in party.ended)
        self.parties[name] = Party(self.new_session(name, party.boot + 1), party.boot + 1)
        self.parties[name].executed = party.executed

    def carry(self, name: str) -> None:
        """Hand what a session wants sent to the network."""
        party = self.parties[name]
        party.session.validate()
        for effect in party.session.take_effects():
            if not isinstance(effect, Send):
                continue
            frames = tuple(bytes(frame) for frame in effect.frames)
            self.bytes_sent.extend(frames)
            faulty = self.now < FAULTS_END
            copies = self.random.choice((0, 1, 1, 2)) if faulty else 1
            for _ in range(copies):
                delay = self.random.choice((0.01, 0.05, 1.5, 4.0)) if faulty else 0.01
                self.at(delay, lambda t=effect.target, f=frames: self.deliver(t, f))  # type: ignore[misc]

    def deliver(self, name: str, frames: Frames) -> None:
        party = self.parties[name]
        for item in party.session.receive(frames, now=self.now):
            if isinstance(item, Answer):
                self.over(name, [item])
            else:
                assert isinstance(item.message, Exit)
                party.executed[party.boot, item.message.pid] += 1
                work = self.random.choice((0.0, 0.02, 0.7))
                self.at(work, lambda q=item: self.finish(name, party, q))  # type: ignore[misc]
        self.carry(name)

    def finish(self, name: str, party: Party, question: Question) -> None:
        if self.parties[name] is party:
            assert isinstance(question.message, Exit)
            party.session.answer(question, Done(question.message.pid))
            self.carry(name)

    def over(self, name: str, answers: list[Answer]) -> None:
        party = self.parties[name]
        for answer in answers:
            assert answer.ticket not in party.ended, "a question ended twice"
            party.ended[answer.ticket] = answer
            serial = party.asked[answer.ticket]
            self.status[serial] = answer.status
            if answer.status == 0:
                assert isinstance(answer.message, Done) and answer.message.value == serial

    def times_executed(self) -> Counter[int]:
        times: Counter[int] = Counter()
        for party in self.parties.values():
            for (_, serial), count in party.executed.items():
                times[serial] += count
        return times


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("restarts", [False, True], ids=["steady", "restarts"])
def test_every_question_is_executed_at_most_once_and_ends(seed: int, restarts: bool) -> None:
    print(f"seed {seed}")
    world = World(seed, restarts=restarts)
    world.run()
    times = world.times_executed()
    assert max(times.values()) == 1
    for serial in range(1, world.serial + 1):
        status = world.status.get(serial)
        if status == 0:
            assert times[serial] == 1, f"{serial} answered, never executed"
        elif status is None:
            assert serial in world.lost, f"{serial} neither ended nor lost with its asker"
        else:
            assert status == -errno.EAGAIN or (restarts and status == -errno.ENODEV)
    counts = Counter(world.status.values())
    assert counts[0] > 50
    assert counts[-errno.ENODEV] > 0 or not restarts


def test_without_the_reply_cache_the_same_network_has_questions_executed_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    admit = ReplyCache.admit

    def forgetful(cache: ReplyCache, xid: int, floor: int) -> bool:
        served = cache._served.get(xid % SLOTS)
        if served is not None and not served.executing:
            del cache._served[xid % SLOTS]
        return admit(cache, xid, floor)

    monkeypatch.setattr(ReplyCache, "admit", forgetful)
    world = World(0, restarts=False)
    world.run()
    assert max(world.times_executed().values()) > 1


def test_without_boot_ids_the_same_network_has_questions_executed_by_two_incarnations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = codec.decode
    reborn = {"node0": 1, "node1": 1}

    def credulous(frames: Frames, key: bytes) -> tuple[codec.Envelope, Message | None]:
        envelope, message = real(frames, key)
        if envelope.kind == Kind.QUESTION:
            envelope = replace(envelope, target_boot=reborn[envelope.target])
        return envelope, message

    monkeypatch.setattr("protocol.session.decode", credulous)
    twice = 0
    for seed in range(12):
        world = World(seed, restarts=True)
        restart = world.restart

        def noted(name: str, restart: Callable[[str], None] = restart) -> None:
            restart(name)
            reborn[name] = 2

        reborn.update(node0=1, node1=1)
        monkeypatch.setattr(world, "restart", noted)
        world.run()
        twice += max(world.times_executed().values()) > 1
    assert twice > 0


def test_the_same_seed_gives_the_same_bytes() -> None:
    first, second = World(7, restarts=True), World(7, restarts=True)
    first.run()
    second.run()
    assert first.bytes_sent == second.bytes_sent
