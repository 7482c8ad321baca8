"""Every note reaches the metrics page, every metric is fed, and Prometheus likes the page."""

from __future__ import annotations

import ast
import shutil
import socket
import subprocess
import urllib.request
from dataclasses import fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from numalab.documents import metrics_table
from protocol import labels, notes, workload_metrics
from protocol.core import ConfigurationError
from protocol.labels import Role
from protocol.live.exposition import Exposition
from protocol.live.statistics import Statistics
from protocol.metric import Kind, Metric
from protocol.metrics import TABLE, TRANSPORT
from protocol.notes import Note
from protocol.syscalls import MigratePages
from protocol.workload_metrics import RoundEnded, TurnEnded

ROOT = Path(__file__).parent.parent
NIDS = (0, 1, 2, 3)
OPCODE = 0x5B  # MigratePages

#: One note of each class.
NOTES: dict[type[Note], Note] = {
    type(note): note
    for note in (
        notes.FrameDropped("checksum"),
        notes.QuestionResent("node1", OPCODE),
        notes.EchoSuppressed("node1"),
        notes.StaleRefused("coordinator", "epoch"),
        notes.MessageAsked("client-7f", OPCODE),
        notes.PeerRestarted("node1"),
        notes.AnswerIndefinite("node1", -19),
        notes.FaultInjected("loss"),
        notes.ZoneCounted(1, 2, 3, 4, 5, 6),
        notes.PagesSent("node1", 256, 1 << 20),
        notes.PagesLanded("node2", 256, 1 << 20),
        notes.AccessServed("load", 3),
        notes.AccessRefused("store", 2),
        notes.PagesMoved(0, 1, 512),
        notes.PagesNotMoved(0, -11, 2),
        notes.EntriesGone(5, 0.01),
        notes.PassEnded(0, 7, 1),
        notes.EmulatedTimeAccrued("load", 1, 0.5),
        notes.StepAnswered("copying", 256, 0.02),
        notes.MigrationsCounted(1, 9000),
        notes.AccessesTold(1, "load", "remote", 12),
        notes.MigrationEnded(510, 2, "syscall_or_cpuset", 0.25),
        notes.JobsCounted(1, 2, 3, 4000, 2.5),
        notes.JobEnded("done"),
        notes.PagesAllocated(1, 1, 1, 8),
        notes.FaultServed(1, 0.002),
        notes.MachineCounted(3, 2, 1, 4),
        notes.SyscallEnded("migrate_pages", -1, 0.5),
        notes.NodeUp(2),
        notes.PeersTold(("node2",), ("tcp://two:7000",)),
        notes.NodeLost(2),
        notes.NodeSettled(2, 3, 0.1),
        notes.NodeTakenOffline(2, True),
        notes.CoordinatorRecovered(2, 0.5),
        notes.EpochBegan(2),
        notes.FramesPoisoned(1, 7),
        notes.ZoneReplaced(1),
        notes.NodeRecovered(5),
        notes.TaskEnded(41, "lease"),
        notes.ExtensionFailed("new_page 'ring'", "ring.py, line 3", "KeyError: 1"),
        notes.JournalWritten(3, 420, 0.004),
        notes.JournalCompacted(9000, 0.03),
        notes.OperationEnded(1, OSError(5, "EIO")),
        TurnEnded(16, 2),
        RoundEnded(0.25, 8, True),
    )
}

#: Fields of notes that no metric has, and why.
UNMEASURED = {
    ("EntriesGone", "pages"): "pages moved and not moved are counted by other notes",
    ("PassEnded", "failed"): "numalab_pgmigrate_fail_total counts them once, at the end",
    ("MachineCounted", "nodes_up"): "sum(numalab_node_up)",
    ("NodeSettled", "frames"): "numalab_frames_poisoned_total counts them",
    ("CoordinatorRecovered", "epoch"): "numalab_epoch",
    ("TaskEnded", "pid"): "a label without end",
    ("PeersTold", "names"): "for the transport",
    ("PeersTold", "addresses"): "for the transport",
    ("ExtensionFailed", "method"): "a label without end",
    ("ExtensionFailed", "where"): "a label without end",
    ("ExtensionFailed", "error"): "a label without end",
    ("OperationEnded", "ticket"): "a label without end",
}

FEEDS = [(metric, note) for metric in TABLE for note, _ in metric.feeds]


