"""Faults of live processes: messages are lost and late, a process dies at a step, and it ends."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest
import trio

from numalab import cluster, processes
from numalab.machine import connect
from protocol.codec import Envelope, Kind, encode
from protocol.core import ConfigurationError, Frames
from protocol.live.interference import Counts, FaultFile, Interference
from protocol.live.transport import Transport, open_transport
from protocol.messages import CopyPages, PutPages
from protocol.notes import FaultInjected, Note
from protocol.schema import ROWS
from protocol.topology import Topology

KEY = bytes(16)
PAGE = 4096


def write(directory: Path, schedule: str) -> Path:
    """A file of faults whose time begins now."""
    path, counts = directory / "faults", directory / "counts"
    Counts(counts, make=True)
    file = FaultFile(time.monotonic(), 7, schedule, str(counts))
    processes.write_private(path, msgspec.json.encode(file))
    return path


def numbered(number: int) -> Frames:
    none = np.zeros(0, np.uint32)
    opcode = ROWS[PutPages].opcode
    envelope = Envelope(KEY, Kind.QUESTION, opcode, number, 0, "a", "b", 1, 1, 1)
    return encode(envelope, PutPages(none, none))


async def until(condition: Callable[[], bool]) -> None:
    """Look again and again; others do not tell us."""
    with trio.fail_after(20):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.01)


class Pair:
    """a sends to b, with faults."""

    def __init__(self, interference: Interference, a: Transport, b: Transport) -> None:
        self.interference, self.a, self.b = interference, a, b
        self.notes: list[Note] = []
        interference.on_note = self.notes.append

    async def hear(self, count: int) -> list[Frames]:
        with trio.fail_after(10):
            return [tuple(bytes(f) for f in await self.b.receive()) for _ in range(count)]


async def a_pair(stack: AsyncExitStack, path: Path) -> Pair:
    b = await stack.enter_async_context(open_transport("b", bind="tcp://127.0.0.1:0", peers={}))
    interference = Interference("a", str(path))
    peers = {"b": b.bound_address}
    a = await stack.enter_async_context(
        open_transport("a", bind=None, peers=peers, interference=interference)
    )
    # Nothing is queued before there is a connection.
    await until(lambda: a._put("b", (b"there?",)))
    await b.receive()
    return Pair(interference, a, b)


async def test_a_lost_message_is_counted_and_does_not_arrive(tmp_path: Path) -> None:
    path = write(tmp_path, "loss a -> b nth=2\n")
    async with AsyncExitStack() as stack:
        pair = await a_pair(stack, path)
        for number in range(3):
            pair.a.send("b", numbered(number))
        assert await pair.hear(2) == [numbered(0), numbered(2)]
    assert pair.notes == [FaultInjected("loss")]
    counts = Counts(tmp_path / "counts")
    assert (counts.matched[0], counts.hits[0]) == (3, 1)


async def test_a_duplicate_comes_twice_and_a_damaged_one_is_another(tmp_path: Path) -> None:
    path = write(tmp_path, "duplicate a -> b nth=1 seconds=0.01\ndamage a -> b nth=1\n")
    async with AsyncExitStack() as stack:
        pair = await a_pair(stack, path)
        pair.a.send("b", numbered(0))
        assert await pair.hear(2) == [numbered(0)] * 2
        pair.a.send("b", numbered(1))
        assert await pair.hear(1) != [numbered(1)]


async def test_what_is_delayed_keeps_its_place_and_what_is_reordered_does_not(
    tmp_path: Path,
) -> None:
    path = write(tmp_path, "delay a -> b nth=1 seconds=0.3\nreorder a -> b nth=2 seconds=0.3\n")
    async with AsyncExitStack() as stack:
        pair = await a_pair(stack, path)
        started = time.monotonic()
        pair.a.send("b", numbered(0))
        pair.a.send("b", numbered(1))
        assert await pair.hear(2) == [numbered(0), numbered(1)]
        pair.a.send("b", numbered(2))
        pair.a.send("b", numbered(3))
        assert sorted(await pair.hear(2)) == [numbered(2), numbered(3)]
        assert time.monotonic() - started > 0.005


async def test_faults_end_when_their_file_is_replaced(tmp_path: Path) -> None:
    path = write(tmp_path, "partition a <-> b\n")
    async with AsyncExitStack() as stack:
        pair = await a_pair(stack, path)
        assert pair.a.send("b", numbered(0))
        write(tmp_path, "")
        await until(lambda: pair.a.send("b", numbered(1)) and pair.b.receive_nowait() is not None)


def test_of_two_processes_that_count_at_once_one_is_the_second(tmp_path: Path) -> None:
    path = write(tmp_path, "crash node1 before=COPYING nth=2\n")
    counts, here = Counts(tmp_path / "counts"), Interference("node1", str(path))
    none = np.zeros(0, np.uint32)
    opcode = ROWS[CopyPages].opcode
    envelope = Envelope(KEY, Kind.QUESTION, opcode, 1, 0, "coordinator", "node1", 1, 1, 1)
    frames = encode(envelope, CopyPages(1, 0, 1, 0, none, none, none, none))
    thread = threading.Thread(target=here.heard, args=(frames,))
    with counts.alone():
        thread.start()
        thread.join(0.05)
        assert thread.is_alive() and counts.matched[0] == 0
    thread.join(5)
    assert (counts.matched[0], counts.hits[0]) == (1, 0)


def test_a_file_that_is_none_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="faults .*nothing cannot be used.*[.]$"):
        Interference("a", str(tmp_path / "nothing"))


def test_a_node_dies_in_the_middle_of_a_migration_and_the_migration_ends(tmp_path: Path) -> None:
    path = write(tmp_path, "crash source after=COPYING\npause target before=SETTLING\n")
    counts = Counts(tmp_path / "counts")

    async def scenario() -> None:
        directory = tmp_path / "machine"
        settings = cluster.Settings(Topology.uniform(2, "8M"), faults=str(path), metrics=False)
        await cluster.up(settings, directory, parent=os.getpid())
        try:
            with trio.fail_after(60):
                await migrate_through_a_crash(directory, counts)
        finally:
            await cluster.down(directory)

    trio.run(scenario)
    assert [counts.struck(number) for number in range(2)] == ["node0", "node1"]


async def migrate_through_a_crash(directory: Path, counts: Counts) -> None:
    async with connect(directory) as machine, trio.open_nursery() as nursery:
        task = await machine.spawn()
        base = await task.mmap(64 * PAGE)
        data = os.urandom(64 * PAGE)
        await task.store(base, data)
        nursery.start_soon(partial(raise_the_dead, directory, counts))
        assert await task.migrate_pages(task.pid, [0], [1]) == 0
        assert await task.load(base, len(data)) == data
        nodes = await task.move_pages(task.pid, [base, base + 63 * PAGE], None)
        assert nodes == [1, 1]


async def raise_the_dead(directory: Path, counts: Counts) -> None:
    """node0 has killed itself, and node1 has stopped."""
    await until(lambda: counts.hits[0] > 0)
    await until(lambda: "node0" not in cluster.running(directory))
    cluster.restart(directory, "node0")
    await until(lambda: counts.hits[1] > 0)
    cluster.running(directory)["node1"].signal(signal.SIGCONT)
