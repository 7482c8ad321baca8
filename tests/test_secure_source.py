"""Who a message says it is from: read cheaply at the door, and never otherwise than by decode."""

from __future__ import annotations

import random
import struct

import xxhash
from hypothesis import given
from hypothesis import strategies as st

from protocol.codec import VERSION, Envelope, Kind, WireError, decode, encode, source_of
from protocol.messages import Hello
from tests.strangers import HELLO

KEY = b"k" * 16
SEED = 20261124


def sealed(body: bytes) -> bytes:
    """A first frame with the right digest, so that decode looks at what is in it."""
    return struct.pack("<Q", xxhash.xxh3_64_intdigest(body)) + body


def decoded(frame: bytes) -> str | None:
    """The source by decode, None if that refuses the message."""
    try:
        return decode([frame], KEY)[0].source
    except WireError:
        return None


@given(st.text(max_size=300), st.integers(0, 2**63), st.integers(0, 2**63))
def test_the_source_of_a_sound_message_is_found(source: str, xid: int, floor: int) -> None:
    envelope = Envelope(KEY, Kind.QUESTION, HELLO, xid, floor, source, "node0", 1, 0, 0)
    frame = bytes(encode(envelope, Hello())[0])
    found = source_of(frame)
    assert found == source or (found == "" and len(source.encode()) > 255)


def test_numbers_and_texts_written_at_length_hide_nobody() -> None:
    """msgpack has several ways to write the same; a reader must not be led to two answers."""
    name = b"coordinator"
    for source in (name, name * 100):
        wide = b"".join(
            [
                b"\xdd" + struct.pack(">I", 13),
                b"\xcf" + struct.pack(">Q", VERSION),
                b"\xc6" + struct.pack(">I", 16) + KEY,
                *(b"\xcf" + struct.pack(">Q", n) for n in (Kind.QUESTION, HELLO, 1, 1)),
                b"\xdb" + struct.pack(">I", len(source)) + source,
                b"\xa5node0" + b"\x01\x00\x00" + b"\x90" + b"\x90",
            ]
        )
        frame = sealed(wide)
        assert decoded(frame) == source.decode()
        assert source_of(frame) == (source.decode() if source == name else "")


def test_what_decode_takes_is_never_taken_for_another_ones() -> None:
    """Damaged in a few places, with a digest that fits."""
    print(f"seed {SEED}")
    draw, taken = random.Random(SEED), 0
    envelope = Envelope(KEY, Kind.QUESTION, HELLO, 300, 1, "client-1-ab", "node0", 2**40, 0, 0)
    body = bytes(encode(envelope, Hello())[0])[8:]
    for _ in range(20_000):
        damaged = bytearray(body)
        for _ in range(draw.randint(1, 3)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        frame = sealed(bytes(damaged))
        source = decoded(frame)
        if source is not None:
            taken += 1
            assert source_of(frame) == source
        else:
            source_of(frame)
    assert taken > 1000


@given(st.binary(max_size=1000))
def test_bytes_of_any_kind_raise_nothing(frame: bytes) -> None:
    source_of(frame)
