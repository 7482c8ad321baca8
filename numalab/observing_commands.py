"""The commands that read counters, the trace and the journal; they know nothing of a command line.

Each gives an ``Answer``, or raises what ``console.explain`` makes a sentence of.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import trio

from numalab import rundirectory
from numalab.commands import Place
from numalab.console import Answer, CommandFailed, say
from numalab.emulation import Spent
from numalab.journal_text import describe, document, is_about
from numalab.locate import read_machine
from protocol.codec import WireError, decode_entry
from protocol.live.journal_copy import copied
from protocol.schema import Message

TRACE_SECONDS = 0.2


async def vmstat(place: Place) -> Answer:
    """The events that are counted; K 6.10 says which kernels have them in /proc/vmstat."""
    async with place.connected() as machine:
        events = await machine.vmstat()
    return Answer("".join(f"{name} {count}\n" for name, count in events.items()), events)


async def trace(place: Place, last: int | None, *, follow: bool) -> Answer:
    """The lines that are kept, the ``last`` of them; then those that come, if ``follow``."""
    async with place.connected() as machine:
        text, number = await machine.trace()
        lines = text.splitlines(keepends=True)
        text = "".join(lines if last is None else lines[len(lines) - min(last, len(lines)) :])
        while follow:
            say(text)
            await trio.sleep(TRACE_SECONDS)
            text, number = await machine.trace(number)
    return Answer(text)


async def emulated(place: Place) -> Answer:
    """Emulated time by node, by task and of the last migrations."""
    async with place.connected() as machine:
        told = await machine.emulated()
    lines = _table("NODE", told.nodes) + _table("TASK", told.tasks)
    if told.migrations:
        lines += [f"{'MIGRATED':<10}{'PAGES':>10}{'EMULATED':>12}{'WALL':>12}"]
    lines += [
        f"{f'task {row.pid}':<10}{row.pages:10}{row.emulated * 1e3:12.3f}{row.wall * 1e3:12.3f}"
        for row in told.migrations
    ]
    document = {
        "nodes": {str(nid): asdict(spent) for nid, spent in told.nodes.items()},
        "tasks": {str(pid): asdict(spent) for pid, spent in told.tasks.items()},
        "migrations": [asdict(row) for row in told.migrations],
    }
    return Answer("".join(f"{line}\n" for line in lines), document)


def journal(run_directory: Path, last: int | None, pid: int | None, *, as_json: bool) -> Answer:
    """What the journal of a local machine says, which may run; the ``last`` entries of it."""
    read_machine(run_directory)
    documents: list[dict[str, Any]] = []
    with copied(run_directory / rundirectory.JOURNAL) as rows:
        entries = ((seq, decoded(seq, raw)) for seq, raw in rows)
        told = (row for row in entries if pid is None or is_about(row[1], pid))
        for seq, entry in told if last is None else deque(told, maxlen=last):
            if as_json:
                documents.append(document(seq, entry))
            else:
                say(f"{seq:>8} {describe(entry)}\n")
    return Answer("", {"entries": documents})


def decoded(seq: int, raw: bytes) -> Message:
    """An entry of a journal.  Raises CommandFailed."""
    try:
        return decode_entry(raw)
    except WireError as error:
        raise CommandFailed(
            f"Entry {seq} of the journal is of no kind that is known here ({error}): use the "
            "version of numalab that wrote it."
        ) from None


def _table(head: str, rows: Mapping[int, Spent]) -> list[str]:
    names = ("load", "store", "fault", "migration")
    lines = [f"{head:<10}" + "".join(f"{name.upper():>12}" for name in (*names, "total", "wall"))]
    for key, spent in rows.items():
        times = [*(getattr(spent, name) for name in names), spent.total, spent.wall]
        lines.append(f"{key:<10}" + "".join(f"{time * 1e3:12.3f}" for time in times))
    return lines if rows else []
