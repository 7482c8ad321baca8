"""Figure 9: how much memory the bookkeeping of a page takes.

A small machine and a large one are measured in the same way: what a process has more in the large
one is its bookkeeping, for what a move needs for itself does not grow with the machine.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from coordinator.mem_map import MemMap
from coordinator.mm import Mapping, Vma
from nodes.free_area import BLOCK
from nodes.layout import FRAME_BYTES
from numalab.bench.lab import lab_of
from numalab.bench.scale import Start, page_size_for
from protocol.schema import COORDINATOR, node_name

#: The small machine is large enough to have several chunks under way, as the large one has.
FEW = 32_768
LEAST = 8 * FEW
MOVES = 5
PROCESSES = {"coordinator": COORDINATOR, "node": node_name(1)}


async def measure(start: Start) -> None:
    """Growth between the two machines; beside it, what the arrays alone take."""
    pages, few = max(start.scale.frames // 2, LEAST), FEW
    size = page_size_for(3 * pages)
    small, large = await _anonymous(few, size), await _anonymous(pages, size)
    # The columns of a node's zone are in its file, beside the pages, and not anonymous.
    elsewhere = {"coordinator": 0, "node": FRAME_BYTES}
    frames = {"coordinator": 2 * (pages - few), "node": pages - few}
    for name in PROCESSES:
        grown = (large[name] - small[name]) / frames[name]
        start.readings.add(9, grown + elsewhere[name], name)
    start.readings.beside(
        9,
        coordinator_arrays=_coordinator_arrays(),
        node_arrays=FRAME_BYTES + np.dtype(np.intp).itemsize / BLOCK,
    )


async def _anonymous(pages: int, page_size: int) -> dict[str, int]:
    """Anonymous memory (bytes) of a process of each kind, after all pages of a node have moved."""
    async with lab_of(pages, page_size=page_size, spare=0) as lab:
        task, _ = await lab.touched(pages)
        # Until what moves need for themselves is there in full, on either machine.
        for turn in range(MOVES):
            await lab.move(task, turn % 2, pages)
        pids = {row.name: row.pid for row in lab.processes}
        return {kind: _rss_anon(pids[name]) for kind, name in PROCESSES.items()}


def _coordinator_arrays() -> float:
    """Bytes of arrays for a frame and for the page-table entry that names it."""
    pages = 1024
    vma = Vma(0, pages, 0, 0, "", 0, Mapping(1, shared=False))
    entries = vma.nid.nbytes + vma.pfn.nbytes + vma.bits.nbytes
    return (MemMap(pages).nbytes + entries) / pages


def _rss_anon(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    kib = next(line.split()[1] for line in lines if line.startswith("RssAnon:"))
    return int(kib) * 1024
