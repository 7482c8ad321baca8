"""The zmq sockets of a transport: their options, and what libzmq says against them."""

from __future__ import annotations

import zmq

from protocol.live.line import FRAME_BYTES_MAX

_OPTIONS: tuple[tuple[int, int], ...] = (
    (zmq.LINGER, 0),
    (zmq.IPV6, 1),
    (zmq.MAXMSGSIZE, FRAME_BYTES_MAX),
    (zmq.HANDSHAKE_IVL, 3_000),
    # A peer that takes nothing in for so long: heartbeats would wait behind what it does not take.
    (zmq.TCP_MAXRT, 2_000),
    # A ROUTER waits for a DEALER's next heartbeat only if the last thing that came was one.
    (zmq.TCP_KEEPALIVE, 1),
    (zmq.TCP_KEEPALIVE_IDLE, 2),
    (zmq.TCP_KEEPALIVE_INTVL, 1),
    (zmq.TCP_KEEPALIVE_CNT, 2),
    # A heartbeat on a connection that takes nothing in any more, as its queue is full, aborts the
    # process (libzmq issues 3937, 4364, 4767).  So there is no limit: what honest peers have under
    # way is bounded by the windows of the session (docs/security.md says what others can do).
    (zmq.RCVHWM, 0),
)
#: Without MANDATORY a message to a full or unknown peer vanishes without a word; without HANDOVER
#: a peer that was restarted is ignored for as long as its old connection seems to live.  The old
#: connection takes nothing in from then on, and would be one that a heartbeat aborts at: so only
#: DEALERs send any.  (If its other end lived, libzmq keeps its descriptor until the socket closes.)
_ROUTER_OPTIONS = ((zmq.ROUTER_MANDATORY, 1), (zmq.ROUTER_HANDOVER, 1))
#: IMMEDIATE: nothing is queued for a connection that never came to be.
_DEALER_OPTIONS = (
    (zmq.IMMEDIATE, 1),
    (zmq.RECONNECT_IVL, 50),
    (zmq.RECONNECT_IVL_MAX, 1_000),
    (zmq.HEARTBEAT_IVL, 500),
    (zmq.HEARTBEAT_TIMEOUT, 2_000),
    (zmq.HEARTBEAT_TTL, 2_000),
)
_OF_KIND: dict[int, tuple[tuple[int, int], ...]] = {
    zmq.ROUTER: _ROUTER_OPTIONS,
    zmq.DEALER: _DEALER_OPTIONS,
}


def new_socket(context: zmq.Context[zmq.Socket[bytes]], kind: int, marks: int) -> zmq.Socket[bytes]:
    """A ROUTER or DEALER that queues about ``marks`` messages to each peer."""
    socket = context.socket(kind)
    for option, value in (*_OPTIONS, (zmq.SNDHWM, marks), *_OF_KIND[kind]):
        socket.setsockopt(option, value)
    return socket


def why(error: zmq.ZMQError) -> str:
    """libzmq's words; ``error.strerror`` adds the address, which the sentence has already."""
    return zmq.strerror(error.errno or 0)
