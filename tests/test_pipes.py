"""Long messages through pipes: both ends of one, and what becomes of who does not read."""

from __future__ import annotations

import errno
import mmap
import os
import random
import socket
from pathlib import Path

import pytest
import trio

from protocol.core import Frames
from protocol.live import pipe_ends
from protocol.live.line import ZERO_COPY_BYTES
from protocol.live.local import Local
from protocol.live.pipe_ends import Buffers, Mapped, Reader, Staging, Writer, make_pipe
from protocol.live.pipes import GUESTS_MAX, Pipes
from protocol.live.transport import open_transport
from protocol.live.unix import abstract
from tests.test_local import HERE, THERE, listening, long, short, stranger
from tests.test_transport import ANYWHERE, deliver, plain


async def test_a_pipe_that_nobody_reads_is_given_up_for_a_while() -> None:
    ways = Pipes()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as deaf, trio.fail_after(5):
        deaf.bind(abstract("pipe", HERE))
        deaf.listen()
        assert ways.send(HERE, long(1))
        connection, _ = deaf.accept()
        for end in socket.recv_fds(connection, 64, 1)[1]:
            os.close(end)
        connection.close()
        while ways.send(HERE, long(2)):
            await trio.lowlevel.checkpoint()
        assert not ways.send(HERE, long(3))
        ways.close()


async def test_the_death_of_who_reads_is_noticed_without_a_message() -> None:
    ways = Pipes()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as deaf, trio.fail_after(5):
        deaf.bind(abstract("pipe", HERE))
        deaf.listen()
        assert ways.send(HERE, short(1))
        connection, _ = deaf.accept()
        (end,) = socket.recv_fds(connection, 64, 1)[1]
        os.set_blocking(end, True)
        os.read(end, 4096)
        open_before = len(os.listdir("/proc/self/fd"))
        os.close(end)
        while len(os.listdir("/proc/self/fd")) > open_before - 2:
            await trio.lowlevel.checkpoint()
        assert not ways.send(HERE, short(2))
        connection.close()
        ways.close()


async def test_silent_guests_at_the_door_delay_nobody() -> None:
    with trio.fail_after(5):
        async with listening("node0", HERE) as node, listening("c", THERE, node0=HERE) as client:
            guests = [stranger("pipe", HERE) for _ in range(2 * GUESTS_MAX)]
            assert client.send("node0", long(1))
            assert plain(await node.receive()) == plain(long(1))
            for guest in guests:
                guest.close()


async def test_who_would_get_short_pipes_only_sends_by_zmq(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipe_ends, "_PIPE_BYTES_MIN", 1 << 40)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="short pipes"):
        make_pipe()
    assert len(os.listdir("/proc/self/fd")) == before
    with trio.fail_after(5):
        async with open_transport("node0", bind=ANYWHERE, peers={}, local=Local("node0")) as node:
            peers = {"node0": node.bound_address}
            async with open_transport("c", bind=None, peers=peers, local=Local("c")) as client:
                await deliver(client, "node0", long(1))
                assert plain(await node.receive()) == plain(long(1))
                assert client.statistics().local == 0


# ---- the ends of a pipe --------------------------------------------------------------------


def carried(writer: Writer, reader: Reader) -> Frames:
    """What comes out, when both ends take turns."""
    while True:
        writer.push()
        frames = reader.pull()
        if frames is not None:
            return frames


@pytest.fixture
def ends(tmp_path: Path) -> tuple[Writer, Reader, mmap.mmap]:
    """A pipe whose writer knows a mapped file, and that file in memory."""
    path = tmp_path / "zone"
    path.write_bytes(bytes(4 * ZERO_COPY_BYTES))
    descriptor = os.open(path, os.O_RDWR)
    shared = mmap.mmap(descriptor, 0)
    reading, writing = make_pipe()
    mapped = Mapped.of(descriptor, memoryview(shared))
    return Writer(writing, [mapped]), Reader(reading, Buffers()), shared


