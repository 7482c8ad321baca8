"""The processes of a local machine as the host sees them: start one, know it again, end it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import trio

_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Process:
    """A process for ever: its pid, and when it was started (clock ticks after boot)."""

    pid: int
    started: int

    @property
    def alive(self) -> bool:
        """It runs (a zombie does not)."""
        return _started(self.pid) == self.started

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to exactly this process; nothing happens if it is gone."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            # The descriptor names one process: who passes this test now gets the signal.
            if self.alive:
                signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            return
        finally:
            os.close(descriptor)


def _started(pid: int) -> int | None:
    """When the process ``pid`` was started, None if there is none or it is a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name stands in parentheses and may contain anything.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def start(module: str, configuration: Path, log: Path) -> Process:
    """Start ``module configuration`` in a session of its own; its output goes to ``log``.

    Call it in the thread that will live longest: a process that shall not outlive its parent
    means that thread.
    """
    # Nothing here multiplies matrices: numpy's threads for that would only cost memory.
    environment = {"OPENBLAS_NUM_THREADS": "1", **os.environ}
    path = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = f"{_ROOT}{os.pathsep}{path}" if path else str(_ROOT)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-P", "-m", "protocol.live.begin", module, str(configuration)],
        environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigmask=(),
        setsigdef=(signal.SIGPIPE,),
    )
    # Our own child is not reaped yet, so even if it has ended already the pid is not another's.
    return Process(pid, _started(pid) or 0)


def remember(process: Process, path: Path) -> None:
    """Write down which process it is, for ``recall``."""
    write_private(path, msgspec.json.encode({"pid": process.pid, "started": process.started}))


def recall(path: Path) -> Process | None:
    """The process that was written down, None if nothing of use is there."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Process)
    except (OSError, msgspec.MsgspecError):
        return None


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read; whoever reads it sees it whole or not at all."""
    unfinished = path.with_name(f".{path.name}.new")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(data)
    unfinished.rename(path)


def reap(process: Process) -> None:
    """Let go of a child that has ended; harmless for a process that is none of ours."""
    try:
        os.waitpid(process.pid, os.WNOHANG)
    except ChildProcessError:
        return


async def ended(process: Process) -> None:
    """Wait for the end of a process."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        if process.alive:
            await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)


async def end(processes: Sequence[Process], grace: float) -> None:
    """SIGTERM, and SIGKILL for those that are still there after ``grace`` seconds."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            process.signal(number)
            # One that was stopped would not heed it.
            process.signal(signal.SIGCONT)
        with trio.move_on_after(grace):
            async with trio.open_nursery() as nursery:
                for process in processes:
                    nursery.start_soon(ended, process)
            break
    for process in processes:
        reap(process)
