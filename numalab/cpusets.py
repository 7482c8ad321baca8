"""The cpuset file system of a machine: ``machine.cpusets`` of the Python API.

await machine.cpusets.mkdir("/batch")
await machine.cpusets.write("/batch", "cpus", "0-1")
await machine.cpusets.write("/batch", "mems", "1")
await machine.cpusets.attach("/batch", task.pid)
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING
from weakref import WeakSet

from protocol.syscalls import (
    CpusetDirectory,
    CpusetRead,
    CpusetWrite,
    CpusetWritten,
    Description,
)

if TYPE_CHECKING:
    from numalab.machine import Machine
    from numalab.task import Task

OPERATOR = 0


class Cpusets:
    """Paths start with ``/``, which is the top; files are cpus, mems, tasks and the flags.

    ``caller``: the task that does it, 0 the operator of the machine, who may do everything.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._threads: WeakSet[Task] = WeakSet()

    async def mkdir(self, path: str, *, caller: int = OPERATOR) -> None:
        """A new cpuset, without cpus and mems.  Errors: EEXIST, ENOENT, EACCES, EINVAL."""
        await self._machine.call(CpusetDirectory(caller, path, 0))

    async def rmdir(self, path: str, *, caller: int = OPERATOR) -> None:
        """Remove one.  Errors: EBUSY (it has tasks or children), ENOENT, EACCES."""
        await self._machine.call(CpusetDirectory(caller, path, 1))

    async def read(self, path: str, file: str, *, within: float | None = None) -> str:
        """The text of an attribute file, with its end of line.  Errors: ENOENT.

        within: seconds, after which it is an IndefiniteError; None: for ever.
        """
        message = CpusetRead(path, file)
        return (await self._machine.expect(message, Description, within=within)).text

    async def write(self, path: str, file: str, text: object, *, caller: int = OPERATOR) -> None:
        """Write an attribute file; ends when the pages that it moves have moved (K 5.14).

        Errors: ENOENT, EACCES, EBUSY, EINVAL, ENOSPC, ERANGE, ESRCH, EIO, E2BIG (K 5.13).
        """
        message = CpusetWrite(caller, path, file, str(text))
        written = await self._machine.expect(message, CpusetWritten)
        cpu_of = dict(zip(written.pid.tolist(), written.cpu.tolist(), strict=True))
        for thread in self._threads:
            if thread.pid in cpu_of and thread.cpu not in written.allowed:
                thread.cpu = cpu_of[thread.pid]

    async def attach(self, path: str, pid: int, *, caller: int = OPERATOR) -> None:
        """Put a task into a cpuset; its memory follows if that has memory_migrate.

        Errors: ENOSPC (the cpuset has no cpus or no mems), ESRCH, ENOENT, EACCES.
        """
        await self.write(path, "tasks", pid, caller=caller)

    async def children(self, path: str = "/", *, within: float | None = None) -> list[str]:
        """The paths of the cpusets right below one.  Errors: ENOENT."""
        entries = (await self.read(path, "", within=within)).splitlines()
        return [f"{path.rstrip('/')}/{entry[:-1]}" for entry in entries if entry.endswith("/")]

    async def walk(self, path: str = "/", *, within: float | None = None) -> list[str]:
        """The paths of a cpuset and all below it, parents first.  Errors: ENOENT.

        within: seconds for each question.
        """
        paths = [path]
        for child in await self.children(path, within=within):
            try:
                paths += await self.walk(child, within=within)
            except FileNotFoundError:
                # Removed since its parent was read.
                continue
        return paths

    async def of(self, pid: int) -> str:
        """/proc/PID/cpuset: the path of the cpuset of a task.  Errors: ESRCH."""
        for path in await self.walk():
            if str(pid) in (await self.read(path, "tasks")).split():
                return path
        raise OSError(errno.ESRCH, f"there is no task {pid}")

    def follow(self, thread: Task) -> None:
        """The cpu of this thread is to be that which its cpuset leaves it."""
        self._threads.add(thread)
