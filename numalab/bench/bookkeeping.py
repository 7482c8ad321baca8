"""How much memory the bookkeeping of a page takes, and how a large machine starts and moves.

Two machines are measured in the same way, a small one and a large one: what a process has more in
the large one is its bookkeeping, for what a move needs for itself does not grow with the machine.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from coordinator.mem_map import MemMap
from coordinator.mm import Mapping, Vma
from nodes.free_area import BLOCK
from nodes.layout import FRAME_BYTES
from numalab.cluster import local_cluster
from numalab.console import CommandFailed
from numalab.locate import read_machine
from numalab.task import Task
from protocol.schema import COORDINATOR, node_name

PAGE_SIZE = 4096
#: Pages of the vma that moves; each of the two nodes has just as many frames.
PAGES = 500_000
SMALL_PAGES = 32_768
PIECE = 16_384
START_GOAL_SECONDS = 10.0
#: At most so many bytes a page, for each kind of process.
BOOKKEEPING = {"coordinator": 40, "node": 64}


@dataclass(frozen=True, slots=True)
class _Measured:
    """One machine: seconds, and anonymous memory (bytes) of a process of each kind at the end."""

    frames: int
    start: float
    move: float
    resident: dict[str, int]


async def measure_memory() -> dict[str, Any]:
    """Bookkeeping bytes a page, by arrays and by resident growth, and seconds: a JSON object."""
    small, large = await _measure(SMALL_PAGES), await _measure(PAGES)
    arrays = {
        "coordinator": _coordinator_arrays(),
        "node": FRAME_BYTES + np.dtype(np.intp).itemsize / BLOCK,
    }
    # The columns of a node's zone are in its file, beside the pages, and not anonymous.
    elsewhere = {"coordinator": 0, "node": FRAME_BYTES}
    frames = {"coordinator": large.frames - small.frames, "node": PAGES - SMALL_PAGES}
    bookkeeping = {}
    for kind, goal in BOOKKEEPING.items():
        growth = large.resident[kind] - small.resident[kind]
        bookkeeping[kind] = {
            "array_bytes_per_page": round(arrays[kind], 1),
            "resident_bytes_per_page": round(growth / frames[kind] + elsewhere[kind], 1),
            "goal": goal,
        }
    return bookkeeping | {
        "frames": large.frames,
        "pages": PAGES,
        "start_seconds": round(large.start, 2),
        "start_goal_seconds": START_GOAL_SECONDS,
        "move_seconds": round(large.move, 2),
    }


async def _measure(pages: int) -> _Measured:
    """Start two nodes of ``pages`` frames each, fill the first, and move it all to the second.

    Raises CommandFailed if the contents are not what they were.
    """
    started = time.perf_counter()
    with TemporaryDirectory(prefix="numalab-bench-") as directory:
        async with local_cluster(2, pages * PAGE_SIZE, run_directory=directory) as machine:
            start = time.perf_counter() - started
            task = await machine.spawn()
            address = await task.mmap(pages * PAGE_SIZE)
            for first in range(0, pages, PIECE):
                data = _contents(first, min(PIECE, pages - first))
                await task.store(address + first * PAGE_SIZE, data.data.cast("B"))
            asked = time.perf_counter()
            left = await task.migrate_pages(task.pid, [0], [1])
            move = time.perf_counter() - asked
            if left:
                raise CommandFailed(
                    f"{left} of {pages} pages did not move from node 0: measure again."
                )
            await _check(task, address, pages)
            pids = {row.name: row.pid for row in read_machine(Path(directory)).processes}
            names = {"coordinator": COORDINATOR, "node": node_name(1)}
            resident = {kind: _anonymous(pids[name]) for kind, name in names.items()}
    return _Measured(2 * pages, start, move, resident)


def _contents(first: int, pages: int) -> npt.NDArray[np.uint64]:
    """Every word says which page it belongs to and where in the page."""
    page = np.arange(first, first + pages, dtype=np.uint64)[:, None] << np.uint64(16)
    words: npt.NDArray[np.uint64] = page | np.arange(PAGE_SIZE // 8, dtype=np.uint64)
    return words.reshape(-1)


async def _check(task: Task, address: int, pages: int) -> None:
    for first in range(0, pages, PIECE):
        wanted = _contents(first, min(PIECE, pages - first))
        loaded = await task.load(address + first * PAGE_SIZE, wanted.nbytes)
        if not np.array_equal(np.frombuffer(loaded, np.uint64), wanted):
            raise CommandFailed(
                f"A page from {first} on has other contents than before it was moved."
            )


def _coordinator_arrays() -> float:
    """Bytes of arrays for a frame and for the page-table entry that names it."""
    pages = 1024
    vma = Vma(0, pages, 0, 0, "", 0, Mapping(1, shared=False))
    entries = vma.nid.nbytes + vma.pfn.nbytes + vma.bits.nbytes
    return (MemMap(pages).nbytes + entries) / pages


def _anonymous(pid: int) -> int:
    """RssAnon of a process, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    kib = next(line.split()[1] for line in lines if line.startswith("RssAnon:"))
    return int(kib) * 1024
