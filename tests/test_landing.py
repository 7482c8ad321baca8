"""Page contents that are read from a pipe straight into their frames, and what may come between."""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import pytest
import trio

from nodes import layout
from nodes.zone import Zone
from protocol.codec import Envelope, Kind, WireError, decode, encode
from protocol.core import Buffer, Frames
from protocol.live.buffers import Buffers, Foreign, Staging, files_of
from protocol.live.landing import PIECE_BYTES, Grounds
from protocol.live.local import Local
from protocol.live.pipe_ends import Reader, Writer, make_pipe
from protocol.live.transport import open_transport
from protocol.messages import LandPages, MigratePrep, StoreBytes
from protocol.schema import ROWS, Message
from tests.test_transport import ANYWHERE, deliver
from tests.zones import U32, make, ones, touch

KEY = b"k" * 16
PAGE = 4096
PAGES = 512
HALF = PAGES // 2 * PAGE


def frames_of(message: Message, key: bytes = KEY, kind: Kind = Kind.QUESTION) -> Frames:
    """A message as it goes over the wire."""
    opcode = ROWS[type(message)].opcode
    return encode(Envelope(key, kind, opcode, 1, 1, "node0", "node3", 1, 1, 1), message)


class Landed:
    """A zone, and a pipe from which messages land in it."""

    def __init__(self) -> None:
        self.buffer, self.zone = make(4 * PAGES, PAGE)
        self.grounds = Grounds(partial(self.zone.landings.expect, key=KEY))
        reading, self.writing = make_pipe()
        self.reader = Reader(reading, Buffers(), self.grounds)
        self.pfn, self.generation = self.allocate(PAGES)

    def allocate(self, pages: int, mapped: int = 0) -> tuple[U32, U32]:
        rows = np.arange(pages, dtype=np.uint32)
        status, pfn, generation = self.zone.new_pages(mapped, rows, rows)
        assert not status.any()
        return pfn, generation

    def message(self, fill: int, pfn: U32 | None = None) -> LandPages:
        """Pages of ``fill`` for the frames that were allocated first, or for these."""
        pfn = self.pfn if pfn is None else pfn
        data = bytes([fill]) * (PAGE * pfn.size)
        generation = self.generation[: pfn.size]
        return LandPages(1, pfn, generation, 0 * ones(pfn.size), data)

    def send(self, frames: Frames, less: int = 0) -> bytes:
        """Put a message into the pipe but for its last bytes, which are given."""
        wire = wire_of(frames)
        rest = memoryview(wire)[: len(wire) - less]
        while rest:
            # Half a pipe at a time, so that the reader keeps up.
            rest = rest[os.write(self.writing, rest[:HALF]) :]
            if rest:
                assert self.reader.pull() is None
        return wire[len(wire) - less :]

    def carried(self, frames: Frames) -> Frames:
        self.send(frames)
        got = self.reader.pull()
        assert got is not None
        return got

    def land(self, frames: Frames) -> list[int]:
        """As the node does when the message has come; the distinct statuses."""
        _, message = decode(frames, KEY)
        assert isinstance(message, LandPages)
        columns = message.pfn, message.generation, message.active
        return sorted(set(self.zone.land(*columns, message.data).tolist()))

    def contents(self, pfn: U32 | None = None) -> set[int]:
        """The bytes that there are in these frames."""
        return set(bytes(self.zone.gather(self.pfn if pfn is None else pfn, copy=True)))

    def is_in_place(self, frames: Frames) -> bool:
        last = np.frombuffer(frames[-1], np.uint8)
        return np.shares_memory(last, layout.read(self.buffer).pages)


def wire_of(frames: Frames) -> bytes:
    """The bytes of a message in a pipe."""
    reading, writing = make_pipe()
    writer, wire = Writer(writing, [], []), bytearray()
    writer.queue.append(frames)
    more = True
    while more:
        more = writer.push()
        while part := read_now(reading):
            wire += part
    os.close(reading)
    writer.close()
    return bytes(wire)


def read_now(pipe: int) -> bytes:
    try:
        return os.read(pipe, 1 << 20)
    except BlockingIOError:
        return b""


@pytest.fixture
def landed() -> Iterator[Landed]:
    here = Landed()
    yield here
    here.zone.validate()
    here.reader.close()
    os.close(here.writing)


def test_pages_of_neighbours_are_read_into_their_frames(landed: Landed) -> None:
    rest = landed.send(frames_of(landed.message(7)), less=PAGE)
    assert landed.reader.pull() is None
    assert landed.contents(landed.pfn[:-1]) == {7} and landed.contents(landed.pfn[-1:]) == {0}
    os.write(landed.writing, rest)
    got = landed.reader.pull()
    assert got is not None and landed.is_in_place(got)
    assert landed.land(got) == [0] and landed.contents() == {7}


