"""``numalab export``: what has happened, as tables (CSV) and as a trace for ui.perfetto.dev.

docs/terminal.md has the columns.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from coordinator.records import PagesCommitted
from numalab import rundirectory
from numalab.console import Answer, CommandFailed, Exit
from numalab.journal_text import describe
from numalab.locate import MachineUnreachable, read_machine
from numalab.machine import connect
from numalab.observing_commands import decoded
from numalab.stress_events import FAULT_EVENTS, TRACE, read_happenings
from numalab.stress_log import word_of
from numalab.stress_verdict import HISTORY
from numalab.stress_worker import PAGE_WORDS
from numalab.trace_events import TraceEvent, trace_document
from numalab.trace_text import TraceLine, migration_events, read_trace
from protocol.live.journal_copy import copied
from protocol.schema import Message

JOURNAL_COLUMNS = ("seq", "entry", "pid", "source", "target", "node", "pages", "text")
MIGRATION_COLUMNS = ("seconds", "comm", "pid", "cpu", "event", "fields")
CALL_COLUMNS = ("process", "name", "start_ns", "end_ns", "details")
OPERATION_COLUMNS = ("client", "kind", "space", "page", "word", "value", "start_ns", "end_ns")
#: Files, and the rows of each.
Tables = Mapping[str, tuple[Sequence[str], Iterable[Sequence[Any]]]]
Row = Sequence[Any]

NO_TIMES = (
    "The coordinator does not answer, and the journal has no times: only journal.csv was written."
)


async def export_machine(run_directory: Path, tables: Path | None, trace: Path | None) -> Answer:
    """A local machine: its journal, which has no times, and the trace that it keeps, which has."""
    read_machine(run_directory)
    lines: list[TraceLine] | None = None
    with suppress(MachineUnreachable):
        async with connect(run_directory) as machine:
            text, _ = await machine.trace()
            lines = list(read_trace(text))
    if lines is None and trace is not None:
        raise CommandFailed(
            "The coordinator does not answer, and the journal has no times, so there is no trace: "
            "start it with 'numalab restart', or leave out --trace.",
            Exit.UNREACHABLE,
        )
    journal = (JOURNAL_COLUMNS, _journal_rows(run_directory / rundirectory.JOURNAL))
    files: dict[str, tuple[Sequence[str], Iterable[Row]]] = {"journal.csv": journal}
    if lines is not None:
        files["migrations.csv"] = (MIGRATION_COLUMNS, map(_migration_row, lines))
    answer = write(files, migration_events(lines or ()), tables, trace)
    if lines is None:
        return Answer(answer.text, answer.document, Exit.PARTLY, NO_TIMES)
    return answer


def export_stress(directory: Path, tables: Path | None, trace: Path | None) -> Answer:
    """The results of ``numalab stress``."""
    if not (directory / "verdict.json").exists():
        raise CommandFailed(
            f"{directory} has no results of a stress: give the directory that 'numalab stress' "
            "named."
        )
    lines = list(read_trace(_text(directory / TRACE)))
    files: dict[str, tuple[Sequence[str], Iterable[Row]]] = {
        "calls.csv": (CALL_COLUMNS, _call_rows(directory)),
        "migrations.csv": (MIGRATION_COLUMNS, map(_migration_row, lines)),
        "operations.csv": (OPERATION_COLUMNS, _operation_rows(directory / HISTORY)),
    }
    if (directory / rundirectory.JOURNAL).exists():
        journal = _journal_rows(directory / rundirectory.JOURNAL)
        files["journal.csv"] = (JOURNAL_COLUMNS, journal)
    events = [*migration_events(lines), *_call_events(directory)]
    return write(files, events, tables, trace)


def write(
    files: Tables, events: Iterable[TraceEvent], tables: Path | None, trace: Path | None
) -> Answer:
    """Write what is asked for; says each file and its rows.  Raises CommandFailed."""
    written: dict[str, int] = {}
    try:
        if tables is not None:
            tables.mkdir(parents=True, exist_ok=True)
            for name, (columns, rows) in files.items():
                written[str(tables / name)] = _write_table(tables / name, columns, rows)
        if trace is not None:
            document = trace_document(events)
            trace.write_text(json.dumps(document))
            written[str(trace)] = len(document["traceEvents"])
    except OSError as error:
        raise CommandFailed(
            f"{error.filename} cannot be written ({error.strerror}): give another place."
        ) from None
    text = "".join(f"{path}: {count} rows\n" for path, count in written.items())
    return Answer(text, {"files": written})


def _write_table(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> int:
    count = 0
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow(row)
            count += 1
    return count


# ---- rows ----------------------------------------------------------------------------------


def _journal_rows(path: Path) -> Iterator[Row]:
    with copied(path) as rows:
        for seq, raw in rows:
            yield _journal_row(seq, decoded(seq, raw))


def _journal_row(seq: int, entry: Message) -> Row:
    """pages: how many the entry names, if it names any."""
    pid = getattr(entry, "pid", "")
    source = getattr(entry, "source", "") if isinstance(entry, PagesCommitted) else ""
    target = getattr(entry, "target", "") if isinstance(entry, PagesCommitted) else ""
    node = getattr(entry, "nid", "")
    columns = (getattr(entry, name, None) for name in ("pfn", "page", "index"))
    pages = next((column.size for column in columns if isinstance(column, np.ndarray)), "")
    node = "" if isinstance(node, np.ndarray) else node
    return seq, type(entry).__name__, pid, source, target, node, pages, describe(entry)


def _migration_row(line: TraceLine) -> Row:
    fields = " ".join(f"{name}={value}" for name, value in line.fields.items())
    return f"{line.seconds:.6f}", line.comm, line.pid, line.cpu, line.event, fields


def _call_rows(directory: Path) -> Iterator[Row]:
    for path in _events_of(directory):
        for each in read_happenings(path):
            yield path.stem, each.name, each.start, each.end or "", json.dumps(each.details)


def _call_events(directory: Path) -> Iterator[TraceEvent]:
    """Calls on a track of their client; faults of processes on one of theirs."""
    for path in _events_of(directory):
        for each in read_happenings(path):
            process, lane = path.stem, "calls"
            if path.name == FAULT_EVENTS:
                process, lane = "faults", str(each.details.get("process", "all"))
            duration = (each.end - each.start) / 1e9 if each.end else None
            yield TraceEvent(each.start / 1e9, process, lane, each.name, duration, each.details)


def _events_of(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.events"))


def _operation_rows(path: Path) -> Iterator[Row]:
    """A row for each word that was loaded or stored."""
    if not path.exists():
        return
    with np.load(path) as history:
        names = ("who", "is_store", "key", "value", "start", "end")
        columns = [history[name].tolist() for name in names]
    for who, is_store, key, value, start, end in zip(*columns, strict=True):
        space, place = word_of(key)
        page, word = divmod(place, PAGE_WORDS)
        kind = "store" if is_store else "load"
        yield who + 1, kind, space, page, word, value, start, end


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""
