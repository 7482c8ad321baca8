"""Bytes <-> messages: the one place that sees msgpack.

Frame 0 of a message is an xxh3_64 digest (8 bytes, little endian) of the rest of the frame, and
then a msgpack array: the envelope, the scalar fields, and for each of the arrays and the page
contents either its bytes, if they are few, or (length, xxh3_64) of a further frame, which has them
as they are.  A frame costs libzmq and Python more than a few bytes do.

Foreign bytes that are wrong raise ``WireError`` and nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Annotated, Any

import msgpack
import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from protocol import files, hotplug, jobs, messages, observe, policies, syscalls, task_calls
from protocol.core import Buffer, Frames, Summed
from protocol.schema import ENTRIES, MESSAGES, ROWS, TEXT_MAX, ArrayTag, Message, Row
from protocol.values import at_hand, value

#: All parts of the table must be there before anything is decoded.
TABLES = (messages, syscalls, files, policies, observe, task_calls, hotplug, jobs)

VERSION = 2
#: An array of no more bytes stands in the first frame.
INLINE_BYTES = 128
FRAMES_MAX = 16
HEAD_MAX = 1 << 23
KEY_BYTES = 16
#: Fields of the envelope before its source; the longest identity ends within so many bytes.
_FIELDS_BEFORE_SOURCE = 6
_SOURCE_WITHIN = 512
#: More than the first frame has beside the scalar fields.
_ENVELOPE_MAX = 1 << 12

_digest = struct.Struct("<Q")


class WireError(Exception):
    """Foreign bytes are wrong.  ``reason`` is one word, for a counter; the text says more."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


@at_hand
class Kind(IntEnum):
    """What a message is in the conversation."""

    QUESTION = 0
    ANSWER = 1
    REFUSAL = 2


#: By number: an enum looks one up by a function.
_KINDS = tuple(Kind)


@value
class Envelope:
    """Who says it, to which incarnation, and where in the conversation.

    key: the machine's 16 secret bytes; a message of another machine is foreign.
    xid: number of the question (per asker and answerer); floor: everything below it is settled.
    boot: boot_id of the sender; target_boot: the boot_id it believes the receiver has (0: none).
    """

    key: bytes
    kind: Kind
    opcode: int
    xid: int
    floor: int
    source: str
    target: str
    boot: int
    target_boot: int
    epoch: int


_Natural = Annotated[int, msgspec.Meta(ge=0)]


