"""Every message survives the wire, and no bytes whatever do more harm than a WireError."""

from __future__ import annotations

import struct
import types
import typing
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from msgspec import Meta

from coordinator.records import FramesFreed
from protocol.codec import (
    FRAMES_MAX,
    HEAD_MAX,
    INLINE_BYTES,
    VERSION,
    Envelope,
    Kind,
    WireError,
    decode,
    decode_entry,
    encode,
    encode_entry,
)
from protocol.core import Frames, Summed
from protocol.messages import IsolateLruPage, LandPages, PutPages, StoreBytes
from protocol.schema import ENTRIES, MESSAGES, ROWS, Message, Row
from protocol.syscalls import Exit

KEY = b"k" * 16
PARTS = (
    "version key kind opcode xid floor source target boot target_boot epoch scalars parts"
).split()
EVERY_ROW = [pytest.param(row, id=row.name) for row in MESSAGES.values()]
NUMBERS = st.integers(0, 2**63 - 1)
ENVELOPES = st.builds(
    Envelope,
    key=st.just(KEY),
    kind=st.sampled_from([Kind.QUESTION, Kind.ANSWER]),
    opcode=st.just(0),
    xid=NUMBERS,
    floor=NUMBERS,
    source=st.text(max_size=20),
    target=st.text(max_size=20),
    boot=NUMBERS,
    target_boot=NUMBERS,
    epoch=NUMBERS,
)


