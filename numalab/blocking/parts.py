"""Generated from the classes of the same names in ``numalab`` by ``make docs``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from numalab import cpusets, files, jobs, raw, weights
from numalab.blocking.portal import Portal
from numalab.cpusets import OPERATOR
from numalab.files import FileState
from numalab.job_rows import JobRow, Nodes, Plan


class Cpusets:
    """The cpuset file system: ``machine.cpusets``."""

    def __init__(self, portal: Portal[Any], inner: cpusets.Cpusets) -> None:
        self._portal, self._inner = portal, inner

    def __repr__(self) -> str:
        return repr(self._inner)

    def mkdir(self, path: str, *, caller: int = OPERATOR) -> None:
        """A new cpuset, without cpus and mems.  Errors: EEXIST, ENOENT, EACCES, EINVAL."""
        self._portal.run(lambda: self._inner.mkdir(path, caller=caller))

    def rmdir(self, path: str, *, caller: int = OPERATOR) -> None:
        """Remove one.  Errors: EBUSY (it has tasks or children), ENOENT, EACCES."""
        self._portal.run(lambda: self._inner.rmdir(path, caller=caller))

    def read(self, path: str, file: str, *, within: float | None = None) -> str:
        """The text of an attribute file, with its end of line.  Errors: ENOENT.

        within: seconds, after which it is an IndefiniteError; None: for ever.
        """
        return self._portal.run(lambda: self._inner.read(path, file, within=within))

    def write(self, path: str, file: str, text: object, *, caller: int = OPERATOR) -> None:
        """Write an attribute file; ends when the pages that it moves have moved (K 5.14).

        Errors: ENOENT, EACCES, EBUSY, EINVAL, ENOSPC, ERANGE, ESRCH, EIO, E2BIG (K 5.13).
        """
        self._portal.run(lambda: self._inner.write(path, file, text, caller=caller))

    def attach(self, path: str, pid: int, *, caller: int = OPERATOR) -> None:
        """Put a task into a cpuset; its memory follows if that has memory_migrate.

        Errors: ENOSPC (the cpuset has no cpus or no mems), ESRCH, ENOENT, EACCES.
        """
        self._portal.run(lambda: self._inner.attach(path, pid, caller=caller))

    def children(self, path: str = "/", *, within: float | None = None) -> list[str]:
        """The paths of the cpusets right below one.  Errors: ENOENT."""
        return self._portal.run(lambda: self._inner.children(path, within=within))

    def walk(self, path: str = "/", *, within: float | None = None) -> list[str]:
        """The paths of a cpuset and all below it, parents first.  Errors: ENOENT.

        within: seconds for each question.
        """
        return self._portal.run(lambda: self._inner.walk(path, within=within))

    def of(self, pid: int) -> str:
        """/proc/PID/cpuset: the path of the cpuset of a task.  Errors: ESRCH."""
        return self._portal.run(lambda: self._inner.of(pid))


class File:
    """A file, made by ``Machine.create_file`` or found by ``Machine.file``.  Errors: ENOENT."""

    def __init__(self, portal: Portal[Any], inner: files.File) -> None:
        self._portal, self._inner = portal, inner

    def __repr__(self) -> str:
        return repr(self._inner)

    @property
    def path(self) -> str:
        """Absolute."""
        return self._inner.path

    def state(self) -> FileState:
        """What its page cache has by now."""
        return self._portal.run(lambda: self._inner.state())

    def set_device(
        self,
        *,
        hold_writeback: bool = False,
        fail_writepage: bool = False,
        keep_buffers: bool = False,
        lock_buffers: bool = False,
    ) -> None:
        """How the device beneath behaves from now on: what is not named is as usual again.

        hold_writeback: writeback that starts does not end.  fail_writepage: it does not start.
        keep_buffers: they are not released.  lock_buffers: somebody has their locks.
        """
        self._portal.run(
            lambda: self._inner.set_device(
                hold_writeback=hold_writeback,
                fail_writepage=fail_writepage,
                keep_buffers=keep_buffers,
                lock_buffers=lock_buffers,
            )
        )

    def hold_writeback(self) -> None:
        """Write all dirty pages back, which does not end before ``set_device()``."""
        self._portal.run(lambda: self._inner.hold_writeback())

    def sync(self) -> None:
        """Write all dirty pages back, on a device that behaves as usual."""
        self._portal.run(lambda: self._inner.sync())

    def unlink(self) -> None:
        """unlink(2); what tasks map of it stays theirs."""
        self._portal.run(lambda: self._inner.unlink())


class Jobs:
    """The migration jobs: ``machine.jobs``; ``rows`` lists them."""

    def __init__(self, portal: Portal[Any], inner: jobs.Jobs) -> None:
        self._portal, self._inner = portal, inner

    def __repr__(self) -> str:
        return repr(self._inner)

    def rows(self) -> list[JobRow]:
        """The jobs, the last that have ended among them, and other migrations under way."""
        return self._portal.run(lambda: self._inner.rows())

    def start(
        self,
        pid: int,
        from_nodes: Nodes,
        to_nodes: Nodes,
        *,
        rate_limit: str | float | None = None,
        new_page: str = "",
        caller: int = 0,
    ) -> int:
        """Begin a migration; the number of the job.  caller: pid of who does it, 0 the operator.

        It goes on when this connection ends.  Errors: those of ``Task.migrate_pages``.
        """
        return self._portal.run(
            lambda: self._inner.start(
                pid, from_nodes, to_nodes, rate_limit=rate_limit, new_page=new_page, caller=caller
            )
        )

    def plan(
        self, pid: int, from_nodes: Nodes, to_nodes: Nodes, *, new_page: str = "", caller: int = 0
    ) -> Plan:
        """What such a migration would do; nothing changes."""
        return self._portal.run(
            lambda: self._inner.plan(pid, from_nodes, to_nodes, new_page=new_page, caller=caller)
        )

    def pause(self, job: int) -> None:
        """Returns when it holds no lock any more, and nothing of it is isolated."""
        self._portal.run(lambda: self._inner.pause(job))

    def resume(self, job: int) -> None:
        """Let it go on."""
        self._portal.run(lambda: self._inner.resume(job))

    def cancel(self, job: int) -> None:
        """Returns when it has ended; what had moved stays moved."""
        self._portal.run(lambda: self._inner.cancel(job))

    def wait(self, job: int) -> int:
        """Pages that could not be moved, when the job has ended.

        Errors: ENOENT, those of ``Task.migrate_pages``, ECANCELED; IndefiniteError, the
        coordinator has died with it.
        """
        return self._portal.run(lambda: self._inner.wait(job))

    def finish(self, job: int) -> int:
        """``wait`` for a job of one's own: whoever is cancelled meanwhile cancels it."""
        return self._portal.run(lambda: self._inner.finish(job))


