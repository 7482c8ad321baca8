"""Figure 13, and the simulated half of figure 5: the simulator as it is, and as a scale."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import trio

from coordinator.coordinator import Coordinator
from nodes.node import Node
from nodes.zone import Zone
from numalab.bench.lab import CHUNK_PAGES
from numalab.bench.scale import Start
from numalab.client import Client
from numalab.console import CommandFailed
from numalab.constants import MADV_POPULATE_WRITE, MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, PROT_WRITE
from numalab.orders import Ask
from numalab.simulation.seeds import run_seed
from numalab.simulation.world import World
from protocol.core import Core, Effect, Event
from protocol.messages import Done
from protocol.notes import OperationEnded
from protocol.profile import SEED, adjusted
from protocol.schema import COORDINATOR, Message, node_name
from protocol.syscalls import MigratePages, Mmap, Spawn
from protocol.task_calls import Madvise
from protocol.topology import Topology
from protocol.user_mask import MAXNODE, user_mask

PAGE_SIZE = 64
KEY = b"one bench, 1 key"
#: Nothing may take longer, in virtual seconds.
BOUND_SECONDS = 1e6


async def measure(start: Start) -> None:
    """Seeds one after the other for some seconds, as ``numalab sim`` runs them in a process."""
    for turn in range(start.scale.slow_rounds):
        first = 1000 * (start.number * start.scale.slow_rounds + turn)
        await trio.to_thread.run_sync(_run_seeds, start, first)


def _run_seeds(start: Start, first: int) -> None:
    began, events, virtual, seed = time.perf_counter(), 0, 0.0, first
    while time.perf_counter() - began < start.scale.seconds:
        result = run_seed(seed)
        if not result.ok:
            raise CommandFailed(
                f"Seed {seed} of the simulator fails: see 'numalab sim --seed {seed}'."
            )
        events, virtual, seed = events + result.events, virtual + result.seconds, seed + 1
    wall = time.perf_counter() - began
    start.readings.add(13, events / wall, "events")
    start.readings.add(13, virtual / wall, "virtual time")


# ---- as a scale ----------------------------------------------------------------------------


class Unchecked:
    """A Core whose invariants nobody looks at: that takes longer the more frames there are."""

    def __init__(self, core: Core) -> None:
        self.core = core

    @property
    def name(self) -> str:
        return self.core.name

    def handle(self, event: Event, *, now: float) -> Sequence[Effect]:
        return self.core.handle(event, now=now)

    def next_deadline(self) -> float | None:
        return self.core.next_deadline()

    def validate(self) -> None:
        """Nothing."""


class LargeWorld:
    """Two nodes and a client in a world that forgets every message at once."""

    def __init__(self, pages: int) -> None:
        frames = pages + pages // 4 + 256
        self.topology = Topology.uniform(2, frames * PAGE_SIZE, page_size=PAGE_SIZE)
        self.world = World(1, key=KEY)
        self.world.listen(OperationEnded, self._end)
        self.world.watches.append(self._forget)
        self._ended: list[object] = []
        self.world.add(COORDINATOR, self._coordinator)
        for nid in self.topology.nids:
            self.world.add(node_name(nid), self._node(nid, frames))
        self.world.add("client0", lambda boot, journal: Unchecked(self._client(boot)))

    def ask(self, message: Message) -> int:
        """The answer of the coordinator, when it has come."""
        self.world.command("client0", Ask(1, COORDINATOR, message))
        self.world.run_until(lambda: bool(self._ended), within=BOUND_SECONDS, what="a call")
        answer = self._ended.pop()
        assert isinstance(answer, Done) and answer.value >= 0, f"{message!r}: {answer!r}"
        return answer.value

    def _coordinator(self, boot: int, journal: list[bytes]) -> Core:
        return Unchecked(
            Coordinator(
                self.topology,
                boot_id=boot,
                key=KEY,
                journal=tuple(journal),
                chunk_pages=CHUNK_PAGES,
                addresses={},
                profile=adjusted(SEED, {"madvise_populates": True}),
            )
        )

    def _node(self, nid: int, frames: int) -> Callable[[int, list[bytes]], Core]:
        buffer = bytearray(Zone.size_of(frames, PAGE_SIZE))
        Zone.format(buffer, nid=nid, page_size=PAGE_SIZE, frames=frames, uuid=bytes(16))
        return lambda boot, journal: Unchecked(Node(nid, Zone.open(buffer), boot_id=boot, key=KEY))

    def _client(self, boot: int) -> Client:
        return Client("client0", boot_id=boot, key=KEY, page_size=PAGE_SIZE)

    def _end(self, note: OperationEnded) -> None:
        self._ended.append(note.result)

    def _forget(self, name: str) -> None:
        self.world.packets.clear()
        self.world.notes.clear()


def seconds_to_move(pages: int) -> float:
    """Seconds of this core that moving so many pages takes, by all the Cores together.

    They move back to where they were: who moves first finds frames that nobody has touched.
    """
    world = LargeWorld(pages)
    pid = world.ask(Spawn(0, 0, 1, 0, ""))
    length = pages * PAGE_SIZE
    protection, flags = PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS
    address = world.ask(Mmap(pid, 0, length, protection, flags, "", 0))
    world.ask(Madvise(pid, address, length, MADV_POPULATE_WRITE))
    seconds = 0.0
    for source in world.topology.nids:
        began = time.process_time()
        masks = user_mask((source,)), user_mask((1 - source,))
        left = world.ask(MigratePages(pid, pid, MAXNODE, *masks, ""))
        seconds = time.process_time() - began
        assert not left, f"{left} of {pages} pages did not move"
    return seconds
