"""The clients of a stress: processes that are started, killed, stopped and told what to do."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import trio

from numalab.checker import Finding, invalid
from numalab.child import Child, child_process
from numalab.stress_worker import Assignment, Progress, Ready

NOTHING = Progress("work", 0, 0, 0, 0, {}, 0.0)


@dataclass(slots=True, eq=False)
class _Client:
    """One process; ``told`` is the last that it said of itself."""

    number: int
    child: Child
    ready: Ready
    told: Progress
    phases: dict[str, trio.Event]
    kill: trio.Event
    killed: bool = False
    gone: bool = False


class Fleet:
    """All clients of one stress; made by ``open``.  findings: those that ended by themselves."""

    def __init__(
        self, nursery: trio.Nursery, place: Path, directory: Path, seed: int, file: str, pages: int
    ) -> None:
        self._nursery = nursery
        self._place, self._directory = place, directory
        self._seed, self._file, self._pages = seed, file, pages
        self._draw = random.Random(f"clients {seed}")
        self._clients: list[_Client] = []
        self._numbers = 0
        self._stopped: set[int] = set()
        self._starting = 0
        self._ending = False
        self.findings: list[Finding] = []

    @staticmethod
    @asynccontextmanager
    async def open(
        place: Path, directory: Path, seed: int, file: str, pages: int
    ) -> AsyncIterator[Fleet]:
        """None yet; all that are started end with the block."""
        async with trio.open_nursery() as nursery:
            yield Fleet(nursery, place, directory, seed, file, pages)
            nursery.cancel_scope.cancel()

    async def start(self, cpu: int) -> None:
        """One more client; returns when it is at work."""
        await self._nursery.start(self._run, cpu)

    async def _run(self, cpu: int, task_status: trio.TaskStatus[None]) -> None:
        self._numbers += 1
        number = self._numbers
        assignment = Assignment(
            str(self._place),
            number,
            self._seed,
            str(self._directory / f"client-{number}.rows"),
            str(self._directory / "faults.json"),
            self._file,
            self._pages,
            cpu,
        )
        async with child_process(["numalab.stress_worker"]) as child:
            await child.stdin.send_all(msgspec.json.encode(assignment) + b"\n")
            try:
                ready = msgspec.json.decode(await child.next_line(), type=Ready)
            except ChildProcessError:
                sentence = f"Client {number} of the stress ended before it was at work."
                self.findings.append(invalid(sentence))
                task_status.started()
                return
            client = _Client(number, child, ready, NOTHING, _phases(), trio.Event())
            self._clients.append(client)
            task_status.started()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen, client)
                await client.kill.wait()
                nursery.cancel_scope.cancel()
        client.gone = True

    async def _listen(self, client: _Client) -> None:
        """Keep the last that it says; a client that ends unasked is a finding."""
        said = b""
        while True:
            part = await client.child.stdout.receive_some()
            if not part:
                if not (self._ending or client.killed):
                    sentence = f"Client {client.number} of the stress ended by itself."
                    self.findings.append(invalid(sentence))
                client.kill.set()
                for event in client.phases.values():
                    event.set()
                return
            *lines, said = (said + part).split(b"\n")
            if lines:
                client.told = msgspec.json.decode(lines[-1], type=Progress)
                client.phases[client.told.phase].set()

    # ---- faults ----------------------------------------------------------------------------

    def kill_one(self) -> bool:
        """SIGKILL one, and start another in its place."""
        client = self._choose()
        if client is None:
            return False
        client.killed = True
        os.kill(client.child.pid, signal.SIGKILL)
        client.kill.set()
        self._nursery.start_soon(self._replace)
        return True

    async def _replace(self) -> None:
        self._starting += 1
        await self.start(0)
        self._starting -= 1

    def pause_one(self, seconds: float) -> bool:
        """SIGSTOP one; it goes on after so many seconds."""
        client = self._choose()
        if client is None:
            return False
        self._stopped.add(client.child.pid)
        os.kill(client.child.pid, signal.SIGSTOP)
        self._nursery.start_soon(self._wake_later, client.child.pid, seconds)
        return True

    async def _wake_later(self, pid: int, seconds: float) -> None:
        await trio.sleep(seconds)
        self._wake(pid)

    def resume(self) -> None:
        """Nobody stands still any more."""
        for pid in sorted(self._stopped):
            self._wake(pid)

    def _wake(self, pid: int) -> None:
        if pid in self._stopped:
            self._stopped.discard(pid)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def pages(self) -> tuple[int, int, int]:
        """pid, address and number of pages of the private area of one of them."""
        client = self._choose() or self._clients[0]
        return client.ready.pid, client.ready.private, self._pages

    def _choose(self) -> _Client | None:
        able = [c for c in self._alive() if c.child.pid not in self._stopped]
        return self._draw.choice(able) if able else None

    def _alive(self) -> list[_Client]:
        return [c for c in self._clients if not (c.killed or c.gone)]

    # ---- the end ---------------------------------------------------------------------------

    def total(self) -> Progress:
        """Of all, killed ones included."""
        told = [client.told for client in self._clients]
        refused: dict[str, int] = {}
        for each in told:
            for name, count in each.refused.items():
                refused[name] = refused.get(name, 0) + count
        return Progress(
            "work",
            sum(each.operations for each in told),
            sum(each.moves for each in told),
            sum(each.forks for each in told),
            sum(each.indefinite for each in told),
            refused,
            max((each.longest for each in told), default=0.0),
        )

    @property
    def pids(self) -> list[tuple[int, int, int]]:
        """pid, private address and pages of each that lives."""
        return [(c.ready.pid, c.ready.private, self._pages) for c in self._alive()]

    async def stop(self) -> None:
        """No load any more; returns when nothing is under way."""
        while self._starting:  # noqa: ASYNC110
            await trio.sleep(0.05)
        await self._say_all(b"stop\n", "stopped")

    async def read(self) -> None:
        """Each loads all of its words once more."""
        await self._say_all(b"read\n", "read")

    async def leave(self) -> None:
        """They exit, and their tasks with them."""
        self._ending = True
        alive = self._alive()
        for client in alive:
            await client.child.stdin.send_all(b"leave\n")
        for client in alive:
            await client.kill.wait()

    async def _say_all(self, line: bytes, phase: str) -> None:
        alive = self._alive()
        for client in alive:
            await client.child.stdin.send_all(line)
        for client in alive:
            await client.phases[phase].wait()


def _phases() -> dict[str, trio.Event]:
    """When a client is known to be as far as that."""
    return {phase: trio.Event() for phase in ("work", "stopped", "read")}
