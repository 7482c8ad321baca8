"""The two ends of a pipe of messages; neither ever waits.

A message is a prefix (what it is, the number of its frames, the length of each, and for each where
it lies, if that is a file that the reader has too) and then the other frames as they are.  Whatever
lies in such a file is read from there, so it must not change until the peer has said that it has
it: as with zmq's frames that are not copied.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import takewhile

import xxhash

from protocol.codec import FRAMES_MAX
from protocol.core import Buffer, Frames, Summed
from protocol.live.buffers import Buffers, Foreign, Mapped
from protocol.live.landing import PIECE_BYTES, Grounds, Place
from protocol.live.line import FRAME_BYTES_MAX, ZERO_COPY_BYTES

_MARK = 0x6C616D76
#: Of each frame its length, the number of its file (from 1 on; 0: none), and where it begins there.
_PREFIX = struct.Struct(f"<II{FRAMES_MAX}I{FRAMES_MAX}B{FRAMES_MAX}Q")
#: What a pipe holds if the kernel lets it, and what it is not worth having below.
_PIPE_BYTES = 1 << 20
_PIPE_BYTES_MIN = 64 << 10


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

    mapped: what need not be copied, if it is of one of ``files`` (descriptors), which the reader
    has in this order; whatever lies elsewhere goes through the pipe.
    """

    def __init__(self, pipe: int, mapped: Sequence[Mapped], files: Sequence[int]) -> None:
        super().__init__(pipe)
        self.queue: deque[Frames] = deque()
        self.broken = False
        self._mapped = mapped
        self._numbers = {descriptor: number for number, descriptor in enumerate(files, 1)}
        self._pieces: deque[memoryview] = deque()

    def push(self) -> bool:
        """Send what the pipe takes now; whether there is more.  ``broken`` if nobody reads."""
        try:
            while self._pieces or self.queue:
                if not self._pieces:
                    self._pieces.extend(self._split(self.queue.popleft()))
                piece = self._pieces[0]
                self._pieces[0] = piece[os.write(self._pipe, piece) :]
                if not self._pieces[0].nbytes:
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

    def _split(self, frames: Frames) -> Iterator[memoryview]:
        """What goes through the pipe; what is short goes together."""
        views = [memoryview(frame).cast("B") for frame in frames]
        places = [self._place_of(view) for view in views]
        rest = [0] * (FRAMES_MAX - len(views))
        sizes = [view.nbytes for view in views]
        numbers, offsets = zip(*places, strict=True)
        together = bytearray(
            _PREFIX.pack(_MARK, len(views), *sizes, *rest, *numbers, *rest, *offsets, *rest)
        )
        for view, (number, _) in zip(views, places, strict=True):
            if number:
                continue
            if view.nbytes < ZERO_COPY_BYTES:
                together += view
                continue
            yield memoryview(together)
            yield view
            together = bytearray()
        if together:
            yield memoryview(together)

    def _place_of(self, view: memoryview) -> tuple[int, int]:
        """The number of its file, 0 for none, and where in it this frame is."""
        if view.nbytes >= ZERO_COPY_BYTES:
            for part in self._mapped:
                number, at = self._numbers.get(part.descriptor), part.find(view)
                if number is not None and at is not None:
                    return number, at
        return 0, 0


#: Where a frame is that does not come through the pipe: in which file, and where in it.
Source = tuple[Foreign, int]


class Coming:
    """A frame that is coming: ``rest`` is the part of ``frame`` that is not there yet.

    source: where it is copied from, None: it comes through the pipe.  adds_up: it is summed piece
    by piece, while the processor still has at hand what it has just copied: to read it from memory
    again would take several times as long.
    """

    def __init__(
        self, frame: memoryview, source: Source | None = None, *, adds_up: bool = False
    ) -> None:
        self.frame = frame
        self.rest = frame
        self.source = source
        self.sum = xxhash.xxh3_64() if adds_up else None

    def copy_piece(self) -> int:
        """Copy the next piece from its file; its length.  Raises OSError."""
        assert self.source is not None
        file, start = self.source
        return file.read(self.rest[:PIECE_BYTES], start + self.frame.nbytes - self.rest.nbytes)

    def count(self, arrived: int) -> int:
        """So many bytes have come, of this frame and of others: how many are of others."""
        piece = self.rest[:arrived]
        if self.sum is not None:
            self.sum.update(piece)
        self.rest = self.rest[arrived:]
        return arrived - piece.nbytes

    def contents(self) -> Buffer:
        """The frame, once all of it is there."""
        return bytes(self.frame) if self.frame.nbytes < ZERO_COPY_BYTES else self.frame


def _always() -> bool:
    return True


