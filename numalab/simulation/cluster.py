"""A machine in a simulated world: what the seed draws of it, its Cores, copies of their state."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from coordinator.coordinator import Coordinator
from coordinator.mem_map import NO_NODE
from coordinator.memory import Memory
from coordinator.mm import ANON, ENTRY, PRESENT, MigrateHook, VmOperations
from coordinator.pagelist import FEW_PAGES
from nodes.node import Node
from nodes.zone import Zone
from numalab.checker import Entries, Frames, Kind
from numalab.client import Client
from numalab.faults import Crash, Rule, swarm
from numalab.simulation.happening import Make
from numalab.simulation.steps import StepFault, StepWatch, draw_step
from numalab.simulation.world import World
from protocol.core import Core
from protocol.notes import ZoneReplaced
from protocol.profile import PROFILES, Profile, adjusted
from protocol.schema import COORDINATOR, node_name
from protocol.topology import Topology, TopologyNode, uniform_distances

KEY = b"one seed, 1 key "
PAGE_SIZE = 64
#: When the faults end, in seconds.
FAULTS_END = 8.0
PARTITION_SECONDS = 3.0
LEASE_SECONDS = 30.0
#: How long a process that died stays away at most.
BACK_SECONDS = 2.0

#: After so many seconds of load the crash in mid-migration takes the next migration that comes.
ANY_STEP_AFTER = 5.0

#: How often the acts of load_kinds.py are drawn at most.
KINDS_OF_MEMORY = (
    ("mapfile", 4),
    ("special", 2),
    ("lock", 2),
    ("advise", 2),
    ("clone", 1),
    ("device", 2),
    ("unlink", 1),
    ("mbind", 3),
    ("policy", 3),
    ("cpuset", 6),
)

U32 = npt.NDArray[np.uint32]

#: vm_ops->migrate that gives always the same, by the name of a mapping.
HOOKED = {"[hook passes]": 0, "[hook fails]": -errno.EIO, "[hook is positive]": 3}


def _hook(value: int) -> MigrateHook:
    return lambda memory, vma, from_nodes, to_nodes, flags: value


HOOKS = {name: VmOperations(_hook(value)) for name, value in HOOKED.items()}

_LIVE = PRESENT | ENTRY
#: By the live bits of an entry; a page cache has none.
_KIND = np.full(int(_LIVE) + 1, Kind.CACHE, np.int64)
_KIND[PRESENT], _KIND[[ENTRY, _LIVE]] = Kind.PRESENT, Kind.MIGRATION
#: Slots, bits, nids and frame numbers.
_NO_ROWS = tuple(np.zeros(0, dtype) for dtype in (np.intp, np.uint8, np.uint8, np.uint32))


@dataclass(frozen=True, slots=True)
class Plan:
    """What the seed decides before anything happens.

    frames: of each node.  fault_around: of each client, in pages.  mix: how often which operation
    is drawn, relative to the others.  quiet: so many calls of the oracle's, with nothing else under
    way.  rules: the faults.
    """

    seed: int
    frames: tuple[int, ...]
    clients: int
    lanes: int
    operations: int
    quiet: int
    chunk_pages: int
    profile: str
    heartbeat: float | None
    leased: bool
    region_pages: int
    fault_around: int
    mix: tuple[tuple[str, int], ...]
    rules: tuple[Rule, ...]
    crashes: tuple[Crash, ...] = ()
    step: StepFault | None = None

    @property
    def strict_order(self) -> bool:
        """Node pairs go in the kernel's order: with every other two seeds."""
        return self.seed % 4 >= 2

    def names(self) -> list[str]:
        """Everybody on the network."""
        nodes = [node_name(nid) for nid in range(len(self.frames))]
        return [COORDINATOR, *nodes, *(f"client{n}" for n in range(self.clients))]

    def describe(self) -> str:
        """The plan in a few lines, for a person."""
        mix = ", ".join(f"{name} {weight}" for name, weight in self.mix if weight)
        lines = [
            f"{len(self.frames)} nodes of {', '.join(map(str, self.frames))} frames,"
            f" {self.clients} clients, chunks of {self.chunk_pages}, profile {self.profile},"
            f" faults around {self.fault_around} pages,"
            f" node pairs {'in strict order' if self.strict_order else 'at once'}",
            f"{self.operations} operations: {mix}",
            *(rule.describe() for rule in self.rules),
            *(crash.describe() for crash in self.crashes),
        ]
        if self.step is not None:
            lines.append(self.step.describe())
        return "\n".join(lines)


