"""A machine in one thread: coordinator, nodes and a client, joined by a list of messages in memory.

Virtual time stands still unless a test says ``wait``.  A test holds messages back by their type,
or drops them, so that a race is chosen and not hoped for.  Page contents are of no matter to most
tests, so pages are small.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from coordinator.coordinator import Coordinator
from coordinator.mem_map import PageFlag
from coordinator.mm import MAP_ANONYMOUS, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE, Vma
from nodes.node import Node
from nodes.zone import Zone
from protocol.codec import Envelope, Kind, decode
from protocol.core import Core, Deadline, Effect, Frames, Received, Record, Report, Send
from protocol.messages import (
    CountZone,
    Done,
    HoldPages,
    LoadBytes,
    LoadedBytes,
    Statuses,
    StoreBytes,
    ZoneCount,
)
from protocol.notes import Note
from protocol.schema import COORDINATOR, Message, node_name
from protocol.session import Answer, Session
from protocol.syscalls import (
    Description,
    Exit,
    Fault,
    Fork,
    Mmap,
    MovedPages,
    NumaMaps,
    Spawn,
    Translations,
)
from protocol.topology import Topology
from tests.calls import as_nodes, migration, moving

KEY = b"the lab's secret"
PAGE = 64
CLIENT = "client"
READ, WRITE = 0, 1
RW = PROT_READ | PROT_WRITE
NOT_NAMED = ""

_M = TypeVar("_M", bound=Message)
_N = TypeVar("_N", bound=Note)


class Lab:
    """``nodes`` nodes of ``frames`` frames each, one cpu each (cpu n at node n).

    Everything that leaves a Core is delivered in order by ``run``, but for what is held back.
    """

    def __init__(
        self,
        nodes: int = 4,
        frames: int = 256,
        vm_operations: Mapping[str, Any] | None = None,
        lease: float = 1e9,
        topology: Topology | None = None,
        **coordinator: Any,
    ) -> None:
        self.topology = topology or Topology.uniform(nodes, frames * PAGE, page_size=PAGE)
        self.now = 0.0
        self.notes: list[Note] = []
        self.records: list[bytes] = []
        self.delivered: list[tuple[str, str, str]] = []
        self._queue: deque[tuple[str, Frames]] = deque()
        self._held_back: dict[type[Message], str] = {}
        self._held: list[tuple[type[Message], str, Frames]] = []
        self._dropping: list[type[Message]] = []
        self._when: list[tuple[Note, Callable[[], Message], str]] = []
        self._answers: dict[int, Message | None] = {}
        self.coordinator = Coordinator(
            self.topology,
            boot_id=1,
            key=KEY,
            lease=lease,
            vm_operations=vm_operations,
            **{"heartbeat": None, "few_pages": 0, **coordinator},
        )
        self.memory = self.coordinator.memory
        self.client = Session(CLIENT, boot_id=1, key=KEY)
        self._boot_id = 1
        self._buffers: dict[int, bytearray] = {}
        self.cores: dict[str, Core] = {COORDINATOR: self.coordinator}
        for nid in self.topology.nids:
            self.cores[node_name(nid)] = self._node(nid)
        self.wait(0.0)

    def _node(self, nid: int, uuid: bytes = bytes(16), boot_id: int = 1) -> Node:
        frames = self.topology.node(nid).frames
        buffer = bytearray(Zone.size_of(frames, self.topology.page_size))
        page_size = self.topology.page_size
        Zone.format(buffer, nid=nid, page_size=page_size, frames=frames, uuid=uuid)
        self._buffers[nid] = buffer
        return Node(nid, Zone.open(buffer), boot_id=boot_id, key=KEY)

    def restart(self, nid: int) -> None:
        """The process of a node dies and another one opens its zone."""
        self._boot_id += 1
        zone = Zone.open(self._buffers[nid])
        self.cores[node_name(nid)] = Node(nid, zone, boot_id=self._boot_id, key=KEY)

    # ---- messages --------------------------------------------------------------------------

    def run(self) -> None:
        """Deliver until nothing is under way but what is held back."""
        while self._queue:
            target, frames = self._queue.popleft()
            envelope, message = decode(frames, KEY)
            if envelope.kind == Kind.QUESTION and self._intercept(message, target, frames):
                continue
            self._deliver(envelope, message, target, frames)

    def _intercept(self, message: Message | None, target: str, frames: Frames) -> bool:
        assert message is not None
        cls = type(message)
        if cls in self._dropping:
            self._dropping.remove(cls)
            return True
        if self._held_back.get(cls) in (target, ""):
            self._held.append((cls, target, frames))
            return True
        return False

    def _deliver(
        self, envelope: Envelope, message: Message | None, target: str, frames: Frames
    ) -> None:
        self.delivered.append((envelope.source, target, type(message).__name__))
        if target == CLIENT:
            for answer in self.client.receive(frames, now=self.now):
                assert isinstance(answer, Answer)
                self._answers[answer.ticket] = answer.message
            self._carry_out(self.client.take_effects())
        else:
            core = self.cores[target]
            self._carry_out(core.handle(Received(frames), now=self.now))
            self._heed_deadline(core)

    def _heed_deadline(self, core: Core) -> None:
        due = core.next_deadline()
        if due is not None and due <= self.now:
            self._carry_out(core.handle(Deadline(), now=self.now))

    def _carry_out(self, effects: Any) -> None:
        effect: Effect
        for effect in effects:
            if isinstance(effect, Send):
                # A buffer may be a view of a zone; a real transport would have copied it by now.
                frames = tuple(bytes(frame) for frame in effect.frames)
                self._queue.append((effect.target, frames))
            elif isinstance(effect, Record):
                self.records.append(effect.entry)
            elif isinstance(effect, Report):
                self.notes.append(effect.note)
                self._when_noted(effect.note)

    def _when_noted(self, note: Note) -> None:
        for waited in list(self._when):
            if note == waited[0]:
                self._when.remove(waited)
                self.start(waited[1](), waited[2])

    def wait(self, seconds: float) -> None:
        """Let time pass, and give every Core the deadlines that come up meanwhile."""
        until = self.now + seconds
        self.run()
        while (due := self._next_deadline()) is not None and due <= until:
            self.now = max(self.now, due)
            for core in self.cores.values():
                self._heed_deadline(core)
            self.run()
        self.now = until

    def _next_deadline(self) -> float | None:
        times = [core.next_deadline() for core in self.cores.values()]
        return min((time for time in times if time is not None), default=None)

    # ---- races -----------------------------------------------------------------------------

    def hold_back(self, cls: type[Message], target: str = "") -> None:
        """From now on questions of this type (to ``target``) do not arrive."""
        self._held_back[cls] = target

    def held(self, cls: type[_M]) -> list[_M]:
        """The questions of this type that are held back."""
        return [decode(f, KEY)[1] for c, _, f in self._held if c is cls]  # type: ignore[misc]

    def let_go(self, cls: type[Message]) -> None:
        """What was held back of this type arrives now, and so does what follows."""
        del self._held_back[cls]
        self.let_pass(cls)

    def let_pass(self, cls: type[Message], *, answered: bool = True) -> None:
        """What was held back of this type arrives now; or it does, but the answers are lost."""
        held, self._held = self._held, [item for item in self._held if item[0] is not cls]
        for _, target, frames in (item for item in held if item[0] is cls):
            if answered:
                self._deliver(*decode(frames, KEY), target, frames)
            else:
                self.cores[target].handle(Received(frames), now=self.now)
        self.run()

    def drop(self, cls: type[Message]) -> None:
        """The next question of this type is lost."""
        self._dropping.append(cls)

    def when(self, note: Note, message: Callable[[], Message], peer: str) -> None:
        """As soon as this is reported, the client asks what ``message`` says then."""
        self._when.append((note, message, peer))

    # ---- asking ----------------------------------------------------------------------------

    def start(self, message: Message, peer: str = COORDINATOR) -> int:
        """Ask without waiting for the answer; ``answer_to`` has it later."""
        ticket = self.client.ask(peer, message, now=self.now)
        self._carry_out(self.client.take_effects())
        return ticket

    def answer_to(self, ticket: int) -> Message | None:
        """The answer, or None: not answered yet."""
        self.run()
        return self._answers.get(ticket)

    def ask(self, message: Message, expected: type[_M], peer: str = COORDINATOR) -> _M:
        ticket = self.start(message, peer)
        answer = self.answer_to(ticket)
        if answer is None and ticket in self._answers:
            # The node has been restarted since it was asked something: ask the new process.
            answer = self.answer_to(self.start(message, peer))
        assert isinstance(answer, expected), f"{type(message).__name__} was answered {answer}"
        return answer

    def call(self, message: Message) -> int:
        """A system call whose answer is one number."""
        return self.ask(message, Done).value

    # ---- what tasks do ---------------------------------------------------------------------

    def spawn(
        self, cpu: int = 0, uid: int = 0, *, capable: bool = True, leased: bool = False
    ) -> int:
        return self.call(Spawn(cpu, uid, int(capable), int(leased), "task"))

    def mmap(
        self,
        pid: int,
        pages: int,
        *,
        prot: int = RW,
        shared: bool = False,
        name: str = NOT_NAMED,
        at: int = 0,
    ) -> int:
        """Map anonymous memory (a file if ``name`` is a path); the first page's number."""
        flags = MAP_SHARED if shared else MAP_PRIVATE
        flags |= 0 if name.startswith("/") else MAP_ANONYMOUS
        size = self.topology.page_size
        address = self.call(Mmap(pid, at * size, pages * size, prot, flags, name, 0))
        assert address > 0, f"mmap: {address}"
        return address // size

    def fault(
        self, pid: int, start: int, pages: int = 1, access: int = WRITE, cpu: int = 0
    ) -> Translations:
        return self.ask(Fault(pid, cpu, access, pages_from(start, pages)), Translations)

    def mapped(self, pid: int, pages: int, cpu: int = 0, **how: Any) -> int:
        """Map and write to each page, on ``cpu``; the first page's number."""
        start = self.mmap(pid, pages, **how)
        assert not self.fault(pid, start, pages, cpu=cpu).status.any()
        return start

    def fork(self, pid: int) -> int:
        return self.call(Fork(pid, -1, 0))

    def exit(self, pid: int) -> int:
        return self.call(Exit(pid))

    def store(self, where: Translations, row: int, value: int) -> int:
        """Write eight bytes through a translation; its status."""
        at = slice(row, row + 1)
        data = value.to_bytes(8, "little")
        asked = StoreBytes(8, where.pfn[at], where.generation[at], np.zeros(1, np.uint32), data)
        return int(self.ask(asked, Statuses, node_name(int(where.nid[row]))).status[0])

    def load(self, where: Translations, row: int) -> tuple[int, int]:
        """Read eight bytes through a translation: (status, value)."""
        at = slice(row, row + 1)
        asked = LoadBytes(8, where.pfn[at], where.generation[at], np.zeros(1, np.uint32))
        answer = self.ask(asked, LoadedBytes, node_name(int(where.nid[row])))
        return int(answer.status[0]), int.from_bytes(answer.data, "little")

    def write(self, pid: int, page: int, value: int) -> None:
        assert self.store(self.fault(pid, page), 0, value) == 0

    def read(self, pid: int, page: int) -> int:
        status, value = self.load(self.fault(pid, page, access=READ), 0)
        assert status == 0
        return value

    def hold_pages(self, where: Translations, *, locked: int = 0, pinned: int = 0) -> None:
        """Be another user of these frames, which are all on one node."""
        asked = self.hold_of(where, locked=locked, pinned=pinned)
        assert not self.ask(asked, Statuses, node_name(int(where.nid[0]))).status.any()

    def hold_of(self, where: Translations, *, locked: int = 0, pinned: int = 0) -> HoldPages:
        """Absolute: the page lock is held, there are extra references (1 or 0).

        The frames are named by the generation that they have by now: a failed attempt to move a
        page gives its frame a new one.
        """
        rows = where.pfn.size
        return HoldPages(
            where.pfn,
            self.memory.mem_map[int(where.nid[0])].generation[where.pfn],
            np.full(rows, locked, np.uint8),
            np.full(rows, pinned, np.uint8),
        )

    # ---- migration -------------------------------------------------------------------------

    def migrate(self, pid: int, source: Any, target: Any, caller: int = 0) -> int:
        """migrate_pages(2) from node(s) to node(s)."""
        return self.call(migration(caller, pid, as_nodes(source), as_nodes(target)))

    def move(
        self, pid: int, pages: list[int], nodes: list[int], flags: int = 0, caller: int = 0
    ) -> MovedPages:
        """move_pages(2) of page numbers."""
        size = self.topology.page_size
        asked = moving(pid, [page * size for page in pages], nodes, flags, caller)
        return self.ask(asked, MovedPages)

    # ---- looking ---------------------------------------------------------------------------

    def where(self, pid: int, start: int, pages: int = 1) -> list[int]:
        """The node of each page, or -errno, as move_pages(2) tells it."""
        address = pages_from(start, pages) * np.uint64(self.topology.page_size)
        answer = self.ask(moving(pid, address, None), MovedPages)
        assert answer.value == 0, f"move_pages: {answer.value}"
        return [int(status) for status in answer.status]

    def vma(self, pid: int, page: int) -> Vma:
        vma = self.memory.tasks[pid].mm.find(page)
        assert vma is not None
        return vma

    def numa_maps(self, pid: int) -> list[str]:
        """The lines of /proc/PID/numa_maps."""
        told = self.ask(NumaMaps(pid), Description)
        assert told.value <= 0, "there is more of it than a message has room for"
        return told.text.splitlines()

    def zone(self, nid: int) -> ZoneCount:
        return self.ask(CountZone(), ZoneCount, node_name(nid))

    def free(self) -> list[int]:
        """Free frames of each node."""
        return [self.zone(nid).free for nid in self.topology.nids]

    def noted(self, cls: type[_N]) -> list[_N]:
        return [note for note in self.notes if isinstance(note, cls)]

    def asked(self, cls: type[Message], of: str = "") -> int:
        """How many questions of this type were delivered (to ``of``)."""
        return sum(n == cls.__name__ and of in (t, "") for _, t, n in self.delivered)

    def validate(self) -> None:
        """Every Core is sound; once nothing is under way, nothing is held and nothing leaks."""
        for core in self.cores.values():
            core.validate()
        if self._held or self.coordinator.calls:
            return
        for nid in self.topology.nids:
            zone, known = self.zone(nid), self.memory.mem_map[nid]
            assert not zone.isolated and not zone.locked, f"node {nid}: {zone}"
            assert zone.frames - zone.free == known.used, f"node {nid}: {zone}, {known.used} known"
            assert (known.flags <= PageFlag.ALLOCATED).all(), f"node {nid}: a frame is still held"


def pages_from(start: int, pages: int) -> npt.NDArray[np.uint64]:
    return np.arange(start, start + pages, dtype=np.uint64)
