"""The two ends of a pipe of messages; neither ever waits.

A message is a prefix (what it is, the number of its frames, the length of each) and its frames as
they are.  Whatever of it lies in a mapped file is spliced, so it must not change until the peer has
said that it has it: as with zmq's frames that are not copied.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protocol.bulk import BATCH_BYTES
from protocol.codec import FRAMES_MAX
from protocol.core import Buffer, Frames
from protocol.live.landing import PIECE_BYTES, Grounds, Place
from protocol.live.line import FRAME_BYTES_MAX, ZERO_COPY_BYTES

_MARK = 0x6C616D75
_PREFIX = struct.Struct(f"<II{FRAMES_MAX}I")
#: What a pipe holds if the kernel lets it, and what it is not worth having below.
_PIPE_BYTES = 1 << 20
_PIPE_BYTES_MIN = 64 << 10
#: Buffers that are kept; more at a time are made, and forgotten again.
KEPT_BUFFERS = 16
#: What splice(2) says where it cannot be had.
_CANNOT_SPLICE = (errno.EINVAL, errno.ENOSYS, errno.EPERM)


@dataclass(frozen=True, slots=True)
class Mapped:
    """A part of a file and where it lies in memory: that need not be copied into a pipe."""

    descriptor: int
    start: int
    address: int
    size: int

    @classmethod
    def of(cls, descriptor: int, buffer: memoryview, start: int = 0) -> Mapped:
        """The file of this descriptor, which is mapped as ``buffer`` from ``start`` on."""
        return cls(descriptor, start, _address(buffer), buffer.nbytes)

    def piece(self, view: memoryview) -> Piece | None:
        """This memory as a part of the file, None: it is not one."""
        at = _address(view) - self.address
        if not 0 <= at <= self.size - view.nbytes:
            return None
        return Piece(view, self.descriptor, self.start + at)


def _address(view: memoryview) -> int:
    return int(np.frombuffer(view, np.uint8).__array_interface__["data"][0])


class Piece:
    """Bytes that are to go: from memory, or, where they lie in a file as well, from there."""

    def __init__(self, view: memoryview, file: int | None = None, offset: int = 0) -> None:
        self.view = view
        self.file = file
        self.offset = offset

    def push(self, pipe: int) -> bool:
        """As much as the pipe takes now; whether that was all.  Raises OSError."""
        count = self._splice(pipe) if self.file is not None else 0
        if self.file is None:
            count = os.write(pipe, self.view)
        self.offset += count
        self.view = self.view[count:]
        return not self.view.nbytes

    def _splice(self, pipe: int) -> int:
        assert self.file is not None
        size, flags = self.view.nbytes, os.SPLICE_F_NONBLOCK
        try:
            return os.splice(self.file, pipe, size, offset_src=self.offset, flags=flags)
        except OSError as error:
            if error.errno not in _CANNOT_SPLICE:
                raise
            # Not from this file system, or not in this sandbox: it is copied.
            self.file = None
            return 0


class End:
    """What both ends have."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    def fileno(self) -> int:
        """The descriptor."""
        return self._pipe

    def close(self) -> None:
        """Close it."""
        os.close(self._pipe)


class Writer(End):
    """The writing end: ``queue`` takes messages, ``push`` sends what fits.

    mapped: the files whose contents are spliced; whatever lies elsewhere is copied.
    """

    def __init__(self, pipe: int, mapped: Sequence[Mapped]) -> None:
        super().__init__(pipe)
        self.queue: deque[Frames] = deque()
        self.broken = False
        self._mapped = mapped
        self._pieces: deque[Piece] = deque()

    def push(self) -> bool:
        """Send what the pipe takes now; whether there is more.  ``broken`` if nobody reads."""
        try:
            while self._pieces or self.queue:
                if not self._pieces:
                    self._pieces.extend(self._split(self.queue.popleft()))
                elif self._pieces[0].push(self._pipe):
                    self._pieces.popleft()
        except BlockingIOError:
            return True
        except OSError:
            self.broken = True
        return False

    def close(self) -> None:
        """Close it; what was queued is lost."""
        super().close()
        self.queue.clear()
        self._pieces.clear()

    def _split(self, frames: Frames) -> Iterator[Piece]:
        """What is copied anyway goes together."""
        views = [memoryview(frame).cast("B") for frame in frames]
        sizes = [view.nbytes for view in views]
        copied = bytearray(
            _PREFIX.pack(_MARK, len(views), *sizes, *[0] * (FRAMES_MAX - len(views)))
        )
        for view in views:
            if view.nbytes < ZERO_COPY_BYTES:
                copied += view
                continue
            if copied:
                yield Piece(memoryview(copied))
                copied = bytearray()
            found = (mapped.piece(view) for mapped in self._mapped)
            yield next((piece for piece in found if piece is not None), Piece(view))
        if copied:
            yield Piece(memoryview(copied))


def _references(buffers: list[bytearray | mmap.mmap]) -> list[int]:
    """How many references there are to each, those of this function included."""
    return [sys.getrefcount(buffer) for buffer in buffers]


#: Those to a buffer that nobody uses; how many that is, is Python's affair.
_UNUSED = _references([bytearray()])[0]


