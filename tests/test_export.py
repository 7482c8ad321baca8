"""``numalab export`` and ``numalab sim --trace``: the tables hold what was counted, and the trace
keeps the rules of the format (Trace Event Format, JSON object form).
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from numalab import blocking, export
from numalab.cluster import running
from numalab.processes import end
from numalab.simulation.exporting import export_seed
from numalab.simulation.seeds import Run, plan_of
from numalab.stress import Options, stress
from numalab.stress_events import Happenings, read_happenings
from numalab.trace_events import TraceEvent, trace_document
from numalab.trace_text import migration_events, read_trace
from protocol.fault_schedule import parse_schedule
from protocol.notes import MigrationEnded, PagesMoved
from tests.live import Numalab

PAGE = 4096
#: A seed whose machine migrates, and one in which processes die as well.
SEED, CRASHES = 12, 5
MODERN_LINES = (
    "            work-7       [002] .....    10.500000: mm_migrate_pages_start: "
    "mode=MIGRATE_SYNC reason=syscall_or_cpuset\n"
    "            work-7       [002] .....    10.750000: mm_migrate_pages: nr_succeeded=5 "
    "nr_failed=2 mode=MIGRATE_SYNC reason=syscall_or_cpuset\n"
)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def check_trace(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rules that a viewer relies on; gives the events that are no names."""
    events: list[dict[str, Any]] = document["traceEvents"]
    named = {(e["pid"], e["tid"]) for e in events if e["name"] == "thread_name"}
    last, begun, open_ends = 0.0, Counter[int](), dict[tuple[int, int], list[float]]()
    for event in events:
        assert {"ph", "ts", "pid", "tid", "name"} <= event.keys()
        assert event["ph"] in "MXisf" and event["ts"] >= last, event
        last = event["ts"]
        place = (event["pid"], event["tid"])
        assert event["ph"] == "M" or place in named
        if event["ph"] == "X":
            ends = open_ends.setdefault(place, [])
            while ends and ends[-1] <= event["ts"] + 1e-3:
                ends.pop()
            # Slices of one thread are nested or apart.
            assert event["dur"] >= 0 and all(event["ts"] + event["dur"] <= e + 2e-3 for e in ends)
            ends.append(event["ts"] + event["dur"])
        elif event["ph"] in "sf":
            # An arrow begins once, before it ends, on a slice that is open.
            begun[event["id"]] += 1 if event["ph"] == "s" else -1
            assert begun[event["id"]] in (0, 1) and open_ends.get(place)
        elif event["ph"] == "i":
            assert event["s"] in "tpg"
    assert not +begun
    return [event for event in events if event["ph"] != "M"]


# ---- the format ----------------------------------------------------------------------------


def test_slices_that_overlap_are_on_lanes_apart_and_nested_ones_are_not() -> None:
    events = [
        TraceEvent(1.0, "coordinator", "calls", "outer", 4.0),
        TraceEvent(2.0, "coordinator", "calls", "inner", 1.0),
        TraceEvent(3.5, "coordinator", "calls", "across", 5.0),
        TraceEvent(9.0, "coordinator", "calls", "after", 1.0),
        TraceEvent(0.5, "node0", "notes", "moment", args={"pages": 3}),
    ]
    told = check_trace(trace_document(events))
    lanes = {event["name"]: event["tid"] for event in told}
    assert lanes["outer"] == lanes["inner"] == lanes["after"] != lanes["across"]
    assert told[0] == {
        "ph": "i",
        "s": "t",
        "name": "moment",
        "ts": 500_000.0,
        "pid": 1,
        "tid": 1,
        "cat": "notes",
        "args": {"pages": 3},
    }


def test_an_arrow_joins_two_slices() -> None:
    events = [
        TraceEvent(1.0, "node0", "sent", "CopyPages", 1e-6, flow=7),
        TraceEvent(2.0, "node1", "received", "CopyPages", 1e-6, flow=7, arrives=True),
    ]
    arrows = [e for e in check_trace(trace_document(events)) if e["ph"] in "sf"]
    assert [(e["ph"], e["id"], e["pid"]) for e in arrows] == [("s", 7, 1), ("f", 7, 2)]


