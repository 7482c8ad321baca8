"""Generated from the classes of the same names in ``numalab`` by ``make docs``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from numalab import task
from numalab.blocking.parts import RawCalls
from numalab.blocking.portal import Portal
from numalab.constants import MAP_ANONYMOUS, MAP_PRIVATE, MPOL_MF_MOVE, PROT_READ, PROT_WRITE
from numalab.emulation import Spent
from protocol.core import Buffer


class Task:
    """A thread of execution, on ``cpu``, in the address space of ``pid``."""

    def __init__(self, portal: Portal[Any], inner: task.Task) -> None:
        self._portal, self._inner = portal, inner

    def __repr__(self) -> str:
        return repr(self._inner)

    @property
    def pid(self) -> int:
        """Of the task in its machine."""
        return self._inner.pid

    @property
    def cpu(self) -> int:
        """Where it runs; a cpuset may change that."""
        return self._inner.cpu

    @property
    def raw(self) -> RawCalls:
        """The same calls with the arguments that the kernel takes."""
        return RawCalls(self._portal, self._inner.raw)

    def mmap(
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
        return self._portal.run(
            lambda: self._inner.mmap(length, prot, flags, address, name, offset)
        )

    def munmap(self, address: int, length: int) -> None:
        """munmap(2); afterwards no store through an old translation arrives.  Errors: EINVAL."""
        self._portal.run(lambda: self._inner.munmap(address, length))

    def mprotect(self, address: int, length: int, prot: int) -> None:
        """mprotect(2).  Errors: EINVAL, ENOMEM (a gap in the range)."""
        self._portal.run(lambda: self._inner.mprotect(address, length, prot))

    def fork(self, cpu: int | None = None, *, leased: bool | None = None) -> Task:
        """fork(2): the child, on ``cpu`` and leased as this task if nothing else is said.

        Errors: EINVAL, no such cpu.
        """
        return Task(self._portal, self._portal.run(lambda: self._inner.fork(cpu, leased=leased)))

    def clone(self, cpu: int | None = None, *, leased: bool | None = None) -> Task:
        """clone(2) of a thread: a task of its own in the same address space.

        On ``cpu`` and leased as this task if nothing else is said.  Errors: EINVAL, no such cpu.
        """
        return Task(self._portal, self._portal.run(lambda: self._inner.clone(cpu, leased=leased)))

    def sched_setaffinity(self, cpu: int) -> None:
        """sched_setaffinity(2) to one cpu: the task runs there from now on.

        Errors: EINVAL (there is no such cpu, or the cpuset has it not).
        """
        self._portal.run(lambda: self._inner.sched_setaffinity(cpu))

    def exit(self) -> None:
        """exit(2) of this thread; the address space goes with the last one."""
        self._portal.run(lambda: self._inner.exit())

    def emulated_time(self) -> Spent:
        """What its accesses, faults and migrations would have taken at the machine's distances."""
        return self._portal.run(lambda: self._inner.emulated_time())

    def mlock(self, address: int, length: int) -> None:
        """mlock(2): the pages are there, and at the seed they stay where they are (K 1.31).

        Errors: ENOMEM (a gap in the range, or no access), EAGAIN (no frame is left).
        """
        self._portal.run(lambda: self._inner.mlock(address, length))

    def munlock(self, address: int, length: int) -> None:
        """munlock(2).  Errors: ENOMEM."""
        self._portal.run(lambda: self._inner.munlock(address, length))

    def madvise(self, address: int, length: int, advice: int) -> None:
        """madvise(2): MADV_DONTNEED drops the pages; MADV_POPULATE_READ, _WRITE fault them in.

        Errors: EINVAL, ENOMEM (a gap in the range).
        """
        self._portal.run(lambda: self._inner.madvise(address, length, advice))

    def setresuid(self, ruid: int = -1, euid: int = -1, suid: int = -1) -> None:
        """setresuid(2): -1 leaves an id as it is; who leaves root loses what root may do.

        Errors: EPERM, EINVAL.
        """
        self._portal.run(lambda: self._inner.setresuid(ruid, euid, suid))

    def capset(self, effective: int, permitted: int) -> None:
        """capset(2): sets of CAP_* as bits, to drop capabilities.  Errors: EPERM."""
        self._portal.run(lambda: self._inner.capset(effective, permitted))

    def load(self, address: int, length: int) -> bytes:
        """Read bytes.  Errors: EFAULT, EACCES, ENOMEM, EIO (a node does not answer)."""
        return self._portal.run(lambda: self._inner.load(address, length))

    def store(self, address: int, data: Buffer) -> None:
        """Write bytes, each page of them whole or not at all; ``data`` must not change meanwhile.

        Errors: those of ``load``; IndefiniteError, a node went away with some of them.
        """
        self._portal.run(lambda: self._inner.store(address, data))

    def load_many(self, addresses: Iterable[int] | npt.NDArray[np.uint64], size: int) -> bytes:
        """Read ``size`` bytes at each address; the rows one after the other.

        Errors: those of ``load``, and EINVAL for a row that does not lie in one page.
        """
        return self._portal.run(lambda: self._inner.load_many(addresses, size))

    def store_many(
        self, addresses: Iterable[int] | npt.NDArray[np.uint64], size: int, data: Buffer
    ) -> None:
        """Write the rows of ``data``, ``size`` bytes each, at the addresses.

        Errors: those of ``store``, and EINVAL for a row that does not lie in one page.
        """
        self._portal.run(lambda: self._inner.store_many(addresses, size, data))

    def fill(
        self, pages: Iterable[int] | npt.NDArray[np.uint64], data: Buffer, *, file: bool = False
    ) -> None:
        """Fill whole pages (virtual page numbers), whatever their protection, from ``data``.

        file: they are pages of a file, else anonymous ones.  Errors: those of ``store``.
        """
        self._portal.run(lambda: self._inner.fill(pages, data, file=file))

    def migrate_pages(
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
        return self._portal.run(
            lambda: self._inner.migrate_pages(
                pid, from_nodes, to_nodes, new_page=new_page, rate_limit=rate_limit
            )
        )

    def start_migration(
        self,
        pid: int,
        from_nodes: str | Iterable[int],
        to_nodes: str | Iterable[int],
        *,
        new_page: str = "",
        rate_limit: str | float | None = None,
    ) -> int:
        """The same as a job, whose number it gives; ``machine.jobs`` pauses, cancels and waits."""
        return self._portal.run(
            lambda: self._inner.start_migration(
                pid, from_nodes, to_nodes, new_page=new_page, rate_limit=rate_limit
            )
        )

    def set_mempolicy(self, mode: int, nodes: str | Iterable[int] = ()) -> None:
        """set_mempolicy(2): where new pages of this task go.  Errors: EINVAL (K 4.33)."""
        self._portal.run(lambda: self._inner.set_mempolicy(mode, nodes))

    def get_mempolicy(self, address: int = 0, flags: int = 0) -> tuple[int, tuple[int, ...]]:
        """get_mempolicy(2): (mode, nodes); with MPOL_F_NODE a node in the place of the mode.

        Errors: EINVAL, EFAULT (K 4.35).
        """
        return self._portal.run(lambda: self._inner.get_mempolicy(address, flags))

    def mbind(
        self, address: int, length: int, mode: int, nodes: str | Iterable[int] = (), flags: int = 0
    ) -> None:
        """mbind(2): the policy of a range; with MPOL_MF_MOVE its pages follow.

        Errors: EINVAL, EPERM, EFAULT, EIO, ENOSYS (K 4.22 - 4.27).
        """
        self._portal.run(lambda: self._inner.mbind(address, length, mode, nodes, flags))

    def set_mempolicy_home_node(
        self, address: int, length: int, home_node: int, flags: int = 0
    ) -> None:
        """set_mempolicy_home_node(2): where BIND and PREFERRED_MANY of a range begin to look.

        Errors: EINVAL, ENOENT, EOPNOTSUPP, ENOSYS (K 5.9).
        """
        self._portal.run(
            lambda: self._inner.set_mempolicy_home_node(address, length, home_node, flags)
        )

    def move_pages(
        self,
        pid: int,
        addresses: Iterable[int] | npt.NDArray[np.uint64],
        nodes: Iterable[int] | None,
        flags: int = MPOL_MF_MOVE,
    ) -> list[int]:
        """move_pages(2) by this task: the node or -errno of each page; without nodes, a query.

        Errors: E2BIG, EACCES, EINVAL, ENODEV, ENOENT, EPERM, ESRCH, ENOSYS (K 4.12).
        """
        return self._portal.run(lambda: self._inner.move_pages(pid, addresses, nodes, flags))

    def pin(self, *addresses: int) -> None:
        """Take an extra reference to the pages, which makes them unmovable (K 1.48)."""
        self._portal.run(lambda: self._inner.pin(*addresses))

    def unpin(self, *addresses: int) -> None:
        """Drop the extra reference."""
        self._portal.run(lambda: self._inner.unpin(*addresses))

    def lock_page(self, *addresses: int) -> None:
        """Hold the page lock: loads, stores and forced migration wait for it (K 1.28)."""
        self._portal.run(lambda: self._inner.lock_page(*addresses))

    def unlock_page(self, *addresses: int) -> None:
        """Let go of the page lock."""
        self._portal.run(lambda: self._inner.unlock_page(*addresses))

    def isolate(self, *addresses: int) -> None:
        """Take pages off the LRU, as another isolate_lru_page(): EBUSY for others (K 1.16).

        Errors: EBUSY, they are off already.
        """
        self._portal.run(lambda: self._inner.isolate(*addresses))

    def putback(self, *addresses: int) -> None:
        """Put back on the LRU what this connection took off."""
        self._portal.run(lambda: self._inner.putback(*addresses))
