"""The Python API: connect to a machine, run tasks on it, move their pages (trio).

    async with numalab.connect() as machine:
        task = await machine.spawn(cpu=0)
        address = await task.mmap(1 << 20)
        await task.store(address, b"hello")
        not_moved = await task.migrate_pages(task.pid, "0", "1")

Failures are OSError with the kernel's errno; IndefiniteError means that nobody knows whether it
happened.  Any number of trio tasks may use one Machine and one Task at once.  A call that is
cancelled is forgotten here; what it had asked for may still happen.
"""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import trio

from numalab.client import Client
from numalab.cpusets import Cpusets
from numalab.emulation import Emulated, read_emulated
from numalab.files import File, create_file
from numalab.jobs import Jobs
from numalab.locate import MachineUnreachable, locate, why_silent
from numalab.orders import Ask, Hold, IndefiniteError, Order
from numalab.outcome import Outcomes
from numalab.present import read_address_space
from numalab.task import Task
from numalab.translations import FAULT_AROUND
from numalab.weights import Weights
from protocol.hotplug import NodeLeased
from protocol.live.driver import Driver
from protocol.live.interference import Interference
from protocol.live.keys import Keys
from protocol.live.local import Local
from protocol.live.transport import Transport, open_transport
from protocol.messages import CountZone, Done, FrameInventory, Inventory, ZoneCount
from protocol.nodemask import parse_nodes
from protocol.notes import Note, OperationEnded, PeersTold
from protocol.observe import (
    AskPace,
    EmulatedTime,
    Pace,
    ReadEmulated,
    ReadTrace,
    ReadVmstat,
    Vmstat,
)
from protocol.reply_cache import SLOTS
from protocol.schema import COORDINATOR, Message, node_name, snake_case
from protocol.syscalls import (
    AddressSpace,
    Attach,
    Attached,
    CpusetWritten,
    DescribeHardware,
    Description,
    Exit,
    Hardware,
    ListTasks,
    MovedPages,
    NumaMaps,
    PolicyTold,
    Progress,
    ProgressMade,
    Spawn,
    TaskList,
)

#: How long a node may take to answer a question about itself.
NODE_SECONDS = 10.0
#: How long leaving a machine may wait for the exits of the tasks that it leased.
LEAVE_SECONDS = 2.0
RESEND, RESEND_MAX = 0.25, 2.0

#: Answers whose value is -errno if the question failed.
_WITH_ERRNO = (Done, Description, AddressSpace, MovedPages, PolicyTold, CpusetWritten, NodeLeased)

_M = TypeVar("_M", bound=Message)


