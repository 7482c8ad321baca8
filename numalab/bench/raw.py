"""What zmq alone can do here: two processes that carry pages, or questions and answers, and do
nothing else.  Every page of their memory is touched before anything is timed.
"""

from __future__ import annotations

import mmap
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

import numpy as np
import zmq

#: 1 MiB of pages of 4 KiB: the best that was found for bare zmq.
FRAME_BYTES = 1 << 20
#: Frames that zmq may queue at either end.
HIGH_WATER = 4
#: Of a question and of its answer.
ECHO_BYTES = 64

Orders: TypeAlias = "Connection[Any, Any]"


class Pair:
    """Two processes; ``go`` lets them do once what they are there for."""

    def __init__(
        self, serves: Callable[[Orders, int], None], uses: Callable[[Orders, int], None], size: int
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._serves, served = context.Pipe()
        self._uses, used = context.Pipe()
        self._processes = [
            context.Process(target=serves, args=(served, size), daemon=True),
            context.Process(target=uses, args=(used, size), daemon=True),
        ]
        for process in self._processes:
            process.start()
        self._uses.send(self._serves.recv())
        self._uses.recv()

    def go(self) -> float:
        """Once; seconds."""
        started = time.perf_counter()
        self._uses.send(True)
        self._serves.send(True)
        self._uses.recv()
        return time.perf_counter() - started

    def close(self) -> None:
        """End both processes."""
        for end in (self._serves, self._uses):
            end.send(False)
        for process in self._processes:
            process.join()


@contextmanager
def carrying(size: int) -> Iterator[Pair]:
    """A pair that carries ``size`` bytes: PUSH and PULL, TCP on the loopback, without a copy."""
    yield from _for_a_while(Pair(_push, _pull, size))


@contextmanager
def echoing(trips: int) -> Iterator[Pair]:
    """A pair that makes so many round trips of 64 bytes, one after the other, blocking."""
    yield from _for_a_while(Pair(_echo, _ask, trips))


def zmq_version() -> str:
    """Of libzmq."""
    return str(zmq.zmq_version())


def _for_a_while(pair: Pair) -> Iterator[Pair]:
    try:
        yield pair
    finally:
        pair.close()


# ---- the processes -------------------------------------------------------------------------


def _arena(size: int) -> memoryview:
    """Memory of which every page has been touched."""
    arena = memoryview(mmap.mmap(-1, size))
    np.frombuffer(arena, np.uint8)[:] = 1
    return arena


def _frames(arena: memoryview) -> Iterator[memoryview]:
    for start in range(0, arena.nbytes, FRAME_BYTES):
        yield arena[start : start + FRAME_BYTES]


def _push(orders: Orders, size: int) -> None:
    # An interrupt is for the parent, who then says that it is over.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    arena = _arena(size)
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.sndhwm = HIGH_WATER
        orders.send(socket.bind_to_random_port("tcp://127.0.0.1"))
        while orders.recv():
            for frame in _frames(arena):
                socket.send(frame, copy=False, track=False)


def _pull(orders: Orders, size: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    arena = _arena(size)
    with zmq.Context() as context, context.socket(zmq.PULL) as socket:
        socket.rcvhwm = HIGH_WATER
        socket.connect(f"tcp://127.0.0.1:{orders.recv()}")
        orders.send(True)
        while orders.recv():
            for frame in _frames(arena):
                socket.recv_into(frame)
            orders.send(True)


def _echo(orders: Orders, trips: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        orders.send(socket.bind_to_random_port("tcp://127.0.0.1"))
        while orders.recv():
            for _ in range(trips):
                socket.send_multipart(socket.recv_multipart())


def _ask(orders: Orders, trips: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.connect(f"tcp://127.0.0.1:{orders.recv()}")
        orders.send(True)
        question = bytes(ECHO_BYTES)
        while orders.recv():
            for _ in range(trips):
                socket.send(question)
                socket.recv()
            orders.send(True)
