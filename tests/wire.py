"""Two nodes and a coordinator's session on a wire that the test holds in its hand."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Iterator

import numpy as np

from nodes.node import Node
from nodes.zone import Zone
from protocol.codec import decode
from protocol.core import Deadline, Effect, Frames, Received, Report, Send
from protocol.messages import (
    CopyPages,
    HoldPages,
    IsolateLruPage,
    LoadBytes,
    LoadedBytes,
    MigratePrep,
    NewPageFrames,
    NewPages,
    PutbackLruPages,
    RecoveredFrames,
    RecoverFrames,
    Statuses,
    StoreBytes,
)
from protocol.notes import Note
from protocol.schema import COORDINATOR, Message, node_name
from protocol.session import Answer, Session
from tests.zones import PAGE, U32

KEY = b"k" * 16
AGAIN = -errno.EAGAIN


class Wire:
    """Two nodes, a coordinator's session, a clock; ``loses`` decides what does not arrive."""

    def __init__(self, frames: int = 16_384) -> None:
        self.now = 0.0
        self.frames = frames
        self.buffers = [bytearray(Zone.size_of(frames, PAGE)) for _ in range(2)]
        self.zones = [
            Zone.format(buffer, nid=nid, page_size=PAGE, frames=frames, uuid=bytes([nid] * 16))
            for nid, buffer in enumerate(self.buffers)
        ]
        self.nodes = {node_name(nid): self.start(nid, boot_id=1) for nid in range(2)}
        self.coordinator = self.rule(epoch=1)
        self.answers: dict[int, Answer] = {}
        self.notes: list[Note] = []
        self.loses: Callable[[Message | None], bool] = lambda message: False
        self.passed: list[type] = []
        self.under_way: deque[tuple[str, Frames]] = deque()
        for nid in range(2):
            self.recover(nid)
        self.notes.clear()
        self.passed.clear()

    def recover(self, nid: int, settle: int = 0) -> RecoveredFrames:
        """Tell a node that what it has in use is in use, so that it serves."""
        pfn, _, generation, *_ = self.zones[nid].inventory()
        rows = np.full(pfn.size, settle, np.uint8)
        answer = self.asked(nid, RecoverFrames(0, self.frames, 1, 0, pfn, generation, rows))
        assert isinstance(answer, RecoveredFrames)
        return answer

    def start(self, nid: int, boot_id: int) -> Node:
        self.zones[nid] = Zone.open(self.buffers[nid])
        return Node(nid, self.zones[nid], boot_id=boot_id, key=KEY)

    def restart(self, nid: int) -> None:
        self.nodes[node_name(nid)] = self.start(nid, boot_id=2)

    def rule(self, epoch: int) -> Session:
        return Session(COORDINATOR, boot_id=epoch, key=KEY, epoch=epoch, follows_epoch=False)

    def ask(self, nid: int, message: Message) -> int:
        return self.coordinator.ask(node_name(nid), message, now=self.now)

    def asked(self, nid: int, message: Message) -> Message:
        """Ask, and run until it is answered."""
        ticket = self.ask(nid, message)
        self.settle()
        answer = self.answers[ticket].message
        assert answer is not None
        return answer

    def statuses(self, nid: int, message: Message) -> list[int]:
        answer = self.asked(nid, message)
        assert isinstance(answer, Statuses)
        return [int(status) for status in answer.status]

    def settle(self) -> None:
        """Deliver until nothing is under way.  Time stands still."""
        self._carry_out(self.coordinator.take_effects())
        while self.under_way:
            target, frames = self.under_way.popleft()
            message = decode(frames, KEY)[1]
            self.passed.append(type(message))
            if self.loses(message):
                continue
            self.deliver(target, frames)

    def deliver(self, target: str, frames: Frames) -> None:
        frames = tuple(bytes(frame) for frame in frames)
        if target == COORDINATOR:
            for item in self.coordinator.receive(frames, now=self.now):
                assert isinstance(item, Answer)
                self.answers[item.ticket] = item
            self._carry_out(self.coordinator.take_effects())
        else:
            node = self.nodes[target]
            self._carry_out(node.handle(Received(frames), now=self.now))
            node.validate()

    def pass_time(self, seconds: float) -> None:
        """Let every node meet its deadlines until then."""
        end = self.now + seconds
        while True:
            due = [(at, name) for name, at in self._deadlines() if at <= end]
            if not due:
                break
            at, name = min(due)
            self.now = max(self.now, at)
            self._carry_out(self.nodes[name].handle(Deadline(), now=self.now))
            self.nodes[name].validate()
            self.settle()
        self.now = end

    def _deadlines(self) -> Iterator[tuple[str, float]]:
        for name, node in self.nodes.items():
            at = node.next_deadline()
            if at is not None:
                yield name, at

    def _carry_out(self, effects: object) -> None:
        assert isinstance(effects, list)
        effect: Effect
        for effect in effects:
            if isinstance(effect, Send):
                self.under_way.append((effect.target, effect.frames))
            elif isinstance(effect, Report):
                self.notes.append(effect.note)

    def noted(self, kind: type[Note]) -> list[Note]:
        return [note for note in self.notes if type(note) is kind]


def touched(wire: Wire, rows: int, nid: int = 0) -> tuple[U32, U32]:
    """Isolated pages on ``nid``; each starts with its number."""
    numbers = np.arange(rows, dtype=np.uint32)
    new = wire.asked(nid, NewPages(1, numbers, numbers))
    assert isinstance(new, NewPageFrames)
    where = new.pfn, new.generation
    stamps = numbers.astype("<u4").tobytes()
    assert not any(wire.statuses(nid, StoreBytes(4, *where, 0 * numbers, stamps)))
    assert wire.asked(nid, MigratePrep()).value == 0  # type: ignore[attr-defined]
    assert not any(wire.statuses(nid, IsolateLruPage(*where)))
    return where


def copying(
    wire: Wire, source: tuple[U32, U32], *, target: int = 1, lock: int = 1, force: int = 0
) -> CopyPages:
    """The order to copy these pages into new frames of ``target``."""
    numbers = np.arange(source[0].size, dtype=np.uint32)
    new = wire.asked(target, NewPages(0, numbers, numbers))
    assert isinstance(new, NewPageFrames)
    return CopyPages(77, target, lock, force, *source, new.pfn, new.generation)


def stamps(wire: Wire, nid: int, pfn: U32, generation: U32) -> list[int]:
    """The numbers that pages start with, once they are mapped."""
    wire.statuses(nid, PutbackLruPages(pfn, generation))
    answer = wire.asked(nid, LoadBytes(4, pfn, generation, 0 * pfn))
    assert isinstance(answer, LoadedBytes)
    assert not answer.status.any()
    return [int(number) for number in np.frombuffer(answer.data, "<u4")]


def hold(wire: Wire, source: tuple[U32, U32], rows: list[int], locked: int, pinned: int) -> None:
    bits = [np.full(len(rows), bit, np.uint8) for bit in (locked, pinned)]
    assert not any(wire.statuses(0, HoldPages(source[0][rows], source[1][rows], *bits)))
