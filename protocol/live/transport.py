"""zmq sockets under trio: ``send`` never waits and may lose, ``receive`` yields messages.

A process has one ROUTER, bound, which takes questions from anybody, and one DEALER for each peer in
its address book, whose identity is the process's own name.  A message goes out through the DEALER
if the target is in the address book, else through the ROUTER to the peer of that identity: so a
client, which nobody has an address for, is answered all the same.

Who waits for what is decided by three properties of ZMQ_FD (libzmq, zmq_getsockopt):

- It is edge-triggered, and *any* call on the socket may swallow the edge.  So ZMQ_EVENTS is read
  after every call, and what it says is kept in ``Line.ready`` until a receive finds nothing.
- A receive that found nothing may be overtaken by a message before ZMQ_EVENTS is read; then the
  edge is gone and the message is there.  So a line is empty only when ZMQ_EVENTS has said so.
- Only one task may wait for it.  So each socket has one pump, and receivers park elsewhere.
"""

from __future__ import annotations

import errno
import math
import sys
from collections import Counter, deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import cast

import trio
import zmq

from protocol.core import ConfigurationError, Frames
from protocol.live.guard import Guard
from protocol.live.interference import Interference
from protocol.live.keys import Keys
from protocol.live.line import Line, wait_for_any
from protocol.live.statistics import Statistics
from protocol.notes import PeersTold

#: A longer frame ends its connection: libzmq does that before the frame is read in full.
FRAME_BYTES_MAX = 64 << 20
#: Seconds between two looks at the directory of keys: for one that is missing, and otherwise.
_MISSING_SECONDS = 0.05
_REFRESH_SECONDS = 1.0
#: After so many seconds without the key of a peer somebody should know.
KEY_SECONDS = 30.0
#: Messages that are dropped before the loop lets others run.
_DROPS_A_WAKE = 64
#: Messages queued for each peer.  The windows of the session are far below it.
HIGH_WATER = 512

_OPTIONS: tuple[tuple[int, int], ...] = (
    (zmq.LINGER, 0),
    (zmq.IPV6, 1),
    (zmq.MAXMSGSIZE, FRAME_BYTES_MAX),
    (zmq.HANDSHAKE_IVL, 3_000),
    (zmq.HEARTBEAT_IVL, 500),
    (zmq.HEARTBEAT_TIMEOUT, 2_000),
    (zmq.HEARTBEAT_TTL, 2_000),
)
#: Without MANDATORY a message to a full or unknown peer vanishes without a word; without HANDOVER
#: a peer that was restarted is ignored for as long as its old connection seems to live.
_ROUTER_OPTIONS = ((zmq.ROUTER_MANDATORY, 1), (zmq.ROUTER_HANDOVER, 1))
#: IMMEDIATE: nothing is queued for a connection that never came to be.
_DEALER_OPTIONS = (
    (zmq.IMMEDIATE, 1),
    (zmq.RECONNECT_IVL, 50),
    (zmq.RECONNECT_IVL_MAX, 1_000),
)


def _why(error: zmq.ZMQError) -> str:
    """libzmq's words; ``error.strerror`` adds the address, which the sentence has already."""
    return zmq.strerror(error.errno or 0)


