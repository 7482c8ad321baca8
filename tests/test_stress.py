"""Stress on real processes ends with a verdict, and the verdict sees what is wrong."""

from __future__ import annotations

import json
import random
import signal
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import trio

from coordinator.records import PagesCommitted
from numalab import cli
from numalab.checker import Verdict
from numalab.cluster import running
from numalab.faults import Crash, Pause, draw_schedule, parse_schedule
from numalab.linearizability import check_registers
from numalab.stress import Options, stress
from numalab.stress_log import Log, history_of, read_log
from numalab.stress_verdict import Counted, check_history, check_journal, check_refusals
from protocol.codec import encode_entry
from protocol.live.journal import Journal
from tests.live import Numalab

FAULTS = """\
crash node1 at=0.5 back=0.5
crash source before=COPYING nth=3 back=0.3
pause node2 at=1.5 for=1
pause client at=3 for=0.5
crash client at=4
crash coordinator at=3 back=0.5
loss * -> * at=4.5 until=5.5 chance=0.05
duplicate * -> * at=5 until=6 chance=0.2 seconds=0.2
partition node0 -> node3 at=6 until=6.5
pinned client at=2 for=1 pages=8
full node3 at=5 for=0.5
slow-disk coordinator at=3 for=1 delay=0.02
crash node0 at=500
"""


@pytest.mark.slow
def test_nothing_is_lost_whoever_is_killed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    schedule, results = tmp_path / "faults", tmp_path / "results"
    schedule.write_text(FAULTS)
    words = ["stress", "--duration", 8, "--seed", 7, "--nodes", 4, "--clients", 2, "--json"]
    code = cli.run([*map(str, words), "--faults", str(schedule), "--directory", str(results)])
    document = json.loads(capfd.readouterr().out)
    assert document["verdict"] == "valid", document["findings"]
    assert code == 0
    assert document["operations"] > 1000 and document["migrations"] > 0
    assert document["restarts"]["node1"] >= 1 and document["faults"]["pause"] == 2
    assert "crash node0 at=500" in document["faults_that_hit_nothing"]
    kept = {path.name for path in results.iterdir()}
    assert kept >= {"configuration.json", "schedule", "history.npz", "journal", "verdict.json"}
    assert kept >= {"coordinator.metrics", "node0.metrics"} and "machine" not in kept
    assert parse_schedule((results / "schedule").read_text()) == parse_schedule(FAULTS)
    history = np.load(results / "history.npz")
    assert history["key"].size >= document["operations"]


@pytest.mark.slow
async def test_a_process_that_ends_by_itself_is_a_finding(tmp_path: Path) -> None:
    options = Options(
        tmp_path / "results", seed=3, seconds=3.0, nodes=2, memory="8M", schedule=(), clients=1
    )

    def kill_when_at_work(line: str) -> None:
        if line.startswith("1 s"):
            running(tmp_path / "results/machine")["node1"].signal(signal.SIGKILL)

    with trio.fail_after(90):
        outcome = await stress(options, kill_when_at_work)
    assert outcome.verdict == Verdict.INVALID
    assert "node1 ended by itself: it said nothing" in outcome.sentence


async def test_counters_are_held_against_the_journal(tmp_path: Path) -> None:
    frames = np.arange(3, dtype=np.uint32)
    async with Journal(tmp_path / "journal") as journal:
        await journal.append([encode_entry(PagesCommitted(0, 1, frames, frames, frames))])
    said = {"pgmigrate_success": 3}
    assert await check_journal(tmp_path / "journal", Counted(vmstat=said)) == []
    said["pgmigrate_success"] = 2
    (finding,) = await check_journal(tmp_path / "journal", Counted(vmstat=said))
    assert finding.sentence == "pgmigrate_success is 2, but the journal has 3 pages moved."
    restarted = Counted(vmstat=said, restarts=Counter(coordinator=1))
    assert await check_journal(tmp_path / "journal", restarted) == []


def test_a_directory_with_files_is_left_alone(tmp_path: Path, numalab: Numalab) -> None:
    (tmp_path / "mine").touch()
    said = numalab("stress", "--directory", tmp_path)
    assert said.code == 1 and "has files in it: give another --directory" in said.err


def test_a_schedule_that_is_wrong_is_a_sentence(tmp_path: Path, numalab: Numalab) -> None:
    path = tmp_path / "faults"
    path.write_text("crash\n")
    said = numalab("stress", "--faults", path, "--directory", tmp_path / "results")
    assert (said.code, said.err.count("\n")) == (1, 1)
    assert "Line 1 of the schedule does not name one process" in said.err
    missing = numalab("stress", "--faults", tmp_path / "no", "--directory", tmp_path / "results")
    assert missing.code == 1 and "cannot be read (No such file" in missing.err
    wrong = numalab("stress", "--kinds", "weather")
    assert wrong.code == 2 and "'weather' is no kind of fault" in wrong.err


