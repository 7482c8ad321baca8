"""Long messages between two processes of one host, past libzmq: through a pipe.

libzmq copies page contents into a socket's buffers, out of them into a message, and the receiver
copies them out of that.  Here who has a long message for a process that listens makes a pipe and
hands it the reading end, and with it the files that its own page contents lie in, to be read: what
lies there need not go through the pipe, and the reader's is the first copy.

One thread of a process serves all its pipes and waits for none of them, so that both ways at once
cannot block each other.  The loop hears of a message once all of it is there.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial

import trio

from protocol.core import Frames
from protocol.live.buffers import Buffers, Foreign, Mapped, files_of
from protocol.live.landing import Grounds
from protocol.live.pipe_ends import End, Reader, Writer, make_pipe
from protocol.live.unix import DEAF_SECONDS, Absent, check_user, connected, listen_at

#: Messages queued for a peer; and those that wait for the loop before nothing more is read.
QUEUED_MAX = 64
WAITING_MAX = 2
#: Connections that have not handed over their pipe yet.
GUESTS_MAX = 16
_HELLO = b"numalab pipe 2"
#: Files that come with a pipe.
_FILES_MAX = 8
_End = End | socket.socket


class Pipes:
    """The pipes of one process, and a line (protocol/live/line.py) of what comes out of them.

    mapped: parts of files that readers are given; whatever lies elsewhere goes through the pipe.
    grounds: where page contents that come may land in place.  Only the thread of the loop may call
    anything of it.
    """

    oversized = 0
    is_level = False

    def __init__(self, mapped: Sequence[Mapped] = (), grounds: Grounds | None = None) -> None:
        self.ready = False
        self.closed = False
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._mapped, self._grounds = mapped, grounds
        self._received: deque[Frames] = deque()
        self._orders: deque[Callable[[], None]] = deque()
        self._writers: dict[str, Writer] = {}
        self._absent = Absent()
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None
        # What follows belongs to the thread.
        self._buffers = Buffers()
        self._poll = select.epoll()
        #: By descriptor: what is waited for, and what is done then.
        self._ends: dict[int, tuple[_End, Callable[[int], None]]] = {}
        self._stalled: list[Reader] = []
        self._guests: deque[socket.socket] = deque()
        self._deaf: socket.socket | None = None

    @property
    def pollable(self) -> int:
        """What zmq_poll shall look at."""
        return self.descriptor

    def listen(self, address: str) -> None:
        """Let others hand us pipes who know us by this address."""
        listener = listen_at("pipe", address, socket.SOCK_STREAM)
        if listener is not None:
            self._order(
                partial(self._await, listener, select.EPOLLIN, partial(self._accept, listener))
            )

    def send(self, address: str, frames: Frames) -> bool:
        """Queue a message for who has this address, False: nobody takes it, or there is no room."""
        writer = self._writers.get(address)
        if writer is not None and writer.broken:
            # Whoever cannot read it now shall have what comes by zmq for a while.
            self._absent.add(address)
            self._writers.pop(address)
            return False
        if writer is None:
            writer = self._open(address)
        if writer is None or len(writer.queue) >= QUEUED_MAX:
            return False
        writer.queue.append(frames)
        self._order(partial(self._push, writer))
        return True

    def _open(self, address: str) -> Writer | None:
        """A new pipe to who listens for this address, None: nobody who may."""
        if address in self._absent:
            return None
        try:
            files = files_of(self._mapped)[:_FILES_MAX]
            writing = _hand_over(address, files)
        except OSError:
            self._absent.add(address)
            return None
        writer = self._writers[address] = Writer(writing, self._mapped, files)
        self._order(partial(self._await, writer, 0, partial(self._pushes, writer)))
        return writer

    def close(self) -> None:
        """End the thread; what is under way is lost."""
        if not self.closed:
            self.closed = True
            trio.lowlevel.notify_closing(self.descriptor)
            if self._thread is not None:
                os.eventfd_write(self._wake, 1)
                self._thread.join()
            self._poll.close()
            os.close(self.descriptor)
            os.close(self._wake)

    # ---- a line ----------------------------------------------------------------------------

    def readable(self) -> bool:
        """Whether a message has come; what was told of it is swallowed."""
        self.swallow()
        if self._failure is not None:
            raise self._failure
        return bool(self._received)

    def swallow(self) -> None:
        """What was told is known."""
        with suppress(BlockingIOError):
            os.eventfd_read(self.descriptor)

    def take(self) -> Frames | None:
        """The next message, None if there is none; ``ready`` afterwards: whether there is one."""
        frames = self._received.popleft() if self._received else None
        if self._stalled:
            self._order(self._resume)
        self.ready = bool(self._received) or self.readable()
        return frames

    # ---- in the thread ---------------------------------------------------------------------

    def _order(self, order: Callable[[], None]) -> None:
        """Have this done in the thread, which starts with the first order."""
        self._orders.append(order)
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="pipes", daemon=True)
            self._thread.start()
        os.eventfd_write(self._wake, 1)

    def _serve(self) -> None:
        try:
            self._poll.register(self._wake, select.EPOLLIN)
            while not self.closed:
                deaf, self._deaf = self._deaf, None
                for descriptor, events in self._poll.poll(None if deaf is None else DEAF_SECONDS):
                    # One of those before it may have ended this one.
                    if descriptor in self._ends:
                        self._ends[descriptor][1](events)
                if deaf is not None:
                    self._poll.modify(deaf, select.EPOLLIN)
                self._heed_orders()
        except BaseException as failure:
            # We are wrong, and the loop shall say so.
            self._failure = failure
            os.eventfd_write(self.descriptor, 1)
        finally:
            self._heed_orders()
            for end, _ in self._ends.values():
                end.close()

    def _heed_orders(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        while self._orders:
            self._orders.popleft()()

    def _await(self, end: _End, events: int, then: Callable[[int], None]) -> None:
        """Have ``then`` called when one of these is so, or the other end is gone.

        Raises OSError, and closes it, if that cannot be waited for.
        """
        try:
            self._poll.register(end, events)
        except OSError:
            end.close()
            raise
        self._ends[end.fileno()] = end, then

    def _forget(self, end: _End) -> None:
        del self._ends[end.fileno()]
        self._poll.unregister(end)
        end.close()

    def _is_open(self, end: _End) -> bool:
        """Whether it has not ended; its descriptor may be another one's by now."""
        return self._ends.get(end.fileno(), (None,))[0] is end

    def _accept(self, listener: socket.socket, _: int) -> None:
        """Somebody has connected, and will hand over a pipe."""
        try:
            connection, _name = listener.accept()
        except BlockingIOError:
            return
        except OSError:
            # No descriptor is left.  This would be told again at once: not for a while.
            self._poll.modify(listener, 0)
            self._deaf = listener
            return
        connection.setblocking(False)
        self._guests.append(connection)
        self._await(connection, select.EPOLLIN, partial(self._take_over, connection))
        if len(self._guests) > GUESTS_MAX:
            self._forget(self._guests.popleft())

    def _take_over(self, connection: socket.socket, _: int) -> None:
        with suppress(OSError):
            taken = _taken_over(connection)
            if taken is not None:
                pipe, files = taken
                reader = Reader(pipe, self._buffers, self._grounds, files)
                self._await(reader, select.EPOLLIN, partial(self._pull, reader))
        self._guests.remove(connection)
        self._forget(connection)

    def _pull(self, reader: Reader, _: int) -> None:
        frames = reader.pull()
        if frames is not None:
            self._received.append(frames)
            os.eventfd_write(self.descriptor, 1)
        if reader.ended:
            self._forget(reader)
        elif len(self._received) >= WAITING_MAX:
            # Not only nothing to wait for: that the other end is gone would be told all the same.
            self._poll.unregister(reader)
            self._stalled.append(reader)
            # The loop may have taken them all before it could see that somebody waits for that.
            if len(self._received) < WAITING_MAX:
                self._resume()

    def _resume(self) -> None:
        """There is room again for what comes in."""
        while self._stalled:
            self._poll.register(self._stalled.pop(), select.EPOLLIN)

    def _pushes(self, writer: Writer, events: int) -> None:
        """There is room in a pipe, or nobody has its other end any more."""
        if events & select.EPOLLERR:
            writer.broken = True
        self._push(writer)

    def _push(self, writer: Writer) -> None:
        if not self._is_open(writer):
            return
        more = not writer.broken and writer.push()
        if writer.broken:
            self._forget(writer)
        else:
            self._poll.modify(writer, select.EPOLLOUT if more else 0)


