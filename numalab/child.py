"""Child processes of a demonstration: Python modules that are spoken to line by line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

_ROOT = str(Path(__file__).resolve().parent.parent)


@asynccontextmanager
async def child_process(arguments: Sequence[str]) -> AsyncIterator[trio.Process]:
    """A Python module as a process, which ends with the block: by a closed stdin, or else."""
    path = os.pathsep.join([_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])])
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(
            partial(
                trio.run_process,
                [sys.executable, "-P", "-m", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                check=False,
                # A Ctrl-C at the terminal is for us; we end what we started.
                start_new_session=True,
                env=os.environ | {"PYTHONPATH": path},
            )
        )
        yield process
        nursery.cancel_scope.cancel()


async def next_line(child: trio.Process) -> bytes:
    """The next line that the child says (it says no more before it is asked)."""
    assert child.stdout is not None
    said = b""
    while not said.endswith(b"\n"):
        part = await child.stdout.receive_some()
        if not part:
            raise ChildProcessError(f"process {child.pid} ended before it had said what it should")
        said += part
    return said
