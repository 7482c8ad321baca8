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
from protocol.live.line import Line, Source, wait_for_any
from protocol.live.local import Local
from protocol.live.sockets import new_socket, why
from protocol.live.statistics import Statistics
from protocol.notes import PeersTold

#: Seconds between two looks at the directory of keys: for one that is missing, and otherwise.
_MISSING_SECONDS = 0.05
_REFRESH_SECONDS = 1.0
#: After so many seconds without the key of a peer somebody should know.
KEY_SECONDS = 30.0
#: Messages that are dropped before the loop lets others run.
_DROPS_A_WAKE = 64
#: Messages queued to each peer.  The windows of the session are far below it.
HIGH_WATER = 512


class Transport:
    """The sockets of one process.  Made by ``open_transport``; used in the trio thread only.

    name: who we are for the peers (1 to 255 bytes of UTF-8).  bind: where questions are taken, as
    ``tcp://127.0.0.1:5000`` (port 0: any free one), or None for a client.  peers: address of each
    peer by name.  high_water: messages queued to each peer; approximate, says libzmq.
    interference: faults that the messages shall suffer, None: none.  keys: CURVE on every socket,
    None: on none.  local: the ways to processes of this host, which are closed with the transport;
    None: all goes by zmq.
    Raises ConfigurationError: an address is malformed or in use.
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
        local: Local | None = None,
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
        self._local = local
        self._router: Line | None = None
        self._bound, self._closed = "", False
        self._dealers: dict[str, Line] = {}
        self._addresses: dict[str, str] = {}
        #: With keys: whom each dealer trusts; None where it has to wait for a key.
        self._trusted: dict[str, bytes | None] = {}
        self._ready: deque[Source] = deque()
        self._receivers, self._level_lines = trio.lowlevel.ParkingLot(), trio.lowlevel.ParkingLot()
        self._nursery: trio.Nursery | None = None
        self._sent = self._sent_local = self._received = self._oversized = 0
        self._lost: Counter[str] = Counter()
        try:
            if bind is not None:
                self._bind(bind)
            for peer, address in peers.items():
                self.connect(peer, address)
        except ConfigurationError:
            self._end()
            raise

    @property
    def bound_address(self) -> str:
        """Where questions are taken, with the real port; a wildcard host stays a wildcard."""
        assert self._bound, f"{self.name} takes no questions: it has no bound address"
        return self._bound

    def statistics(self) -> Statistics:
        """The counts at this moment."""
        lost, refused = (MappingProxyType(dict(c)) for c in (self._lost, self._guard.refused))
        counts = self._sent, lost, self._received, self._oversized, refused, self._sent_local
        return Statistics(*counts)

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
            self._wait_for(line)

    def _dealer(self, name: str, address: str) -> Line:
        socket = new_socket(self._context, zmq.DEALER, self._high_water)
        socket.setsockopt(zmq.IDENTITY, self._identity)
        trusted = self._trusted.get(name)
        if trusted is not None:
            self._guard.towards(socket, trusted)
        try:
            socket.connect(address)
        except zmq.ZMQError as error:
            socket.close(linger=0)
            raise ConfigurationError(
                f"{self.name} cannot connect to {name} at {address!r} ({why(error)}): "
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
        where, local = self._addresses.get(target), self._local
        if local is not None and local.send(target, where, frames):
            self._sent, self._sent_local = self._sent + 1, self._sent_local + 1
            return True
        line = self._dealers.get(target)
        if line is None and where is not None:
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
            elif self._level_lines:
                self._level_lines.unpark_all()
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

    def _lines(self) -> list[Source]:
        router = () if self._router is None else (self._router,)
        local = () if self._local is None else (self._local.pipes, *self._local.lines())
        return [*router, *self._dealers.values(), *local]

    def _bind(self, address: str) -> None:
        socket = new_socket(self._context, zmq.ROUTER, self._high_water)
        self._guard.at_door(socket)
        try:
            socket.bind(address)
        except zmq.ZMQError as error:
            if error.errno == errno.EADDRINUSE:
                cure = "choose another port, or stop the process that has it"
            else:
                cure = "give an address of this host, like tcp://127.0.0.1:5000"
            raise ConfigurationError(
                f"{self.name} cannot listen at {address!r} ({why(error)}): {cure}"
            ) from None
        # libzmq tells 127.0.0.1 as [::ffff:127.0.0.1]; the host is better taken as it was given.
        endpoint = cast(bytes, socket.getsockopt(zmq.LAST_ENDPOINT)).decode().rstrip("\0")
        host, port = address.rpartition(":")[0], endpoint.rpartition(":")[2]
        self._bound = f"{host}:{port}" if address.startswith("tcp:") else endpoint
        self._router = Line(socket, strip=1, admit=self._guard.admits)
        if self._local is not None:
            self._local.listen(self._bound)

    def _lose(self, reason: str) -> bool:
        self._lost[reason] += 1
        return False

    def _look(self, line: Source) -> None:
        """After any call on a socket: hand on what its edge would have said."""
        if not line.ready and line.readable():
            line.ready = True
            self._ready.append(line)
            self._receivers.unpark()

    def _wait_for(self, line: Source) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(self._pump, line)

    async def _pump(self, line: Source) -> None:
        """Hand on the edges of one socket, for as long as it is open."""
        while not line.closed:
            self._look(line)
            # A look may find that the other end is closed.
            if line.closed:
                return
            if line.is_level and line.ready:
                await self._level_lines.park()
                continue
            try:
                await trio.lowlevel.wait_readable(line.descriptor)
            except trio.ClosedResourceError:
                return
            line.swallow()

    def _start(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        if self._interference is not None:
            nursery.start_soon(self._interference.follow)
        self._guard.start(nursery)
        if self._keys is not None:
            nursery.start_soon(self._follow_keys, self._keys)
        for line in self._lines():
            self._wait_for(line)
        if self._local is not None:
            self._local.start(nursery, self._wait_for, self._guard.admits_name)

    def _end(self) -> None:
        self._closed = True
        self._guard.close()
        for line in self._lines():
            line.close()
        if self._local is not None:
            self._local.close()
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
    local: Local | None = None,
) -> AsyncIterator[Transport]:
    """A Transport that works for as long as the block runs; arguments and errors as there.

    Nothing is flushed at the end: who needs to know that a message arrived asks for an answer.
    What the block raises leaves as it is, not in a group: the pumps have nothing to add to it.
    """
    transport = Transport(
        name,
        bind=bind,
        peers=peers,
        high_water=high_water,
        interference=interference,
        keys=keys,
        local=local,
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
