"""``numalab top``: numbers of two moments, their picture at any width, and the real program."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from fcntl import ioctl
from pathlib import Path

import numpy as np
import pytest
import trio

from numalab import cluster, connect
from numalab.cluster import running
from numalab.top_picture import bar, picture, short, time_text
from numalab.top_rates import Moved, Sample, View, quantile, view_of, wait_of
from protocol.hotplug import OfflinePages, OnlinePages
from protocol.live.scrape import MetricsPage, parse_page
from protocol.syscalls import Hardware
from protocol.topology import Topology
from tests.live import Numalab

NIDS = (0, 1, 2)
WIDTHS = (60, 80, 120)
HEAD = "\x1b[?1049h"
FOOT = "\x1b[?1049l"


def hardware(up: tuple[int, ...] = (1, 1, 1), hits: int = 0, epoch: int = 3) -> Hardware:
    counters = ("numa_hit", "numa_miss", "numa_foreign", "interleave_hit", "local_node")
    columns = {name: np.zeros(3, np.uint64) for name in (*counters, "other_node")}
    columns["numa_hit"] = np.full(3, hits, np.uint64)
    return Hardware(
        4096,
        epoch,
        1,
        ((0,), (1,), (2,)),
        np.array(NIDS, np.int32),
        np.array(up, np.uint8),
        np.full(3, 100_000, np.uint64),
        np.array([25_000, 100_000, 50_000], np.uint64),
        **columns,
        distance=np.full(9, 10, np.uint32),
    )


def page(**series: float) -> MetricsPage:
    """``pages_sent_total__target__1=5`` is numalab_pages_sent_total{target="1"} 5."""
    lines = []
    for key, value in series.items():
        name, *labels = key.split("__")
        pairs = ",".join(f'{n}="{v}"' for n, v in zip(labels[::2], labels[1::2], strict=True))
        lines.append(f"numalab_{name}{'{' + pairs + '}' if pairs else ''} {value}\n")
    return parse_page("".join(lines))


def coordinator(moved: float, eagain: float, waits: Mapping[str, float]) -> MetricsPage:
    text = (
        f'numalab_pgmigrate_success_total{{source="0",target="1"}} {moved}\n'
        f"numalab_pgmigrate_retry_total {moved / 10}\nnumalab_calls_under_way 2\n"
        f'numalab_pgmigrate_fail_total{{source="0",errno="EAGAIN"}} {eagain}\n'
        'numalab_node_offline{numa_node="1"} 1\n'
        'numalab_peer_restarts_total{peer="node2"} 4\n'
        'numalab_peer_restarts_total{peer="client"} 9\n'
    )
    return parse_page(
        text
        + "".join(
            f'numalab_fault_wait_seconds_bucket{{le="{le}"}} {count}\n'
            for le, count in waits.items()
        )
    )


def two_moments() -> tuple[Sample, Sample]:
    """Two seconds in which node 0 sends 2,000 pages, and node 2 is away at the end."""
    nothing = {"0.001": 0.0, "0.01": 0.0, "+Inf": 0.0}
    some = {"0.001": 98.0, "0.01": 100.0, "+Inf": 100.0}
    before = Sample(
        10.0,
        hardware(),
        {
            "node0": page(pages_sent_total__target__1=500, pages_accessed_total__access__load=7),
            "node1": page(nr_free_pages=100_000),
            "node2": page(nr_free_pages=1),
            "coordinator": coordinator(100, 0, nothing),
        },
        [Moved(7, "work", 10_000, 1_000)],
    )
    after = Sample(
        12.0,
        hardware(up=(1, 1, 0), hits=500),
        {
            "node0": page(
                nr_free_pages=25_000,
                nr_active_pages=60,
                nr_inactive_pages=40,
                pages_sent_total__target__1=2500,
                pages_sent_bytes_total__target__1=2000 * 4096,
                pages_accessed_total__access__load=107,
            ),
            "node1": page(nr_free_pages=100_000),
            "node2": None,
            "coordinator": coordinator(2100, 12, some),
        },
        [Moved(7, "work", 10_000, 4_000), Moved(8, "", 50, 50)],
    )
    return before, after


def test_two_samples_give_rates() -> None:
    view = view_of(*two_moments())
    assert (view.seconds, view.epoch, view.restarts, view.calls) == (2.0, 3, 4, 2)
    assert [row.state for row in view.nodes] == ["up", "offline", "away"]
    first = view.nodes[0]
    assert (first.frames, first.free, first.active, first.inactive) == (100_000, 25_000, 60, 40)
    assert (first.loads, first.stores, first.hits) == (50.0, None, 250.0)
    (flow,) = view.flows
    assert (flow.source, flow.target, flow.pages, flow.bytes) == (0, 1, 1000.0, 4096_000.0)
    assert (view.moved, view.retried, view.failed) == (1000.0, 100.0, {"EAGAIN": 12})
    (migration,) = view.migrations
    assert (migration.rate, migration.eta) == (1500.0, 4.0)
    assert view.wait is not None and view.wait.faults == 100 and view.wait.most == 0.01
    assert view.wait.p50 == pytest.approx(0.001 * 50 / 98)
    assert view.wait.p99 == pytest.approx(0.001 + 0.009 / 2)
    assert json.loads(json.dumps(asdict(view)))["nodes"][2]["state"] == "away"


def test_a_counter_of_a_process_that_started_again_counts_from_zero() -> None:
    before, after = two_moments()
    again = {**after.pages, "node0": page(pages_sent_total__target__1=300)}
    assert view_of(before, replace(after, pages=again)).flows[0].pages == 150.0


def test_a_silent_node_whose_page_is_served_is_recovering() -> None:
    before, after = two_moments()
    serving = {**after.pages, "node2": page(nr_free_pages=1)}
    states = [row.state for row in view_of(before, replace(after, pages=serving)).nodes]
    assert states[2] == "recovering"


def test_without_a_coordinator_it_says_so_and_shows_who_is_there() -> None:
    before, after = two_moments()
    pages = {**after.pages, "coordinator": None}
    view = view_of(before, replace(after, hardware=None, pages=pages, moved=(), why="Gone."))
    assert (view.epoch, view.restarts, view.moved) == (0, None, None)
    assert [row.state for row in view.nodes] == ["up", "up", "away"]
    assert view.notes == ["The coordinator is away. Gone."]
    assert "coordinator away" in picture(view, 80, 24).plain


def test_without_metrics_pages_it_says_so_in_a_sentence() -> None:
    before, after = two_moments()
    view = view_of(replace(before, pages={}), replace(after, pages={}))
    assert [row.state for row in view.nodes] == ["up", "up", "away"]
    assert view.nodes[0].hits == 250.0 and view.nodes[0].loads is None
    assert "No metrics pages are known" in view.notes[0]
    # What is not known is not said to be none.
    lines = picture(view, 80, 24).plain.splitlines()
    assert [line for line in lines if line.startswith(("FLOWS", "MIGRATED", "WAITED"))] == [
        *("FLOWS -", "MIGRATED -", "WAITED -")
    ]


def test_one_sample_alone_has_no_rates() -> None:
    view = view_of(None, two_moments()[1])
    assert view.nodes[0].loads is None and not view.flows and view.migrations[0].eta is None


@pytest.mark.parametrize("width", WIDTHS)
def test_the_picture_fits_and_has_what_matters(width: int) -> None:
    lines = picture(view_of(*two_moments()), width, 24, "machine").plain.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= width
    text = "\n".join(lines)
    for words in ("epoch 3", "offline", "away", "0>1 1000/s 4.1 MB/s", "40% 4000 of 10.0k", "12"):
        assert words in text
    assert ("ACTIVE" in text) == (width >= 80)
    if width >= 80:
        assert "1500/s, ETA 4.0 s, task 7 work" in text
        assert "WAITED 100 faults, p50 510 us, p99 5.5 ms, max <= 10 ms" in text


@pytest.mark.parametrize("height", (0, 1, 5, 24))
@pytest.mark.parametrize("width", (0, 1, 9, 40))
def test_no_terminal_is_too_small(width: int, height: int) -> None:
    lines = picture(view_of(*two_moments()), width, height).plain.splitlines()
    assert len(lines) <= height and all(len(line) <= width for line in lines)


def test_many_nodes_leave_room_for_the_rest() -> None:
    view = view_of(*two_moments())
    many = replace(view, nodes=[replace(view.nodes[0], node=nid) for nid in range(64)])
    lines = picture(many, 80, 24).plain.splitlines()
    assert len(lines) <= 24 and lines[-1].startswith("WAITED")
    assert any(line.startswith("and ") and line.endswith("nodes more") for line in lines)


def test_numbers_are_short() -> None:
    numbers = (None, 0, 0.25, 7, 9999, 12_345, 999_600, 4.6e6, 1e30)
    assert [short(number) for number in numbers] == [
        *("-", "0", "0.2", "7", "9999", "12.3k", "1.0M", "4.6M", "many")
    ]
    assert [time_text(t) for t in (2e-4, 0.0045, 1.2, 300)] == [
        "200 us",
        "4.5 ms",
        "1.2 s",
        "5 min",
    ]
    assert bar(1, 2) == "[|||   ]" and bar(None, 2) == bar(1, 0) == " " * 8


def test_quantiles_are_those_of_prometheus() -> None:
    assert quantile(0.5, [(1.0, 0.0), (2.0, 10.0), (float("inf"), 10.0)]) == 1.5
    longest = wait_of({"1.0": 0.0, "+Inf": 4.0})
    assert longest is not None and longest.most is None and longest.p99 == 1.0
    assert wait_of({}) is None and wait_of({"+Inf": 0.0}) is None


# ---- the real program ----------------------------------------------------------------------


def test_one_frame_of_a_live_machine(numalab: Numalab, run_directory: Path) -> None:
    said = numalab("top", "--interval", 0.2)
    assert said.code == 0 and "4 of 4 nodes up" in said.out
    document = numalab("top", "--once", "--json", "--interval", 0.2).document
    assert document["schema"] == 1 and [row["node"] for row in document["nodes"]] == [0, 1, 2, 3]
    # A view must burden nobody: all of View is there, and none of it is a question to a node.
    assert set(document) == {"schema", *View.__dataclass_fields__}


async def test_a_node_that_is_offline_is_shown_so(run_directory: Path) -> None:
    async with connect(run_directory) as machine:
        await machine.call(OfflinePages(3))
        try:
            document = await trio.to_thread.run_sync(_once, run_directory)
        finally:
            await machine.call(OnlinePages(3))
    assert [row["state"] for row in document["nodes"]] == ["up", "up", "up", "offline"]


def _once(run_directory: Path) -> dict[str, list[dict[str, object]]]:
    command = _command(run_directory, "--once", "--json", "--interval", "0.2")
    document: dict[str, list[dict[str, object]]] = json.loads(subprocess.check_output(command))
    return document


def _command(run_directory: Path, *options: str) -> list[str]:
    place = ["--run-directory", str(run_directory)]
    return [sys.executable, "-m", "numalab.cli", "top", *place, *options]


class Terminal:
    """The program in a pseudo-terminal of 80 columns and 24 lines."""

    def __init__(self, run_directory: Path, *options: str) -> None:
        self.ours, self._its = pty.openpty()
        ioctl(self._its, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
        self.before = termios.tcgetattr(self._its)
        self.process = subprocess.Popen(
            _command(run_directory, *options),
            stdin=self._its,
            stdout=self._its,
            stderr=self._its,
            env=os.environ | {"TERM": "xterm"},
            start_new_session=True,
        )
        self.said = ""

    def read_until(self, words: str, seconds: float = 60.0) -> None:
        limit = time.monotonic() + seconds
        start = len(self.said)
        while words not in self.said[start:]:
            assert time.monotonic() < limit, f"{words!r} is not in {self.said!r}"
            if select.select([self.ours], [], [], 0.2)[0]:
                self.said += os.read(self.ours, 1 << 16).decode(errors="replace")

    def end(self) -> int:
        self.read_until(FOOT)
        code = self.process.wait(20)
        assert termios.tcgetattr(self._its) == self.before
        os.close(self._its)
        os.close(self.ours)
        return code


@pytest.mark.slow
def test_it_draws_and_q_ends_it(run_directory: Path) -> None:
    terminal = Terminal(run_directory, "--interval", "0.2")
    terminal.read_until("4 of 4 nodes up")
    terminal.read_until("WAITED")
    os.write(terminal.ours, b"xq")
    assert terminal.end() == 0
    screen = terminal.said.partition(HEAD)[2].partition(FOOT)[0]
    # Nothing is cleared between two frames, so nothing flickers; the cursor comes back.
    assert screen and "\x1b[2J" not in screen and "\x1b[J" not in screen
    assert terminal.said.rfind("\x1b[?25h") > terminal.said.rfind("\x1b[?25l") >= 0


@pytest.mark.slow
def test_a_machine_that_goes_away_is_away_and_comes_back(tmp_path: Path) -> None:
    place = tmp_path / "machine"
    trio.run(cluster.up, cluster.Settings(Topology.uniform(2, "8M")), place)
    try:
        terminal = Terminal(place, "--interval", "0.2")
        terminal.read_until("2 of 2 nodes up")
        running(place)["node1"].signal(signal.SIGKILL)
        terminal.read_until("away")
        running(place)["coordinator"].signal(signal.SIGKILL)
        terminal.read_until("The coordinator is away")
        trio.run(cluster.down, place)
        terminal.read_until("No machine runs in")
        trio.run(cluster.up, cluster.Settings(Topology.uniform(2, "8M")), place)
        terminal.read_until("2 of 2 nodes up")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.end() == 130
    finally:
        trio.run(cluster.down, place)