class Machine:
    """A machine one is connected to; made by ``connect``.

    page_size: bytes.  nids: its nodes.  cpusets: its cpuset file system.  weights: of
    WEIGHTED_INTERLEAVE.  jobs: migrations in slices.  run_directory: of a local machine, else None.
    on_note: told of all that happens to this connection, in its loop.
    """

    def __init__(
        self, client: Client, transport: Transport, run_directory: Path | None = None
    ) -> None:
        self.run_directory = run_directory
        self.on_note: Callable[[Note], None] = lambda note: None
        self.page_size = 0
        self.nids: tuple[int, ...] = ()
        self.cpusets = Cpusets(self)
        self.weights = Weights(self)
        self.jobs = Jobs(self)
        self._meter = client.meter
        self._driver = Driver(client, transport, on_note=self._heed)
        self._transport = transport
        self._outcomes = Outcomes(self._driver)
        self._leased: dict[int, None] = {}
        self._held: dict[tuple[int, int], tuple[bool, bool]] = {}

    async def spawn(
        self,
        cpu: int = 0,
        uid: int = 0,
        *,
        capable: bool | None = None,
        leased: bool = True,
        comm: str = "",
    ) -> Task:
        """A new task with an empty address space, running on ``cpu``.

        capable: it has CAP_SYS_NICE; None: if it is root.  leased: it exits when this connection
        ends, or when this process dies.  Errors: EINVAL, there is no such cpu.
        """
        if capable is None:
            capable = uid == 0
        pid = await self.call(Spawn(cpu, uid, int(capable), int(leased), comm))
        if leased:
            self.lease(pid)
        return Task(self, pid, cpu, leased=leased)

    async def attach(self, pid: int, cpu: int = 0) -> Task:
        """Another thread of execution on the address space of ``pid``.  Errors: ESRCH."""
        if pid not in (await self.tasks()).pid.tolist():
            raise OSError(errno.ESRCH, f"there is no task {pid}")
        return Task(self, pid, cpu, leased=False)

    async def create_file(
        self, path: str, pages: int, kind: str = "shmem", *, writeback_seconds: float = 0.0
    ) -> File:
        """A file of so many pages, none in memory; tasks map it by ``name``, not MAP_ANONYMOUS.

        kind: see docs/page-kinds.md.  Errors: EINVAL (path not absolute, kind, pages), EEXIST.
        """
        return await create_file(self, path, pages, kind, float(writeback_seconds))

    def file(self, path: str) -> File:
        """The file of this path; whether there is one, its methods find out."""
        return File(self, path)

    async def numa_maps(self, pid: int) -> str:
        """/proc/PID/numa_maps (K 6.1).  Errors: ESRCH."""
        text, start = "", -1
        while start:
            told = await self.expect(NumaMaps(pid, max(start, 0)), Description)
            text, start = text + told.text, told.value
        return text

    async def hardware(self) -> Hardware:
        """The machine's topology, what is free, and the counters of numastat (K 6.6)."""
        return await self.expect(DescribeHardware(), Hardware)

    async def vmstat(self) -> dict[str, int]:
        """The events of /proc/vmstat that this machine counts, by name (K 6.10, 6.11)."""
        told = await self.vmstat_by_node()
        return dict(zip(told.names, told.counts.tolist(), strict=True))

    async def vmstat_by_node(self) -> Vmstat:
        """The same, what meminfo tells of each node, and how the profile shows it (K 6.5)."""
        return await self.expect(ReadVmstat(), Vmstat)

    async def trace(self, first: int = 0) -> tuple[str, int]:
        """The lines of the trace from number ``first`` on, and the number of the next (K 6.12).

        The machine keeps the last 1024.
        """
        told = await self.expect(ReadTrace(first), Description)
        return told.text, told.value

    async def emulated(self) -> Emulated:
        """Emulated time by task, node and migration, with all that this connection has accessed.

        Other connections tell of their accesses every few seconds.
        """
        await self.tell_accesses()
        return read_emulated(await self.expect(ReadEmulated(), EmulatedTime))

    async def tell_accesses(self) -> None:
        """The coordinator shall know now what the tasks of this connection have accessed.

        What is told to one that restarts is lost, with all the emulated time before it.
        """
        counted = self._meter.take()
        if counted is not None:
            with suppress(IndefiniteError):
                await self.call(counted)

    async def tasks(self) -> TaskList:
        """The tasks, a row for each."""
        return await self.expect(ListTasks(), TaskList)

    async def progress(self, pid: int) -> ProgressMade:
        """How far the migrations of ``pid`` are.  Errors: ESRCH."""
        return await self.expect(Progress(pid), ProgressMade)

    async def address_space(self, pid: int) -> AddressSpace:
        """The vmas of ``pid`` and where its pages are.  Errors: ESRCH."""
        return await read_address_space(self, pid)

    async def count_zone(self, nid: int) -> ZoneCount:
        """The frames of node ``nid`` by condition, told by the node itself."""
        return await self.expect(CountZone(), ZoneCount, node_name(nid), within=NODE_SECONDS)

    async def inventory(self, nid: int) -> FrameInventory:
        """The frames of node ``nid`` that are in use, told by the node itself."""
        return await self.expect(Inventory(), FrameInventory, node_name(nid), within=NODE_SECONDS)

    def nodes(self, nodes: str | Iterable[int]) -> tuple[int, ...]:
        """A node set as a tuple; text is read as numactl(8) does.  Raises NodeListError."""
        if isinstance(nodes, str):
            return parse_nodes(nodes, self.nids)
        return tuple(sorted({int(nid) for nid in nodes}))

    # ---- questions and orders --------------------------------------------------------------

    async def ask(
        self, message: Message, peer: str = COORDINATOR, *, within: float | None = None
    ) -> Message:
        """Ask the coordinator, or another peer, one question; within: seconds, None for ever.

        Raises OSError for an answer that says -errno, and IndefiniteError: EAGAIN if there is no
        answer within the time, ENODEV if the peer restarted meanwhile.
        """
        order = partial(Ask, peer=peer, message=message, within=within)
        answer = await self.carry_out(order)
        assert isinstance(answer, Message), f"{message!r} was answered with {answer!r}"
        if isinstance(answer, _WITH_ERRNO) and answer.value < 0:
            number = -answer.value
            name = snake_case(type(message).__name__)
            raise OSError(number, f"{name}: {os.strerror(number)}")
        return answer

    async def expect(
        self,
        message: Message,
        answer: type[_M],
        peer: str = COORDINATOR,
        *,
        within: float | None = None,
    ) -> _M:
        """``ask`` when only one kind of answer can come."""
        got = await self.ask(message, peer, within=within)
        assert isinstance(got, answer), f"{peer} answered {message!r} with {got!r}"
        return got

    async def call(self, message: Message) -> int:
        """``ask`` the coordinator for something whose answer is one number."""
        return (await self.expect(message, Done)).value

    async def carry_out(self, order: Callable[[int], Order]) -> object:
        """Carry out the order that ``order`` makes of a ticket; gives its result or raises it."""
        return await self._outcomes.carry_out(order)

    async def hold(
        self,
        pid: int,
        cpu: int,
        addresses: Iterable[int],
        *,
        locked: bool | None = None,
        pinned: bool | None = None,
    ) -> None:
        """Lock or pin pages; None leaves it as this connection has set it before."""
        groups: dict[tuple[bool, bool], list[int]] = {}
        for address in addresses:
            was = self._held.get((pid, address // self.page_size), (False, False))
            shall = (was[0] if locked is None else locked, was[1] if pinned is None else pinned)
            groups.setdefault(shall, []).append(address)
        for (lock, pin), group in groups.items():
            places = np.array(group, np.uint64)
            await self.carry_out(
                partial(Hold, pid=pid, cpu=cpu, addresses=places, locked=lock, pinned=pin)
            )
            for address in group:
                self._held[pid, address // self.page_size] = (lock, pin)

    def lease(self, pid: int) -> None:
        """This task shall end with this connection."""
        self._leased[pid] = None

    def forget_task(self, pid: int) -> None:
        """This task has exited."""
        self._leased.pop(pid, None)
        self._held = {page: held for page, held in self._held.items() if page[0] != pid}

    # ---- the connection --------------------------------------------------------------------

    def _heed(self, note: Note) -> None:
        self.on_note(note)
        if isinstance(note, OperationEnded):
            self._outcomes.heed(note)
        elif isinstance(note, PeersTold):
            self._know(note)

    def _know(self, told: PeersTold) -> None:
        """Where the nodes are."""
        self._transport.meet(told)
        self.nids = tuple(sorted(int(name.removeprefix("node")) for name in told.names))

    async def _attach(self, within: float, pace: float | None) -> None:
        attached = await self.expect(Attach(), Attached, within=within)
        self._meter.keep_pace(await self.expect(AskPace(), Pace, within=within), pace)
        self.page_size = attached.page_size
        self._know(PeersTold(attached.names, attached.addresses))

    async def _leave(self) -> None:
        """Exit what was leased, now rather than when the lease has run out."""
        with trio.move_on_after(LEAVE_SECONDS, shield=True):
            await self.tell_accesses()
            for pid in list(self._leased):
                with suppress(OSError):
                    await self.call(Exit(pid))


def _client(name: str, secret: bytes, resend_max: float, fault_around: int) -> Client:
    return Client(
        name,
        boot_id=time.time_ns(),
        key=secret,
        fault_around=fault_around,
        window=SLOTS,
        resend=min(RESEND, resend_max),
        resend_max=resend_max,
    )


@asynccontextmanager
async def connect(
    address: str | Path | None = None,
    *,
    key: bytes | None = None,
    within: float = 5.0,
    resend_max: float = RESEND_MAX,
    pace: float | None = None,
    faults: str = "",
    keys: Keys | None = None,
    fault_around: int = FAULT_AROUND,
) -> AsyncIterator[Machine]:
    """Connect to a machine: ``async with numalab.connect() as machine:``.

    address: the run directory of a local machine (None: the default one), or ``tcp://host:port``
    of a coordinator, with the machine's ``key`` (16 bytes; None: from NUMALAB_KEY).
    resend_max: seconds from one asking to the next at most, while there is no answer.
    pace: seconds that a second of the emulated time of an access lasts; None: as the machine says.
    faults: path of a file of faults that our messages shall suffer (docs/faults.md).
    keys: of ``open_client_keys`` (docs/security.md); None: those of the machine, if it has any.
    fault_around: pages whose translations a fault brings (docs/design.md); 1: those it is about.
    Raises MachineUnreachable if nobody answers ``within`` so many seconds.
    """
    place, secret, run_directory, keys = locate(address, key, keys)
    name = f"client-{os.getpid()}-{secrets.token_hex(4)}"
    client = _client(name, secret, resend_max, fault_around)
    # Raised outside of the nurseries: what went wrong in the block is not a group of failures.
    failure: Exception | None = None
    harm = Interference(name, faults) if faults else None
    async with (
        open_transport(
            name,
            bind=None,
            peers={COORDINATOR: place},
            interference=harm,
            keys=keys,
            local=Local(name) if keys is None else None,
        ) as transport,
        trio.open_nursery() as nursery,
    ):
        machine = Machine(client, transport, run_directory)
        await nursery.start(machine._driver.run)
        try:
            try:
                await machine._attach(within, pace)
            except IndefiniteError:
                raise MachineUnreachable(why_silent(place, within, keys)) from None
            try:
                yield machine
            finally:
                await machine._leave()
        except Exception as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