def test_what_is_read_into_a_frame_that_was_freed_meanwhile_goes_nowhere(landed: Landed) -> None:
    rest = landed.send(frames_of(landed.message(7)), less=HALF)
    landed.reader.pull()
    landed.zone.put_pages(landed.pfn, landed.generation)
    others, _ = landed.allocate(PAGES, mapped=1)
    assert others.tolist() == landed.pfn.tolist()
    os.write(landed.writing, rest)
    assert landed.reader.pull() is None, "a message of which a part is missing came out"
    assert landed.contents() == {0}
    assert landed.carried((b"the next", b"message")) == (b"the next", b"message")


def test_a_frame_that_a_page_maps_by_now_is_not_written_to(landed: Landed) -> None:
    rest = landed.send(frames_of(landed.message(7)), less=HALF)
    landed.reader.pull()
    landed.zone.putback_lru_pages(landed.pfn, landed.generation)
    os.write(landed.writing, rest)
    assert landed.reader.pull() is None
    assert landed.contents() == {7, 0}


def test_the_same_pages_that_came_another_way_are_not_written_over(landed: Landed) -> None:
    rest = landed.send(frames_of(landed.message(7)), less=HALF)
    landed.reader.pull()
    assert landed.land(frames_of(landed.message(5))) == [0]
    os.write(landed.writing, rest)
    assert landed.reader.pull() is None
    assert landed.contents() == {5}


def test_only_the_first_contents_of_a_frame_land_in_place(landed: Landed) -> None:
    # The second may be of a buffer that the source, which has its answer, has used again.
    assert landed.land(landed.carried(frames_of(landed.message(7)))) == [0]
    again = landed.carried(frames_of(landed.message(9)))
    assert not landed.is_in_place(again)
    assert landed.contents() == {7}


def test_two_messages_for_the_same_frames_do_not_both_land_in_place(landed: Landed) -> None:
    rest = landed.send(frames_of(landed.message(7)), less=HALF)
    landed.reader.pull()
    reading, writing = make_pipe()
    other = Reader(reading, Buffers(), landed.grounds)
    first, landed.reader, landed.writing = (landed.reader, landed.writing), other, writing
    assert not landed.is_in_place(landed.carried(frames_of(landed.message(9))))
    landed.reader.close()
    os.close(landed.writing)
    landed.reader, landed.writing = first
    os.write(landed.writing, rest)
    got = landed.reader.pull()
    assert got is not None and landed.land(got) == [0] and landed.contents() == {7}


def test_contents_that_wait_in_their_frames_while_others_land_there_are_dropped(
    landed: Landed,
) -> None:
    waits = landed.carried(frames_of(landed.message(7)))
    assert landed.is_in_place(waits)
    assert landed.land(frames_of(landed.message(5))) == [0]
    with pytest.raises(WireError, match="damaged"):
        landed.land(waits)
    assert landed.contents() == {5}


def test_damaged_contents_are_dropped_and_land_when_they_come_again(landed: Landed) -> None:
    *head, _ = frames_of(landed.message(7))
    damaged = landed.carried((*head, bytes([8]) * (PAGES * PAGE)))
    assert landed.is_in_place(damaged)
    with pytest.raises(WireError, match="damaged"):
        landed.land(damaged)
    again = landed.carried(frames_of(landed.message(7)))
    assert not landed.is_in_place(again)
    assert landed.land(again) == [0] and landed.contents() == {7}


def test_frames_of_before_a_restart_wait_for_the_whole_message(landed: Landed) -> None:
    landed.zone = Zone.open(landed.buffer)
    landed.grounds.find = partial(landed.zone.landings.expect, key=KEY)
    got = landed.carried(frames_of(landed.message(7)))
    assert not landed.is_in_place(got) and landed.land(got) == [0]
    assert landed.contents() == {7}


@pytest.mark.parametrize("why", ["apart", "beyond", "backwards", "mapped", "stale", "short"])
def test_what_does_not_fit_its_frames_is_read_elsewhere(landed: Landed, why: str) -> None:
    pfn, data = landed.pfn.copy(), landed.message(7).data
    if why == "apart":
        pfn[-1] += 1
    elif why == "beyond":
        pfn += np.uint32(4 * PAGES - PAGES // 2)
    elif why == "backwards":
        pfn = pfn[::-1].copy()
    elif why == "mapped":
        pfn, landed.generation = touch(landed.zone, PAGES)
    elif why == "stale":
        landed.zone.set_generation(pfn, landed.generation, landed.generation + np.uint32(1))
    else:
        data = data[:-PAGE]
    before = bytes(landed.buffer)
    message = LandPages(1, pfn, landed.generation, 0 * ones(PAGES), data)
    got = landed.carried(frames_of(message))
    assert not landed.is_in_place(got) and bytes(landed.buffer) == before


def test_nobody_without_the_key_of_the_machine_lands_anything(landed: Landed) -> None:
    got = landed.carried(frames_of(landed.message(7), key=b"another machine."))
    assert not landed.is_in_place(got) and landed.contents() == {0}


def test_other_long_messages_are_read_elsewhere(landed: Landed) -> None:
    # The same columns as those of LandPages, but for one.
    asked = StoreBytes(PAGE, landed.pfn, landed.generation, 0 * landed.pfn, bytes(PAGES * PAGE))
    assert not landed.is_in_place(landed.carried(frames_of(asked)))
    answer = frames_of(landed.message(7), kind=Kind.ANSWER)
    assert not landed.is_in_place(landed.carried(answer))
    for head in (b"no head", *frames_of(MigratePrep())):
        assert landed.carried((head, bytes(PAGES * PAGE)))[0] == head


def test_of_what_comes_in_pieces_each_is_short(landed: Landed) -> None:
    assert PIECE_BYTES < PAGES * PAGE
    read, sizes = os.readv, list[int]()

    def readv(pipe: int, views: Sequence[memoryview]) -> int:
        sizes.append(sum(view.nbytes for view in views))
        return read(pipe, views)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "readv", readv)
        landed.carried(frames_of(landed.message(7)))
    assert max(sizes) <= PIECE_BYTES


