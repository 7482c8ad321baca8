"""Child processes of a demonstration: Python modules that are spoken to line by line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

_ROOT = str(Path(__file__).resolve().parent.parent)


@dataclass(frozen=True, slots=True)
class Child:
    """A process, and both ends of what is said to and by it."""

    pid: int
    stdin: trio.lowlevel.FdStream
    stdout: trio.lowlevel.FdStream

    async def next_line(self) -> bytes:
        """The next line that it says (it says no more before it is asked)."""
        said = b""
        while not said.endswith(b"\n"):
            part = await self.stdout.receive_some()
            if not part:
                raise ChildProcessError(
                    f"process {self.pid} ended before it had said what it should"
                )
            said += part
        return said


@asynccontextmanager
async def child_process(arguments: Sequence[str]) -> AsyncIterator[Child]:
    """A Python module as a process that is killed when the block ends.

    It is started in this very thread, not by trio's run_process in one that soon ends: the death of
    the thread that has started a process counts as that of its parent.
    """
    path = os.pathsep.join([_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])])
    with subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-P", "-m", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # A Ctrl-C at the terminal is for us; we end what we started.
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": path},
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        async with (
            trio.lowlevel.FdStream(os.dup(process.stdin.fileno())) as stdin,
            trio.lowlevel.FdStream(os.dup(process.stdout.fileno())) as stdout,
        ):
            # The stream must be the only one that can say that nothing more comes.
            process.stdin.close()
            try:
                yield Child(process.pid, stdin, stdout)
            finally:
                process.kill()
