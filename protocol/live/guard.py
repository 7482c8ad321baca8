"""Who may come in: CURVE on the sockets of one process, and who is who behind it.

With keys, libzmq encrypts every connection and asks us about each new one by ZAP, at an inproc
address of its own.  A key that is on the list gets in, and from then on is on every frame as its
User-Id.  That is compared with the name that its owner claims, in both places where it does: as the
identity of its socket, and as the source of each message.

Who has no key at all fails before ZAP is asked; a monitor of the socket tells of those.

With or without keys the number of clients is bounded, as each costs memory for as long as we live.
"""

from __future__ import annotations

import struct
from collections import Counter, OrderedDict
from collections.abc import Sequence

import trio
import zmq
from zmq.utils import z85

from protocol.codec import source_of
from protocol.labels import Role, peer_label
from protocol.live.keys import Keys
from protocol.live.line import Admit, Line

#: Not '*', and not empty: then libzmq lets in whom nobody was asked about.
_DOMAIN = b"numalab"
_ZAP = "inproc://zeromq.zap.01"
_MONITOR = "inproc://numalab-monitor"
_VERSION = b"1.0"
#: 300, not 400: libzmq never tries again after that, and the key may be on the list any moment.
_WELCOME, _NOT_NOW = b"200", b"300"
_EVENT = struct.Struct("=HI")
_FAILURES = int(
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_ACCEPT_FAILED
)
_ACCEPT_FAILED = int(zmq.EVENT_ACCEPT_FAILED)

#: Clients that were heard of within the last so many seconds; each holds a lease that it renews
#: more often than that.
CLIENTS_MAX = 1024
SILENT_SECONDS = 60.0


