"""Long messages through pipes: both ends of one, and what becomes of who does not read."""

from __future__ import annotations

import fcntl
import mmap
import os
import random
import socket
import termios
from pathlib import Path

import pytest
import trio

from protocol.core import Frames
from protocol.live import pipe_ends, pipes
from protocol.live.buffers import KEPT_BUFFERS, Buffers, Foreign, Mapped, Staging, files_of
from protocol.live.line import ZERO_COPY_BYTES
from protocol.live.local import Local
from protocol.live.pipe_ends import Reader, Writer, make_pipe
from protocol.live.pipes import GUESTS_MAX, WAITING_MAX, Pipes
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


async def test_who_reads_may_not_write_to_the_files_of_who_writes(tmp_path: Path) -> None:
    (tmp_path / "zone").write_bytes(bytes(ZERO_COPY_BYTES))
    with (tmp_path / "zone").open("r+b") as file, socket.socket(socket.AF_UNIX) as peer:
        shared = mmap.mmap(file.fileno(), 0)
        ways = Pipes([Mapped.of(file.fileno(), memoryview(shared))])
        peer.bind(abstract("pipe", HERE))
        peer.listen()
        assert ways.send(HERE, long(1))
        connection, _ = peer.accept()
        pipe, zone = socket.recv_fds(connection, 64, 8)[1]
        assert fcntl.fcntl(zone, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        with pytest.raises(PermissionError):
            mmap.mmap(zone, 0)
        os.close(pipe)
        os.close(zone)
        connection.close()
        ways.close()


def test_a_file_that_cannot_be_handed_over_leaves_no_descriptor_open(tmp_path: Path) -> None:
    (tmp_path / "zone").write_bytes(b"pages")
    with (tmp_path / "zone").open("rb") as file, socket.socket(socket.AF_UNIX) as peer:
        peer.bind(abstract("pipe", HERE))
        peer.listen()
        before = os.listdir("/proc/self/fd")
        for _ in range(3):
            with pytest.raises(FileNotFoundError):
                pipes._hand_over(HERE, [file.fileno(), 1 << 20])
        assert len(os.listdir("/proc/self/fd")) == len(before)


async def test_who_hands_over_no_pipe_is_hung_up_on_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "zone").write_bytes(b"pages")
    with (tmp_path / "zone").open("rb") as file, trio.fail_after(5):
        async with listening("node0", HERE) as node, listening("c", THERE, node0=HERE) as client:
            before = os.listdir("/proc/self/fd")
            for _ in range(3):
                with stranger("pipe", HERE) as guest:
                    socket.send_fds(guest, [pipes._HELLO], [file.fileno(), file.fileno()])
                    while hung_up_of(guest) is None:
                        await trio.lowlevel.checkpoint()
            assert len(os.listdir("/proc/self/fd")) == len(before)
            assert client.send("node0", long(1))
            assert plain(await node.receive()) == plain(long(1))


async def test_who_dies_does_not_have_more_read_than_there_is_room_for() -> None:
    staging = Staging()
    data = staging.room(ZERO_COPY_BYTES)
    ways = Pipes(staging.mapped)
    reader = Pipes()
    with trio.fail_after(5):
        reader.listen(HERE)
        while not ways.send(HERE, (b"head", data.data)):
            await trio.lowlevel.checkpoint()
        for _ in range(20):
            assert ways.send(HERE, (b"head", data.data))
        while len(reader._received) < WAITING_MAX or any(w.queue for w in ways._writers.values()):
            await trio.lowlevel.checkpoint()
        ways.close()
        taken = 0
        while taken < 21:
            assert len(reader._received) <= WAITING_MAX
            taken += reader.take() is not None
            await trio.lowlevel.checkpoint()
        reader.close()


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


def hung_up_of(guest: socket.socket) -> bool | None:
    """Whether the other end has closed; None: it has said nothing yet."""
    guest.setblocking(False)
    try:
        return guest.recv(1) == b""
    except BlockingIOError:
        return None
    except ConnectionResetError:
        return True


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
    reader = Reader(reading, Buffers(), None, [Foreign(descriptor)])
    return Writer(writing, [mapped], [descriptor]), reader, shared


def test_pages_of_a_file_that_both_have_are_read_there_and_others_in_the_pipe(
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


def test_pages_of_a_file_that_the_reader_has_not_come_through_the_pipe(tmp_path: Path) -> None:
    path = tmp_path / "zone"
    path.write_bytes(random.Random(1).randbytes(2 * ZERO_COPY_BYTES))
    with path.open("r+b") as file:
        shared = mmap.mmap(file.fileno(), 0)
        reading, writing = make_pipe()
        mapped = Mapped.of(file.fileno(), memoryview(shared))
        writer, reader = Writer(writing, [mapped], []), Reader(reading, Buffers())
        writer.queue.append((b"head", memoryview(shared), b"tail"))
        assert plain(carried(writer, reader)) == (b"head", bytes(shared), b"tail")


def test_of_what_lies_in_a_file_that_both_have_only_the_place_is_sent(
    ends: tuple[Writer, Reader, mmap.mmap],
) -> None:
    writer, reader, shared = ends
    shared[:] = random.Random(1).randbytes(len(shared))
    writer.queue.append((b"head", memoryview(shared)))
    writer.push()
    sent = fcntl.ioctl(reader.fileno(), termios.FIONREAD, bytes(4))
    assert 0 < int.from_bytes(sent, "little") < 1024
    assert plain(carried(writer, reader)) == (b"head", bytes(shared))


@pytest.mark.parametrize("wrong", ["beyond its end", "of another file"])
def test_a_place_that_is_in_no_file_ends_a_pipe(
    ends: tuple[Writer, Reader, mmap.mmap], wrong: str
) -> None:
    _, reader, shared = ends
    reading, writing = make_pipe()
    there = Mapped.of(7, memoryview(shared), 1 if wrong == "beyond its end" else 0)
    files = [7] if wrong == "beyond its end" else [6, 7]
    writer, other = Writer(writing, [there], files), Reader(reading, Buffers(), None, reader._files)
    writer.queue.append((b"head", memoryview(shared)))
    writer.push()
    assert other.pull() is None and other.ended


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


@pytest.mark.parametrize("nonsense", [b"\0" * 256, b"\xff" * 256, b"unlamal\0" * 32], ids=repr)
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


def test_what_is_put_together_in_the_staging_file_is_not_copied_again() -> None:
    staging = Staging()
    data = staging.room(2 * ZERO_COPY_BYTES)
    data[:] = 1
    reading, writing = make_pipe()
    files = files_of(staging.mapped)
    writer = Writer(writing, staging.mapped, files)
    reader = Reader(reading, Buffers(), None, [Foreign(os.dup(file)) for file in files])
    writer.queue.append((data.data, b"tail"))
    writer.push()
    data[:] = 7
    frames = carried(writer, reader)
    assert plain(frames) == (bytes([7]) * (2 * ZERO_COPY_BYTES), b"tail"), "it was copied"


def test_the_staging_file_has_an_end_and_then_there_is_other_memory() -> None:
    staging = Staging()
    rooms = [staging.room(ZERO_COPY_BYTES) for _ in range(KEPT_BUFFERS + 2)]
    for number, room in enumerate(rooms):
        room[:] = number
    assert [int(room.min()) for room in rooms] == list(range(len(rooms)))
    found = [any(part.find(room.data) is not None for part in staging.mapped) for room in rooms]
    assert found == [True] * KEPT_BUFFERS + [False] * 2