def series(page: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(page.decode())
    return {(s.name, frozenset(s.labels.items())): s.value for f in families for s in f.samples}


def value(exposition: Exposition, name: str, **label: str) -> float | None:
    return series(exposition.page()).get((name, frozenset(label.items())))


def samples_of(note: Note) -> list[Any]:
    return [
        tuple(samples(note))
        for metric in TABLE
        for cls, samples in metric.feeds
        if cls is type(note)
    ]


def a_note_for(metric: Metric, cls: type[Note]) -> Note:
    """A page that landed where it was wanted is no miss, so the misses want another."""
    note = NOTES[cls]
    if isinstance(note, notes.PagesAllocated):
        if metric.name in ("numalab_numa_miss_total", "numalab_numa_foreign_total"):
            return replace(note, preferred=2)
        if metric.name == "numalab_numa_other_total":
            return replace(note, local=2)
        if metric.name == "numalab_numa_interleave_total":
            return replace(note, interleave=True)
    return note


@pytest.mark.parametrize(("metric", "cls"), FEEDS, ids=[metric.name for metric, _ in FEEDS])
def test_a_note_changes_its_metric(metric: Metric, cls: type[Note]) -> None:
    for role in metric.roles:
        exposition = Exposition(role, NIDS)
        if cls is notes.NodeLost and metric.kind == Kind.GAUGE:
            exposition.feed(notes.NodeUp(2))
        before = series(exposition.page())
        exposition.feed(a_note_for(metric, cls))
        after = series(exposition.page())
        changed = {
            name
            for (name, labelled) in after
            if after[name, labelled] != before.get((name, labelled))
        }
        assert any(name.startswith(metric.name) for name in changed)


def test_every_class_of_note_has_an_example_here() -> None:
    classes = (*vars(notes).values(), *vars(workload_metrics).values())
    declared = {c for c in classes if isinstance(c, type) and issubclass(c, Note)}
    assert declared - {Note} == set(NOTES)


@pytest.mark.parametrize(
    ("cls", "field"), [(cls, field.name) for cls in NOTES for field in fields(cls)]
)
def test_every_field_of_a_note_is_measured_or_excused(cls: type[Note], field: str) -> None:
    note = NOTES[cls]
    old = getattr(note, field)
    other: Any = -old if isinstance(old, float) else "other"
    if isinstance(old, bool):
        other = not old
    elif isinstance(old, int):
        other = old + 1
    elif field in ("peer", "source", "target"):
        other = "node3"
    elif field == "result":
        other = 0
    measured = samples_of(replace(note, **{field: other})) != samples_of(note)
    excuse = UNMEASURED.get((cls.__name__, field))
    assert measured == (excuse is None), f"{cls.__name__}.{field}: {excuse or 'no metric has it'}"


def test_names_and_help_keep_the_conventions() -> None:
    names = [row.name for row in TABLE] + [row.name for row in TRANSPORT]
    assert len(set(names)) == len(names)
    for row in TABLE:
        assert row.name.startswith("numalab_")
        assert row.name.endswith("_total") == (row.kind == Kind.COUNTER), row.name
        assert row.name.endswith("_seconds") == (row.kind == Kind.HISTOGRAM), row.name
        assert row.help.endswith(".") and row.help[0] in "1ABCDEFGHIJKLMNOPQRSTUVWXYZ", row.name
        if row.kind == Kind.HISTOGRAM:
            assert not {"source", "target"} & {label.name for label in row.labels}, row.name


@pytest.mark.parametrize("role", Role)
def test_promtool_finds_nothing_to_say(role: Role) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    exposition = Exposition(
        role, NIDS, statistics=lambda: Statistics(1, {"full": 2}, 3, 4, {"no_key": 5})
    )
    for note in NOTES.values():
        exposition.feed(note)
    check = subprocess.run(
        [promtool, "check", "metrics"],
        input=exposition.page(),
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert (check.returncode, check.stdout + check.stderr) == (0, b"")


def test_series_are_there_before_anything_happens() -> None:
    exposition = Exposition(Role.COORDINATOR, NIDS)
    for source in NIDS:
        for target in NIDS:
            pair = {"source": str(source), "target": str(target)}
            assert value(exposition, "numalab_pgmigrate_success_total", **pair) == 0
    assert b"_created" not in exposition.page()


def test_pages_are_counted_as_numastat_counts_them() -> None:
    exposition = Exposition(Role.COORDINATOR, NIDS)
    exposition.feed(notes.PagesAllocated(node=1, preferred=0, local=0, pages=5))
    exposition.feed(notes.PagesAllocated(node=0, preferred=0, local=0, pages=3, interleave=True))

    def count(name: str) -> list[float | None]:
        full = f"numalab_{name}_total"
        return [value(exposition, full, numa_node=node) for node in ("0", "1")]

    assert count("numa_hit") == [3, 0]
    assert count("numa_miss") == [0, 5]
    assert count("numa_foreign") == [5, 0]
    assert count("numa_interleave") == [3, 0]
    assert count("numa_local") == [3, 0]
    assert count("numa_other") == [0, 5]


def test_clients_share_one_label_value_however_many_come() -> None:
    exposition = Exposition(Role.NODE, NIDS)
    before = len(series(exposition.page()))
    for name in ("client-1", "client-2", "node999", "node4294967296"):
        exposition.feed(notes.EchoSuppressed(name))
    assert len(series(exposition.page())) == before
    assert value(exposition, "numalab_questions_repeated_total", peer="client") == 4


def test_a_node_that_joins_later_gets_its_series_then() -> None:
    exposition = Exposition(Role.COORDINATOR, (0,))
    exposition.feed(notes.NodeUp(9))
    assert value(exposition, "numalab_node_up", numa_node="9") == 1
    exposition.feed(notes.NodeLost(9))
    assert value(exposition, "numalab_node_up", numa_node="9") == 0


def test_a_note_of_another_role_is_ignored() -> None:
    exposition = Exposition(Role.CLIENT, NIDS)
    before = exposition.page()
    exposition.feed(notes.NodeUp(0))
    assert exposition.page() == before


def test_a_question_is_counted_by_the_name_of_its_message() -> None:
    exposition = Exposition(Role.CLIENT, NIDS)
    exposition.feed(notes.MessageAsked("coordinator", OPCODE))
    name = MigratePages.__name__
    assert value(exposition, "numalab_questions_asked_total", message=name) == 1


def test_every_reason_of_a_wire_error_has_its_series_from_the_start() -> None:
    raised = {
        str(call.args[0].value)
        for path in (ROOT / "protocol").glob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id == "WireError"
        and isinstance(call.args[0], ast.Constant)
    }
    missing = raised - {"entry"} - set(labels.WIRE_ERROR.values(Role.NODE, NIDS))
    assert not missing, f"add to WIRE_ERROR in protocol/labels.py: {sorted(missing)}"


def test_the_transports_counts_are_read_when_the_page_is() -> None:
    counts = Statistics(10, MappingProxyType({"full": 2, "new": 1}), 30, 4, {})
    exposition = Exposition(Role.NODE, NIDS, statistics=lambda: counts)
    assert value(exposition, "numalab_transport_sent_total") == 10
    assert value(exposition, "numalab_transport_lost_total", reason="full") == 2
    assert value(exposition, "numalab_transport_lost_total", reason="unknown") == 0
    assert value(exposition, "numalab_transport_lost_total", reason="new") == 1
    counts = Statistics(11, {}, 30, 4, {})
    assert value(exposition, "numalab_transport_sent_total") == 11


def test_the_page_is_served_until_it_is_closed() -> None:
    exposition = Exposition(Role.NODE, NIDS)
    port = exposition.serve("127.0.0.1", 0)
    try:
        exposition.feed(notes.ZoneCounted(7, 0, 0, 0, 0, 0))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            page = answer.read()
        assert b"numalab_nr_free_pages 7.0" in page
        assert b"process_start_time_seconds " in page, "restarts are told by it"
    finally:
        exposition.close()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    exposition.close()


def test_a_port_that_is_taken_is_a_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError) as raised:
            Exposition(Role.NODE, NIDS).serve("127.0.0.1", port)
    assert f"127.0.0.1 port {port} (Address already in use): choose another" in str(raised.value)
    with pytest.raises(ConfigurationError, match="port 70000"):
        Exposition(Role.NODE, NIDS).serve("127.0.0.1", 70_000)


def test_the_committed_table_is_the_one_of_the_program() -> None:
    assert (ROOT / "docs/metrics.md").read_text() == metrics_table(), "run: make docs"
