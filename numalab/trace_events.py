"""Events on tracks, as a file that ui.perfetto.dev and chrome://tracing open.  Pure.

The format is the JSON of Chrome's Trace Event Format: an object with ``traceEvents``, each of which
has ph, ts (microseconds), pid, tid and name.  A process of ours is a process there, and what may
overlap in one is on lanes (threads) of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: How long a message's slice is at each end, in seconds: an arrow needs a slice to begin at.
MESSAGE_SECONDS = 1e-6


@dataclass(frozen=True, slots=True)
class TraceEvent:
    """Something on ``lane`` of ``process``, ``ts`` seconds after the clock's beginning.

    duration: seconds; None: it is a moment.  flow: the arrow that starts here, or that ends here
    (``arrives``); 0: none.
    """

    ts: float
    process: str
    lane: str
    name: str
    duration: float | None = None
    args: Mapping[str, Any] = field(default_factory=dict)
    flow: int = 0
    arrives: bool = False


def trace_document(events: Iterable[TraceEvent]) -> dict[str, Any]:
    """The whole file; times rise, and what overlaps without being nested is on lanes apart."""
    ordered = sorted(events, key=lambda event: (event.ts, -(event.duration or 0.0)))
    tracks = _Tracks()
    rows: list[dict[str, Any]] = []
    for event in ordered:
        rows += _rows(event, *tracks.place(event))
    rows.sort(key=lambda row: row["ts"])
    return {"traceEvents": [*tracks.names(), *rows], "displayTimeUnit": "ms"}


def _rows(event: TraceEvent, pid: int, tid: int) -> Iterator[dict[str, Any]]:
    place = {"ts": round(event.ts * 1e6, 3), "pid": pid, "tid": tid}
    row = {"name": event.name, **place, "cat": event.lane, "args": dict(event.args)}
    if event.duration is None:
        yield {"ph": "i", "s": "t", **row}
        return
    yield {"ph": "X", "dur": round(event.duration * 1e6, 3), **row}
    if event.flow:
        arrow = {"name": event.name, **place, "cat": event.lane, "id": event.flow}
        yield {"ph": "f", "bp": "e", **arrow} if event.arrives else {"ph": "s", **arrow}


class _Tracks:
    """Numbers of processes and lanes, in the order of their first event."""

    def __init__(self) -> None:
        self._processes: dict[str, int] = {}
        #: Ends of the slices that are open, outermost first, by process, lane, and its number.
        self._open: dict[tuple[str, str, int], list[float]] = {}
        self._threads: dict[tuple[str, str, int], int] = {}

    def place(self, event: TraceEvent) -> tuple[int, int]:
        pid = self._processes.setdefault(event.process, len(self._processes) + 1)
        number = 0
        while not self._fits(event, number):
            number += 1
        key = (event.process, event.lane, number)
        return pid, self._threads.setdefault(key, len(self._threads) + 1)

    def _fits(self, event: TraceEvent, number: int) -> bool:
        """It is after what is open on the lane, or all within it."""
        ends = self._open.setdefault((event.process, event.lane, number), [])
        while ends and ends[-1] <= event.ts:
            ends.pop()
        if event.duration is None:
            return True
        if ends and event.ts + event.duration > ends[-1]:
            return False
        ends.append(event.ts + event.duration)
        return True

    def names(self) -> Sequence[dict[str, Any]]:
        """What tells a viewer their names."""
        rows = [_named("process_name", pid, 0, process) for process, pid in self._processes.items()]
        for (process, lane, number), tid in self._threads.items():
            name = f"{lane} {number + 1}" if number else lane
            rows.append(_named("thread_name", self._processes[process], tid, name))
        return rows


def _named(what: str, pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "ts": 0, "pid": pid, "tid": tid, "name": what, "args": {"name": name}}
