"""The lines of ``numalab trace`` read back: migrations with their times.  Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from numalab.trace_events import TraceEvent
from protocol.schema import COORDINATOR

_LINE = re.compile(r" *(\S.*?)-(\d+) +\[(\d+)\] \S+ +(\d+\.\d+): (\w+): (.*)")
_PAIR = re.compile(r"(\w+)=(\S+)")
START, END = "mm_migrate_pages_start", "mm_migrate_pages"


@dataclass(frozen=True, slots=True)
class TraceLine:
    """One line: seconds, who called, on which cpu, the tracepoint and its fields."""

    seconds: float
    comm: str
    pid: int
    cpu: int
    event: str
    fields: dict[str, str]


def read_trace(text: str) -> Iterator[TraceLine]:
    """The lines that can be read."""
    for line in text.splitlines():
        found = _LINE.fullmatch(line)
        if found:
            comm, pid, cpu, seconds, event, fields = found.groups()
            told = dict(_PAIR.findall(fields))
            yield TraceLine(float(seconds), comm, int(pid), int(cpu), event, told)


def migration_events(lines: Iterable[TraceLine]) -> Iterator[TraceEvent]:
    """A slice for each migration; a moment where the profile traces no start (as the seed)."""
    started: dict[int, TraceLine] = {}
    for line in lines:
        args = {"comm": line.comm, "caller": line.pid, "cpu": line.cpu, **_numbers(line.fields)}
        if line.event == START:
            started[line.pid] = line
            yield TraceEvent(line.seconds, COORDINATOR, "tracepoints", START, args=args)
            continue
        # A start and its end are written together, so they are neighbours.
        start = started.pop(line.pid, None)
        if start is None:
            yield TraceEvent(line.seconds, COORDINATOR, "tracepoints", line.event, args=args)
        else:
            duration = max(0.0, line.seconds - start.seconds)
            yield TraceEvent(start.seconds, COORDINATOR, "migrations", line.event, duration, args)


def _numbers(fields: dict[str, str]) -> dict[str, int | str]:
    return {name: int(text) if text.isdecimal() else text for name, text in fields.items()}