def test_the_seed_decides_the_schedule() -> None:
    nodes = ["node0", "node1"]
    drawn = [draw_schedule(random.Random(seed), nodes, 60.0) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    kills = draw_schedule(random.Random(1), nodes, 60.0, ("kills", "pauses"))
    assert {type(fault) for fault in kills} == {Crash, Pause}


# ---- the histories of clients --------------------------------------------------------------


class Client:
    """A log that is told by hand; words are places 0, 1, 2 ..."""

    def __init__(self, directory: Path, number: int = 1) -> None:
        self.path = directory / f"client-{number}.rows"
        self.log = Log(self.path)

    def store(self, space: int, place: int, value: int, *, answered: bool = True) -> None:
        batch = self.log.storing(space, words(place), words(value))
        if answered:
            self.log.stored(batch, 1)

    def load(self, space: int, place: int, value: int) -> None:
        self.log.loaded(space, words(place), words(value), now())


def words(value: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.array([value], np.uint64)


def now() -> int:
    return time.monotonic_ns()


def conflicts(*clients: Client) -> int:
    return len(check_registers(history_of([read_log(client.path) for client in clients])))


def test_a_store_that_was_not_answered_may_be_seen_or_not(tmp_path: Path) -> None:
    client = Client(tmp_path)
    client.store(0, 5, 11)
    client.store(0, 5, 12, answered=False)
    client.load(0, 5, 11)
    client.load(0, 5, 12)
    assert conflicts(client) == 0
    client.load(0, 5, 11)
    assert conflicts(client) == 1


def test_two_clients_share_their_words(tmp_path: Path) -> None:
    one, other = Client(tmp_path, 1), Client(tmp_path, 2)
    one.store(0, 5, 11)
    other.load(0, 5, 11)
    assert conflicts(one, other) == 0
    other.load(0, 5, 0)
    assert conflicts(one, other) == 1


def test_a_child_has_what_its_parent_had_and_keeps_it(tmp_path: Path) -> None:
    client = Client(tmp_path)
    client.store(1, 5, 11)
    client.log.forked(1, 2, now())
    client.store(1, 5, 12)
    client.load(2, 5, 11)
    client.load(2, 6, 0)
    client.store(2, 5, 13)
    client.load(2, 5, 13)
    client.load(1, 5, 12)
    assert conflicts(client) == 0
    client.load(2, 5, 11)
    assert conflicts(client) == 1


def test_what_a_child_finds_tells_of_its_parent(tmp_path: Path) -> None:
    client = Client(tmp_path)
    client.store(1, 5, 11)
    client.store(1, 5, 12)
    client.log.forked(1, 2, now())
    client.load(2, 5, 11)
    assert conflicts(client) == 1


def test_a_child_does_not_see_what_its_parent_stores_later(tmp_path: Path) -> None:
    client = Client(tmp_path)
    client.log.forked(1, 2, now())
    client.store(1, 5, 12)
    client.load(2, 5, 12)
    assert conflicts(client) == 1


def test_the_smallest_counter_example_is_told_in_words(tmp_path: Path) -> None:
    client = Client(tmp_path)
    client.store(0, 515, 1 << 40 | 1)
    client.load(0, 515, 0)
    (finding,) = check_history(tmp_path)
    assert finding.verdict == Verdict.INVALID
    assert finding.sentence.startswith(
        "In shared memory, word 3 of page 1: each value was there before the other: "
        "client 1's store of 0x10000000001 (0.000000 to "
    )
    assert finding.sentence.count("client 1's") == 2 and "load gave 0x0" in finding.sentence
    assert (tmp_path / "history.npz").exists() and not client.path.exists()


def test_a_killed_client_leaves_a_row_in_part(tmp_path: Path) -> None:
    client = Client(tmp_path)
    client.store(0, 5, 11)
    client.path.write_bytes(client.path.read_bytes()[:-7])
    assert read_log(client.path).size == 1


def test_mapped_memory_is_refused_for_a_reason_or_not_at_all() -> None:
    assert check_refusals(Counter(EIO=3, ENOMEM=1), zones_lost=False) == []
    (finding,) = check_refusals(Counter(EHWPOISON=2), zones_lost=False)
    assert "2 loads or stores of mapped memory were refused with EHWPOISON" in finding.sentence
    assert check_refusals(Counter(EHWPOISON=2), zones_lost=True) == []


async def test_a_stress_may_use_a_machine_that_is_up(run_directory: Path, tmp_path: Path) -> None:
    told: list[str] = []
    options = Options(
        tmp_path / "results",
        seed=3,
        seconds=2.0,
        schedule=parse_schedule("pause node1 at=0.2 for=0.5\nloss node* -> *\n"),
        existing=run_directory,
        clients=1,
    )
    with trio.fail_after(90):
        outcome = await stress(options, told.append)
    assert outcome.verdict == Verdict.VALID, outcome.sentence
    assert outcome.document["faults"] == {"pause": 1, "loss": 0}, "no message of it is judged"
    assert any("operations" in line for line in told)
