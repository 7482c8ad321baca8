"""Bare zmq sockets of people who keep none of our rules, with keys of their choice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import zmq
from zmq.auth import load_certificate

from protocol.codec import Envelope, Kind, encode
from protocol.live.keys import Keys
from protocol.messages import Hello
from protocol.schema import MESSAGES

HELLO = next(row.opcode for row in MESSAGES.values() if row.cls is Hello)


@dataclass(frozen=True)
class Pair:
    """A key of CURVE, both halves in Z85."""

    public: bytes
    secret: bytes

    @classmethod
    def new(cls) -> Pair:
        """One that nobody knows."""
        return cls(*zmq.curve_keypair())

    @classmethod
    def of(cls, keys: Keys) -> Pair:
        return cls(keys.public, keys.secret)

    @classmethod
    def stolen(cls, path: str) -> Pair:
        """The one in this file of a secret key."""
        public, secret = load_certificate(path)
        assert secret is not None
        return cls(public, secret)


@contextmanager
def stranger(
    address: str, identity: bytes = b"", server: bytes = b"", pair: Pair | None = None
) -> Iterator[zmq.Socket[bytes]]:
    """A DEALER of nobody's; with CURVE if it has a pair, and then for this server."""
    context = zmq.Context()
    context.linger = 0
    try:
        bare = context.socket(zmq.DEALER)
        bare.setsockopt(zmq.SNDTIMEO, 20_000)
        if identity:
            bare.setsockopt(zmq.IDENTITY, identity)
        if pair is not None:
            bare.setsockopt(zmq.CURVE_SERVERKEY, server)
            bare.setsockopt(zmq.CURVE_PUBLICKEY, pair.public)
            bare.setsockopt(zmq.CURVE_SECRETKEY, pair.secret)
        bare.connect(address)
        yield bare
    finally:
        context.destroy(linger=0)


def hello(key: bytes, source: str, target: str) -> Sequence[bytes]:
    """The first question of a session, which everybody answers who takes it."""
    envelope = Envelope(key, Kind.QUESTION, HELLO, 1, 1, source, target, 1, 0, 0)
    return [bytes(frame) for frame in encode(envelope, Hello())]
