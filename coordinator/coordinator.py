"""The Core that plays the kernel's memory manager: questions in, calls resumed, effects out."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coordinator import (
    cpuset_calls,
    files,
    handlers,
    hotplug,
    job_calls,
    leases,
    reads,
    recovery,
    task_handlers,
)
from coordinator.address_space import end_page_writeback, next_writeback
from coordinator.calls import PARKED, Ask, Parked, Reply, Steps, ask_all
from coordinator.desk import HANDLERS, Desk, Handler
from coordinator.extensions import Extensions
from coordinator.hotplug_records import NodeLet
from coordinator.invariants import check_memory
from coordinator.members import Members, absent
from coordinator.memory import Memory
from coordinator.mm import VmOperations
from coordinator.mmap import do_exit
from coordinator.pagelist import FEW_PAGES
from coordinator.poison import revert_moves
from coordinator.replay import restore
from coordinator.snapshot import snapshot
from coordinator.syscalls import Kernel
from coordinator.vm_operations import register, register_extensions
from protocol.codec import WireError, encode_entry
from protocol.core import Deadline, Effect, Event, Received, Record, Report
from protocol.hotplug import LeaseNode
from protocol.messages import Done, DropHolds
from protocol.notes import (
    CoordinatorRecovered,
    FrameDropped,
    MachineCounted,
    MigrationsCounted,
    NodeSettled,
    SyscallEnded,
    ZoneReplaced,
)
from protocol.profile import SEED, Profile
from protocol.schema import COORDINATOR, Message, node_name, snake_case
from protocol.session import Answer, Question, Session
from protocol.syscalls import Attach, DescribeHardware, Renew
from protocol.topology import Topology

ENOSYS = 38
#: They enter their functions in HANDLERS when they are imported.
HANDLER_MODULES = (cpuset_calls, files, handlers, hotplug, job_calls, leases, reads, task_handlers)
#: What a coordinator answers before it has recovered: it asks no node, and changes no page.
_BEFORE_RECOVERY = (Attach, DescribeHardware, LeaseNode, Renew)


@dataclass(slots=True, eq=False)
class Call:
    """A generator under way for ``question`` (None: started by the coordinator itself).

    name: as it is counted, or empty.
    """

    steps: Generator[Sequence[Ask] | Parked, Reply | None, Message]
    question: Question | None
    name: str
    started: float


class Coordinator:
    """A Core (protocol/core.py).  Knows mm, vma and page tables; owns no page.

    addresses: where clients reach the nodes, by node name.  chunk_pages: pages that are copied
    together.  few_pages: so many or fewer go the short way (few.py).  strict_order: the node pairs
    of a migration go one after the other, always (pairs.py).
    lease: seconds after which a silent client's tasks exit.  heartbeat: seconds between
    two questions to each node whether it is there; None asks once.  pace: seconds that a second of
    emulated time lasts (emulated.py).  extensions: what users' files registered.  journal: what an
    earlier one has recorded; this one is of the next epoch then, ``epoch`` at least.  leased: nodes
    without an address are whoever leases one (leases.py).
    """

    def __init__(
        self,
        topology: Topology,
        *,
        boot_id: int,
        key: bytes,
        epoch: int = 1,
        journal: Iterable[bytes] = (),
        migration: bool = True,
        profile: Profile = SEED,
        chunk_pages: int = 4096,
        few_pages: int = FEW_PAGES,
        strict_order: bool = False,
        lease: float = 10.0,
        heartbeat: float | None = 1.0,
        pace: float = 0.0,
        addresses: Mapping[str, str] | None = None,
        vm_operations: Mapping[str, VmOperations] | None = None,
        extensions: Extensions | None = None,
        leased: bool = False,
        **session_options: Any,
    ) -> None:
        self.memory = Memory(topology, profile)
        self.memory.emulated.pace = pace
        register(self.memory, vm_operations or {})
        if extensions is not None:
            register_extensions(self.memory, extensions)
        restore(self.memory, journal)
        #: Nodes that have to settle before any call is served; an empty journal needs none.
        self.recovering = recovery.to_settle(self.memory)
        epoch = max(epoch, self.memory.epoch + 1)
        recovery.begin_epoch(self.memory, epoch)
        addresses = dict(addresses or {})
        if leased:
            fixed = frozenset(nid for nid in self.memory.nids if node_name(nid) in addresses)
            leases.begin(self.memory, fixed)
            addresses |= {node_name(one.nid): one.address for one in self.leases}
        self.session = Session(
            COORDINATOR,
            boot_id=boot_id,
            key=key,
            epoch=epoch,
            follows_epoch=False,
            **session_options,
        )
        self.members = Members(self.memory, lease=lease, heartbeat=heartbeat)
        kernel = Kernel(profile, migration, chunk_pages, few_pages, strict_order)
        self.desk = Desk(self.memory, kernel, self.members, addresses, epoch)
        self._tickets: dict[int, tuple[Call, Ask]] = {}
        self._parked: list[Call] = []
        self._calls = 0
        #: What was told last of the machine, and of its migrations.
        self._counted = (0, 0, 0, -1)
        self._migrations = (0, 0)
        self._started: float | None = None
        #: A node lost its zone while calls were under way: nothing happens here any more.
        self._ended = False

    @property
    def name(self) -> str:
        return COORDINATOR

    @property
    def calls(self) -> int:
        """Calls under way, parked faults included."""
        return self._calls + len(self.memory.later)

    @property
    def leases(self) -> list[NodeLet]:
        """Who has leased which node."""
        return list((self.memory.leases or {}).values())

    @property
    def serves(self) -> bool:
        """Calls are served, and every node that is not offline answers."""
        return not self.recovering and self.members.all_up()

    def next_deadline(self) -> float | None:
        """When the session or the members need attention."""
        if self._ended:
            return None
        if self.memory.later:
            return self.memory.now
        times = [self.session.next_deadline(), self.members.next_deadline(), *self.memory.alarms]
        if self.memory.writeback:
            times.append(next_writeback(self.memory))
        return min([time for time in times if time is not None], default=None)

    def validate(self) -> None:
        """Page tables, mem_map and rmap agree; the session is sound."""
        self.session.validate()
        check_memory(self.memory)

    def snapshot(self) -> Iterator[bytes]:
        """Entries that say what all Records so far say together; they are encoded when drawn, and
        are of the memory that there is now.
        """
        return map(encode_entry, snapshot(self.memory))

    # ---- events ----------------------------------------------------------------------------

    def handle(self, event: Event, *, now: float) -> list[Effect]:
        """One event; see protocol/core.py."""
        if self._ended:
            return []
        self.memory.now = now
        self.memory.events += 1
        if self._started is None:
            self._started = now
        later, self.memory.later = self.memory.later, []
        for steps in later:
            self._start(steps, None, "")
        if isinstance(event, Received):
            try:
                heard = self.session.receive(event.frames, now=now)
            except WireError as error:
                self.memory.notes.append(FrameDropped(error.reason))
                heard = []
        else:
            assert isinstance(event, Deadline), "nobody gives the coordinator orders"
            heard = list(self.session.tick(now=now))
        if self.memory.writeback:
            end_page_writeback(self.memory, lambda until, _: until <= now)
        for item in heard:
            if isinstance(item, Question):
                self._asked(item)
            else:
                self._answered(item)
        self._attend(now)
        self._recover()
        if self.desk.news:
            self.desk.news = False
            for nid in filter(self.members.up, self.memory.nids):
                self._start(leases.tell_peers(self.desk, nid), None, "")
        if not self._ended:
            self._ring(now)
            self._wake()
        return self._effects()

    def _asked(self, question: Question) -> None:
        self.members.heard(question.peer, self.memory.now)
        handler = HANDLERS.get(type(question.message))
        if handler is None:
            self.session.answer(question, Done(-ENOSYS))
            return
        if self.recovering and not isinstance(question.message, _BEFORE_RECOVERY):
            result: Message | Steps[Message] = self._once_recovered(handler, question)
        else:
            result = handler(self.desk, question)
        if isinstance(result, Message):
            self.session.answer(question, result)
        else:
            self._start(result, question, snake_case(type(question.message).__name__))

    def _once_recovered(self, handler: Handler, question: Question) -> Steps[Message]:
        """A node that has not settled may still serve what was taken away by now (design 7)."""
        while self.recovering:
            yield PARKED
        result = handler(self.desk, question)
        if isinstance(result, Message):
            return result
        return (yield from result)

    def _answered(self, answer: Answer) -> None:
        if self.members.answered(answer, self.memory.now):
            return
        call, ask = self._tickets.pop(answer.ticket)
        self._resume(call, Reply(ask, answer.message, answer.status))

    def _attend(self, now: float) -> None:
        """Ask nodes whether they are there; a client that is not has its holds and tasks ended."""
        for peer, message, within in self.members.due(now):
            ticket = self.session.ask(peer, message, now=now, within=within)
            self.members.asked(peer, ticket)
        for client in [] if self.recovering else self.members.bury(now):
            # First the page locks: a migration may wait for one, and an exit for the migration.
            self._start(_drop_holds(self.memory, client), None, "exit")
            for task in [task for task in self.memory.tasks.values() if task.client == client]:
                self._start(_exit(self.memory, task.pid), None, "exit")

    # ---- recovery --------------------------------------------------------------------------

    def _recover(self) -> None:
        """Nodes that have opened their zones, or are new to this coordinator."""
        waiting, self.members.to_recover = self.members.to_recover, []
        for nid, uuid in waiting:
            known = self.memory.zones.get(nid, uuid)
            if known != uuid and nid not in self.recovering and self.memory.mem_map[nid].used:
                revert_moves(self.memory, nid)
                self.memory.notes.append(ZoneReplaced(nid))
                self._ended = True
                return
            recovery.know_zone(self.memory, nid, uuid)
            self._start(self._recover_node(nid), None, "")

    def _recover_node(self, nid: int) -> Steps[Message]:
        started = self.memory.now
        is_new = nid in self.recovering
        if is_new:
            recovery.free_unused(self.memory, nid)
        lost = yield from recovery.recover_node(self.memory, nid, revoke=is_new)
        self.members.recovered(nid, self.memory.now, done=lost >= 0)
        if lost >= 0:
            self.memory.notes.append(NodeSettled(nid, lost, self.memory.now - started))
            if self.memory.leases is not None:
                yield from leases.tell_peers(self.desk, nid)
            self._settled(nid)
        return Done(min(lost, 0))

    def _settled(self, nid: int) -> None:
        if nid not in self.recovering:
            return
        self.recovering.discard(nid)
        if self.recovering:
            return
        # Their leases begin anew, as nobody could renew them meanwhile.
        for client in sorted({task.client or "" for task in self.memory.tasks.values()} - {""}):
            self.members.attach(client, self.memory.now)
        assert self._started is not None
        seconds = self.memory.now - self._started
        self.memory.notes.append(CoordinatorRecovered(self.memory.epoch, seconds))
        self.memory.woken = True

    def _ring(self, now: float) -> None:
        """Whoever waits for a time that has come looks again."""
        rung = [time for time in self.memory.alarms if time <= now]
        if rung:
            self.memory.alarms = [time for time in self.memory.alarms if time > now]
            self.memory.woken = True

    # ---- calls -----------------------------------------------------------------------------

    def _start(self, steps: Steps[Message], question: Question | None, name: str) -> None:
        self._calls += 1
        self._resume(Call(steps, question, name, self.memory.now), None)

    def _resume(self, call: Call, reply: Reply | None) -> None:
        try:
            step = call.steps.send(reply)
        except StopIteration as stop:
            self._finish(call, stop.value)
            return
        if isinstance(step, Parked):
            self._parked.append(call)
            return
        for ask in step:
            ticket = self.session.ask(ask.peer, ask.message, now=self.memory.now)
            self._tickets[ticket] = (call, ask)

    def _finish(self, call: Call, result: Message) -> None:
        self._calls -= 1
        if call.question is not None:
            self.session.answer(call.question, result)
        if call.name:
            value, seconds = getattr(result, "value", 0), self.memory.now - call.started
            self.memory.notes.append(SyscallEnded(call.name, value, seconds))

    def _wake(self) -> None:
        """Something changed: whoever is parked looks again, in the order of parking.

        A question that was parked may have begun a call of its own by that.
        """
        while self.memory.woken or self.memory.started:
            while self.memory.started:
                self._start(self.memory.started.pop(0), None, "")
            self.memory.woken = False
            parked, self._parked = self._parked, []
            for call in parked:
                self._resume(call, None)

    def _effects(self) -> list[Effect]:
        """Records first: what is sent after this event depends on them (design 3)."""
        memory = self.memory
        parked, calls = len(self._parked) - memory.joining, self.calls - memory.threads
        counted = len(memory.tasks), parked, calls, self.members.nodes_up()
        if counted != self._counted:
            self._counted = counted
            memory.notes.append(MachineCounted(*counted))
        lists = memory.page_lists
        migrations = len(lists), sum([pages.unsettled() for pages in lists]) if lists else 0
        if migrations != self._migrations:
            self._migrations = migrations
            memory.notes.append(MigrationsCounted(*migrations))
        effects: list[Effect] = [Record(encode_entry(entry)) for entry in memory.records]
        effects += self.session.take_effects()
        effects += [Report(note) for note in memory.notes]
        memory.records.clear()
        memory.notes.clear()
        return effects


def _drop_holds(memory: Memory, client: str) -> Steps[Message]:
    there = [nid for nid in memory.nids if nid not in absent(memory)]
    yield from ask_all([Ask(node_name(nid), DropHolds(client)) for nid in there])
    return Done(0)


def _exit(memory: Memory, pid: int) -> Steps[Message]:
    task = memory.tasks.get(pid)
    value = 0 if task is None else (yield from do_exit(memory, task, "lease"))
    return Done(value)
