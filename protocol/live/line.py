"""One zmq socket: messages out of it and into it, and never a call that waits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol, cast

import trio
import zmq

from protocol.codec import FRAMES_MAX
from protocol.core import Buffer, Frames

#: A longer frame ends its connection: libzmq does that before the frame is read in full.
FRAME_BYTES_MAX = 64 << 20
#: From here on a copy costs more than the bookkeeping that avoids it.
ZERO_COPY_BYTES = 64 << 10

#: Plain numbers: combining the enumerations of zmq for every frame costs as much as sending it.
_AT_ONCE = int(zmq.DONTWAIT)
_AND_MORE = int(zmq.DONTWAIT | zmq.SNDMORE)
_READABLE = int(zmq.POLLIN)

#: Whether a message that was received may go on; it counts those that may not.
Admit = Callable[[Sequence[zmq.Frame]], bool]


class Source(Protocol):
    """Whatever messages come from.

    ready: whether a ``take`` may find something.  oversized: messages that were dropped for their
    length.  descriptor: readable when there may be a message again, until ``swallow``; or,
    ``is_level``, for as long as there is one.
    """

    ready: bool
    oversized: int
    descriptor: int
    is_level: bool

    @property
    def closed(self) -> bool: ...
    @property
    def pollable(self) -> zmq.Socket[bytes] | int: ...
    def readable(self) -> bool: ...
    def swallow(self) -> None: ...
    def take(self) -> Frames | None: ...
    def close(self) -> None: ...


class Line:
    """One socket, and whether a receive from it may find something.

    strip: frames that libzmq puts in front of a message (1: the identity of who sent it).
    admit: asked about every message that is not too long, these frames included; None: all may
    go on.
    """

    def __init__(
        self, socket: zmq.Socket[bytes], *, strip: int = 0, admit: Admit | None = None
    ) -> None:
        self.socket = socket
        self.descriptor = cast(int, socket.getsockopt(zmq.FD))
        self.is_level = False
        self.strip = strip
        self.ready = False
        self.oversized = 0
        self._admit = admit

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        return self.socket.closed

    @property
    def pollable(self) -> zmq.Socket[bytes]:
        """What zmq_poll shall look at."""
        return self.socket

    def swallow(self) -> None:
        """An edge was seen: nothing, as ``readable`` swallows it."""

    def readable(self) -> bool:
        """Ask libzmq; swallows the edge, so a True must not be forgotten."""
        return bool(cast(int, self.socket.getsockopt(zmq.EVENTS)) & _READABLE)

    def take(self) -> Frames | None:
        """The next message, or None when there is none and an edge will announce the next.

        No frames at all: there was a message that was dropped, and there may be more.  ``ready``
        afterwards: whether there is another one.
        """
        while not self.socket.closed:
            try:
                frames = self._rest(self.socket.recv(_AT_ONCE, copy=False))
            except zmq.Again:
                frames = None
            self.ready = self.readable()
            if frames is not None or not self.ready:
                return frames
        self.ready = False
        return None

    def _rest(self, frame: zmq.Frame) -> Frames:
        """The message that begins with ``frame``, without frames if it may not go on.

        All its frames are here.
        """
        frames = [frame]
        while frame.more:
            frame = self.socket.recv(_AT_ONCE, copy=False)
            if len(frames) <= FRAMES_MAX + self.strip:
                frames.append(frame)
        if len(frames) > FRAMES_MAX + self.strip:
            self.oversized += 1
            return ()
        if self._admit is not None and not self._admit(frames):
            return ()
        return tuple(_contents(frame) for frame in frames[self.strip :])

    async def messages(self) -> AsyncIterator[Frames]:
        """Every message until the socket is closed; for the one task that takes from it."""
        while not self.socket.closed:
            frames = self.take()
            if frames is not None:
                if frames:
                    yield frames
                await trio.lowlevel.checkpoint()
                continue
            try:
                await trio.lowlevel.wait_readable(self.descriptor)
            except trio.ClosedResourceError:
                return

    def put(self, frames: Frames) -> None:
        """Queue one message; raises zmq.Again or another ZMQError if that cannot be."""
        last = len(frames) - 1
        failure: zmq.ZMQError | None = None
        for index, frame in enumerate(frames):
            flags = _AT_ONCE if index == last else _AND_MORE
            try:
                if memoryview(frame).nbytes < ZERO_COPY_BYTES:
                    self.socket.send(frame, flags)
                else:
                    self.socket.send(frame, flags, copy=False, track=False)
            except zmq.ZMQError as error:
                if index == 0:
                    raise
                # The connection went away under the message.  libzmq swallows the frames up to
                # the last one; were they not sent, it would swallow those of the next message.
                failure = error
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Close the socket; who waits for it is told.  Harmless if it is closed."""
        if not self.socket.closed:
            trio.lowlevel.notify_closing(self.descriptor)
            self.socket.close(linger=0)


def _contents(frame: zmq.Frame) -> Buffer:
    return frame.bytes if len(frame) < ZERO_COPY_BYTES else frame.buffer


def wait_for_any(lines: Sequence[Source], milliseconds: int) -> list[Source]:
    """The lines that have a message, waiting so long for the first; the thread waits with them."""
    polled = zmq.zmq_poll([(line.pollable, _READABLE) for line in lines], milliseconds)
    found = {pollable for pollable, _ in polled}
    return [line for line in lines if line.pollable in found]