def test_pages_of_the_mapped_file_go_by_reference_and_others_by_copy(
    ends: tuple[Writer, Reader, mmap.mmap],
) -> None:
    writer, reader, shared = ends
    zone, other = memoryview(shared), bytearray(ZERO_COPY_BYTES)
    page = zone[ZERO_COPY_BYTES : 2 * ZERO_COPY_BYTES]
    writer.queue.append((b"head", page, bytes(other), b"tail"))
    writer.push()
    assert not writer.broken
    page[0], other[0] = 1, 1
    frames = carried(writer, reader)
    assert [frame[0] for frame in frames] == [ord("h"), 1, 0, ord("t")]


@pytest.mark.parametrize("refusal", [errno.EINVAL, errno.EPERM, errno.ENOSYS])
def test_what_cannot_be_spliced_is_copied(
    ends: tuple[Writer, Reader, mmap.mmap], monkeypatch: pytest.MonkeyPatch, refusal: int
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(refusal, "not here")

    monkeypatch.setattr(os, "splice", refuse)
    writer, reader, shared = ends
    shared[:] = random.Random(1).randbytes(len(shared))
    writer.queue.append((b"head", memoryview(shared), b"tail"))
    assert plain(carried(writer, reader)) == (b"head", bytes(shared), b"tail")


def test_frames_at_the_edges_of_the_mapped_file_are_told_from_what_lies_beside_it(
    ends: tuple[Writer, Reader, mmap.mmap],
) -> None:
    writer, reader, shared = ends
    zone = memoryview(shared)
    zone[:] = random.Random(1).randbytes(len(zone))
    frames = (zone, zone[:ZERO_COPY_BYTES], zone[-ZERO_COPY_BYTES:], bytes(ZERO_COPY_BYTES))
    writer.queue.append(frames)
    assert plain(carried(writer, reader)) == plain(frames)


def test_half_a_message_is_no_message(ends: tuple[Writer, Reader, mmap.mmap]) -> None:
    writer, reader, _ = ends
    writer.queue.append(long(1))
    assert writer.push()
    assert reader.pull() is None
    writer.close()
    while not reader.ended:
        assert reader.pull() is None


@pytest.mark.parametrize("nonsense", [b"\0" * 72, b"\xff" * 72, b"unlamal\0" * 9], ids=repr)
def test_nonsense_ends_a_pipe(nonsense: bytes) -> None:
    reading, writing = make_pipe()
    os.write(writing, nonsense)
    reader = Reader(reading, Buffers())
    assert reader.pull() is None
    assert reader.ended


def test_who_has_nobody_to_read_is_broken_and_nothing_else_happens(
    ends: tuple[Writer, Reader, mmap.mmap],
) -> None:
    writer, reader, _ = ends
    reader.close()
    writer.queue.append(short(1))
    assert not writer.push()
    assert writer.broken


def test_a_buffer_is_used_again_when_nobody_has_a_view_of_it() -> None:
    buffers = Buffers()
    first = buffers.take(ZERO_COPY_BYTES)
    part = first[:10]
    first[:10] = b"0123456789"
    del first
    second = buffers.take(ZERO_COPY_BYTES)
    second[:10] = b"9876543210"
    assert bytes(part) == b"0123456789"
    del part
    third = buffers.take(ZERO_COPY_BYTES)
    assert bytes(third[:10]) == b"0123456789", "fresh memory, where used memory was free"


def test_what_is_put_together_in_the_staging_file_is_spliced() -> None:
    staging = Staging()
    data = staging.room(2 * ZERO_COPY_BYTES)
    data[:] = 1
    reading, writing = make_pipe()
    writer, reader = Writer(writing, staging.mapped), Reader(reading, Buffers())
    writer.queue.append((data.data, b"tail"))
    writer.push()
    data[:] = 7
    frames = carried(writer, reader)
    assert plain(frames) == (bytes([7]) * (2 * ZERO_COPY_BYTES), b"tail"), "it was copied"


def test_the_staging_file_has_an_end_and_then_there_is_other_memory() -> None:
    staging = Staging()
    rooms = [staging.room(ZERO_COPY_BYTES) for _ in range(pipe_ends.KEPT_BUFFERS + 2)]
    for number, room in enumerate(rooms):
        room[:] = number
    assert [int(room.min()) for room in rooms] == list(range(len(rooms)))
    found = [any(part.piece(room.data) for part in staging.mapped) for room in rooms]
    assert found == [True] * pipe_ends.KEPT_BUFFERS + [False] * 2
