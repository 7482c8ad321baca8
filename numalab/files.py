"""Files of a machine: a page cache, and a kind that says how its pages move.

See docs/page-kinds.md.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coordinator.address_space import KINDS
from coordinator.files import PAGES_MAX
from protocol.files import CreateFile, DescribeFile, SetDevice, Unlink
from protocol.syscalls import Description

if TYPE_CHECKING:
    from numalab.machine import Machine


@dataclass(frozen=True, slots=True)
class FileState:
    """What a file's page cache has; counts are pages.

    cached: in memory; mapped: by some task; private: with buffers; writepages: calls of writepage;
    nodes: pages on each node.
    """

    kind: str
    pages: int
    cached: int
    mapped: int
    dirty: int
    writeback: int
    private: int
    writepages: int
    nodes: dict[int, int]


class File:
    """A file, made by ``Machine.create_file`` or found by ``Machine.file``.  Errors: ENOENT."""

    def __init__(self, machine: Machine, path: str) -> None:
        self.path = path
        self._machine = machine

    def __repr__(self) -> str:
        return f"<File {self.path}>"

    async def state(self) -> FileState:
        """What its page cache has by now."""
        text = (await self._machine.expect(DescribeFile(self.path), Description)).text
        lines = dict(line.split(" ", 1) for line in text.splitlines())
        pairs = [pair[1:].split("=") for pair in lines.pop("nodes").split(",") if pair]
        nodes = {int(nid): int(pages) for nid, pages in pairs}
        kind = lines.pop("kind")
        return FileState(kind=kind, nodes=nodes, **{name: int(n) for name, n in lines.items()})

    async def set_device(
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
        flags = (hold_writeback, fail_writepage, keep_buffers, lock_buffers)
        await self._set(sum(1 << bit for bit, flag in enumerate(flags) if flag), sync=False)

    async def hold_writeback(self) -> None:
        """Write all dirty pages back, which does not end before ``set_device()``."""
        await self._set(1, sync=True)

    async def sync(self) -> None:
        """Write all dirty pages back, on a device that behaves as usual."""
        await self._set(0, sync=True)

    async def unlink(self) -> None:
        """unlink(2); what tasks map of it stays theirs."""
        await self._machine.call(Unlink(self.path))

    async def _set(self, device: int, *, sync: bool) -> None:
        await self._machine.call(SetDevice(self.path, device, int(sync)))


async def create_file(machine: Machine, path: str, pages: int, kind: str, seconds: float) -> File:
    """``Machine.create_file``; EINVAL says which argument is wrong."""
    try:
        await machine.call(CreateFile(path, pages, kind, seconds))
    except OSError as error:
        if error.errno == errno.EINVAL:
            error.strerror = f"create_file: {_wrong(str(path), pages, kind, seconds)}"
        raise
    return File(machine, path)


def _wrong(path: str, pages: int, kind: str, writeback_seconds: float) -> str:
    if not path.startswith("/"):
        return f"the path '{path}' is not absolute: begin it with a slash"
    if kind not in KINDS:
        return f"'{kind}' is no kind of file: choose {', '.join(KINDS)}"
    if not writeback_seconds >= 0:
        return f"a writeback of {writeback_seconds} s cannot be: give 0 or more"
    return f"a file has no {pages} pages: give a whole number from 1 to {PAGES_MAX}"
