"""Figures 1 to 4 and 6: whole migrations, beside the same bytes through bare zmq and peers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import trio

from numalab.bench.lab import Lab, lab_of
from numalab.bench.peer import Peer, PeerFailed, started_peers
from numalab.bench.raw import Pair, carrying
from numalab.bench.readings import Readings
from numalab.bench.scale import Start
from protocol.topology import PAGE_SIZE

#: Which figure a peer is of, and which part of it.
PEER_FIGURES = {"redis": (3, ""), "dask": (4, "Dask"), "ray": (4, "Ray"), "mpi": (4, "MPI")}
NEIGHBOURS = (1, 3, 4, 6)
#: Half of the filler's pages move away, so these are the holes in between.
HOLES = 1.125
SETTLE_SECONDS = 0.2


async def measure(start: Start) -> None:
    """Neighbours first, alone and with each peer; then a target whose free frames are holes."""
    pages = start.scale.pages
    with carrying(pages * PAGE_SIZE) as raw:
        await trio.to_thread.run_sync(raw.go)
        if start.any_of(*NEIGHBOURS):
            async with lab_of(pages) as lab:
                await _neighbours(start, lab, raw)
        if start.any_of(2):
            async with lab_of(pages, spare=2 * HOLES - 1) as lab:
                await _scattered(start, lab, raw)


async def _neighbours(start: Start, lab: Lab, raw: Pair) -> None:
    pages, readings = start.scale.pages, start.readings
    task, address = await lab.filled(pages)
    turns = itertools.cycle((0, 1))
    for _ in range(start.scale.rounds if start.any_of(1, 6) else 0):
        bare = pages / await trio.to_thread.run_sync(raw.go)
        before = await lab.messages()
        moved = pages / await lab.move(task, next(turns), pages)
        readings.add(6, (await lab.messages() - before) / (pages / 1000))
        readings.add(1, moved / bare)
        readings.beside(1, moved=moved, bare=bare)
    # One at a time: some of them have a dozen processes that are never quite idle.
    for name in _peers_of(start):
        async with started_peers([name], pages, readings) as peers:
            for _ in range(start.scale.rounds):
                moved = pages / await lab.move(task, next(turns), pages)
                await _carry(peers, pages, moved, readings)
    await lab.check(task, address, pages)
    await task.exit()


async def _carry(peers: list[Peer], pages: int, moved: float, readings: Readings) -> None:
    """A round of each peer, beside a migration of ``moved`` pages a second; who fails is out."""
    for peer in peers.copy():
        number, part = PEER_FIGURES[peer.name]
        try:
            carried = pages / await trio.to_thread.run_sync(peer.go)
        except PeerFailed as failed:
            readings.note(number, str(failed))
            peers.remove(peer)
            continue
        readings.add(number, moved / carried, part)
        readings.beside(number, **{"moved": moved, peer.name: carried})
    if peers:
        # What they throw away afterwards is no part of the next round.
        await trio.sleep(SETTLE_SECONDS)


def _peers_of(start: Start) -> Sequence[str]:
    """Those that are named and belong to a wanted figure; of the others the figure says so."""
    for name in ("redis", "dask", "ray"):
        number, part = PEER_FIGURES[name]
        if start.any_of(number) and name not in start.peers:
            start.readings.note(number, f"{part or 'Redis'} was not named: --peers {name}.")
    return [name for name in start.peers if start.any_of(PEER_FIGURES[name][0])]


async def _scattered(start: Start, lab: Lab, raw: Pair) -> None:
    """A new task each round: after a move its frames lie in the order of its pages again."""
    pages, readings = start.scale.pages, start.readings
    draw = np.random.default_rng(start.number)
    await make_holes(lab, 2 * int(pages * HOLES), draw)
    for _ in range(start.scale.rounds):
        task, address = await lab.mapped(pages)
        await lab.touch_at_random(task, address, pages, draw)
        await lab.fill(task, address, pages)
        bare = pages / await trio.to_thread.run_sync(raw.go)
        moved = pages / await lab.move(task, 0, pages)
        readings.add(2, moved / bare)
        readings.beside(2, moved=moved, bare=bare)
        await lab.check(task, address, pages)
        await task.exit()


async def make_holes(lab: Lab, frames: int, draw: np.random.Generator) -> None:
    """Fill so many frames of node 1, and move half of these pages, drawn one by one, to node 0:
    what is free on node 1 then are holes of a frame or two all over it.
    """
    size = lab.machine.page_size
    filler = await lab.machine.spawn(cpu=1)
    address = await filler.mmap(frames * size)
    await lab.populate(filler, address, frames)
    drawn = np.sort(draw.permutation(frames)[: frames // 2]).astype(np.uint64)
    places = drawn * np.uint64(size) + np.uint64(address)
    await filler.move_pages(filler.pid, places, [0] * places.size)