class Buffers:
    """Memory for frames, used again when nobody refers to it: fresh memory costs a fault a page."""

    def __init__(self) -> None:
        self._buffers: list[bytearray | mmap.mmap] = []

    def take(self, size: int) -> memoryview:
        """Room for a frame of ``size`` bytes, for as long as anybody holds a view of it."""
        if size <= BATCH_BYTES:
            for buffer, references in zip(self._buffers, _references(self._buffers), strict=True):
                if references == _UNUSED:
                    return memoryview(buffer)[:size]
            if len(self._buffers) < KEPT_BUFFERS:
                self._buffers.append(self._make(len(self._buffers)))
                return memoryview(self._buffers[-1])[:size]
        return memoryview(bytearray(size))

    def _make(self, number: int) -> bytearray | mmap.mmap:
        return bytearray(BATCH_BYTES)


class Staging(Buffers):
    """Buffers in a file of memory, so that what is put together there is spliced.

    mapped: for the writers of pipes; it gets longer with each buffer that is made.
    """

    def __init__(self, *mapped: Mapped) -> None:
        super().__init__()
        self.mapped = list(mapped)
        # Open for as long as the process is: buffers may be on their way out when it ends.
        self._file = os.memfd_create("numalab-staging", os.MFD_CLOEXEC)
        os.ftruncate(self._file, KEPT_BUFFERS * BATCH_BYTES)

    def room(self, size: int) -> npt.NDArray[np.uint8]:
        """The same as an array of bytes."""
        return np.frombuffer(self.take(size), np.uint8)

    def _make(self, number: int) -> mmap.mmap:
        start = number * BATCH_BYTES
        buffer = mmap.mmap(self._file, BATCH_BYTES, offset=start)
        self.mapped.append(Mapped.of(self._file, memoryview(buffer), start))
        return buffer


class Reader(End):
    """The reading end: ``pull`` gives a message once all of it is there.

    grounds: where the last frame of a message, if it is long, may land in place; None: nowhere.
    """

    def __init__(self, pipe: int, buffers: Buffers, grounds: Grounds | None = None) -> None:
        super().__init__(pipe)
        self.ended = False
        self._buffers = buffers
        self._grounds = grounds
        self._place: Place | None
        self._rest: list[memoryview]
        self._expect_prefix()

    def pull(self) -> Frames | None:
        """The next message, None if it is not all there.  ``ended``: there will be none."""
        try:
            while not self.ended:
                count = self._read()
                if count == 0:
                    self.ended = True
                elif self._took(count) and self._is_whole():
                    whole = self._whole()
                    if whole is not None:
                        return whole
        except BlockingIOError:
            pass
        except OSError:
            self.ended = True
        return None

    def _read(self) -> int:
        """So many bytes are read.  Raises OSError."""
        if self._place is None:
            return os.readv(self._pipe, self._rest)
        assert self._grounds is not None
        with self._grounds.lock:
            if not self._place.is_mine():
                self._turn_away()
            return os.readv(self._pipe, [self._rest[0][:PIECE_BYTES]])

    def _turn_away(self) -> None:
        """The memory is somebody else's by now: the rest goes nowhere, and the message is lost."""
        self._place, self._is_lost = None, True
        self._rest = [self._buffers.take(self._rest[0].nbytes)]

    def _took(self, count: int) -> bool:
        """So many bytes have come; whether nothing is left to be read."""
        while self._rest and count >= self._rest[0].nbytes:
            count -= self._rest[0].nbytes
            del self._rest[0]
        if count:
            self._rest[0] = self._rest[0][count:]
        return not self._rest

    def _expect_prefix(self) -> None:
        self._sizes: list[int] = []
        self._frames: list[memoryview] = []
        self._place = None
        self._is_lost = False
        self._prefix = bytearray(_PREFIX.size)
        self._rest = [memoryview(self._prefix)]

    def _is_whole(self) -> bool:
        """Whether what was waited for was the last of a message; if not, on to what follows."""
        if not self._sizes:
            self._begin()
        elif len(self._frames) < len(self._sizes):
            self._begin_last()
        else:
            return True
        return False

    def _begin(self) -> None:
        """Make room for what the prefix announces; nonsense ends the pipe."""
        mark, count, *sizes = _PREFIX.unpack(self._prefix)
        if mark != _MARK or not 0 < count <= FRAMES_MAX or max(sizes) > FRAME_BYTES_MAX:
            self.ended = True
            return
        self._sizes = sizes[:count]
        # Where the last one goes, what comes before it tells.
        waits = self._grounds is not None and count > 1 and self._sizes[-1] >= ZERO_COPY_BYTES
        for size in self._sizes[: count - waits]:
            short = size < ZERO_COPY_BYTES
            self._frames.append(memoryview(bytearray(size)) if short else self._buffers.take(size))
        self._rest = [frame for frame in self._frames if frame.nbytes]

    def _begin_last(self) -> None:
        """All but the last frame are there."""
        assert self._grounds is not None
        size = self._sizes[-1]
        with self._grounds.lock:
            self._place = self._grounds.find(self._frames, size)
        self._frames.append(self._buffers.take(size) if self._place is None else self._place.view)
        self._rest = [self._frames[-1]]

    def _whole(self) -> Frames | None:
        frames: list[Buffer] = [
            bytes(frame) if frame.nbytes < ZERO_COPY_BYTES else frame for frame in self._frames
        ]
        is_lost = self._is_lost
        self._expect_prefix()
        return None if is_lost else tuple(frames)


def make_pipe() -> tuple[int, int]:
    """A reading and a writing end that do not wait.

    Raises OSError, as if there were none, where this user has so many pipes that the kernel gives
    it only short ones (pipe(7), pipe-user-pages-soft): these would be slower than a socket.
    """
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    with suppress(OSError):
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    if fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ) < _PIPE_BYTES_MIN:
        os.close(reading)
        os.close(writing)
        raise OSError(errno.ENFILE, "there are only short pipes left")
    return reading, writing
