"""A world of one client, whose coordinator and nodes follow a script; time is a number."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable

import numpy as np

from numalab.client import Client
from protocol.core import Command, Deadline, Effect, Frames, Received, Report, Send
from protocol.messages import Done, HoldPages, LoadBytes, LoadedBytes, Statuses, StoreBytes
from protocol.notes import OperationEnded
from protocol.schema import Message
from protocol.session import Question, Session
from protocol.syscalls import Fault, Translations

KEY = bytes(16)
PAGE = 64


class Peer:
    """A process that answers as ``script`` says (None: not at all) and remembers what was asked."""

    def __init__(self, name: str, boot_id: int, script: Callable[[Message], Message | None]):
        self.session = Session(name, boot_id=boot_id, key=KEY)
        self.script = script
        self.asked: list[Message] = []

    def receive(self, frames: Frames, now: float) -> list[Effect]:
        for question in self.session.receive(frames, now=now):
            assert isinstance(question, Question)
            self.asked.append(question.message)
            answer = self.script(question.message)
            if answer is not None:
                self.session.answer(question, answer)
        return self.session.take_effects()

    def count(self, kind: type[Message]) -> int:
        return sum(isinstance(message, kind) for message in self.asked)


class World:
    """Page p of every task is frame p of node p % 2, of generation 1, until a test says other."""

    def __init__(self) -> None:
        self.now = 100.0
        self.client = Client("client-1", boot_id=1, key=KEY, page_size=PAGE)
        self.results: dict[int, object] = {}
        self.notes: list[object] = []
        self.generation: dict[int, int] = {}
        self.untouched: set[int] = set()
        self.refusing: dict[int, int] = {}
        self.memory = [bytearray(PAGE * 8192), bytearray(PAGE * 8192)]
        self.peers: dict[str, Peer] = {}
        self.restart("coordinator", 1, self.coordinate)
        for nid in range(2):
            self.restart(f"node{nid}", 1, self.node(nid))

    def restart(self, name: str, boot_id: int, script: Callable[[Message], Message | None]) -> None:
        self.peers[name] = Peer(name, boot_id, script)

    def coordinate(self, message: Message) -> Message | None:
        if not isinstance(message, Fault):
            return Done(0)
        page = message.page.astype(np.int64)
        assert page.size <= 4096, "more pages in one Fault than the coordinator takes"
        assert np.unique(page).size == page.size, "a page twice in one Fault"
        wished = np.arange(page.size) >= page.size - message.wished
        untouched = np.isin(page, sorted(self.untouched)) & ((message.access == 0) | wished)
        self.untouched -= {int(p) for p in page[~untouched]}
        generation = [self.generation.get(int(p), 1) for p in page]
        nowhere = page >= 8192
        status = np.where(nowhere, -errno.EFAULT, 0)
        status[wished & (nowhere | untouched)] = -errno.EAGAIN
        return Translations(
            status.astype(np.int32),
            np.where(untouched, -1, page % 2).astype(np.int32),
            page.astype(np.uint32),
            np.array(generation, np.uint32),
            np.full(page.size, message.access > 0, np.uint8),
        )

    def node(self, nid: int) -> Callable[[Message], Message | None]:
        def answer(message: Message) -> Message | None:
            assert isinstance(message, LoadBytes | StoreBytes | HoldPages)
            status = np.zeros(message.pfn.size, np.int32)
            for row, pfn in enumerate(message.pfn.tolist()):
                assert pfn % 2 == nid, f"frame {pfn} asked at node {nid}"
                if message.generation[row] != self.generation.get(pfn, 1):
                    status[row] = -errno.ESTALE
                elif self.refusing.get(pfn, 0) > 0:
                    self.refusing[pfn] -= 1
                    status[row] = -errno.EAGAIN
            if isinstance(message, HoldPages):
                return Statuses(status)
            assert message.pfn.size * message.size <= 256 * PAGE, "more than 256 pages at once"
            where = message.pfn.astype(np.int64) * PAGE + message.start
            memory = np.frombuffer(self.memory[nid], np.uint8)
            index = where[:, None] + np.arange(message.size)
            if isinstance(message, LoadBytes):
                data = np.where(status[:, None] == 0, memory[index], 0).astype(np.uint8)
                return LoadedBytes(status, data.tobytes())
            data = np.frombuffer(message.data, np.uint8).reshape(-1, message.size)
            memory[index[status == 0]] = data[status == 0]
            return Statuses(status)

        return answer

    def order(self, order: object) -> None:
        self.carry(self.client.handle(Command(order), now=self.now))

    def carry(self, effects: Iterable[Effect]) -> None:
        queue = list(effects)
        while queue:
            effect = queue.pop(0)
            self.client.validate()
            if isinstance(effect, Report):
                self.notes.append(effect.note)
                if isinstance(effect.note, OperationEnded):
                    assert effect.note.ticket not in self.results, "an order has ended twice"
                    self.results[effect.note.ticket] = effect.note.result
            elif isinstance(effect, Send):
                if effect.target == self.client.name:
                    queue += self.client.handle(Received(effect.frames), now=self.now)
                else:
                    queue += self.peers[effect.target].receive(effect.frames, self.now)

    def until(self, time: float) -> None:
        """Let time pass: every deadline of the client up to then."""
        while (due := self.client.next_deadline()) is not None and due <= time:
            self.now = max(self.now, due)
            self.carry(self.client.handle(Deadline(), now=self.now))
        self.now = time

    def result(self, order: object) -> object:
        self.order(order)
        return self.results[order.ticket]  # type: ignore[attr-defined]

    def asked(self, name: str, kind: type[Message]) -> int:
        return self.peers[name].count(kind)


def silent(message: Message) -> Message | None:
    return None
