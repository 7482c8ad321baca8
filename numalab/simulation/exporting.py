"""A seed of the simulator as tables and as a trace: every note and every message, with its time."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from numalab.console import Answer, Exit
from numalab.export import write
from numalab.simulation.happening import Packet
from numalab.simulation.seeds import Run, plan_of
from numalab.simulation.world import World
from numalab.trace_events import MESSAGE_SECONDS, TraceEvent
from protocol.codec import WireError, decode
from protocol.notes import (
    EntriesGone,
    FaultServed,
    MigrationEnded,
    Note,
    OperationEnded,
    SyscallEnded,
)

NOTE_COLUMNS = ("seconds", "process", "note", "fields")
MESSAGE_COLUMNS = ("number", "seconds", "source", "target", "message", "arrived", "fate")
MIGRATION_COLUMNS = ("start_seconds", "seconds", "moved", "failed", "reason")
FAULT_COLUMNS = ("seconds", "process", "fault")


def export_seed(seed: int, tables: Path | None, trace: Path | None, *, crashes: bool) -> Answer:
    """Run a seed to its end, as it is, and write down what happened.

    1 if it failed, and then the files tell of it up to that moment.
    """
    run = Run(plan_of(seed, crashes=crashes))
    ended, code = "it ended well", Exit.DONE
    try:
        run.to_the_end()
    except Exception as error:  # What a Core raises is what the files are wanted for.
        ended, code = str(error), Exit.FAILED
    world = run.world
    files = {
        "notes.csv": (NOTE_COLUMNS, _note_rows(world)),
        "messages.csv": (MESSAGE_COLUMNS, _message_rows(world)),
        "migrations.csv": (MIGRATION_COLUMNS, _migration_rows(world)),
        "faults.csv": (FAULT_COLUMNS, _fault_rows(world)),
    }
    answer = write(files, world_events(world), tables, trace)
    text = f"seed {seed}: {ended}\n{answer.text}"
    return Answer(text, {"seed": seed, "ended": ended, **answer.document}, code)


# ---- tables --------------------------------------------------------------------------------


def _note_rows(world: World) -> Iterator[Sequence[Any]]:
    for seconds, name, note in world.notes:
        yield f"{seconds:.6f}", name, type(note).__name__, json.dumps(_fields(note))


def _migration_rows(world: World) -> Iterator[Sequence[Any]]:
    for seconds, _, note in world.notes:
        if isinstance(note, MigrationEnded):
            start = f"{seconds - note.seconds:.6f}"
            yield start, f"{note.seconds:.6f}", note.moved, note.failed, note.reason


def _fault_rows(world: World) -> Iterator[Sequence[Any]]:
    for seconds, name, what in world.incidents:
        yield f"{seconds:.6f}", name, what


def _message_rows(world: World) -> Iterator[Sequence[Any]]:
    for packet in world.packets:
        arrived = " ".join(f"{time:.6f}" for time in packet.arrived)
        place = packet.source, packet.target, _name(world, packet)
        yield packet.number, f"{packet.sent:.6f}", *place, arrived, packet.fate


# ---- events --------------------------------------------------------------------------------


def world_events(world: World) -> Iterable[TraceEvent]:
    """A process for each process; notes, calls, migrations and messages on lanes of it."""
    for seconds, name, note in world.notes:
        yield _note_event(seconds, name, note)
        if isinstance(note, MigrationEnded):
            start = seconds - note.seconds
            args = {"reason": note.reason}
            yield TraceEvent(start, name, "notes", "mm_migrate_pages_start", args=args)
    for seconds, name, what in world.incidents:
        yield TraceEvent(seconds, name, "faults", what)
    for packet in world.packets:
        yield from _message_events(world, packet)


def _note_event(seconds: float, name: str, note: Note) -> TraceEvent:
    """What says how long it took is a slice that ends now."""
    args = _fields(note)
    took: float | None = getattr(note, "seconds", None)
    match note:
        case MigrationEnded():
            lane, title = "migrations", "mm_migrate_pages"
            args = {"nr_succeeded": note.moved, "nr_failed": note.failed, "reason": note.reason}
        case SyscallEnded():
            lane, title = "system calls", f"sys_{note.call}"
        case EntriesGone():
            lane, title = "migration entries", "remove_migration_ptes"
        case FaultServed() if note.seconds:
            lane, title = "faults that waited", "handle_mm_fault"
        case _:
            return TraceEvent(seconds, name, "notes", type(note).__name__, args=args)
    assert took is not None
    return TraceEvent(seconds - took, name, lane, title, took, args)


def _message_events(world: World, packet: Packet) -> Iterator[TraceEvent]:
    title = _name(world, packet)
    args = {"number": packet.number, "to": packet.target, "fate": packet.fate}
    if not packet.arrived:
        fate = f"{title}: {packet.fate}"
        yield TraceEvent(packet.sent, packet.source, "faults", fate, args=args)
        return
    # An arrow ends once, so only the first copy has one.
    flow = packet.number + 1
    yield TraceEvent(packet.sent, packet.source, "sent", title, MESSAGE_SECONDS, args, flow=flow)
    for place, time in enumerate(packet.arrived):
        came = {"number": packet.number, "from": packet.source, "fate": packet.fate}
        arrow = flow if not place else 0
        yield TraceEvent(
            *(time, packet.target, "received", title, MESSAGE_SECONDS, came),
            flow=arrow,
            arrives=True,
        )


def _name(world: World, packet: Packet) -> str:
    try:
        _, message = decode(packet.frames, world.key)
    except WireError:
        return "unreadable"
    return "refusal" if message is None else type(message).__name__


def _fields(note: Note) -> dict[str, Any]:
    """As JSON has them; what an order gave is told by its kind."""
    if isinstance(note, OperationEnded):
        error = note.result if isinstance(note.result, OSError) else None
        number = 0 if error is None else error.errno or 0
        kind = type(note.result).__name__
        return {"ticket": note.ticket, "result": kind, "errno": errno.errorcode.get(number, "")}
    return asdict(note)