class _Head(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """What msgpack packs, in this order; a class, so that msgspec looks at its types only once."""

    version: int
    key: bytes
    kind: int
    opcode: int
    xid: _Natural
    floor: _Natural
    source: str
    target: str
    boot: _Natural
    target_boot: _Natural
    epoch: _Natural
    scalars: list[Any]
    parts: list[bytes | tuple[int, int]]


_head = msgspec.msgpack.Decoder(_Head)
_ENTRY = tuple[int, list[Any], list[bytes | list[int]]]
#: So many elements a folded column of the journal has at most.
FOLDED_MAX = 1 << 24
_packer = msgpack.Packer(use_bin_type=True)


def encode(envelope: Envelope, message: Message | None) -> Frames:
    """The frames of one message; page contents and arrays are passed on, not copied."""
    scalars: list[Any] = []
    parts: list[bytes | tuple[int, int]] = []
    frames: list[Buffer] = []
    if message is not None:
        scalars, buffers = _split(ROWS[type(message)], message)
        for buffer in buffers:
            size = len(buffer) if type(buffer) is bytes else memoryview(buffer).nbytes
            if size <= INLINE_BYTES:
                parts.append(bytes(buffer))
            else:
                parts.append((size, xxhash.xxh3_64_intdigest(buffer)))
                frames.append(buffer)
    body = _packer.pack(
        (
            VERSION,
            envelope.key,
            int(envelope.kind),
            envelope.opcode,
            envelope.xid,
            envelope.floor,
            envelope.source,
            envelope.target,
            envelope.boot,
            envelope.target_boot,
            envelope.epoch,
            scalars,
            parts,
        )
    )
    return (_digest.pack(xxhash.xxh3_64_intdigest(body)) + body, *frames)


def _split(row: Row, message: Message) -> tuple[list[Any], list[Buffer]]:
    scalars = [getattr(message, name) for name, _ in row.scalars]
    buffers: list[Buffer] = []
    for name, tag in row.arrays:
        array = np.ascontiguousarray(getattr(message, name), tag.dtype)
        short = array.nbytes <= INLINE_BYTES
        buffers.append(array.tobytes() if short else array.data.cast("B"))
    if row.data is not None:
        buffers.append(getattr(message, row.data))
    return scalars, buffers


def check_message(message: Message) -> None:
    """Raises WireError if whoever is sent this message would drop it."""
    row = ROWS[type(message)]
    try:
        scalars, buffers = _split(row, message)
        packed = _packer.pack(scalars)
        views = [memoryview(buffer).cast("B") for buffer in buffers]
    except (ValueError, TypeError, OverflowError) as error:
        raise WireError("fields", f"{row.name}: {error}") from None
    if len(packed) > HEAD_MAX - _ENVELOPE_MAX:
        raise WireError("head", f"{row.name} with {len(packed)} bytes beside its arrays")
    _join(row, msgpack.unpackb(packed, raw=False), views)


def fits(frames: Frames, message: Message) -> bool:
    """Whether what was encoded of a sound message is not too long for whoever receives it."""
    # No text can be too long in a first frame that has fewer bytes than a text may have.
    if memoryview(frames[0]).nbytes <= TEXT_MAX:
        return True
    try:
        check_message(message)
    except WireError:
        return False
    return True


def decode(frames: Sequence[Buffer], key: bytes) -> tuple[Envelope, Message | None]:
    """The envelope and the message; a REFUSAL has no message.  Raises WireError."""
    if not 1 <= len(frames) <= FRAMES_MAX:
        raise WireError("frames", f"{len(frames)} frames where 1 to {FRAMES_MAX} may be")
    envelope, scalars, parts = _decode_head(memoryview(frames[0]), key)
    known = frames.digest if isinstance(frames, Summed) and frames.holds() else None
    buffers = _buffers(parts, frames[1:], known)
    if envelope.kind == Kind.REFUSAL:
        return envelope, None
    row = MESSAGES.get(envelope.opcode)
    if row is None:
        raise WireError("opcode", f"there is no message {envelope.opcode:#x}")
    return envelope, _join(row, scalars, buffers)


def decode_beginning(frames: Sequence[Buffer], size: int, key: bytes) -> Message | None:
    """A question of which all has come but its last frame, ``size`` bytes of page contents.

    It has no contents yet; None if this is something else.  Raises WireError.
    """
    envelope, scalars, parts = _decode_head(memoryview(frames[0]), key)
    row = MESSAGES.get(envelope.opcode)
    if envelope.kind != Kind.QUESTION or row is None or row.data is None or not parts:
        return None
    *columns, contents = parts
    if isinstance(contents, bytes) or contents[0] != size:
        return None
    return _join(row, scalars, [*_buffers(columns, frames[1:]), b""])


def _buffers(
    parts: list[bytes | tuple[int, int]], frames: Sequence[Buffer], known: int | None = None
) -> Sequence[bytes | memoryview]:
    """The bytes of each array, from the first frame or one of the further ones.

    known: the sum of the last frame, where who received it has it.
    """
    inline = [part for part in parts if type(part) is bytes]
    announced = len(parts) - len(inline)
    if announced != len(frames):
        raise WireError("frames", f"{len(frames)} frames where {announced} are announced")
    if not frames:
        return inline
    buffers: list[bytes | memoryview] = []
    rest = iter(frames)
    for part in parts:
        if isinstance(part, bytes):
            buffers.append(part)
            continue
        buffer = memoryview(next(rest)).cast("B")
        announced -= 1
        is_known = known is not None and not announced
        digest = known if is_known else xxhash.xxh3_64_intdigest(buffer)
        if (buffer.nbytes, digest) != part:
            raise WireError("checksum", f"a frame of {buffer.nbytes} bytes is damaged")
        buffers.append(buffer)
    return buffers


def peek(frame: Buffer) -> tuple[Kind, int, int, str, str]:
    """Kind, opcode, xid, source and target, by the first frame of a message of our own.

    For who passes messages on and does not read them.  Raises ValueError if that is none.
    """
    try:
        plain = msgpack.unpackb(memoryview(frame)[_digest.size :], raw=False, max_ext_len=0)
        _, _, kind, opcode, xid, _, source, target, *_ = plain
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from None
    return Kind(kind), opcode, xid, source, target


def source_of(frame: Buffer) -> str | None:
    """Who a message says it is from, by its first frame; None if ``decode`` will refuse it anyway.

    Reads only the beginning, so it costs little.  Empty: somebody with a longer name than any.
    """
    view = memoryview(frame).cast("B")
    reader = msgpack.Unpacker(raw=False, max_buffer_size=_SOURCE_WITHIN)
    reader.feed(view[_digest.size : _digest.size + _SOURCE_WITHIN])
    try:
        reader.read_array_header()
        for _ in range(_FIELDS_BEFORE_SOURCE):
            reader.skip()
        source = reader.unpack()
    except msgpack.OutOfData:
        return "" if view.nbytes > _digest.size + _SOURCE_WITHIN else None
    except (ValueError, RecursionError):
        return None
    return source if isinstance(source, str) else None


def _decode_head(
    head: memoryview, key: bytes
) -> tuple[Envelope, list[Any], list[bytes | tuple[int, int]]]:
    if not _digest.size < head.nbytes <= HEAD_MAX:
        raise WireError("head", f"a first frame of {head.nbytes} bytes")
    body = head[_digest.size :]
    if _digest.unpack_from(head)[0] != xxhash.xxh3_64_intdigest(body):
        raise WireError("checksum", "the first frame is damaged")
    try:
        got = _head.decode(body)
        envelope = Envelope(
            got.key,
            _KINDS[got.kind] if 0 <= got.kind < len(_KINDS) else Kind(got.kind),
            got.opcode,
            got.xid,
            got.floor,
            got.source,
            got.target,
            got.boot,
            got.target_boot,
            got.epoch,
        )
    except (ValueError, RecursionError, OverflowError) as error:
        raise WireError("envelope", str(error)) from None
    if got.version != VERSION:
        raise WireError("version", f"version {got.version} where {VERSION} is spoken")
    if got.key != key:
        raise WireError("key", "a message of another machine")
    return envelope, got.scalars, got.parts


def _join(row: Row, scalars: list[Any], buffers: Sequence[bytes | memoryview]) -> Message:
    if len(scalars) != len(row.scalars):
        raise WireError("fields", f"{row.name} with {len(scalars)} fields")
    if len(buffers) != len(row.arrays) + (row.data is not None):
        raise WireError("fields", f"{row.name} with {len(buffers)} buffers")
    values: list[Any] = []
    if row.checked is not None:
        try:
            checked = msgspec.convert(scalars, row.checked)
        except (ValueError, RecursionError) as error:
            raise WireError("fields", f"{row.name}: {error}") from None
        values += msgspec.structs.astuple(checked)
    length = -1
    for (name, tag), buffer in zip(row.arrays, buffers, strict=False):
        try:
            array = np.frombuffer(buffer, tag.dtype)
        except ValueError:
            raise WireError("fields", f"{row.name}.{name} is cut") from None
        if tag.column:
            if length not in (-1, array.size):
                raise WireError("fields", f"{row.name}: columns of different lengths")
            length = array.size
        values.append(array)
    if row.data is not None:
        values.append(buffers[-1])
    return row.cls(*(values if row.order is None else [values[at] for at in row.order]))


def encode_entry(message: Message) -> bytes:
    """One message as one byte string, for the journal (Record).

    Frames are mostly neighbours, so an array whose elements are one step apart is written as
    [first, step, length], and a journal grows by bytes, not by bytes for each page.
    """
    row = ROWS[type(message)]
    scalars = [getattr(message, name) for name, _ in row.scalars]
    columns: list[bytes | list[int]] = []
    for name, tag in row.arrays:
        columns.append(_fold(np.ascontiguousarray(getattr(message, name), dtype=tag.dtype)))
    packed: bytes = _packer.pack((row.opcode, scalars, columns))
    return packed


def _fold(array: npt.NDArray[Any]) -> bytes | list[int]:
    if array.size < 4:
        return array.tobytes()
    first, step = int(array[0]), int(array[1]) - int(array[0])
    # Modulo 2^64, so that an array of any integer type can be compared with what unfolding gives.
    steps = np.diff(array.astype(np.uint64))
    if (steps != np.uint64(step % (1 << 64))).any():
        return array.tobytes()
    return [first, step, array.size]


def _unfold(column: bytes | list[int], tag: ArrayTag) -> memoryview:
    if isinstance(column, bytes):
        return memoryview(column)
    if len(column) != 3 or not 0 <= column[2] <= FOLDED_MAX:
        raise WireError("entry", f"a folded column of {column}")
    first, step, length = column
    last = first + step * max(length - 1, 0)
    limits = np.iinfo(tag.dtype)
    if not limits.min <= min(first, last) <= max(first, last) <= limits.max:
        raise WireError("entry", f"a folded column of {column} in {tag.dtype}")
    ramp = np.arange(length, dtype=np.uint64) * np.uint64(step % (1 << 64))
    array = (ramp + np.uint64(first % (1 << 64))).astype(tag.dtype)
    return memoryview(array.tobytes())


def decode_entry(entry: bytes) -> Message:
    """The message that ``encode_entry`` made the bytes of.  Raises WireError."""
    try:
        plain = msgpack.unpackb(entry, raw=False, max_ext_len=0)
        opcode, scalars, columns = msgspec.convert(plain, _ENTRY)
        row = ENTRIES[opcode]
    except (ValueError, KeyError, RecursionError, OverflowError) as error:
        raise WireError("entry", str(error)) from None
    if len(columns) != len(row.arrays):
        raise WireError("entry", f"{row.name} with {len(columns)} columns")
    pairs = zip(columns, row.arrays, strict=True)
    return _join(row, scalars, [_unfold(column, tag) for column, (_, tag) in pairs])