# ---- from a file that the reader has too ---------------------------------------------------


class Source:
    """Who sends what lies in a file: pages of ``fill``."""

    def __init__(self, landed: Landed, fill: int) -> None:
        staging = Staging()
        self.data = staging.room(PAGES * PAGE)
        self.data[:] = fill
        reading, writing = make_pipe()
        files = files_of(staging.mapped)
        self.writer = Writer(writing, staging.mapped, files)
        contents = [Foreign(os.dup(file)) for file in files]
        self.reader = Reader(reading, Buffers(), landed.grounds, contents)
        message = LandPages(1, landed.pfn, landed.generation, 0 * ones(PAGES), self.data.data)
        self.writer.queue.append(frames_of(message))
        self.writer.push()

    def close(self) -> None:
        self.writer.close()
        self.reader.close()


def test_pages_of_a_file_are_copied_into_their_frames_at_once(landed: Landed) -> None:
    source = Source(landed, 7)
    got = source.reader.pull()
    assert got is not None and landed.is_in_place(got)
    assert landed.land(got) == [0] and landed.contents() == {7}
    source.close()


def test_pages_of_a_file_that_cannot_be_mapped_are_read(
    landed: Landed, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(landed, 7)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, "no room for it")

    monkeypatch.setattr(mmap, "mmap", refuse)
    got = source.reader.pull()
    assert got is not None and landed.is_in_place(got)
    assert landed.land(got) == [0] and landed.contents() == {7}
    source.close()


def test_pages_that_changed_since_they_were_sent_are_not_landed(landed: Landed) -> None:
    source = Source(landed, 7)
    source.data[-1] = 8
    got = source.reader.pull()
    assert got is not None
    with pytest.raises(WireError, match="damaged"):
        landed.land(got)
    source.close()


def test_the_rest_of_a_file_goes_nowhere_when_the_frames_are_given_away(landed: Landed) -> None:
    source, looks = Source(landed, 7), 0

    class Meanwhile:
        """A lock whose third holder finds the frames gone."""

        def __enter__(self) -> None:
            nonlocal looks
            looks += 1
            if looks == 3:
                landed.zone.put_pages(landed.pfn, landed.generation)
                landed.allocate(PAGES, mapped=1)

        def __exit__(self, *_: object) -> None:
            pass

    landed.grounds.lock = Meanwhile()  # type: ignore[assignment]
    assert source.reader.pull() is None, "a message of which a part is missing came out"
    assert looks >= 3 and landed.contents() == {0}
    source.writer.queue.append((b"the next", b"message"))
    source.writer.push()
    assert source.reader.pull() == (b"the next", b"message")
    source.close()


# ---- beside the Core -----------------------------------------------------------------------


@pytest.mark.parametrize("give_away", ["land", "map", "allocate"])
def test_no_frame_is_given_away_while_a_piece_is_being_written_to_it(
    landed: Landed, give_away: str
) -> None:
    landed.zone.landings.guard = landed.grounds.lock
    free = landed.zone.put_pages if give_away == "allocate" else lambda *_: None
    free(landed.pfn, landed.generation)
    step = {
        "land": lambda: landed.land(frames_of(landed.message(5))),
        "map": lambda: landed.zone.putback_lru_pages(landed.pfn, landed.generation),
        "allocate": lambda: landed.allocate(PAGES, mapped=1),
    }[give_away]
    before = bytes(landed.buffer)
    core = threading.Thread(target=step)
    with landed.grounds.lock:
        core.start()
        core.join(0.05)
        assert core.is_alive()
        pages = layout.read(landed.buffer).pages
        assert bytes(pages) == before[-pages.size :]
    core.join(5)
    assert bytes(landed.buffer) != before


async def test_pages_land_in_place_on_their_way_through_a_transport() -> None:
    landed = Landed()
    with trio.fail_after(5):
        local = Local("node3", grounds=landed.grounds)
        async with open_transport("node3", bind=ANYWHERE, peers={}, local=local) as node:
            peers = {"node3": node.bound_address}
            async with open_transport("c", bind=None, peers=peers, local=Local("c")) as client:
                await deliver(client, "node3", frames_of(landed.message(7)))
                got: Sequence[Buffer] = await node.receive()
                assert landed.is_in_place(tuple(got)) and landed.land(tuple(got)) == [0]
    assert landed.contents() == {7}
    landed.reader.close()
    os.close(landed.writing)