class Transport:
    """The sockets of one process.  Made by ``open_transport``; used in the trio thread only.

    name: who we are for the peers (1 to 255 bytes of UTF-8).  bind: where questions are taken, as
    ``tcp://127.0.0.1:5000`` (port 0: any free one), or None for a client.  peers: address of each
    peer by name.  high_water: messages queued for each peer; approximate, says libzmq.
    interference: faults that the messages shall suffer, None: none.  keys: CURVE on every socket,
    None: on none.
    Raises ConfigurationError if an address is malformed or in use.
    """

    def __init__(
        self,
        name: str,
        *,
        bind: str | None,
        peers: Mapping[str, str],
        high_water: int = HIGH_WATER,
        interference: Interference | None = None,
        keys: Keys | None = None,
    ) -> None:
        identity = name.encode()
        assert 0 < len(identity) < 256 and identity[0] != 0, f"{name!r} cannot be an identity"
        self.name = name
        self._identity = identity
        self._high_water = high_water
        self._interference = interference
        # A slow name server blocks a whole I/O thread of libzmq; the other one goes on.
        self._context = zmq.Context(io_threads=2)
        self._keys = keys
        self._guard = Guard(self._context, keys)
        self._router: Line | None = None
        self._bound = ""
        self._dealers: dict[str, Line] = {}
        self._addresses: dict[str, str] = {}
        #: With keys: whom each dealer trusts; None where it has to wait for a key.
        self._trusted: dict[str, bytes | None] = {}
        self._ready: deque[Line] = deque()
        self._receivers = trio.lowlevel.ParkingLot()
        self._nursery: trio.Nursery | None = None
        self._closed = False
        self._sent = self._received = self._oversized = 0
        self._lost: Counter[str] = Counter()
        try:
            if bind is not None:
                self._bind(bind)
            for peer, address in peers.items():
                self.connect(peer, address)
        except ConfigurationError:
            self._guard.close()
            self._context.destroy(linger=0)
            raise

    @property
    def bound_address(self) -> str:
        """Where questions are taken, with the real port; a wildcard host stays a wildcard."""
        assert self._bound, f"{self.name} takes no questions: it has no bound address"
        return self._bound

    def statistics(self) -> Statistics:
        """The counts at this moment."""
        counts = (self._lost, self._guard.refused)
        lost, refused = (MappingProxyType(dict(count)) for count in counts)
        return Statistics(self._sent, lost, self._received, self._oversized, refused)

    def connect(self, name: str, address: str) -> None:
        """Enter a peer into the address book, or give it another address.

        What was queued for the old address is lost.  Raises ConfigurationError if the address is
        malformed; whether anybody listens there is not known yet.
        """
        if self._addresses.get(name) != address:
            self._dial(name, address)

    def _dial(self, name: str, address: str) -> None:
        """Connect anew; with keys only if that of the peer is known, else later."""
        line = None
        if self._keys is not None:
            self._trusted[name] = self._keys.of(name)
        if self._keys is None or self._trusted[name] is not None:
            line = self._dealer(name, address)
        old = self._dealers.pop(name, None)
        if old is not None:
            old.close()
        self._addresses[name] = address
        if line is not None:
            self._dealers[name] = line
            if self._nursery is not None:
                self._nursery.start_soon(self._pump, line)

    def _dealer(self, name: str, address: str) -> Line:
        socket = self._socket(zmq.DEALER, _DEALER_OPTIONS)
        socket.setsockopt(zmq.IDENTITY, self._identity)
        trusted = self._trusted.get(name)
        if trusted is not None:
            self._guard.towards(socket, trusted)
        try:
            socket.connect(address)
        except zmq.ZMQError as error:
            socket.close(linger=0)
            raise ConfigurationError(
                f"{self.name} cannot connect to {name} at {address!r} ({_why(error)}): "
                f"write the address like tcp://127.0.0.1:5000"
            ) from None
        return Line(socket, admit=self._guard.admits_from(name))

    async def _follow_keys(self, keys: Keys) -> None:
        """Connect to whose key is there now, or is another one; and to nobody else any more."""
        patience = trio.current_time() + KEY_SECONDS
        while True:
            missing = [name for name, key in self._trusted.items() if key is None]
            if missing and trio.current_time() > patience:
                patience = math.inf
                sys.stderr.write(f"{self.name} still waits for {keys.whose(missing)}\n")
                sys.stderr.flush()
            await trio.sleep(_MISSING_SECONDS if missing else _REFRESH_SECONDS)
            keys.refresh()
            for name, address in tuple(self._addresses.items()):
                if keys.of(name) != self._trusted[name]:
                    self._dial(name, address)

    def meet(self, told: PeersTold) -> None:
        """Enter everybody but ourselves into the address book."""
        for name, address in zip(told.names, told.addresses, strict=True):
            if name != self.name:
                self.connect(name, address)

    def send(self, target: str, frames: Frames) -> bool:
        """Queue one message for a peer; never waits.  False, and counted, if it could not be.

        True is no promise: what is queued is lost with its connection.  A buffer of 64 KiB or more
        is not copied, and must not change until the peer has said that it has it.
        """
        assert frames, f"a message of no frames for {target}"
        if self._interference is not None:
            return self._interference.send(target, frames, self._put)
        return self._put(target, frames)

    def _put(self, target: str, frames: Frames) -> bool:
        if self._closed:
            return self._lose("closed")
        line = self._dealers.get(target)
        if line is None and target in self._addresses:
            # Its key is missing: who claims its name at the door may be somebody else.
            return self._lose("unknown")
        if line is None:
            line, frames = self._router, (target.encode(), *frames)
        if line is None:
            return self._lose("unknown")
        try:
            line.put(frames)
        except zmq.ZMQError as error:
            self._look(line)
            if error.errno not in (errno.EAGAIN, errno.EHOSTUNREACH):
                raise
            return self._lose("full" if error.errno == errno.EAGAIN else "unknown")
        self._look(line)
        self._sent += 1
        return True

    async def receive(self) -> Frames:
        """The next message from any peer, a buffer for each frame; the identity is cut off.

        Frames of 64 KiB or more are memoryviews of what libzmq received, smaller ones are bytes.
        A cancelled receive has taken no message.  Raises trio.ClosedResourceError after the end.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        rested = False
        while True:
            if self._closed:
                raise trio.ClosedResourceError
            frames = self.receive_nowait()
            if frames is not None:
                if self._receivers:
                    self._receivers.unpark()
                if not rested:
                    await trio.lowlevel.cancel_shielded_checkpoint()
                return frames
            if self._ready:
                await trio.lowlevel.checkpoint()
            else:
                await self._receivers.park()
            rested = True

    def receive_nowait(self) -> Frames | None:
        """The next message if there is one; the peers take turns.

        None also after many that had to be dropped: who sends such shall not keep us from others.
        """
        drops = _DROPS_A_WAKE
        while self._ready and drops:
            line = self._ready.popleft()
            frames = line.take()
            if line.ready:
                self._ready.append(line)
            if frames is None:
                continue
            self._oversized += line.oversized
            line.oversized = 0
            if frames:
                self._received += 1
                if self._interference is not None:
                    self._interference.heard(frames)
                return frames
            drops -= 1
        return None

    def rest(self, milliseconds: int) -> bool:
        """Wait in place for a message, for so long at most: whether there may be one now.

        Nobody else of the loop gets a turn meanwhile; False at once if somebody waits for one.
        Who rests takes all that is there, or says by ``go_on`` that there is more.
        """
        if self._closed:
            return False
        if not self._ready and trio.lowlevel.current_statistics().tasks_runnable == 0:
            for line in wait_for_any(self._lines(), milliseconds):
                line.ready = True
                self._ready.append(line)
        return bool(self._ready)

    def go_on(self) -> None:
        """Whoever waits for a message may look for one."""
        if self._ready:
            self._receivers.unpark()

    def _lines(self) -> list[Line]:
        router = () if self._router is None else (self._router,)
        return [*router, *self._dealers.values()]

    def _bind(self, address: str) -> None:
        socket = self._socket(zmq.ROUTER, _ROUTER_OPTIONS)
        self._guard.at_door(socket)
        try:
            socket.bind(address)
        except zmq.ZMQError as error:
            if error.errno == errno.EADDRINUSE:
                cure = "choose another port, or stop the process that has it"
            else:
                cure = "give an address of this host, like tcp://127.0.0.1:5000"
            raise ConfigurationError(
                f"{self.name} cannot listen at {address!r} ({_why(error)}): {cure}"
            ) from None
        # libzmq tells 127.0.0.1 as [::ffff:127.0.0.1]; the host is better taken as it was given.
        endpoint = cast(bytes, socket.getsockopt(zmq.LAST_ENDPOINT)).decode().rstrip("\0")
        host, port = address.rpartition(":")[0], endpoint.rpartition(":")[2]
        self._bound = f"{host}:{port}" if address.startswith("tcp:") else endpoint
        self._router = Line(socket, strip=1, admit=self._guard.admits)

    def _socket(self, kind: int, options: tuple[tuple[int, int], ...]) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        marks = ((zmq.SNDHWM, self._high_water), (zmq.RCVHWM, self._high_water))
        for option, value in (*_OPTIONS, *marks, *options):
            socket.setsockopt(option, value)
        return socket

    def _lose(self, reason: str) -> bool:
        self._lost[reason] += 1
        return False

    def _look(self, line: Line) -> None:
        """After any call on a socket: hand on what its edge would have said."""
        if not line.ready and line.readable():
            line.ready = True
            self._ready.append(line)
            self._receivers.unpark()

    async def _pump(self, line: Line) -> None:
        """Hand on the edges of one socket, for as long as it is open."""
        while not line.socket.closed:
            self._look(line)
            try:
                await trio.lowlevel.wait_readable(line.descriptor)
            except trio.ClosedResourceError:
                return

    def _start(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        if self._interference is not None:
            nursery.start_soon(self._interference.follow)
        self._guard.start(nursery)
        if self._keys is not None:
            nursery.start_soon(self._follow_keys, self._keys)
        for line in self._lines():
            nursery.start_soon(self._pump, line)

    def _end(self) -> None:
        self._closed = True
        self._guard.close()
        for line in self._lines():
            line.close()
        self._receivers.unpark_all()
        self._context.destroy(linger=0)


@asynccontextmanager
async def open_transport(
    name: str,
    *,
    bind: str | None,
    peers: Mapping[str, str],
    high_water: int = HIGH_WATER,
    interference: Interference | None = None,
    keys: Keys | None = None,
) -> AsyncIterator[Transport]:
    """A Transport that works for as long as the block runs; arguments and errors as there.

    Nothing is flushed at the end: who needs to know that a message arrived asks for an answer.
    What the block raises leaves as it is, not in a group: the pumps have nothing to add to it.
    """
    transport = Transport(
        name, bind=bind, peers=peers, high_water=high_water, interference=interference, keys=keys
    )
    try:
        async with trio.open_nursery() as nursery:
            transport._start(nursery)
            yield transport
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from None
        raise
    finally:
        transport._end()
