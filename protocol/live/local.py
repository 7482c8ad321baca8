"""The ways to processes of this host, past libzmq: short messages through a unix socket.

Between two processes of one host libzmq costs a thread at each end and several wake-ups a message.
So a process that is bound also listens at an abstract unix socket named after its address, for
connections that keep messages apart (SOCK_SEQPACKET); who connects says its name first, and both
look at the user id of the other.  Long messages go through a pipe (protocol/live/pipes.py).

Nobody depends on it: where nobody listens, as between containers or hosts, and where a connection
has no room, a message goes by zmq.  What is under way when a process ends is lost, as with zmq.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import trio

from protocol.codec import FRAMES_MAX
from protocol.core import Frames
from protocol.live.buffers import Mapped
from protocol.live.landing import Grounds
from protocol.live.pipes import Pipes
from protocol.live.unix import DEAF_SECONDS, Absent, check_user, connected, listen_at

#: Of a message that goes through a socket; the kernel gives a socket a little more by default.
SHORT_BYTES = 200_000
#: So long who has connected may take to say its name.
_INTRODUCTION_SECONDS = 1.0
#: A message that cannot be sent now, or not this way.
_NO_ROOM = (errno.EAGAIN, errno.EMSGSIZE, errno.ENOBUFS, errno.ENOMEM)
_BUFFER_BYTES = 256 << 10
_HELLO = b"numalab line 1"
_LENGTHS = tuple(struct.Struct(f"<{count + 1}I") for count in range(FRAMES_MAX + 1))


class LocalLine:
    """One connection: a line (protocol/live/line.py) that messages also go out by.

    name: of the other end; empty until it has said it.  admits: whether a message of the other end
    may go on, asked when it has said its name and about every message; None: all may.
    """

    oversized = 0
    is_level = True

    def __init__(
        self,
        connection: socket.socket,
        buffer: bytearray,
        name: str = "",
        admits: Callable[[LocalLine], bool] | None = None,
    ) -> None:
        connection.setblocking(False)
        # As much as the kernel gives; what does not fit goes by zmq.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        self.name = name
        self.ready = False
        self.closed = False
        self.descriptor = connection.fileno()
        self._connection = connection
        self._buffer = buffer
        self._admits = admits
        self._next: Frames | None = None

    @property
    def pollable(self) -> int:
        """What zmq_poll shall look at."""
        return self.descriptor

    def put(self, frames: Frames) -> bool:
        """Send one message now, False if that cannot be."""
        sizes = [memoryview(frame).nbytes for frame in frames]
        count = len(sizes)
        if count > FRAMES_MAX or sum(sizes) > SHORT_BYTES or self.closed:
            return False
        try:
            self._connection.sendmsg([_LENGTHS[count].pack(count, *sizes), *frames])
        except OSError as error:
            if error.errno not in _NO_ROOM:
                self.close()
            return False
        return True

    def introduce(self, name: str) -> bool:
        """Say who we are."""
        return self.put((_HELLO, name.encode()))

    def readable(self) -> bool:
        """Whether there is a message."""
        if self._next is None and not self.closed:
            self._next = self._receive()
        return self._next is not None

    def swallow(self) -> None:
        """The socket is readable for as long as there is something."""

    def take(self) -> Frames | None:
        """The next message, None if there is none; ``ready`` afterwards: whether there may be."""
        frames, self._next = self._next, None
        if frames is None and not self.closed:
            frames = self._receive()
        self.ready = frames is not None
        if frames is None or self._admits is None or self._admits(self):
            return frames
        return ()

    def close(self) -> None:
        """Close the connection; who waits for it is told.  Harmless if it is closed."""
        if not self.closed:
            self.closed = True
            trio.lowlevel.notify_closing(self.descriptor)
            self._connection.close()

    def _receive(self) -> Frames | None:
        while not self.closed:
            try:
                count = self._connection.recv_into(self._buffer)
            except BlockingIOError:
                return None
            except OSError:
                count = 0
            frames = _split(memoryview(self._buffer)[:count])
            if frames and self.name:
                return frames
            if not frames or not self._is_introduced(frames):
                self.close()
        return None

    def _is_introduced(self, frames: Frames) -> bool:
        """Who has connected says who it is."""
        with suppress(UnicodeDecodeError):
            if len(frames) == 2 and frames[0] == _HELLO:
                self.name = bytes(frames[1]).decode()
        return bool(self.name) and (self._admits is None or self._admits(self))


def _split(message: memoryview) -> Frames:
    """The frames of a message, none if it is not one."""
    if len(message) < 4:
        return ()
    count = int.from_bytes(message[:4], "little")
    if count > FRAMES_MAX or len(message) < _LENGTHS[count].size:
        return ()
    sizes = _LENGTHS[count].unpack_from(message)[1:]
    at = _LENGTHS[count].size
    if at + sum(sizes) != len(message):
        return ()
    frames = []
    for size in sizes:
        frames.append(bytes(message[at : at + size]))
        at += size
    return tuple(frames)


class Local:
    """The ways of one process to others of its host.

    name: who we are.  mapped, grounds: of the pipes.
    """

    def __init__(
        self, name: str, mapped: Sequence[Mapped] = (), grounds: Grounds | None = None
    ) -> None:
        self.pipes = Pipes(mapped, grounds)
        self._name = name
        self._buffer = bytearray(_BUFFER_BYTES)
        self._listener: socket.socket | None = None
        #: By address, and by the name of who has connected.
        self._dialled: dict[str, LocalLine] = {}
        self._accepted: dict[str, LocalLine] = {}
        self._absent = Absent()
        self._on_line: Callable[[LocalLine], None] = lambda _: None
        self._admits: Callable[[bytes], bool] = lambda _: True

    def listen(self, address: str) -> None:
        """Let others connect who know us by this address."""
        self.pipes.listen(address)
        self._listener = listen_at("line", address, socket.SOCK_SEQPACKET)

    def lines(self) -> Iterator[LocalLine]:
        """All that are open."""
        for line in (*self._dialled.values(), *self._accepted.values()):
            if not line.closed:
                yield line

    def start(
        self,
        nursery: trio.Nursery,
        on_line: Callable[[LocalLine], None],
        admits: Callable[[bytes], bool],
    ) -> None:
        """Accept connections in the nursery.

        on_line: told of every connection, to wait for what comes.  admits: whether a message may go
        on that is of somebody of this name.
        """
        self._on_line, self._admits = on_line, admits
        if self._listener is not None:
            nursery.start_soon(self._accept, self._listener, nursery)

    def send(self, target: str, address: str | None, frames: Frames) -> bool:
        """Send a message to who has this address, or, without one, has connected under this name.

        False: there is no way, or no room.
        """
        if sum([memoryview(frame).nbytes for frame in frames]) > SHORT_BYTES:
            sendable = address is not None and len(frames) <= FRAMES_MAX
            return sendable and self.pipes.send(str(address), frames)
        if address is None:
            line = self._accepted.get(target)
        else:
            line = self._dialled.get(address)
            if line is None or line.closed:
                line = self._dial(target, address)
        return line is not None and line.put(frames)

    def _dial(self, target: str, address: str) -> LocalLine | None:
        """A new connection to who listens for this address, None: nobody who may."""
        if address in self._absent:
            return None
        try:
            connection = connected("line", address, socket.SOCK_SEQPACKET)
        except OSError:
            self._absent.add(address)
            return None
        line = LocalLine(connection, self._buffer, target)
        line.introduce(self._name)
        self._dialled[address] = line
        self._on_line(line)
        return line

    async def _accept(self, listener: socket.socket, nursery: trio.Nursery) -> None:
        while True:
            try:
                await trio.lowlevel.wait_readable(listener)
                connection, _ = listener.accept()
            except trio.ClosedResourceError:
                return
            except BlockingIOError:
                continue
            except OSError:
                # No descriptor is left: this would be told again at once.
                await trio.sleep(DEAF_SECONDS)
                continue
            try:
                check_user(connection)
            except OSError:
                connection.close()
                continue
            line = LocalLine(connection, self._buffer, admits=self._may_go_on)
            self._on_line(line)
            nursery.start_soon(self._expect_name, line)

    async def _expect_name(self, line: LocalLine) -> None:
        """Who does not say who it is has to go."""
        try:
            await trio.sleep(_INTRODUCTION_SECONDS)
        finally:
            if not line.name:
                line.close()

    def _may_go_on(self, line: LocalLine) -> bool:
        """About an accepted connection that has a message, or has just said its name."""
        if not self._admits(line.name.encode()):
            return False
        if self._accepted.get(line.name) is not line and not line.closed:
            self._replace(line)
        return True

    def _replace(self, line: LocalLine) -> None:
        """Somebody said its name; who was known by it before has restarted."""
        before = self._accepted.pop(line.name, None)
        if before is not None:
            before.close()
        for name in [name for name, other in self._accepted.items() if other.closed]:
            del self._accepted[name]
        self._accepted[line.name] = line

    def close(self) -> None:
        """Close everything."""
        self.pipes.close()
        for line in self.lines():
            line.close()
        if self._listener is not None:
            trio.lowlevel.notify_closing(self._listener)
            self._listener.close()
