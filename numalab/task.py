"""A task: the system calls it can make, and its loads and stores."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from numalab.constants import (
    MAP_ANONYMOUS,
    MAP_PRIVATE,
    MPOL_MF_MOVE,
    PROT_READ,
    PROT_WRITE,
)
from numalab.emulation import Spent
from numalab.orders import Fill, Isolate, Load, LoadMany, Store, StoreMany
from numalab.raw import RawCalls
from protocol.core import Buffer
from protocol.policies import SetMempolicyHomeNode
from protocol.syscalls import (
    Exit,
    Fork,
    GetMempolicy,
    Mbind,
    MigratePages,
    Mmap,
    MovedPages,
    MovePages,
    Mprotect,
    Munmap,
    PolicyTold,
    SetMempolicy,
)
from protocol.task_calls import (
    Capset,
    Clone,
    Madvise,
    Mlock,
    Munlock,
    SchedSetaffinity,
    Setresuid,
)
from protocol.user_mask import MASK_BYTES_MAX, MAXNODE, nodes_of, user_mask

if TYPE_CHECKING:
    from numalab.machine import Machine


class Task:
    """A thread of execution, on ``cpu``, in the address space of ``pid``.

    Where a cpuset takes its cpu away, ``cpu`` is another one afterwards.
    Made by ``Machine.spawn``, ``Machine.attach`` and ``fork``.  Addresses and lengths are bytes.
    """

    def __init__(self, machine: Machine, pid: int, cpu: int, *, leased: bool) -> None:
        self.pid = pid
        self.cpu = cpu
        self._machine = machine
        self._leased = leased
        machine.cpusets.follow(self)

    def __repr__(self) -> str:
        return f"<Task {self.pid} on cpu {self.cpu}>"

    # ---- its address space -----------------------------------------------------------------

    async def mmap(
        self,
        length: int,
        prot: int = PROT_READ | PROT_WRITE,
        flags: int = MAP_PRIVATE | MAP_ANONYMOUS,
        address: int = 0,
        name: str = "",
        offset: int = 0,
    ) -> int:
        """mmap(2): the address.  name: a file, ``[heap]``, ``[stack]`` or empty.

        Errors: EINVAL, ENOMEM.
        """
        message = Mmap(self.pid, address, length, prot, flags, name, offset)
        return await self._machine.call(message)

    async def munmap(self, address: int, length: int) -> None:
        """munmap(2); afterwards no store through an old translation arrives.  Errors: EINVAL."""
        await self._machine.call(Munmap(self.pid, address, length))

    async def mprotect(self, address: int, length: int, prot: int) -> None:
        """mprotect(2).  Errors: EINVAL, ENOMEM (a gap in the range)."""
        await self._machine.call(Mprotect(self.pid, address, length, prot))

    async def fork(self, cpu: int | None = None, *, leased: bool | None = None) -> Task:
        """fork(2): the child, on ``cpu`` and leased as this task if nothing else is said.

        Errors: EINVAL, no such cpu.
        """
        cpu = self.cpu if cpu is None else cpu
        leased = self._leased if leased is None else leased
        pid = await self._machine.call(Fork(self.pid, cpu, int(leased)))
        child = Task(self._machine, pid, cpu, leased=leased)
        if leased:
            self._machine.lease(pid)
        return child

    async def clone(self, cpu: int | None = None, *, leased: bool | None = None) -> Task:
        """clone(2) of a thread: a task of its own in the same address space.

        On ``cpu`` and leased as this task if nothing else is said.  Errors: EINVAL, no such cpu.
        """
        cpu = self.cpu if cpu is None else cpu
        leased = self._leased if leased is None else leased
        tid = await self._machine.call(Clone(self.pid, cpu, int(leased)))
        if leased:
            self._machine.lease(tid)
        return Task(self._machine, tid, cpu, leased=leased)

    async def sched_setaffinity(self, cpu: int) -> None:
        """sched_setaffinity(2) to one cpu: the task runs there from now on.

        Errors: EINVAL (there is no such cpu, or the cpuset has it not).
        """
        await self._machine.call(SchedSetaffinity(self.pid, cpu))
        self.cpu = cpu

    async def exit(self) -> None:
        """exit(2) of this thread; the address space goes with the last one."""
        await self._machine.tell_accesses()
        await self._machine.call(Exit(self.pid))
        self._machine.forget_task(self.pid)

    async def emulated_time(self) -> Spent:
        """What its accesses, faults and migrations would have taken at the machine's distances."""
        return (await self._machine.emulated()).tasks.get(self.pid, Spent())

    async def mlock(self, address: int, length: int) -> None:
        """mlock(2): the pages are there, and at the seed they stay where they are (K 1.31).

        Errors: ENOMEM (a gap in the range, or no access), EAGAIN (no frame is left).
        """
        await self._machine.call(Mlock(self.pid, address, length))

    async def munlock(self, address: int, length: int) -> None:
        """munlock(2).  Errors: ENOMEM."""
        await self._machine.call(Munlock(self.pid, address, length))

    async def madvise(self, address: int, length: int, advice: int) -> None:
        """madvise(2): MADV_DONTNEED drops the pages; MADV_POPULATE_READ, _WRITE fault them in.

        Errors: EINVAL, ENOMEM (a gap in the range).
        """
        await self._machine.call(Madvise(self.pid, address, length, advice))

    # ---- who it is -------------------------------------------------------------------------

    async def setresuid(self, ruid: int = -1, euid: int = -1, suid: int = -1) -> None:
        """setresuid(2): -1 leaves an id as it is; who leaves root loses what root may do.

        Errors: EPERM, EINVAL.
        """
        await self._machine.call(Setresuid(self.pid, ruid, euid, suid))

    async def capset(self, effective: int, permitted: int) -> None:
        """capset(2): sets of CAP_* as bits, to drop capabilities.  Errors: EPERM."""
        await self._machine.call(Capset(self.pid, effective, permitted))

    # ---- its memory ------------------------------------------------------------------------

    async def load(self, address: int, length: int) -> bytes:
        """Read bytes.  Errors: EFAULT, EACCES, ENOMEM, EIO (a node does not answer)."""
        order = partial(Load, pid=self.pid, cpu=self.cpu, address=address, length=length)
        return cast(bytes, await self._machine.carry_out(order))

    async def store(self, address: int, data: Buffer) -> None:
        """Write bytes, each page of them whole or not at all; ``data`` must not change meanwhile.

        Errors: those of ``load``; IndefiniteError, a node went away with some of them.
        """
        await self._machine.carry_out(
            partial(Store, pid=self.pid, cpu=self.cpu, address=address, data=data)
        )

    async def load_many(
        self, addresses: Iterable[int] | npt.NDArray[np.uint64], size: int
    ) -> bytes:
        """Read ``size`` bytes at each address; the rows one after the other.

        Errors: those of ``load``, and EINVAL for a row that does not lie in one page.
        """
        places = _column(addresses)
        order = partial(LoadMany, pid=self.pid, cpu=self.cpu, addresses=places, size=size)
        return cast(bytes, await self._machine.carry_out(order))

    async def store_many(
        self, addresses: Iterable[int] | npt.NDArray[np.uint64], size: int, data: Buffer
    ) -> None:
        """Write the rows of ``data``, ``size`` bytes each, at the addresses.

        Errors: those of ``store``, and EINVAL for a row that does not lie in one page.
        """
        places = _column(addresses)
        await self._machine.carry_out(
            partial(StoreMany, pid=self.pid, cpu=self.cpu, addresses=places, size=size, data=data)
        )

    async def fill(
        self, pages: Iterable[int] | npt.NDArray[np.uint64], data: Buffer, *, file: bool = False
    ) -> None:
        """Fill whole pages (virtual page numbers), whatever their protection, from ``data``.

        file: they are pages of a file, else anonymous ones.  Errors: those of ``store``.
        """
        places = _column(pages)
        await self._machine.carry_out(
            partial(Fill, pid=self.pid, cpu=self.cpu, pages=places, file=file, data=data)
        )

    # ---- where its pages are ---------------------------------------------------------------

    async def migrate_pages(
        self,
        pid: int,
        from_nodes: str | Iterable[int],
        to_nodes: str | Iterable[int],
        *,
        new_page: str = "",
        rate_limit: str | float | None = None,
    ) -> int:
        """migrate_pages(2) by this task: the number of pages that could NOT be moved (K 4.5).

        new_page: a function of a loaded file that chooses where each page goes (docs/extending.md).
        rate_limit: ``100MB/s``, or bytes a second: in slices then, as a job (docs/jobs.md).
        Errors: ESRCH, EPERM, EINVAL (also: no such function), EIO (a loaded method is wrong),
        ENOMEM, ENOSYS; NodeListError for a malformed node list.
        """
        if rate_limit is not None:
            job = await self.start_migration(
                pid, from_nodes, to_nodes, new_page=new_page, rate_limit=rate_limit
            )
            return await self._machine.jobs.finish(job)
        source = user_mask(self._machine.nodes(from_nodes))
        target = user_mask(self._machine.nodes(to_nodes))
        message = MigratePages(self.pid, pid, MAXNODE, source, target, new_page)
        return await self._machine.call(message)

    async def start_migration(
        self,
        pid: int,
        from_nodes: str | Iterable[int],
        to_nodes: str | Iterable[int],
        *,
        new_page: str = "",
        rate_limit: str | float | None = None,
    ) -> int:
        """The same as a job, whose number it gives; ``machine.jobs`` pauses, cancels and waits."""
        return await self._machine.jobs.start(
            pid,
            from_nodes,
            to_nodes,
            new_page=new_page,
            rate_limit=rate_limit,
            caller=self.pid,
        )

    async def set_mempolicy(self, mode: int, nodes: str | Iterable[int] = ()) -> None:
        """set_mempolicy(2): where new pages of this task go.  Errors: EINVAL (K 4.33)."""
        mask = user_mask(self._machine.nodes(nodes))
        await self._machine.call(SetMempolicy(self.pid, mode, mask, MAXNODE))

    async def get_mempolicy(self, address: int = 0, flags: int = 0) -> tuple[int, tuple[int, ...]]:
        """get_mempolicy(2): (mode, nodes); with MPOL_F_NODE a node in the place of the mode.

        Errors: EINVAL, EFAULT (K 4.35).
        """
        asked = GetMempolicy(self.pid, MASK_BYTES_MAX, MAXNODE, address, flags)
        told = await self._machine.expect(asked, PolicyTold)
        return told.mode, nodes_of(told.nodes or b"")

    async def mbind(
        self,
        address: int,
        length: int,
        mode: int,
        nodes: str | Iterable[int] = (),
        flags: int = 0,
    ) -> None:
        """mbind(2): the policy of a range; with MPOL_MF_MOVE its pages follow.

        Errors: EINVAL, EPERM, EFAULT, EIO, ENOSYS (K 4.22 - 4.27).
        """
        mask = user_mask(self._machine.nodes(nodes))
        await self._machine.call(Mbind(self.pid, address, length, mode, mask, MAXNODE, flags))

    async def set_mempolicy_home_node(
        self, address: int, length: int, home_node: int, flags: int = 0
    ) -> None:
        """set_mempolicy_home_node(2): where BIND and PREFERRED_MANY of a range begin to look.

        Errors: EINVAL, ENOENT, EOPNOTSUPP, ENOSYS (K 5.9).
        """
        asked = SetMempolicyHomeNode(self.pid, address, length, home_node, flags)
        await self._machine.call(asked)

    async def move_pages(
        self,
        pid: int,
        addresses: Iterable[int] | npt.NDArray[np.uint64],
        nodes: Iterable[int] | None,
        flags: int = MPOL_MF_MOVE,
    ) -> list[int]:
        """move_pages(2) by this task: the node or -errno of each page; without nodes, a query.

        Errors: E2BIG, EACCES, EINVAL, ENODEV, ENOENT, EPERM, ESRCH, ENOSYS (K 4.12).
        """
        places = _column(addresses)
        query = nodes is None
        wanted = np.array([] if nodes is None else list(nodes), np.int32)
        if query:
            wanted = np.zeros(places.size, np.int32)
        if wanted.size != places.size:
            raise ValueError(f"{wanted.size} nodes for {places.size} addresses: give one for each")
        status = np.zeros(places.size, np.int32)
        message = MovePages(self.pid, pid, places.size, flags, int(query), places, wanted, status)
        moved = await self._machine.expect(message, MovedPages)
        return [int(status) for status in moved.status.tolist()]

    @property
    def raw(self) -> RawCalls:
        """The same calls with the arguments that the kernel takes."""
        return RawCalls(self._machine, self.pid)

    # ---- other users of its pages ----------------------------------------------------------

    async def pin(self, *addresses: int) -> None:
        """Take an extra reference to the pages, which makes them unmovable (K 1.48)."""
        await self._machine.hold(self.pid, self.cpu, addresses, pinned=True)

    async def unpin(self, *addresses: int) -> None:
        """Drop the extra reference."""
        await self._machine.hold(self.pid, self.cpu, addresses, pinned=False)

    async def lock_page(self, *addresses: int) -> None:
        """Hold the page lock: loads, stores and forced migration wait for it (K 1.28)."""
        await self._machine.hold(self.pid, self.cpu, addresses, locked=True)

    async def unlock_page(self, *addresses: int) -> None:
        """Let go of the page lock."""
        await self._machine.hold(self.pid, self.cpu, addresses, locked=False)

    async def isolate(self, *addresses: int) -> None:
        """Take pages off the LRU, as another isolate_lru_page(): EBUSY for others (K 1.16).

        Errors: EBUSY, they are off already.
        """
        await self._isolate(addresses, isolated=True)

    async def putback(self, *addresses: int) -> None:
        """Put back on the LRU what this connection took off."""
        await self._isolate(addresses, isolated=False)

    async def _isolate(self, addresses: Iterable[int], *, isolated: bool) -> None:
        order = partial(Isolate, pid=self.pid, cpu=self.cpu, isolated=isolated)
        await self._machine.carry_out(partial(order, addresses=_column(addresses)))


def _column(numbers: Iterable[int] | npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    if isinstance(numbers, np.ndarray):
        return numbers.astype(np.uint64, copy=False)
    return np.array(list(numbers), np.uint64)
