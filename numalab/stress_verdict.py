"""The verdict of a stress: what was seen, held against what a machine may do, and one sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from coordinator.records import PagesCommitted
from numalab.checker import Finding, Verdict, invalid, unknown
from numalab.constants import MPOL_MF_MOVE
from numalab.faults import Schedule, format_fault
from numalab.linearizability import NEVER, Conflict, Operations, check_registers
from numalab.machine import Machine
from numalab.stress_log import history_of, read_log, word_of
from numalab.stress_worker import PAGE, PAGE_WORDS, SHARED, SPACES, Progress
from numalab.task import Task
from numalab.verify import check_frames
from protocol.codec import decode_entry
from protocol.live.journal import Journal
from protocol.schema import COORDINATOR

HISTORY = "history.npz"
#: Errors of loads and stores while nodes come and go.  EAGAIN stands for itself.
EXCUSED = ("EIO", "ENOMEM", "EAGAIN")
LOST = ("EHWPOISON", "EFAULT")
FINDINGS_TOLD = 20


@dataclass(slots=True)
class Counted:
    """What there was.  hits: of each fault of the schedule, with its kind."""

    progress: Progress = field(default_factory=lambda: Progress("work", 0, 0, 0, 0, {}, 0.0))
    hits: list[tuple[str, int]] = field(default_factory=list)
    restarts: Counter[str] = field(default_factory=Counter)
    vmstat: dict[str, int] = field(default_factory=dict)


# ---- the history ---------------------------------------------------------------------------


def check_history(directory: Path) -> list[Finding]:
    """All loads and stores of all clients; they are kept as one file, and their logs go."""
    logs = sorted(directory.glob("client-*.rows"), key=lambda path: int(path.stem.split("-")[1]))
    if not logs:
        return [unknown("No client has done anything.")]
    history = history_of([read_log(path) for path in logs])
    columns = {name: getattr(history, name) for name in Operations.__dataclass_fields__}
    np.savez_compressed(directory / HISTORY, **columns)
    for path in logs:
        path.unlink()
    return [explain(history, conflict) for conflict in check_registers(history)]


def explain(history: Operations, conflict: Conflict) -> Finding:
    """The smallest counter-example in words."""
    space, place = word_of(conflict.key)
    offset = f"word {place % PAGE_WORDS} of page {place // PAGE_WORDS}"
    owner, number = divmod(space, SPACES)
    where = f"private memory of client {owner}"
    if space == SHARED:
        where = "shared memory"
    elif number:
        where = f"memory of child {number} of client {owner}"
    zero = int(history.start.min())
    told = "; ".join(_tell(history, row, zero) for row in conflict.rows)
    sentence = f"In {where}, {offset}: {conflict.what}: {told}."
    return (invalid if conflict.definite else unknown)(sentence)


def _tell(history: Operations, row: int, zero: int) -> str:
    kind = "store of" if history.is_store[row] else "load gave"
    start, end = int(history.start[row]), int(history.end[row])
    until = "never answered" if end == NEVER else f"to {(end - zero) / 1e9:.6f} s"
    return (
        f"client {int(history.who[row]) + 1}'s {kind} {int(history.value[row]):#x} "
        f"({(start - zero) / 1e9:.6f} {until})"
    )


# ---- the machine at rest -------------------------------------------------------------------


async def check_machine(machine: Machine, tasks: Sequence[tuple[int, int, int]]) -> list[Finding]:
    """No load is under way: owners, frames, and what move_pages says of where pages are.

    tasks: pid, address and pages of an area of each.
    """
    findings = await check_frames(machine)
    for pid, base, pages in tasks:
        task = await machine.attach(pid)
        findings += await _check_move(machine, task, base, pages)
    return findings + await check_frames(machine)


async def _check_move(machine: Machine, task: Task, base: int, pages: int) -> list[Finding]:
    """Each page is where the status of move_pages says that it is."""
    addresses = [base + page * PAGE for page in range(pages)]
    nodes = [machine.nids[page % len(machine.nids)] for page in range(pages)]
    try:
        status = await task.move_pages(task.pid, addresses, nodes, MPOL_MF_MOVE)
    except FileNotFoundError:
        # None of the pages is there, or each is where it should be (K 4.12).
        return []
    space = await machine.address_space(task.pid)
    where = dict(zip(space.page.tolist(), space.page_node.tolist(), strict=True))
    return [
        invalid(
            f"move_pages said that {address:#x} of task {task.pid} is on node {said}, but it is "
            f"on node {where.get(address // PAGE)}.",
            task.pid,
            address,
        )
        for address, said in zip(addresses, status, strict=True)
        if said >= 0 and where.get(address // PAGE) != said
    ]


async def check_nothing_left(machine: Machine) -> list[Finding]:
    """The last task has exited: every frame is free."""
    findings = []
    for nid in machine.nids:
        zone = await machine.count_zone(nid)
        used = zone.frames - zone.free
        if used and not (await machine.tasks()).pid.size:
            findings.append(invalid(f"{used} frames of node {nid} outlive the last task."))
    return findings


def check_refusals(refused: Counter[str], *, zones_lost: bool) -> list[Finding]:
    """Loads and stores of memory that is mapped all the time fail for a reason or not at all."""
    excused = (*EXCUSED, *LOST) if zones_lost else EXCUSED
    return [
        invalid(f"{count} loads or stores of mapped memory were refused with {name}.")
        for name, count in sorted(refused.items())
        if name not in excused
    ]


async def check_journal(path: Path, counted: Counted) -> list[Finding]:
    """pgmigrate_success is what the journal has committed, if one coordinator wrote all of it."""
    if counted.restarts[COORDINATOR] or "pgmigrate_success" not in counted.vmstat:
        return []
    async with Journal(path) as journal:
        entries = await journal.read_all()
    moved = 0
    for entry in entries:
        told = decode_entry(entry)
        moved += told.pfn.size if isinstance(told, PagesCommitted) else 0
    said = counted.vmstat["pgmigrate_success"]
    if said == moved:
        return []
    return [invalid(f"pgmigrate_success is {said}, but the journal has {moved} pages moved.")]


# ---- in words ------------------------------------------------------------------------------


def summarize(
    result: Verdict,
    findings: Sequence[Finding],
    counted: Counted,
    schedule: Schedule,
    seconds: float,
) -> tuple[str, dict[str, object]]:
    """The sentence, and all of verdict.json."""
    made = counted.progress
    happened = Counter[str]()
    for kind, hits in counted.hits:
        happened[kind] += hits
    missed = [
        format_fault(fault)
        for fault, (_, hits) in zip(schedule, counted.hits, strict=False)
        if not hits
    ]
    worst = max(findings, key=lambda finding: finding.verdict, default=None)
    restarts = sum(counted.restarts.values())
    what = (
        f"{made.operations} loads and stores, {made.moves} migrations and {made.forks} forks in "
        f"{seconds:.0f} s, under {sum(happened.values())} faults with {restarts} restarts; "
        f"{made.indefinite} calls were indefinite"
    )
    reason = f" {worst.sentence}" if worst else ""
    sentence = f"{result.name.lower()}: {what}.{reason}"
    return sentence, {
        "verdict": result.name.lower(),
        "sentence": sentence,
        "findings": [finding.sentence for finding in findings[:FINDINGS_TOLD]],
        "seconds": round(seconds, 3),
        "operations": made.operations,
        "migrations": made.moves,
        "forks": made.forks,
        "indefinite": made.indefinite,
        "refused": made.refused,
        "longest_wait_seconds": round(made.longest, 3),
        "faults": dict(sorted(happened.items())),
        "faults_that_hit_nothing": missed,
        "restarts": dict(sorted(counted.restarts.items())),
        "vmstat": counted.vmstat,
    }