def draw_plan(seed: int) -> Plan:
    """A swarm: every seed has some kinds of load and of faults, few have all."""
    draw = random.Random(f"plan {seed}")
    nodes = draw.randint(2, 4)
    least, most_frames = draw.choice(((40, 96), (40, 96), (6, 24), (3, 9)))
    frames = tuple(draw.randint(least, most_frames) for _ in range(nodes))
    weights = {"store": 8, "load": 8, "map": 2}
    for name, most in (
        ("touch", 4),
        ("unmap", 2),
        ("protect", 2),
        ("fork", 2),
        ("exit", 1),
        ("spawn", 1),
        ("migrate", 4),
        ("move", 4),
        ("hold", 2),
    ):
        weights[name] = draw.randint(1, most) if draw.random() < 0.6 else 0
    kinds = random.Random(f"kinds of {seed}")
    some = kinds.random() < 0.6
    for name, most in KINDS_OF_MEMORY:
        weights[name] = kinds.randint(1, most) if some and kinds.random() < 0.6 else 0
    if not weights["migrate"]:
        weights["move"] = max(1, weights["move"])
    plan = Plan(
        seed=seed,
        frames=frames,
        clients=draw.randint(1, 3),
        lanes=draw.randint(1, 3),
        operations=draw.randint(15, 50),
        quiet=draw.randint(1, 9),
        chunk_pages=draw.choice((1, 2, 3, 5, 8, 64)),
        profile=draw.choice(sorted(PROFILES)),
        heartbeat=draw.choice((None, None, 4.0)),
        leased=draw.random() < 0.2,
        region_pages=draw.choice((2, 4, 8, 12)),
        # Windows that end within a region, and those that reach beyond it.
        fault_around=random.Random(f"fault around {seed}").choice((16, 16, 4, 1)),
        mix=tuple(weights.items()),
        rules=(),
    )
    if draw.random() < 0.2:
        return plan
    return replace(plan, rules=swarm(draw, plan.names(), FAULTS_END, PARTITION_SECONDS))


def with_crashes(plan: Plan) -> Plan:
    """The plan with processes that die: one in the middle of a migration, others at any time."""
    draw = random.Random(f"crashes of {plan.seed}")
    names = [name for name in plan.names() if not name.startswith("client")]
    crashes = tuple(
        Crash(
            draw.choice(names),
            draw.uniform(0.2, FAULTS_END),
            draw.uniform(0.01, BACK_SECONDS),
            draw.randrange(12),
        )
        for _ in range(draw.choice((0, 1, 1, 2, 3)))
    )
    mix = dict(plan.mix)
    mix["migrate"] = max(4, mix["migrate"])
    return replace(
        plan,
        mix=tuple(mix.items()),
        crashes=crashes,
        step=draw_step(draw, ANY_STEP_AFTER),
        heartbeat=plan.heartbeat or draw.choice((0.3, 1.0)),
        # What a call alone must do is not determined when somebody dies meanwhile.
        quiet=0,
    )


def profile_of(plan: Plan) -> Profile:
    """That of the plan; half of the modern machines have WEIGHTED_INTERLEAVE, which is later."""
    profile = PROFILES[plan.profile]
    if plan.profile == "seed" or random.Random(f"weighted {plan.seed}").random() < 0.5:
        return profile
    return adjusted(profile, {"weighted_interleave": True})