class Reader(End):
    """The reading end: ``pull`` gives a message once all of it is there.

    grounds: where the last frame of a message, if it is long, may land in place; None: nowhere.
    files: those of the writer, in its order; they are closed with this end.

    What is waited for are first the prefix, then the frames, or all of them but the last one if
    where that goes is not known before the others are there, and then the last one.
    """

    def __init__(
        self,
        pipe: int,
        buffers: Buffers,
        grounds: Grounds | None = None,
        files: Sequence[Foreign] = (),
    ) -> None:
        super().__init__(pipe)
        self.ended = False
        self._buffers = buffers
        self._grounds = grounds
        self._files = files
        self._place: Place | None
        self._frames: list[Coming]
        self._expect_prefix()

    def close(self) -> None:
        """Close it, and the files."""
        super().close()
        for file in self._files:
            file.close()

    def pull(self) -> Frames | None:
        """The next message, None if it is not all there.  ``ended``: there will be none."""
        try:
            while not self.ended:
                if self._wait() and self._is_message():
                    message = self._message()
                    if message is not None:
                        return message
        except BlockingIOError:
            pass
        except OSError:
            self.ended = True
        return None

    def _wait(self) -> bool:
        """Take some of what is waited for; whether nothing of it is left.  Raises OSError."""
        # Nothing is left either where only empty frames were waited for.
        if self._count(0):
            return True
        if self._place is None:
            arrived = self._take()
        else:
            assert self._grounds is not None
            with self._grounds.lock:
                if not self._place.is_mine():
                    self._turn_away()
                    return self._count(0)
                arrived = self._take()
        self.ended = arrived == 0
        # Summed without the lock, which the Core may be waiting for: see Summed.holds.
        return self._count(arrived)

    def _take(self) -> int:
        """So many bytes are copied from a file, or read from the pipe; 0: there are no more."""
        left = self._frames[self._there :]
        if left[0].source is not None:
            return left[0].copy_piece()
        if self._place is not None:
            return os.readv(self._pipe, [left[0].rest[:PIECE_BYTES]])
        piped = takewhile(lambda coming: coming.source is None, left)
        return os.readv(self._pipe, [coming.rest for coming in piped])

    def _turn_away(self) -> None:
        """The memory is somebody else's by now, and the message is lost.  What is still to come of
        it through the pipe goes nowhere.
        """
        last = self._frames[-1]
        self._place, self._is_lost = None, True
        piped = 0 if last.source is not None else last.rest.nbytes
        self._frames[-1] = Coming(self._buffers.take(piped))

    def _count(self, arrived: int) -> bool:
        """So many bytes have come; whether all that is waited for is there."""
        while self._there < len(self._frames):
            coming = self._frames[self._there]
            arrived = coming.count(arrived)
            if coming.rest.nbytes:
                return False
            self._there += 1
        return True

    def _expect_prefix(self) -> None:
        self._sizes: list[int] = []
        self._sources: list[Source | None] = []
        self._place = None
        self._is_lost = False
        self._prefix = bytearray(_PREFIX.size)
        self._expect([Coming(memoryview(self._prefix))])

    def _expect(self, frames: list[Coming]) -> None:
        """Wait for these; the first so many of them, none so far, are there."""
        self._frames = frames
        self._there = 0

    def _is_message(self) -> bool:
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
        mark, count, *numbers = _PREFIX.unpack(self._prefix)
        columns = (numbers[at : at + count] for at in range(0, 3 * FRAMES_MAX, FRAMES_MAX))
        sizes, files, offsets = columns
        if mark != _MARK or not 0 < count <= FRAMES_MAX or max(sizes) > FRAME_BYTES_MAX:
            self.ended = True
            return
        for size, file, offset in zip(sizes, files, offsets, strict=True):
            if file > len(self._files) or (file and self._files[file - 1].size < offset + size):
                self.ended = True
                return
            self._sources.append((self._files[file - 1], offset) if file else None)
        self._sizes = sizes
        # Where the last one goes, what comes before it tells.
        waits = self._grounds is not None and count > 1 and sizes[-1] >= ZERO_COPY_BYTES
        self._expect([self._coming(at) for at in range(count - waits)])

    def _coming(self, at: int) -> Coming:
        """The frame of this number, which lands nowhere in particular."""
        size, source = self._sizes[at], self._sources[at]
        if size < ZERO_COPY_BYTES:
            return Coming(memoryview(bytearray(size)), source)
        is_last = 0 < at == len(self._sizes) - 1
        return Coming(self._buffers.take(size), source, adds_up=is_last)

    def _begin_last(self) -> None:
        """All but the last frame are there."""
        assert self._grounds is not None
        with self._grounds.lock:
            frames = [coming.frame for coming in self._frames]
            self._place = self._grounds.find(frames, self._sizes[-1])
        if self._place is None:
            self._frames.append(self._coming(len(self._frames)))
        else:
            self._frames.append(Coming(self._place.view, self._sources[-1], adds_up=True))

    def _message(self) -> Frames | None:
        """All that came, None if it is lost; and on to the next."""
        frames: Frames = tuple([coming.contents() for coming in self._frames])
        added_up, place = self._frames[-1].sum, self._place
        if self._is_lost:
            frames = ()
        elif added_up is not None:
            frames = Summed.of(frames, added_up.intdigest(), place.is_mine if place else _always)
        self._expect_prefix()
        return frames or None


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
