"""Migration jobs and plans as a person and a program read them."""

from __future__ import annotations

import errno
from typing import Any

from numalab.job_rows import JobRow, Plan
from numalab.rate import format_bytes, short_rate
from protocol.jobs import Fate, JobState, Wish
from protocol.nodemask import format_nodes

_HEAD = " JOB  PID STATE     NODES      PAGES DONE     RATE    LIMIT   ETA RETRIES STAYED"
_ASKED = {Wish.PAUSE: "pausing", Wish.CANCEL: "ending"}
ENDED = (JobState.DONE, JobState.FAILED, JobState.CANCELLED, JobState.LOST)

FATES = {
    Fate.MOVES: "move",
    Fate.BUSY: "stay: another migration or a copy-on-write has them now",
    Fate.SHARED: "stay: other tasks map them too, and only the privileged move those",
    Fate.LOCKED: "stay: they are mlocked",
    Fate.SPECIAL: "stay: no migration looks into a mapping of this kind",
    Fate.OWN_METHOD: "up to the vm_ops->migrate of their mapping",
    Fate.REFUSED: "stay: the migratepage method of their object refuses",
}


def jobs_text(rows: list[JobRow]) -> str:
    """A line for each job; 80 columns."""
    return "\n".join([_HEAD, *(_line(row) for row in rows)]) + "\n"


def state_of(row: JobRow) -> str:
    """One word: its state, or what was asked of it and has yet to come."""
    if not row.job:
        return "call"
    paused = row.wish == Wish.PAUSE and row.state == JobState.PAUSED
    heeded = row.wish == Wish.RUN or paused or row.state in ENDED
    return row.state.name.lower() if heeded else _ASKED[row.wish]


def _line(row: JobRow) -> str:
    number = str(row.job) if row.job else "-"
    sources, targets = (sorted({pair[at] for pair in row.pairs}) for at in (0, 1))
    nodes = f"{format_nodes(sources)}>{format_nodes(targets)}" if row.pairs else "-"
    done = f"{100 * row.settled // row.total}%" if row.total else "-"
    rate = short_rate(row.rate) if row.rate else "-"
    limit = short_rate(row.rate_limit) if row.rate_limit else "-"
    eta = "-" if row.eta is None or row.state in ENDED else _time(row.eta)
    return (
        f"{number:>4} {row.pid:4} {state_of(row):9} {nodes:7} {row.total:8} {done:>4} {rate:>8} "
        f"{limit:>8} {eta:>5} {row.retries:7} {_stayed(row):>6}"
    )


def _time(seconds: float) -> str:
    """Five columns."""
    for unit, size in (("s", 1), ("m", 60), ("h", 3600)):
        if seconds / size < 99.95:
            return f"{seconds / size:.1f}{unit}"
    return f"{seconds / 86400:.0f}d"


def _stayed(row: JobRow) -> str:
    """Pages not moved, or why it failed."""
    if row.state == JobState.DONE:
        return str(row.result)
    return errno.errorcode.get(-row.result, "-") if row.state == JobState.FAILED else "-"


def row_document(row: JobRow) -> dict[str, Any]:
    """For --json; of a call of another kind the number is null."""
    return {
        "job": row.job or None,
        "pid": row.pid,
        "caller": row.caller,
        "kind": "job" if row.job else "call",
        "state": row.state.name.lower(),
        "wish": row.wish.name.lower(),
        "pairs": [list(pair) for pair in row.pairs],
        "total": row.total,
        "settled": row.settled,
        "moved": row.moved,
        "retries": row.retries,
        "rate_limit": row.rate_limit or None,
        "rate": row.rate or None,
        "seconds": row.seconds,
        "eta": row.eta,
        "result": row.result if row.state in ENDED else None,
    }


def plan_lines(found: Plan, page_size: int, seconds: float | None) -> list[str]:
    """The rows of a plan, and what they come to; seconds: how long it would take."""
    lines = ["         ADDRESS FROM   TO    PAGES  WHAT BECOMES OF THEM"]
    for row in found.rows:
        name = f"  ({row.name})" if row.name else ""
        lines.append(
            f"{row.start:16x} {row.source:4} {row.target:4} {row.pages:8}  {FATES[row.fate]}{name}"
        )
    moving = found.pages(Fate.MOVES)
    others = sum(row.pages for row in found.rows) - moving
    told = f"in all {moving} pages would move, {format_bytes(moving * page_size)}"
    if others:
        told += f", and {others} not"
    if seconds is not None:
        told += f", in about {seconds:.1f} s"
    return [*lines, f"{told}; nothing was changed."]