def test_lines_of_the_trace_are_slices_where_the_start_is_traced() -> None:
    first, last = migration_events(read_trace(MODERN_LINES))
    assert (first.name, first.duration) == ("mm_migrate_pages_start", None)
    assert (last.name, last.ts, last.duration) == ("mm_migrate_pages", 10.5, 0.25)
    assert last.args["nr_succeeded"] == 5 and last.args["caller"] == 7
    (alone,) = migration_events(read_trace(MODERN_LINES.splitlines()[1]))
    assert (alone.ts, alone.duration) == (10.75, None)
    assert not list(read_trace("nothing of the kind\n"))


def test_a_line_that_a_killed_client_had_begun_is_left_out(tmp_path: Path) -> None:
    happenings = Happenings(tmp_path / "client-1.events")
    happenings.add("migrate", 5, 9, done=True)
    with (tmp_path / "client-1.events").open("a") as file:
        file.write('{"name":"mig')
    (only,) = read_happenings(tmp_path / "client-1.events")
    assert (only.name, only.start, only.end, only.details) == ("migrate", 5, 9, {"done": True})


# ---- the simulator -------------------------------------------------------------------------


def test_a_seed_as_tables_and_trace(numalab: Numalab, tmp_path: Path) -> None:
    trace, tables = tmp_path / "trace.json", tmp_path / "tables"
    said = numalab("sim", "--seed", SEED, "--trace", trace, "--csv", tables)
    assert said.code == 0 and f"seed {SEED}: it ended well" in said.out
    run = Run(plan_of(SEED))
    run.to_the_end()
    notes = [note for _, _, note in run.world.notes]
    counters = run.cluster.memory.counters
    migrations = rows_of(tables / "migrations.csv")
    assert sum(int(row["moved"]) for row in migrations) == counters.pgmigrate_success > 0
    assert sum(int(row["failed"]) for row in migrations) == counters.pgmigrate_fail
    assert len(rows_of(tables / "notes.csv")) == len(notes)
    assert len(rows_of(tables / "messages.csv")) == len(run.world.packets)
    moved = [
        json.loads(r["fields"]) for r in rows_of(tables / "notes.csv") if r["note"] == "PagesMoved"
    ]
    assert sum(row["pages"] for row in moved) == sum(
        note.pages for note in notes if isinstance(note, PagesMoved)
    )
    events = check_trace(json.loads(trace.read_text()))
    names = Counter(event["name"] for event in events if event["ph"] in "Xi")
    ended = sum(isinstance(note, MigrationEnded) for note in notes)
    assert names["mm_migrate_pages"] == names["mm_migrate_pages_start"] == ended == len(migrations)
    arrived = [packet for packet in run.world.packets if packet.arrived]
    assert sum(event["ph"] == "f" for event in events) == len(arrived) > 0


def test_crashes_are_moments(tmp_path: Path) -> None:
    answer = export_seed(CRASHES, tmp_path / "t", tmp_path / "trace.json", crashes=True)
    assert answer.code == 0
    faults = Counter(row["fault"] for row in rows_of(tmp_path / "t" / "faults.csv"))
    assert faults["crash"] and faults["restart"]
    events = check_trace(json.loads((tmp_path / "trace.json").read_text()))
    assert sum(event["name"] == "crash" for event in events) == faults["crash"]


def test_a_trace_is_of_one_seed(numalab: Numalab, tmp_path: Path) -> None:
    said = numalab("sim", "--trace", tmp_path / "trace.json")
    assert said.code == 2 and "--trace is about one seed" in said.err