class Cluster:
    """The Cores of a plan in a world of their own; ``every``: of World."""

    def __init__(self, plan: Plan, *, every: int = 1) -> None:
        self.plan = plan
        self.world = World(plan.seed, key=KEY, rules=plan.rules, every=every)
        nodes = tuple(
            TopologyNode(nid, frames, (2 * nid, 2 * nid + 1))
            for nid, frames in enumerate(plan.frames)
        )
        self.topology = Topology(nodes, uniform_distances(len(nodes)), PAGE_SIZE)
        self.zones: dict[int, Zone] = {}
        self._buffers: dict[int, bytearray] = {}
        self.step = None if plan.step is None else StepWatch(self.world, plan.step)
        self.world.listen(ZoneReplaced, self._end_coordinator)
        self.world.harm.lose_zone = lambda name: self.new_zone(int(name.removeprefix("node")))
        self.world.add(COORDINATOR, self._make_coordinator)
        for node in nodes:
            self.new_zone(node.nid)
            self.world.add(node_name(node.nid), self._maker_of_node(node.nid))
        self.clients = [f"client{n}" for n in range(plan.clients)]
        for name in self.clients:
            self.world.add(name, self._maker_of_client(name))

    def new_zone(self, nid: int) -> None:
        """A zone whose frames are all free; the one that was there is lost."""
        frames = self.plan.frames[nid]
        uuid = self.world.draw.randbytes(16)
        self._buffers[nid] = buffer = bytearray(Zone.size_of(frames, PAGE_SIZE))
        Zone.format(buffer, nid=nid, page_size=PAGE_SIZE, frames=frames, uuid=uuid)

    def arm(self) -> None:
        """The load begins: from now on processes die."""
        self.world.intercept = self.step
        if self.step is not None and self.step.fault.any_after is not None:
            self.world.call(self.step.fault.any_after, self.step.take_any)
        if self.plan.crashes:
            self.world.harm.suffer((*self.plan.rules, *self.plan.crashes))

    def _end_coordinator(self, _: ZoneReplaced) -> None:
        self.world.call(0.0, lambda: self.world.crash_for(COORDINATOR, 0.0))

    def _make_coordinator(self, boot: int, journal: list[bytes]) -> Core:
        return Coordinator(
            self.topology,
            boot_id=boot,
            key=KEY,
            journal=tuple(journal),
            migration=True,
            chunk_pages=self.plan.chunk_pages,
            # Every other seed has the short way of a short list.
            few_pages=FEW_PAGES if self.plan.seed % 2 else 0,
            strict_order=self.plan.strict_order,
            lease=LEASE_SECONDS,
            heartbeat=self.plan.heartbeat,
            addresses={},
            profile=profile_of(self.plan),
            vm_operations=HOOKS,
        )

    def _maker_of_node(self, nid: int) -> Make:
        def make(boot: int, journal: list[bytes]) -> Core:
            self.zones[nid] = Zone.open(self._buffers[nid])
            return Node(nid, self.zones[nid], boot_id=boot, key=KEY)

        return make

    def _maker_of_client(self, name: str) -> Make:
        def make(boot: int, journal: list[bytes]) -> Core:
            around = self.plan.fault_around
            return Client(name, boot_id=boot, key=KEY, page_size=PAGE_SIZE, fault_around=around)

        return make

    # ---- looking at it ---------------------------------------------------------------------

    @property
    def coordinator(self) -> Coordinator:
        core = self.world.processes[COORDINATOR].core
        assert isinstance(core, Coordinator)
        return core

    @property
    def memory(self) -> Memory:
        return self.coordinator.memory

    def idle(self) -> bool:
        """Nobody is dead or has to recover, and the coordinator waits for nobody's answer.

        So tables and zones must agree.
        """
        cores = [process.core for process in self.world.processes.values()]
        return None not in cores and not self.recovering and self.coordinator.calls == 0

    @property
    def recovering(self) -> bool:
        """The coordinator, or a node, has not told or heard yet which frames are in use."""
        core = self.world.processes[COORDINATOR].core
        nodes = [self.world.processes[node_name(nid)].core for nid in self.topology.nids]
        if not isinstance(core, Coordinator) or core.recovering:
            return True
        return not all(isinstance(node, Node) and node.gate.is_open for node in nodes)

    def held(self, wanted: int) -> list[tuple[int, U32, U32]]:
        """(nid, pfn, generation) of the frames with one of the ``wanted`` flags."""
        found = []
        for nid, zone in self.zones.items():
            pfn, flags, generation, *_ = zone.inventory()
            rows = flags & wanted != 0
            if rows.any():
                found.append((nid, pfn[rows], generation[rows]))
        return found

    def frames(self) -> list[Frames]:
        """A copy of what every zone says of its frames."""
        copies = []
        for nid, zone in self.zones.items():
            pfn, *columns = (column.astype(np.int64) for column in zone.inventory())
            free = zone.count()["free"]
            contents = self._reader(zone)
            flags, generation, owner, index = columns
            copies.append(
                Frames(
                    nid,
                    PAGE_SIZE,
                    zone.frames,
                    free,
                    pfn,
                    flags,
                    generation,
                    owner,
                    index,
                    contents,
                )
            )
        return copies

    def _reader(self, zone: Zone) -> Callable[[int], bytes]:
        return lambda pfn: bytes(zone.gather(np.array([pfn], np.uint32), copy=True))

    def entries(self) -> Entries:
        """A copy of every page table and of the cache of every shared object."""
        memory = self.memory
        columns: list[tuple[npt.NDArray[Any], ...]] = [_NO_ROWS]
        #: Of each part: rows, pid, first page, offset in the object, object, object if anonymous.
        parts: list[tuple[int, int, int, int, int, int]] = []
        for pid, task in memory.tasks.items():
            for vma in task.mm.vmas:
                slot = (vma.bits & _LIVE).nonzero()[0]
                own = vma.mapping.id
                other = own if vma.file is None else vma.file.id
                parts.append((slot.size, pid, vma.start, vma.pgoff, other, own))
                columns.append((slot, vma.bits[slot], vma.nid[slot], vma.pfn[slot]))
        for mapping in memory.mappings.values():
            if mapping.shared:
                slot = mapping.cached()
                parts.append((slot.size, 0, 0, 0, mapping.id, mapping.id))
                cached = np.zeros(slot.size, np.uint8)
                columns.append((slot, cached, mapping.nid[slot], mapping.pfn[slot]))
        slot, bits, nid, pfn = map(np.concatenate, zip(*columns, strict=True))
        told = np.array(parts, np.int64).reshape(-1, 6)
        pids, start, pgoff, other, own = told[:, 1:].repeat(told[:, 0], axis=0).T
        owner = np.where(bits & ANON, own, other)
        generation = memory.generations(nid, pfn)
        return Entries(
            _KIND[bits & _LIVE],
            pids,
            slot + start,
            nid.astype(np.int64),
            pfn.astype(np.int64),
            generation.astype(np.int64),
            owner,
            slot + pgoff,
        )

    def locate(self, pid: int, page: int) -> tuple[int, int] | None:
        """(nid, pfn) of a page, by its entry or from the page cache that it reads."""
        vma = self.memory.tasks[pid].mm.find(page)
        assert vma is not None, f"page {page:#x} of task {pid} is in no vma"
        slot = page - vma.start
        if vma.bits[slot] & _LIVE:
            return int(vma.nid[slot]), int(vma.pfn[slot])
        index = slot + vma.pgoff
        if vma.file is not None and vma.file.nid[index] != NO_NODE:
            return int(vma.file.nid[index]), int(vma.file.pfn[index])
        return None