def _hand_over(address: str, files: Sequence[int]) -> int:
    """The writing end of a new pipe; who listens there has the other, and may read these files.

    Raises OSError.
    """
    with connected("pipe", address, socket.SOCK_STREAM) as connection, ExitStack() as unused:
        reading, writing = make_pipe()
        unused.callback(os.close, reading)
        handed = [reading]
        try:
            for file in files:
                handed.append(os.open(f"/proc/self/fd/{file}", os.O_RDONLY | os.O_CLOEXEC))
                unused.callback(os.close, handed[-1])
            socket.send_fds(connection, [_HELLO], handed)
        except OSError:
            os.close(writing)
            raise
    return writing


def _taken_over(connection: socket.socket) -> tuple[int, list[Foreign]] | None:
    """The reading end that somebody of the same user hands over, and his files.

    None: he hands over nothing.  Raises OSError.
    """
    check_user(connection)
    hello, taken, flags, _ = socket.recv_fds(connection, len(_HELLO), 1 + _FILES_MAX)
    with ExitStack() as unused:
        for descriptor in taken:
            unused.callback(os.close, descriptor)
        # Cut short: there were not descriptors enough for all of them.
        if hello != _HELLO or not taken or flags & socket.MSG_CTRUNC:
            return None
        for descriptor in taken:
            os.set_inheritable(descriptor, False)
        pipe, *others = taken
        os.set_blocking(pipe, False)
        files = [Foreign(descriptor) for descriptor in others]
        unused.pop_all()
    return pipe, files