# ---- a machine -----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_machine_as_tables_and_trace(numalab: Numalab, tmp_path: Path) -> None:
    tables, trace = tmp_path / "tables", tmp_path / "trace.json"
    with blocking.local_cluster(nodes=2, memory="8M", profile="modern") as machine:
        task = machine.spawn(comm="export")
        address = task.mmap(64 * PAGE)
        task.store(address, bytes(64 * PAGE))
        for source, target in (("0", "1"), ("1", "0"), ("0", "1")):
            assert task.migrate_pages(task.pid, source, target) == 0
        place = ["--run-directory", machine.run_directory]
        said = numalab("export", *place, "--csv", tables, "--trace", trace, "--json")
        moved = machine.vmstat()["pgmigrate_success"]
        entries = len(numalab("journal", *place, "--json").document["entries"])
    assert said.code == 0, said.err
    journal = rows_of(tables / "journal.csv")
    assert len(journal) == entries == said.document["files"][str(tables / "journal.csv")]
    committed = [row for row in journal if row["entry"] == "PagesCommitted"]
    assert sum(int(row["pages"]) for row in committed) == moved == 192
    pairs = [(row["source"], row["target"]) for row in committed]
    assert pairs == [("0", "1"), ("1", "0"), ("0", "1")]
    ends = [r for r in rows_of(tables / "migrations.csv") if r["event"] == "mm_migrate_pages"]
    assert [row["fields"].split()[0] for row in ends] == ["nr_succeeded=64"] * 3
    slices = [e for e in check_trace(json.loads(trace.read_text())) if e["ph"] == "X"]
    assert [e["name"] for e in slices] == ["mm_migrate_pages"] * 3
    assert all(e["dur"] > 0 and e["args"]["comm"] == "export" for e in slices)


@pytest.mark.slow
def test_without_a_coordinator_there_is_the_journal_alone(
    numalab: Numalab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with blocking.local_cluster(nodes=1, memory="8M") as machine:
        machine.spawn()
        directory = machine.run_directory
        assert directory is not None
        machine._portal.run(lambda: end([running(directory)["coordinator"]], 5.0))
        place = ["--run-directory", directory]
        said = numalab("export", *place, "--csv", tmp_path / "tables")
        assert said.code == 3 and export.NO_TIMES in said.err
        assert [path.name for path in (tmp_path / "tables").iterdir()] == ["journal.csv"]
        said = numalab("export", *place, "--trace", tmp_path / "trace.json")
        assert said.code == 4 and "the journal has no times" in said.err


def test_nothing_to_write_and_nothing_to_read(numalab: Numalab, tmp_path: Path) -> None:
    assert numalab("export").code == 2
    said = numalab("export", "--stress", tmp_path, "--csv", tmp_path / "tables")
    assert said.code == 1 and "has no results of a stress" in said.err


# ---- a stress ------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_stress_as_tables_and_trace(tmp_path: Path) -> None:
    results, tables = tmp_path / "results", tmp_path / "tables"
    schedule = parse_schedule("crash node1 at=0.5 back=0.2\npause node0 at=1.5 for=0.2\n")
    options = Options(
        results, seed=4, seconds=3.0, nodes=2, memory="8M", schedule=schedule, clients=2, pages=32
    )
    document = (await stress(options, lambda line: None)).document
    export.export_stress(results, tables, tmp_path / "trace.json")
    calls = rows_of(tables / "calls.csv")
    named = Counter(row["name"] for row in calls if row["process"].startswith("client-"))
    assert named["fork"] == document["forks"]
    assert named.total() - named["fork"] == document["migrations"]
    faults = Counter(row["name"] for row in calls if row["process"] == "faults")
    assert (faults["crash"], faults["restart"], faults["pause"]) == (1, 1, 1)
    fields = [
        dict(pair.split("=") for pair in r["fields"].split())
        for r in rows_of(tables / "migrations.csv")
    ]
    moved = document["vmstat"]
    assert isinstance(moved, dict)
    assert sum(int(row["nr_succeeded"]) for row in fields) == moved["pgmigrate_success"] > 0
    with np.load(results / "history.npz") as history:
        assert len(rows_of(tables / "operations.csv")) == history["key"].size > 0
    events = check_trace(json.loads((tmp_path / "trace.json").read_text()))
    traced = [e["ts"] for e in events if e["name"] == "mm_migrate_pages"]
    called = [e["ts"] for e in events if e["cat"] == "calls"]
    assert len(traced) == len(fields)
    # The clock of the machine is that of the clients: what they called for is traced meanwhile.
    assert min(called) < np.median(traced) < max(called)
