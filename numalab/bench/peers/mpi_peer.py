"""MPI: rank 0 sends messages of 256 pages, eight under way, and rank 1 has them land in place.

TCP only.  It does less than a migration: no sum, no page table, and nobody may touch the pages.
"""

from __future__ import annotations

import importlib
import time
from typing import Any

import numpy as np

from numalab.bench.peers.orders import PAGE_SIZE, obey, pages_wanted

MESSAGE_BYTES = 256 * PAGE_SIZE
WINDOW = 8
GO, END = 1, 0


def main() -> None:
    mpi: Any = importlib.import_module("mpi4py.MPI")
    world = mpi.COMM_WORLD
    arena = np.ones(pages_wanted() * PAGE_SIZE, np.uint8)
    pieces = [arena[at : at + MESSAGE_BYTES] for at in range(0, arena.size, MESSAGE_BYTES)]

    def each(start: Any) -> None:
        under_way: list[Any] = []
        for piece in pieces:
            if len(under_way) == WINDOW:
                under_way.pop(0).Wait()
            under_way.append(start(piece))
        for request in under_way:
            request.Wait()

    def carry() -> float:
        world.send(GO, 1)
        started = time.perf_counter()
        each(lambda piece: world.Isend(piece, 1))
        # It has all of them when it says so.
        world.recv(source=1)
        return time.perf_counter() - started

    if world.rank == 0:
        obey(carry)
        world.send(END, 1)
        return
    while world.recv(source=0) == GO:
        each(lambda piece: world.Irecv(piece, 0))
        world.send(GO, 0)


if __name__ == "__main__":
    main()
