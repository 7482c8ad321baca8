"""When what happened in a stress: calls of clients, faults of processes, the machine's trace.

Each who writes has a file of its own, a JSON line for each event.  Times are nanoseconds of the
host's one clock, which the trace has as well, in seconds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import trio

from numalab.machine import Machine

FAULT_EVENTS = "faults.events"
TRACE = "trace"
#: The machine keeps 1024 lines.
TRACE_SECONDS = 0.5


class Happening(msgspec.Struct, frozen=True, omit_defaults=True):
    """end: that of something that took time, else 0.  details: by name."""

    name: str
    start: int
    end: int = 0
    details: dict[str, Any] = {}


class Happenings:
    """A file of them; a line is in it before ``add`` returns, for who writes may be killed."""

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o600)

    def add(self, name: str, start: int, end: int = 0, **details: Any) -> None:
        line = msgspec.json.encode(Happening(name, start, end, details))
        os.write(self._descriptor, line + b"\n")


def read_happenings(path: Path) -> Iterator[Happening]:
    """Those of one file; the line that a killed process had begun is left out."""
    for line in path.read_bytes().splitlines():
        with suppress(msgspec.MsgspecError):
            yield msgspec.json.decode(line, type=Happening)


class KeptTrace:
    """The lines of ``numalab trace``, all of them, in a file."""

    def __init__(self, path: Path) -> None:
        self.machine: Machine | None = None
        self._path, self._next = path, 0
        self._scope = trio.CancelScope()

    async def keep(self) -> None:
        """Until ``end``."""
        with self._scope:
            while True:
                await self.take()
                await trio.sleep(TRACE_SECONDS)

    def end(self) -> None:
        self._scope.cancel()

    async def take(self) -> None:
        """What has come; nothing while the coordinator does not answer."""
        assert self.machine is not None
        with suppress(OSError):
            text, self._next = await self.machine.trace(self._next)
            with self._path.open("a") as file:
                file.write(text)
