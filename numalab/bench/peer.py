"""Other programs that carry pages between two of their processes, in the same run as ours.

Each is a program of its own in ``numalab/bench/peers``: it is told how many pages, says ``ready``,
and then for every line that it reads carries them once and says how many seconds that took.  None
of what they need is needed by the machine: a peer that is not installed is left out.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from numalab.bench.readings import Readings

END_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Needs:
    """What a peer needs: programs on the path, modules of Python; and where to get them.

    figure: that of the suite it belongs to.  before: what stands before python on its command line.
    """

    figure: int
    programs: tuple[str, ...]
    modules: tuple[str, ...]
    install: str
    before: tuple[str, ...] = ()


PEERS = {
    "redis": Needs(
        3, ("redis-server",), ("redis",), "apt-get install redis-server; pip install redis"
    ),
    "dask": Needs(4, (), ("dask", "distributed"), "pip install dask distributed"),
    "ray": Needs(4, (), ("ray",), "pip install ray"),
    "mpi": Needs(
        4,
        ("mpirun",),
        ("mpi4py",),
        "apt-get install openmpi-bin; pip install mpi4py",
        # TCP only, as between hosts: everything else would be a copy through shared memory.
        ("mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "2")
        + ("--mca", "pml", "ob1", "--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include", "lo"),
    ),
}


class PeerFailed(Exception):
    """It did not start, or ended: one sentence."""


class Peer:
    """A peer that is ready."""

    def __init__(self, name: str, pages: int) -> None:
        self.name = name
        command = [*PEERS[name].before, sys.executable, "-m", f"numalab.bench.peers.{name}_peer"]
        self._process = subprocess.Popen(
            [*command, str(pages)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            bufsize=1,
            # A Ctrl-C at the terminal is for us; the end of its orders ends it.
            start_new_session=True,
        )
        try:
            if self._line() != "ready":
                raise PeerFailed(
                    f"{name} did not start: try 'python -m {command[-1]} 4096' to see why."
                )
        except PeerFailed:
            self.close()
            raise

    def go(self) -> float:
        """Carry the pages once; seconds.  Raises PeerFailed."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
            return float(self._line())
        except (OSError, ValueError):
            raise PeerFailed(f"{self.name} has ended in the middle of a run.") from None

    def close(self) -> None:
        """The end of its orders is the end of it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def missing(name: str) -> str:
    """Why a peer cannot run here, in one sentence; empty if it can."""
    needs = PEERS[name]
    lacks = [program for program in needs.programs if shutil.which(program) is None]
    lacks += [module for module in needs.modules if importlib.util.find_spec(module) is None]
    if not lacks:
        return ""
    return f"{name} is left out, for {' and '.join(lacks)} is not installed: {needs.install}."


@asynccontextmanager
async def started_peers(
    names: Sequence[str], pages: int, readings: Readings
) -> AsyncIterator[list[Peer]]:
    """Those that can run; of the others the readings say why not.

    In a thread: a machine takes a client that is silent for seconds for dead.
    """
    peers: list[Peer] = []
    try:
        for name in names:
            sentence = missing(name)
            if not sentence:
                try:
                    peers.append(await trio.to_thread.run_sync(Peer, name, pages))
                except PeerFailed as failed:
                    sentence = str(failed)
            if sentence:
                readings.note(PEERS[name].figure, sentence)
        yield list(peers)
    finally:
        with trio.CancelScope(shield=True):
            for peer in peers:
                await trio.to_thread.run_sync(peer.close)