def scalars(hint: Any) -> SearchStrategy[Any]:
    """Values of a scalar field, within the limits that its annotation sets."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        limits = [each for each in args[1:] if isinstance(each, Meta)]
        if args[0] is int:
            lowest, highest = limits[0].ge, limits[0].le
            assert isinstance(lowest, int) and isinstance(highest, int), f"{hint}: no limits"
            return st.integers(lowest, highest)
        return scalars(args[0])
    if origin in (typing.Union, types.UnionType):
        return st.one_of(st.none(), *(scalars(each) for each in args if each is not type(None)))
    if origin is tuple:
        return st.lists(scalars(args[0]), max_size=4).map(tuple)
    simple = {
        int: st.integers(-(2**63), 2**63 - 1),
        str: st.text(max_size=20),
        bytes: st.binary(max_size=20),
        float: st.floats(allow_nan=False),
    }
    return simple[hint]


@st.composite
def messages(draw: Callable[[SearchStrategy[Any]], Any], row: Row) -> Message:
    """A message of that row: columns of one length, plain arrays of any."""
    values = {name: draw(scalars(hint)) for name, hint in row.scalars}
    length = draw(st.integers(0, 5))
    for name, tag in row.arrays:
        dtype = np.dtype(tag.dtype)
        size = dtype.itemsize * (length if tag.column else draw(st.integers(0, 5)))
        values[name] = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), dtype)
    if row.data is not None:
        values[row.data] = draw(st.binary(max_size=64))
    return row.cls(**values)


ANY_ENTRY = st.sampled_from(list(ENTRIES.values())).flatmap(messages)
ANY_MESSAGE = st.sampled_from(list(MESSAGES.values())).flatmap(messages)


def assert_equal(row: Row, left: Message, right: Message) -> None:
    assert type(left) is type(right)
    for name, _ in row.scalars:
        assert getattr(left, name) == getattr(right, name), name
    for name, tag in row.arrays:
        assert getattr(right, name).dtype == np.dtype(tag.dtype), name
        assert np.array_equal(getattr(left, name), getattr(right, name)), name
    if row.data is not None:
        assert bytes(getattr(left, row.data)) == bytes(getattr(right, row.data))


def envelope_of(opcode: int, kind: Kind = Kind.QUESTION) -> Envelope:
    return Envelope(KEY, kind, opcode, 7, 3, "coordinator", "node0", 11, 12, 2)


def sealed(body: bytes) -> bytes:
    """A first frame whose digest is right, whatever stands in it."""
    return struct.pack("<Q", xxhash.xxh3_64_intdigest(body)) + body


def forged(**changes: object) -> Frames:
    """Exit(pid=1) with other parts in its first frame."""
    (head,) = encode(envelope_of(0x58), Exit(1))
    parts = dict(zip(PARTS, msgpack.unpackb(memoryview(head)[8:]), strict=True))
    return (sealed(msgpack.packb([*(parts | changes).values()])),)


def refused(frames: Frames) -> str:
    with pytest.raises(WireError) as caught:
        decode(frames, KEY)
    return caught.value.reason


def decodes_or_refuses(frames: Frames) -> None:
    """The promise to the rest of the program: a message or a WireError, and nothing else."""
    try:
        decode(frames, KEY)
    except WireError as error:
        assert error.reason.isalpha()


# ---- what goes in comes out ----------------------------------------------------------------


@pytest.mark.parametrize("row", EVERY_ROW)
def test_every_message_survives_the_wire(row: Row) -> None:
    @settings(max_examples=15)
    @given(envelope=ENVELOPES, sent=messages(row))
    def survives(envelope: Envelope, sent: Message) -> None:
        envelope = replace(envelope, opcode=row.opcode)
        frames = tuple(bytes(frame) for frame in encode(envelope, sent))
        heard, received = decode(frames, KEY)
        assert heard == envelope
        assert received is not None
        assert_equal(row, sent, received)

    survives()


@pytest.mark.parametrize("row", [pytest.param(row, id=row.name) for row in ENTRIES.values()])
def test_every_entry_survives_the_journal_and_is_no_message(row: Row) -> None:
    @settings(max_examples=15)
    @given(sent=messages(row))
    def survives(sent: Message) -> None:
        assert_equal(row, sent, decode_entry(encode_entry(sent)))
        assert refused(encode(envelope_of(row.opcode), sent)) in ("opcode", "fields")

    survives()


@given(first=st.integers(0, 2**32 - 1), step=st.integers(-3, 3), length=st.integers(0, 50))
def test_neighbouring_frames_cost_the_journal_no_bytes_for_each_page(
    first: int, step: int, length: int
) -> None:
    last = first + step * max(length - 1, 0)
    if not 0 <= last < 2**32:
        return
    pfn = (np.arange(length, dtype=np.int64) * step + first).astype(np.uint32)
    entry = encode_entry(FramesFreed(0, pfn))
    assert len(entry) < 60
    kept = decode_entry(entry)
    assert isinstance(kept, FramesFreed)
    assert np.array_equal(kept.pfn, pfn)


def test_a_refusal_is_an_envelope_alone() -> None:
    envelope = envelope_of(0, Kind.REFUSAL)
    assert decode(encode(envelope, None), KEY) == (envelope, None)


def test_page_contents_and_arrays_are_not_copied() -> None:
    pages = memoryview(bytearray(8192))
    numbers = np.arange(200, dtype=np.uint32)
    frames = encode(
        envelope_of(0x30), LandPages(1, numbers, numbers, numbers.astype(np.uint8), pages)
    )
    assert frames[4] is pages
    _, received = decode(frames, KEY)
    assert isinstance(received, LandPages)
    assert np.shares_memory(received.pfn, numbers)
    pages[0] = 77
    assert received.data[0] == 77


def test_few_bytes_stand_in_the_first_frame() -> None:
    few, many = (np.arange(n, dtype=np.uint32) for n in (INLINE_BYTES // 4, INLINE_BYTES // 4 + 1))
    for numbers, frames in ((few, 1), (few[:0], 1), (many, 3)):
        encoded = encode(envelope_of(0x19), PutPages(numbers, numbers))
        assert len(encoded) == frames
        _, received = decode(encoded, KEY)
        assert isinstance(received, PutPages) and (received.pfn == numbers).all()
        assert received.generation.size == numbers.size


# ---- foreign bytes -------------------------------------------------------------------------


@settings(max_examples=200)
@given(st.lists(st.binary(max_size=80), max_size=4))
def test_random_frames_are_refused(frames: list[bytes]) -> None:
    refused(tuple(frames))


@settings(max_examples=200)
@given(st.binary(max_size=80), st.lists(st.binary(max_size=8), max_size=2))
def test_random_bytes_under_a_right_digest_are_refused(body: bytes, rest: list[bytes]) -> None:
    refused((sealed(body), *rest))


ANYTHING: SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.binary()
    | st.text()
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=9))
    | st.builds(msgpack.Timestamp, st.integers(0, 2**34)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.integers() | st.text(), inner),
    max_leaves=6,
)


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(PARTS), ANYTHING))
def test_any_value_in_any_place_of_the_head_is_taken_or_refused(changes: dict[str, Any]) -> None:
    try:
        frames = forged(**changes)
    except OverflowError:
        return
    decodes_or_refuses(frames)


def test_contents_that_were_summed_on_their_way_are_held_against_that_sum() -> None:
    none = np.zeros(1, np.uint32)
    message = StoreBytes(4096, none, none, none, b"p" * 4096)
    frames = encode(envelope_of(ROWS[StoreBytes].opcode), message)
    digest = xxhash.xxh3_64_intdigest(frames[-1])
    _, taken = decode(Summed.of(frames, digest, lambda: True), KEY)
    assert isinstance(taken, StoreBytes) and bytes(taken.data) == message.data
    assert refused(Summed.of(frames, digest ^ 1, lambda: True)) == "checksum"


def test_contents_that_may_have_changed_since_they_were_summed_are_summed_again() -> None:
    none = np.zeros(1, np.uint32)
    *head, data = encode(
        envelope_of(ROWS[StoreBytes].opcode), StoreBytes(4096, none, none, none, b"p" * 4096)
    )
    digest, changed = xxhash.xxh3_64_intdigest(data), (*head, b"q" * 4096)
    assert refused(Summed.of(changed, digest, lambda: False)) == "checksum"


@settings(max_examples=200)
@given(sent=ANY_MESSAGE, data=st.data())
def test_a_flipped_bit_anywhere_is_refused(sent: Message, data: st.DataObject) -> None:
    opcode = next(row.opcode for row in MESSAGES.values() if row.cls is type(sent))
    frames = [bytearray(frame) for frame in encode(envelope_of(opcode), sent)]
    frame = data.draw(st.sampled_from([frame for frame in frames if frame]))
    frame[data.draw(st.integers(0, len(frame) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert refused(tuple(frames)) == "checksum"


@settings(max_examples=200)
@given(sent=ANY_MESSAGE, data=st.data())
def test_lost_repeated_and_cut_frames_are_refused(sent: Message, data: st.DataObject) -> None:
    opcode = next(row.opcode for row in MESSAGES.values() if row.cls is type(sent))
    frames = [bytes(frame) for frame in encode(envelope_of(opcode), sent)]
    at = data.draw(st.integers(0, len(frames) - 1))
    damage = data.draw(st.sampled_from(["lose", "repeat", "cut"]))
    if damage == "lose":
        del frames[at]
    elif damage == "repeat":
        frames.insert(at, frames[at])
    elif frames[at]:
        frames[at] = frames[at][:-1]
    else:
        return
    refused(tuple(frames))


@settings(max_examples=200)
@given(sent=ANY_ENTRY, data=st.data())
def test_a_damaged_journal_entry_is_taken_or_refused(sent: Message, data: st.DataObject) -> None:
    entry = bytearray(encode_entry(sent))
    entry[data.draw(st.integers(0, len(entry) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode_entry(bytes(entry))
    except WireError as error:
        assert error.reason.isalpha()


@pytest.mark.parametrize(
    ("reason", "frames"),
    [
        ("frames", ()),
        ("frames", forged() * (FRAMES_MAX + 1)),
        ("frames", (*forged(), b"one too many")),
        ("head", (b"",)),
        ("head", (b"12345678",)),
        ("head", (bytes(HEAD_MAX + 1),)),
        ("version", forged(version=VERSION + 1)),
        ("key", forged(key=b"x" * 16)),
        ("envelope", forged(kind=3)),
        ("envelope", forged(xid=-1)),
        ("envelope", forged(epoch=True)),
        ("opcode", forged(opcode=0xFFFF)),
        ("fields", forged(scalars=[])),
        ("fields", forged(scalars=[], opcode=0x13)),
        ("fields", forged(scalars=["seven"])),
        ("fields", forged(scalars=[2**63])),
        ("envelope", (sealed(b"\x91" * 5000 + b"\x00"),)),
        ("envelope", (sealed(b"\xdd\xff\xff\xff\xff"),)),
    ],
)
def test_each_kind_of_damage_has_its_word(reason: str, frames: Frames) -> None:
    assert refused(frames) == reason


def test_columns_of_different_lengths_are_refused_and_plain_arrays_are_not_columns() -> None:
    short, long = np.zeros(2, np.uint32), np.zeros(3, np.uint32)
    assert refused(encode(envelope_of(0x13), IsolateLruPage(short, long))) == "fields"
    space = MESSAGES[0x67].cls
    zero = np.zeros(0, np.uint64)
    narrow = np.zeros(0, np.uint32)
    page, node = np.zeros(3, np.uint64), np.zeros(3, np.int32)
    sent = space(0, (), zero, zero, narrow, narrow, narrow, zero, page, node, long)  # type: ignore[call-arg]
    decode(encode(envelope_of(0x67), sent), KEY)


def test_an_array_that_is_cut_inside_a_number_is_refused() -> None:
    number = b"\x01\x02\x03"
    parts = [(3, xxhash.xxh3_64_intdigest(number))] * 2
    head = forged(opcode=0x13, scalars=[], parts=parts)
    assert refused((*head, number, number)) == "fields"
