"""Where everything of a zone lies in its buffer (design 4).

Little endian: a header of 256 bytes; then for each frame generation u4, owner u4, index u4, flags
u2 and refcount u2; then the pages, aligned to the page size.  In the header: magic, layout version,
node id, page size, number of frames, uuid and their xxh3_64; at 64 the highest epoch seen, u8; the
upper half is one redo slot, reserved and zero.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xxhash

from nodes.generation import next_incarnation
from protocol.core import Buffer

U16 = npt.NDArray[np.uint16]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]

MAGIC = b"NUMAZONE"
LAYOUT = 1
HEADER_BYTES = 256
FRAME_BYTES = 16
FRAMES_MAX = 2**32 - 1
NID_MAX = 254
PAGE_SIZE_MIN = 64
UUID_BYTES = 16

_header = struct.Struct(f"<8sIIQQ{UUID_BYTES}s")
_digest = struct.Struct("<Q")
_EPOCH_AT = 64


@dataclass(frozen=True, slots=True)
class Layout:
    """A zone's buffer taken apart; every array is a view.

    epoch: 1 row; the other columns: a row for each frame; pages: flat bytes.
    """

    nid: int
    page_size: int
    frames: int
    uuid: bytes
    epoch: U64
    generation: U32
    owner: U32
    index: U32
    flags: U16
    refcount: U16
    pages: npt.NDArray[np.uint8]


def size_of(frames: int, page_size: int) -> int:
    """Bytes of a zone.  ValueError for sizes that no zone has."""
    if not 1 <= frames <= FRAMES_MAX:
        raise ValueError(f"a zone has 1 to {FRAMES_MAX} frames, not {frames}")
    if page_size < PAGE_SIZE_MIN or page_size & (page_size - 1):
        raise ValueError(
            f"a page size is a power of two, {PAGE_SIZE_MIN} bytes or more, not {page_size}"
        )
    head = HEADER_BYTES + FRAME_BYTES * frames
    return -(-head // page_size) * page_size + frames * page_size


def write(buffer: Buffer, *, nid: int, page_size: int, frames: int, uuid: bytes) -> None:
    """A header and columns of free frames; the pages are left as they are.

    Generations start with an incarnation drawn from the uuid: a translation into a zone that was
    lost does not fit the one that replaces it.  ValueError, and nothing written, if it cannot be
    done.
    """
    if not 0 <= nid <= NID_MAX:
        raise ValueError(f"the id of a node is 0 to {NID_MAX}, not {nid}")
    if len(uuid) != UUID_BYTES:
        raise ValueError(f"the uuid of a zone has {UUID_BYTES} bytes, not {len(uuid)}")
    _check_room(buffer, size_of(frames, page_size), f"{frames} pages of {page_size} bytes")
    whole = np.frombuffer(buffer, dtype=np.uint8)
    whole[: HEADER_BYTES + FRAME_BYTES * frames] = 0
    generation = whole[HEADER_BYTES : HEADER_BYTES + 4 * frames].view("<u4")
    drawn = np.array([xxhash.xxh3_64_intdigest(uuid) >> 33], np.uint32)
    generation[:] = next_incarnation(drawn)
    head = _header.pack(MAGIC, LAYOUT, nid, page_size, frames, uuid)
    head += _digest.pack(xxhash.xxh3_64_intdigest(head))
    # The magic last: if this is cut in the middle, there is no zone.
    whole[len(MAGIC) : len(head)] = np.frombuffer(head[len(MAGIC) :], dtype=np.uint8)
    whole[: len(MAGIC)] = np.frombuffer(MAGIC, dtype=np.uint8)


def read(buffer: Buffer) -> Layout:
    """The parts of the zone in ``buffer``.  ValueError if its header is foreign or damaged."""
    _check_room(buffer, HEADER_BYTES, "any kind")
    magic, layout, nid, page_size, frames, uuid = _header.unpack_from(buffer)
    if magic != MAGIC:
        raise ValueError(f"there is no zone here, it starts with {magic!r}; format one")
    if layout != LAYOUT:
        raise ValueError(f"the zone has layout {layout}, not {LAYOUT}; format a new one")
    known = _digest.unpack_from(buffer, _header.size)[0]
    if known != xxhash.xxh3_64_intdigest(memoryview(buffer)[: _header.size]):
        raise ValueError("the zone's header is damaged and its pages are lost; format a new zone")
    end = size_of(frames, page_size)
    _check_room(buffer, end, f"node {nid} with {frames} pages")
    whole = np.frombuffer(buffer, dtype=np.uint8)

    def column(before: int, width: int) -> npt.NDArray[np.uint8]:
        start = HEADER_BYTES + before * frames
        return whole[start : start + width * frames]

    return Layout(
        nid=nid,
        page_size=page_size,
        frames=frames,
        uuid=uuid,
        epoch=whole[_EPOCH_AT : _EPOCH_AT + 8].view("<u8"),
        generation=column(0, 4).view("<u4"),
        owner=column(4, 4).view("<u4"),
        index=column(8, 4).view("<u4"),
        flags=column(12, 2).view("<u2"),
        refcount=column(14, 2).view("<u2"),
        pages=whole[end - frames * page_size : end],
    )


def _check_room(buffer: Buffer, size: int, of_what: str) -> None:
    view = memoryview(buffer)
    if view.readonly:
        raise ValueError("the buffer of a zone must be writable; open its file for writing")
    if view.nbytes < size:
        raise ValueError(f"a zone of {of_what} needs {size} bytes; here are {view.nbytes}")