class RawCalls:
    """The calls of one task: ``task.raw``."""

    def __init__(self, portal: Portal[Any], inner: raw.RawCalls) -> None:
        self._portal, self._inner = portal, inner

    def __repr__(self) -> str:
        return repr(self._inner)

    def migrate_pages(
        self, pid: int, maxnode: int, old_nodes: bytes | None, new_nodes: bytes | None
    ) -> int:
        """migrate_pages(2): pages not moved, or -errno (K 4.6)."""
        return self._portal.run(
            lambda: self._inner.migrate_pages(pid, maxnode, old_nodes, new_nodes)
        )

    def set_mempolicy(self, mode: int, nodemask: bytes | None, maxnode: int) -> int:
        """set_mempolicy(2): 0 or -errno (K 4.33)."""
        return self._portal.run(lambda: self._inner.set_mempolicy(mode, nodemask, maxnode))

    def get_mempolicy(
        self, room: int | None, maxnode: int, address: int = 0, flags: int = 0
    ) -> tuple[int, int, bytes | None]:
        """get_mempolicy(2): value, mode, and the bytes written to the mask.

        room: bytes that can be written at the pointer of the mask; None: it is NULL (K 4.4, 4.35).
        """
        return self._portal.run(lambda: self._inner.get_mempolicy(room, maxnode, address, flags))

    def mbind(
        self, address: int, length: int, mode: int, nodemask: bytes | None, maxnode: int, flags: int
    ) -> int:
        """mbind(2): 0 or -errno (K 4.22)."""
        return self._portal.run(
            lambda: self._inner.mbind(address, length, mode, nodemask, maxnode, flags)
        )

    def move_pages(
        self,
        pid: int,
        count: int,
        pages: Iterable[int],
        nodes: Iterable[int] | None,
        status: Iterable[int],
        flags: int,
    ) -> tuple[int, list[int]]:
        """move_pages(2): value, and the status array as the call leaves it (K 4.12 - 4.16).

        nodes: None for NULL, a query.  status: what the array holds before the call.
        """
        return self._portal.run(
            lambda: self._inner.move_pages(pid, count, pages, nodes, status, flags)
        )


class Weights:
    """Of one machine: ``machine.weights``."""

    def __init__(self, portal: Portal[Any], inner: weights.Weights) -> None:
        self._portal, self._inner = portal, inner

    def __repr__(self) -> str:
        return repr(self._inner)

    def write(self, node: int, weight: int) -> None:
        """Give a node a weight, 1 to 255.  Errors: ENOENT (no such node, or no weights), EINVAL."""
        self._portal.run(lambda: self._inner.write(node, weight))

    def read(self) -> dict[int, int]:
        """The weight of each node.  Errors: ENOENT."""
        return self._portal.run(lambda: self._inner.read())