class Guard:
    """The keys of one process at work on its sockets; without keys it only counts the clients.

    refused: by reason.  ``no_key``: connections that ended before they had shown a key, for whose
    end libzmq gives one reason or another as it happens; ``unknown_key``: connections, and
    messages of a key that is on the list no more; ``wrong_name``: messages in another's name;
    ``too_many``: messages of clients beyond CLIENTS_MAX, and connections for which no file
    descriptor was left.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], keys: Keys | None) -> None:
        self.refused: Counter[str] = Counter()
        self._context = context
        self._keys = keys
        self._door: zmq.Socket[bytes] | None = None
        self._zap: Line | None = None
        self._monitor: Line | None = None
        #: When each client was heard of last, in that order.
        self._clients: OrderedDict[bytes, float] = OrderedDict()

    def at_door(self, socket: zmq.Socket[bytes]) -> None:
        """Before a socket is bound: only who has a key on the list gets in."""
        if self._keys is None:
            return
        zap = self._context.socket(zmq.REP)
        zap.bind(_ZAP)
        self._zap = Line(zap)
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self._keys.secret)
        socket.setsockopt(zmq.ZAP_DOMAIN, _DOMAIN)
        socket.monitor(_MONITOR, _FAILURES)
        self._door = socket
        monitor = self._context.socket(zmq.PAIR)
        # Were this queue ever full, libzmq would wait for us, and we may be waiting for libzmq.
        monitor.setsockopt(zmq.RCVHWM, 0)
        monitor.connect(_MONITOR)
        self._monitor = Line(monitor)

    def towards(self, socket: zmq.Socket[bytes], key: bytes) -> None:
        """Before a socket is connected: it talks to the owner of this public key alone."""
        assert self._keys is not None
        socket.setsockopt(zmq.CURVE_SERVERKEY, key)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self._keys.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self._keys.secret)

    def admits(self, frames: Sequence[zmq.Frame]) -> bool:
        """Whether a message from the door, its identity in front, may go on; counted if not."""
        identity = frames[0].bytes
        reason = "" if self._keys is None else self._doubt(self._keys, frames, identity)
        if reason:
            self.refused[reason] += 1
        return not reason and self.admits_name(identity)

    def admits_name(self, identity: bytes) -> bool:
        """Whether there is room for a message of who is called so; counted if not."""
        has_room = self._has_room(identity)
        if not has_room:
            self.refused["too_many"] += 1
        return has_room

    def admits_from(self, peer: str) -> Admit | None:
        """The same for what comes from the peer that we connected to, so no identity in front."""
        if self._keys is None:
            return None

        def admits(frames: Sequence[zmq.Frame]) -> bool:
            if source_of(frames[0].buffer) in (None, peer):
                return True
            self.refused["wrong_name"] += 1
            return False

        return admits

    def _doubt(self, keys: Keys, frames: Sequence[zmq.Frame], identity: bytes) -> str:
        """What is wrong with who sent this message, or nothing."""
        owner = keys.owner(str(frames[0].get("User-Id")))
        if owner is None:
            return "unknown_key"
        try:
            name = identity.decode()
        except UnicodeDecodeError:
            return "wrong_name"
        if not may_claim(owner, name):
            return "wrong_name"
        if len(frames) > 1 and source_of(frames[1].buffer) not in (None, name):
            return "wrong_name"
        return ""

    def _has_room(self, identity: bytes) -> bool:
        """The machine's own processes are few, and no number of clients shall keep them out."""
        clients, now = self._clients, trio.current_time()
        if identity not in clients and _is_process(identity.decode(errors="replace")):
            return True
        if identity not in clients and len(clients) >= CLIENTS_MAX:
            if next(iter(clients.values())) > now - SILENT_SECONDS:
                return False
            clients.popitem(last=False)
        clients[identity] = now
        clients.move_to_end(identity)
        return True

    def start(self, nursery: trio.Nursery) -> None:
        """Answer libzmq, and listen to what it tells, for as long as the sockets are open."""
        if self._zap is not None:
            nursery.start_soon(self._answer, self._zap)
        if self._monitor is not None:
            nursery.start_soon(self._listen, self._monitor)

    async def _answer(self, zap: Line) -> None:
        """ZAP: may this key come in?"""
        async for frames in zap.messages():
            words = [bytes(frame) for frame in frames]
            code, user = self._judge(words)
            text = b"OK" if code == _WELCOME else b"refused"
            zap.put((_VERSION, words[1], code, text, user, b""))

    def _judge(self, words: list[bytes]) -> tuple[bytes, bytes]:
        """Status code and User-Id for a request of libzmq's own (RFC 27)."""
        assert self._keys is not None
        _, _, domain, _, _, mechanism, raw = words
        assert (domain, mechanism) == (_DOMAIN, b"CURVE"), f"asked about {domain!r}, {mechanism!r}"
        key = z85.encode(raw)
        if self._keys.owner(key.decode()) is None:
            self._keys.refresh()
        if self._keys.owner(key.decode()) is None:
            self.refused["unknown_key"] += 1
            return _NOT_NOW, b""
        return _WELCOME, key

    async def _listen(self, monitor: Line) -> None:
        """Connections that failed without a question to us."""
        async for frames in monitor.messages():
            event, _ = _EVENT.unpack(frames[0])
            self.refused["too_many" if event == _ACCEPT_FAILED else "no_key"] += 1

    def close(self) -> None:
        """Nobody is let in any more.  Before the door is closed."""
        if self._door is not None and not self._door.closed:
            # Or libzmq would wait for the other end of the monitor, which is closed next.
            self._door.disable_monitor()
        for line in (self._zap, self._monitor):
            if line is not None:
                line.close()


def may_claim(owner: str, name: str) -> bool:
    """Whether the owner of a key may say that it is ``name``.

    A process of the machine is who its key is of.  Clients make up a name for each connection,
    which may be any that is no process's.
    """
    return name == owner or not (_is_process(owner) or _is_process(name))


def _is_process(name: str) -> bool:
    return peer_label(name) != Role.CLIENT.value
