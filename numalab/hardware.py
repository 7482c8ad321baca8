"""What numactl(8) and numastat(8) say of a machine, in their format (numactl 2.0.16).

Each text is made of answers of the coordinator and ends with a newline.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from protocol.nodemask import format_nodes
from protocol.syscalls import Hardware

MIB = 1 << 20
#: The counters of a node, in the order of numastat (K 6.6).
COUNTERS = (
    "numa_hit",
    "numa_miss",
    "numa_foreign",
    "interleave_hit",
    "local_node",
    "other_node",
)
#: The rows of ``numastat -p``; a vma is in the first one that it matches, else private.
KINDS = ("Huge", "Heap", "Stack", "Private")
_NODE_PAGES = re.compile(r" N(\d+)=(\d+)")


def hardware_text(hardware: Hardware) -> str:
    """``numactl --hardware``; sizes in MB of 2**20 bytes."""
    nids = hardware.nid.tolist()
    lines = [f"available: {len(nids)} nodes ({format_nodes(nids)})"]
    rows = zip(nids, hardware.cpus, hardware.frames, hardware.free, strict=True)
    for nid, cpus, frames, free in rows:
        lines.append(f"node {nid} cpus:" + "".join(f" {cpu}" for cpu in cpus))
        lines.append(f"node {nid} size: {int(frames) * hardware.page_size // MIB} MB")
        lines.append(f"node {nid} free: {int(free) * hardware.page_size // MIB} MB")
    lines.append("node distances:")
    lines.append("node " + "".join(f"{nid: 3d} " for nid in nids))
    distances = hardware.distance.reshape(len(nids), len(nids)).tolist()
    for nid, row in zip(nids, distances, strict=True):
        lines.append(f"{nid: 3d}: " + "".join(f"{distance: 3d} " for distance in row))
    return "\n".join(lines) + "\n"


def numastat_text(hardware: Hardware) -> str:
    """``numastat``: a column for each node, a row for each counter, in pages."""
    lines = [" " * 16 + "".join(f"{f'node{nid}':>16}" for nid in hardware.nid.tolist())]
    for name in COUNTERS:
        lines.append(f"{name:<16}" + "".join(f"{int(n):16d}" for n in getattr(hardware, name)))
    return "\n".join(lines) + "\n"


def process_pages(numa_maps: str, nids: Sequence[int]) -> npt.NDArray[np.int64]:
    """Pages of a task by kind (huge, heap, stack, private) and node: shape (4, len(nids))."""
    column = {nid: place for place, nid in enumerate(nids)}
    pages = np.zeros((len(KINDS), len(nids)), np.int64)
    for line in numa_maps.splitlines():
        words = line.split()
        kind = next((row for row, name in enumerate(KINDS) if name.lower() in words), 3)
        for nid, count in _NODE_PAGES.findall(line):
            pages[kind, column[int(nid)]] += int(count)
    return pages


def process_numastat_text(
    pid: int, comm: str, numa_maps: str, nids: Sequence[int], page_size: int
) -> str:
    """``numastat -p PID``; sizes in MB of 2**20 bytes."""
    pages = process_pages(numa_maps, nids)
    table = np.column_stack([pages, pages.sum(axis=1)]) * page_size / MIB
    dashes = "".join(f" {'-' * 15}" for _ in range(len(nids) + 1))
    heads = [*(f"Node {nid}" for nid in nids), "Total"]
    lines = [
        "",
        f"Per-node process memory usage (in MBs) for PID {pid} ({comm})",
        " " * 17 + "".join(f"{head:>16}" for head in heads),
        " " * 17 + dashes,
    ]
    lines += [_megabytes(name, row) for name, row in zip(KINDS, table.tolist(), strict=True)]
    lines.append(f"{'-' * 16} " + dashes)
    lines.append(_megabytes("Total", table.sum(axis=0).tolist()))
    return "\n".join(lines) + "\n"


def _megabytes(name: str, row: Sequence[float]) -> str:
    return f"{name:<17}" + "".join(f"{value:16.2f}" for value in row)
