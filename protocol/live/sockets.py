"""The zmq sockets of a transport: their options, and what libzmq says against them."""

from __future__ import annotations

import zmq

from protocol.live.line import FRAME_BYTES_MAX

#: A connection whose other end is gone without a word ends in two or three seconds: that is TCP's
#: task here, as libzmq's own heartbeats abort a process whose queue is full when its peer dies
#: (libzmq issues 3937 and 4364).
_OPTIONS: tuple[tuple[int, int], ...] = (
    (zmq.LINGER, 0),
    (zmq.IPV6, 1),
    (zmq.MAXMSGSIZE, FRAME_BYTES_MAX),
    (zmq.HANDSHAKE_IVL, 3_000),
    (zmq.TCP_KEEPALIVE, 1),
    (zmq.TCP_KEEPALIVE_IDLE, 1),
    (zmq.TCP_KEEPALIVE_INTVL, 1),
    (zmq.TCP_MAXRT, 2_000),
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
_OF_KIND: dict[int, tuple[tuple[int, int], ...]] = {
    zmq.ROUTER: _ROUTER_OPTIONS,
    zmq.DEALER: _DEALER_OPTIONS,
}


def new_socket(context: zmq.Context[zmq.Socket[bytes]], kind: int, marks: int) -> zmq.Socket[bytes]:
    """A ROUTER or DEALER that queues about ``marks`` messages for each peer."""
    socket = context.socket(kind)
    high_water = ((zmq.SNDHWM, marks), (zmq.RCVHWM, marks))
    for option, value in (*_OPTIONS, *high_water, *_OF_KIND[kind]):
        socket.setsockopt(option, value)
    return socket


def why(error: zmq.ZMQError) -> str:
    """libzmq's words; ``error.strerror`` adds the address, which the sentence has already."""
    return zmq.strerror(error.errno or 0)
