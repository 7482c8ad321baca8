"""Generated from the classes of the same names in ``numalab`` by ``make docs``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from numalab import cpusets, files, raw, weights
from numalab.blocking.portal import Portal
from numalab.cpusets import OPERATOR
from numalab.files import FileState


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
