"""The figures that other programs' benchmarks of page migration print, of the same calls.

migspeed of numactl, the selftest mm/migration.c of the kernel, and ``stress-ng --numa``; what each
runs and how it forms its figure is in docs/benchmarks.md.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

import trio

from numalab.bench.lab import Lab, lab_of
from numalab.bench.ratios import summarise
from numalab.bench.report import number
from numalab.bench.scale import Scale
from numalab.constants import MPOL_BIND, MPOL_DEFAULT, MPOL_MF_MOVE
from numalab.task import Task

MIGSPEED_PAGES = 1000
#: The selftest gives up after so many results in a row that say "not moved".
NOT_MOVED_MAX = 100
STRESS_BYTES = 4 << 20
STRESS_MOVES = 16
MIB = 1 << 20

_NODE = re.compile(r"\bN(\d+)=")


async def measure_tools(scale: Scale) -> dict[str, Any]:
    """A JSON object for each of the programs."""
    async with lab_of(STRESS_BYTES // 4096 * 4) as lab:
        return {
            "migspeed": await _migspeed(lab, scale.rounds),
            "migration.c": await _selftest(lab, scale.seconds),
            "stress-ng --numa": await _stress(lab, scale.seconds),
        }


def describe_tools(tools: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """In lines."""
    for program, figures in tools.items():
        said = ", ".join(f"{name} {number(value)}" for name, value in figures.items())
        yield f"as {program}: {said}"


async def _migspeed(lab: Lab, rounds: int) -> dict[str, float]:
    """1,000 dirty pages bound to a node; one mbind BIND MOVE to the other is timed."""
    size = lab.machine.page_size
    length = MIGSPEED_PAGES * size
    task, address = await lab.mapped(MIGSPEED_PAGES)
    await task.mbind(address, length, MPOL_BIND, [0])
    await task.store(address, b"\xaa" * length)
    times, messages = [], 0.0
    for turn in range(rounds):
        before = await lab.messages()
        began = time.perf_counter()
        await task.mbind(address, length, MPOL_BIND, [1 - turn % 2], MPOL_MF_MOVE)
        times.append(time.perf_counter() - began)
        messages += await lab.messages() - before
    await task.exit()
    seconds = summarise(times).median
    return {
        "Mbyte/s": length / MIB / seconds,
        "seconds": seconds,
        "pages/s": MIGSPEED_PAGES / seconds,
        "messages a page": messages / rounds / MIGSPEED_PAGES,
    }


async def _selftest(lab: Lab, seconds: float) -> dict[str, float]:
    """One page to and fro under a reader.  The kernel's fails at 100 "not moved" in a row."""
    task, address = await lab.mapped(1)
    await task.store(address, b"page")
    moves = row = longest_row = 0
    stalls: list[float] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_read_for_ever, task, address, stalls)
        began = time.perf_counter()
        while time.perf_counter() - began < seconds and row < NOT_MOVED_MAX:
            [status] = await task.move_pages(task.pid, [address], [1 - moves % 2])
            moved = status == 1 - moves % 2
            moves, row = moves + moved, 0 if moved else row + 1
            longest_row = max(longest_row, row)
        took = time.perf_counter() - began
        nursery.cancel_scope.cancel()
    await task.exit()
    return {
        "passed": float(row < NOT_MOVED_MAX),
        "migrations/s": moves / took,
        "longest run of not moved": longest_row,
        "longest stall of the reader, ms": max(stalls, default=0.0) * 1e3,
    }


async def _read_for_ever(task: Task, address: int, stalls: list[float]) -> None:
    while True:
        began = time.perf_counter()
        await task.load(address, 8)
        stalls.append(time.perf_counter() - began)


async def _stress(lab: Lab, seconds: float) -> dict[str, float]:
    """Policies, mbind, migrate_pages and 16 moves of a buffer; after each it looks where it is."""
    pages = STRESS_BYTES // lab.machine.page_size
    task, address = await lab.touched(pages)
    before = await lab.machine.vmstat()
    loops = checked = right = 0
    began = time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        await task.set_mempolicy(MPOL_BIND, [loops % 2])
        await task.set_mempolicy(MPOL_DEFAULT)
        await task.get_mempolicy()
        await task.mbind(address, STRESS_BYTES, MPOL_BIND, [0, 1], MPOL_MF_MOVE)
        await task.migrate_pages(task.pid, [0], [1])
        places = [address + page * lab.machine.page_size for page in range(pages)]
        for turn in range(STRESS_MOVES):
            await task.move_pages(task.pid, places, [turn % 2] * pages)
            checked += 1
            right += _first_node(await lab.machine.numa_maps(task.pid), address) == turn % 2
        loops += 1
    after = await lab.machine.vmstat()
    await task.exit()
    return {
        "bogo-ops/s": loops / took,
        "hits/s": (after["numa_hit"] - before["numa_hit"]) / took,
        "misses/s": (after["numa_miss"] - before["numa_miss"]) / took,
        "% on the specified node": 100 * right / checked,
    }


def _first_node(numa_maps: str, address: int) -> int:
    """The node that has pages of the mapping at this address."""
    line = next(line for line in numa_maps.splitlines() if line.startswith(f"{address:x} "))
    found = _NODE.search(line)
    return int(found[1]) if found else -1
