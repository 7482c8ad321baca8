"""Generated from the classes of the same names in ``numalab`` by ``make docs``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Self

from numalab import cluster, machine, translations
from numalab.blocking.parts import Cpusets, File, Jobs, Weights
from numalab.blocking.portal import Portal
from numalab.blocking.task import Task
from numalab.emulation import Emulated
from numalab.machine import _M
from numalab.orders import Order
from protocol.live.keys import Keys
from protocol.messages import FrameInventory, ZoneCount
from protocol.observe import Vmstat
from protocol.schema import COORDINATOR, Message
from protocol.syscalls import AddressSpace, Hardware, ProgressMade, TaskList
from protocol.topology import Topology


class Machine:
    """A machine one is connected to; made by ``connect`` or ``local_cluster``.

    A context manager; ``close`` ends the connection, and a machine that was made for it.
    """

    def __init__(self, portal: Portal[Any], inner: machine.Machine) -> None:
        self._portal, self._inner = portal, inner

    def __repr__(self) -> str:
        return repr(self._inner)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; harmless if it has ended."""
        self._portal.close()

    @property
    def page_size(self) -> int:
        """Bytes."""
        return self._inner.page_size

    @property
    def nids(self) -> tuple[int, ...]:
        """Its nodes."""
        return self._inner.nids

    @property
    def run_directory(self) -> Path | None:
        """Of a local machine, else None."""
        return self._inner.run_directory

    @property
    def cpusets(self) -> Cpusets:
        """Its cpuset file system."""
        return Cpusets(self._portal, self._inner.cpusets)

    @property
    def weights(self) -> Weights:
        """Of WEIGHTED_INTERLEAVE."""
        return Weights(self._portal, self._inner.weights)

    @property
    def jobs(self) -> Jobs:
        """Its migration jobs."""
        return Jobs(self._portal, self._inner.jobs)

    def spawn(
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
        return Task(
            self._portal,
            self._portal.run(
                lambda: self._inner.spawn(cpu, uid, capable=capable, leased=leased, comm=comm)
            ),
        )

    def attach(self, pid: int, cpu: int = 0) -> Task:
        """Another thread of execution on the address space of ``pid``.  Errors: ESRCH."""
        return Task(self._portal, self._portal.run(lambda: self._inner.attach(pid, cpu)))

    def create_file(
        self, path: str, pages: int, kind: str = "shmem", *, writeback_seconds: float = 0.0
    ) -> File:
        """A file of so many pages, none in memory; tasks map it by ``name``, not MAP_ANONYMOUS.

        kind: see docs/page-kinds.md.  Errors: EINVAL (path not absolute, kind, pages), EEXIST.
        """
        return File(
            self._portal,
            self._portal.run(
                lambda: self._inner.create_file(
                    path, pages, kind, writeback_seconds=writeback_seconds
                )
            ),
        )

    def file(self, path: str) -> File:
        """The file of this path; whether there is one, its methods find out."""
        return File(self._portal, self._inner.file(path))

    def numa_maps(self, pid: int) -> str:
        """/proc/PID/numa_maps (K 6.1).  Errors: ESRCH."""
        return self._portal.run(lambda: self._inner.numa_maps(pid))

    def hardware(self) -> Hardware:
        """The machine's topology, what is free, and the counters of numastat (K 6.6)."""
        return self._portal.run(lambda: self._inner.hardware())

    def vmstat(self) -> dict[str, int]:
        """The events of /proc/vmstat that this machine counts, by name (K 6.10, 6.11)."""
        return self._portal.run(lambda: self._inner.vmstat())

    def vmstat_by_node(self) -> Vmstat:
        """The same, what meminfo tells of each node, and how the profile shows it (K 6.5)."""
        return self._portal.run(lambda: self._inner.vmstat_by_node())

    def trace(self, first: int = 0) -> tuple[str, int]:
        """The lines of the trace from number ``first`` on, and the number of the next (K 6.12).

        The machine keeps the last 1024.
        """
        return self._portal.run(lambda: self._inner.trace(first))

    def emulated(self) -> Emulated:
        """Emulated time by task, node and migration, with all that this connection has accessed.

        Other connections tell of their accesses every few seconds.
        """
        return self._portal.run(lambda: self._inner.emulated())

    def tell_accesses(self) -> None:
        """The coordinator shall know now what the tasks of this connection have accessed.

        What is told to one that restarts is lost, with all the emulated time before it.
        """
        self._portal.run(lambda: self._inner.tell_accesses())

    def tasks(self) -> TaskList:
        """The tasks, a row for each."""
        return self._portal.run(lambda: self._inner.tasks())

    def progress(self, pid: int) -> ProgressMade:
        """How far the migrations of ``pid`` are.  Errors: ESRCH."""
        return self._portal.run(lambda: self._inner.progress(pid))

    def address_space(self, pid: int) -> AddressSpace:
        """The vmas of ``pid`` and where its pages are.  Errors: ESRCH."""
        return self._portal.run(lambda: self._inner.address_space(pid))

    def count_zone(self, nid: int) -> ZoneCount:
        """The frames of node ``nid`` by condition, told by the node itself."""
        return self._portal.run(lambda: self._inner.count_zone(nid))

    def inventory(self, nid: int) -> FrameInventory:
        """The frames of node ``nid`` that are in use, told by the node itself."""
        return self._portal.run(lambda: self._inner.inventory(nid))

    def nodes(self, nodes: str | Iterable[int]) -> tuple[int, ...]:
        """A node set as a tuple; text is read as numactl(8) does.  Raises NodeListError."""
        return self._inner.nodes(nodes)

    def ask(
        self, message: Message, peer: str = COORDINATOR, *, within: float | None = None
    ) -> Message:
        """Ask the coordinator, or another peer, one question; within: seconds, None for ever.

        Raises OSError for an answer that says -errno, and IndefiniteError: EAGAIN if there is no
        answer within the time, ENODEV if the peer restarted meanwhile.
        """
        return self._portal.run(lambda: self._inner.ask(message, peer, within=within))

    def expect(
        self,
        message: Message,
        answer: type[_M],
        peer: str = COORDINATOR,
        *,
        within: float | None = None,
    ) -> _M:
        """``ask`` when only one kind of answer can come."""
        return self._portal.run(lambda: self._inner.expect(message, answer, peer, within=within))

    def call(self, message: Message) -> int:
        """``ask`` the coordinator for something whose answer is one number."""
        return self._portal.run(lambda: self._inner.call(message))

    def carry_out(self, order: Callable[[int], Order]) -> object:
        """Carry out the order that ``order`` makes of a ticket; gives its result or raises it."""
        return self._portal.run(lambda: self._inner.carry_out(order))

    def hold(
        self,
        pid: int,
        cpu: int,
        addresses: Iterable[int],
        *,
        locked: bool | None = None,
        pinned: bool | None = None,
    ) -> None:
        """Lock or pin pages; None leaves it as this connection has set it before."""
        self._portal.run(
            lambda: self._inner.hold(pid, cpu, addresses, locked=locked, pinned=pinned)
        )


def connect(
    address: str | Path | None = None,
    *,
    key: bytes | None = None,
    within: float = 5.0,
    resend_max: float = machine.RESEND_MAX,
    pace: float | None = None,
    faults: str = "",
    keys: Keys | None = None,
    fault_around: int = translations.FAULT_AROUND,
) -> Machine:
    """``numalab.connect``: also without ``with``; then ``close`` it."""
    return _open(
        lambda: machine.connect(
            address,
            key=key,
            within=within,
            resend_max=resend_max,
            pace=pace,
            faults=faults,
            keys=keys,
            fault_around=fault_around,
        )
    )


def local_cluster(
    nodes: int = 4,
    memory: str | int = "256M",
    *,
    topology: Topology | None = None,
    run_directory: str | Path | None = None,
    **settings: Any,
) -> Machine:
    """``numalab.local_cluster``: it ends with ``close``, and at the latest with the program."""
    return _open(
        lambda: cluster.local_cluster(
            nodes, memory, topology=topology, run_directory=run_directory, **settings
        )
    )


def _open(manager: Callable[[], AbstractAsyncContextManager[machine.Machine]]) -> Machine:
    portal = Portal(manager)
    return Machine(portal, portal.inner)
