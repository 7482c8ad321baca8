"""The load: what the tasks of a simulated machine do, drawn from the seed.

A lane is a thread of some program: it gives its client one order after the other and thinks in
between.  Lanes work on the same tasks, so everything races with everything.  Now and then all lanes
rest, and one system call runs alone: what it must do is known, and the oracle says what.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from coordinator.mm import MAP_ANONYMOUS, MAP_PRIVATE, MAP_SHARED, UNCACHED
from nodes.flags import HELD, PINNED
from numalab.checker import WORD, Finding
from numalab.history import History, Operation, Outcome, outcome_of
from numalab.orders import Ask, Hold, Load, Order, Store, StoreMany
from numalab.rights import PROT_READ, PROT_WRITE
from numalab.simulation.cluster import FAULTS_END, PAGE_SIZE, Cluster
from numalab.simulation.draws import WORDS, Draws, Region, TaskModel
from numalab.simulation.encore import Encore
from numalab.simulation.load_kinds import KindsLoad
from numalab.simulation.load_quiet import QuietLoad
from protocol.messages import HoldPages, Statuses
from protocol.notes import OperationEnded, TaskEnded
from protocol.schema import COORDINATOR, Message, node_name
from protocol.syscalls import Exit, Fork, Mmap, Mprotect, Munmap, Spawn

HOLD_SECONDS = 2.0
#: About as long as it takes to move a few pages.
STORM_SECONDS = 0.03
UNCACHED_SEEDS = 0.25
Ended = Callable[[object], None]


class Driver:
    """Gives orders, judges their ends; ``findings`` grow."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.plan, self.world = cluster, cluster.plan, cluster.world
        self.random = random.Random(f"load {self.plan.seed}")
        self.draws = Draws(self.random, cluster.topology, cluster.memory.profile)
        self.history = History(PAGE_SIZE)
        self.findings: list[Finding] = []
        #: In some seeds shared memory is that of the uncached allocator.
        self._uncached = random.Random(f"uncached {self.plan.seed}").random() < UNCACHED_SEEDS
        self.left = self.plan.operations
        self.quiet_left = self.plan.quiet
        #: How many quiet calls were compared, by what they were and what they met.
        self.tally: Counter[str] = Counter()
        lanes = self.plan.clients * self.plan.lanes
        #: A lane thinks so long between two orders at most (seconds), to fill the time of faults.
        self._think = 3 * FAULTS_END * lanes / self.plan.operations
        #: Things that will happen by themselves: pages let go, accesses during a migration.
        self.pending = 0
        self._resting: list[str] = []
        self._lanes = 0
        self._waiting: dict[int, Ended] = {}
        self._tickets = 0
        self._values = 0
        self.world.listen(OperationEnded, self._order_ended)
        self.world.listen(TaskEnded, self._task_ended)
        self.kinds = KindsLoad(self)
        self.alone = QuietLoad(self)

    # ---- orders ----------------------------------------------------------------------------

    def start(self) -> None:
        """The files, and the first task with its memory; then every lane begins."""
        self.kinds.create_files(lambda _: self._first_task())

    def _first_task(self) -> None:
        self._spawn(self.cluster.clients[0], lambda _: self._first_map())

    def _first_map(self) -> None:
        self._map(self.cluster.clients[0], lambda _: self._begin())

    def _begin(self) -> None:
        self.cluster.arm()
        for name in self.cluster.clients:
            for _ in range(self.plan.lanes):
                self._lanes += 1
                self._next(name)

    def done(self) -> bool:
        """Every lane has come to its end."""
        return (
            not (self._waiting or self.pending or self.left)
            and self._lanes == len(self._resting) > 0
        )

    def quiet(self) -> bool:
        """No order waits for its end."""
        return not self._waiting

    def give(self, client: str, make: Callable[[int], Order], ended: Ended) -> None:
        """Give an order; ``ended`` gets its result."""
        self._tickets += 1
        self._waiting[self._tickets] = ended
        self.world.command(client, make(self._tickets))

    def ask(self, client: str, message: Message, ended: Ended) -> None:
        """Ask the coordinator."""
        self.give(client, lambda ticket: Ask(ticket, COORDINATOR, message), ended)

    def _order_ended(self, note: OperationEnded) -> None:
        self._waiting.pop(note.ticket)(note.result)

    def _task_ended(self, note: TaskEnded) -> None:
        if note.reason == "lease":
            self.history.vanished(note.pid)
            self.draws.tasks.pop(note.pid, None)

    # ---- lanes -----------------------------------------------------------------------------

    def _next(self, client: str) -> None:
        """The lane thinks, and then does the next thing; or rests while a quiet call is due."""
        due = self.plan.operations * self.quiet_left // (self.plan.quiet + 1)
        if self.left == 0 or (self.quiet_left and self.left <= due):
            self._resting.append(client)
            if len(self._resting) == self._lanes:
                self._all_rest()
            return
        self.left -= 1
        # Often it does not think at all, so that orders meet.
        think = self.random.uniform(0, self.random.choice((0.005, self._think)))
        self.world.call(think, lambda: self._act(client))

    def _all_rest(self) -> None:
        """A quiet call; or, at the end, what makes sure that the fault at a step has happened."""
        if self.quiet_left:
            self.alone.begin()
        elif self.cluster.step is not None and self.cluster.step.must_happen:
            self.pending += 1
            Encore(self, self.cluster.step, self.end_encore).begin()

    def end_encore(self) -> None:
        """Nothing more comes of itself."""
        self.pending -= 1

    def _act(self, client: str) -> None:
        names, weights = zip(*self.plan.mix, strict=True)
        kind = self.random.choices(names, weights)[0]

        def ended(_: object) -> None:
            self._next(client)

        if not self.draws.tasks:
            kind = "spawn"
        act = self.kinds.acts.get(kind) or getattr(self, f"_{kind}")
        act(client, ended)

    # ---- memory ----------------------------------------------------------------------------

    def tell(self, operation: Operation, ended: Ended) -> Ended:
        """Begin the operation in the history; what is returned ends it there."""
        self.history.began(operation, self.world.now)

        def end(result: object) -> None:
            self.history.ended(operation, outcome_of(result), self.world.now)
            ended(result)

        return end

    def _store(self, client: str, ended: Ended) -> None:
        task = self.draws.task()
        address = self.draws.word(task)
        if address is None:
            self._map(client, ended)
            return
        self._values += 1
        value, cpu = self._values, self.draws.cpu()
        end = self.tell(Operation("store", task.pid, address, WORD, value), ended)
        data = value.to_bytes(WORD, "little")
        self.give(client, lambda ticket: Store(ticket, task.pid, cpu, address, data), end)

    def _touch(self, client: str, ended: Ended) -> None:
        task = self.draws.task()
        region = self.draws.region(task)
        if region is None:
            self._map(client, ended)
        else:
            self.touch(client, task, region, ended)

    def touch(self, client: str, task: TaskModel, region: Region, ended: Ended) -> None:
        """Store to one word of every page of a region, in one order."""
        start = region.address + WORD * self.random.choice(WORDS)
        addresses = start + PAGE_SIZE * np.arange(region.pages, dtype=np.uint64)
        operations = []
        for address in addresses.tolist():
            self._values += 1
            store = Operation("store", task.pid, address, WORD, self._values)
            operations.append(self.history.began(store, self.world.now))

        def end(result: object) -> None:
            outcome = outcome_of(result)
            if outcome.error:
                # Some pages may have been stored to: nobody knows which.
                outcome = Outcome(outcome.error, definite=False)
            for operation in operations:
                self.history.ended(operation, outcome, self.world.now)
            ended(result)

        data = np.array([operation.value for operation in operations], "<u8").tobytes()
        what = (task.pid, self.draws.cpu(), addresses, WORD, data)
        self.give(client, lambda ticket: StoreMany(ticket, *what), end)

    def _load(self, client: str, ended: Ended) -> None:
        task = self.draws.task()
        address = self.draws.word(task)
        if address is None:
            self._map(client, ended)
            return
        cpu = self.draws.cpu()
        end = self.tell(Operation("load", task.pid, address, WORD), ended)
        self.give(client, lambda ticket: Load(ticket, task.pid, cpu, address, WORD), end)

    def _map(self, client: str, ended: Ended) -> None:
        task = self.draws.task()
        pages = self.random.randint(1, self.plan.region_pages)
        self.map_region(client, task, pages, self.random.random() < 0.3, ended)

    def map_region(
        self, client: str, task: TaskModel, pages: int, shared: bool, ended: Ended
    ) -> None:
        """Map new anonymous memory; the task has one more region then."""
        flags = MAP_ANONYMOUS | (MAP_SHARED if shared else MAP_PRIVATE)
        prot, length = PROT_READ | PROT_WRITE, pages * PAGE_SIZE

        def mapped(result: object) -> None:
            outcome = outcome_of(result)
            if not outcome.error:
                task.regions.append(Region(outcome.value, pages))
            ended(result)

        operation = Operation("map", task.pid, 0, length, prot=prot, shared=shared)
        name = UNCACHED if shared and self._uncached else ""
        message = Mmap(task.pid, 0, length, prot, flags, name, 0)
        self.ask(client, message, self.tell(operation, mapped))

    def _unmap(self, client: str, ended: Ended) -> None:
        task = self.draws.task()
        region = self.draws.region(task)
        if region is None:
            self._map(client, ended)
            return
        address, length = self.draws.part(region)
        # Sometimes the program forgets what it has unmapped, and touches it again.
        if self.random.random() < 0.5:
            task.regions.remove(region)
        end = self.tell(Operation("unmap", task.pid, address, length), ended)
        self.ask(client, Munmap(task.pid, address, length), end)

    def _protect(self, client: str, ended: Ended) -> None:
        task = self.draws.task()
        region = self.draws.region(task)
        if region is None:
            self._map(client, ended)
            return
        address, length = self.draws.part(region)
        prot = self.random.choice((PROT_READ, PROT_READ | PROT_WRITE))
        end = self.tell(Operation("protect", task.pid, address, length, prot=prot), ended)
        self.ask(client, Mprotect(task.pid, address, length, prot), end)

    # ---- tasks -----------------------------------------------------------------------------

    def _spawn(self, client: str, ended: Ended) -> None:
        uid, capable = self.random.choice((0, 1000, 1001)), self.random.random() < 0.6
        self.spawn_task(client, uid, capable, ended)

    def spawn_task(self, client: str, uid: int, capable: bool, ended: Ended) -> None:
        """Begin a task; it is among the tasks of the load then."""

        def spawned(result: object) -> None:
            outcome = outcome_of(result)
            if not outcome.error:
                self.draws.tasks[outcome.value] = TaskModel(outcome.value, uid, capable)
                self.history.spawned(outcome.value)
            ended(result)

        message = Spawn(self.draws.cpu(), uid, int(capable), int(self.plan.leased), "load")
        self.ask(client, message, spawned)

    def _fork(self, client: str, ended: Ended) -> None:
        task = self.draws.task()
        regions = [replace(region) for region in task.regions]

        def forked(result: object) -> None:
            outcome = outcome_of(result)
            if not outcome.error:
                child = TaskModel(outcome.value, task.uid, task.capable, regions)
                self.draws.tasks[child.pid] = child
            ended(result)

        end = self.tell(Operation("fork", task.pid), forked)
        self.ask(client, Fork(task.pid, -1, int(self.plan.leased)), end)

    def _exit(self, client: str, ended: Ended) -> None:
        self._exit_task(client, self.draws.task(), ended)

    def _exit_task(self, client: str, task: TaskModel, ended: Ended) -> None:
        del self.draws.tasks[task.pid]
        end = self.tell(Operation("exit", task.pid), ended)
        self.ask(client, Exit(task.pid), end)

    def exit_all(self, client: str) -> None:
        """Every task ends, and what it holds is let go."""
        for task in list(self.draws.tasks.values()):
            self._exit_task(client, task, lambda _: None)
        self.release_all(client)

    # ---- migration -------------------------------------------------------------------------

    def _migrate(self, client: str, ended: Ended) -> None:
        self.ask(client, self.draws.migrate(), ended)
        self._storm()

    def _move(self, client: str, ended: Ended) -> None:
        self.ask(client, self.draws.move(), ended)
        self._storm()

    def _storm(self) -> None:
        """Tasks go on with their memory while it is moved under them."""
        for _ in range(self.random.choice((0, 0, 4, 12))):
            self.pending += 1
            self.world.call(self.random.uniform(0, STORM_SECONDS), self._gust)

    def _gust(self) -> None:
        self.pending -= 1
        client = self.random.choice(self.cluster.clients)
        if self.draws.tasks:
            act = self.random.choice((self._store, self._load))
            act(client, lambda _: None)

    # ---- holding pages ---------------------------------------------------------------------

    def _hold(self, client: str, ended: Ended) -> None:
        task = self.draws.task()
        address = self.draws.word(task)
        if address is None:
            self._map(client, ended)
            return
        locked = self.random.random() < 0.4
        page = address // PAGE_SIZE * PAGE_SIZE
        seconds = self.random.uniform(0, HOLD_SECONDS)
        self.pending += 1

        def let_go() -> None:
            self.pending -= 1
            self.release_all(client)

        def held(result: object) -> None:
            self.world.call(seconds, let_go)
            ended(result)

        self.set_hold(client, task.pid, page, (locked, not locked), held)

    def set_hold(
        self, client: str, pid: int, page: int, held: tuple[bool, bool], ended: Ended
    ) -> None:
        pages, cpu = np.array([page], np.uint64), self.draws.cpu()
        self.give(client, lambda ticket: Hold(ticket, pid, cpu, pages, *held), ended)

    def release_all(self, client: str, *, pinned: bool = True) -> None:
        """Every page that is locked, or ``pinned`` as well, is let go.

        Who holds a page knows the page, not only an address of it: asking for a translation would
        wait for the migration that waits for the lock.
        """

        def ended(result: object) -> None:
            if not isinstance(result, Statuses) or result.status.any():
                self.release_all(client, pinned=pinned)

        for nid, pfn, generation in self.cluster.held(HELD | PINNED if pinned else HELD):
            free = np.zeros(pfn.size, np.uint8)
            message = HoldPages(pfn, generation, free, free)
            self._ask_node(client, node_name(nid), message, ended)

    def _ask_node(self, client: str, node: str, message: Message, ended: Ended) -> None:
        self.give(client, lambda ticket: Ask(ticket, node, message), ended)

    # ---- the quiet call --------------------------------------------------------------------

    def at_rest(self) -> bool:
        """Nothing at all is under way."""
        return not (self._waiting or self.pending) and self.cluster.idle()

    def go_on(self) -> None:
        """The lanes have rested."""
        resting, self._resting = self._resting, []
        for client in resting:
            self._next(client)
