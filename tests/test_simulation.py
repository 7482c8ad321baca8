"""Whole machines on virtual time: the shipped Cores, seeds, and what a failing seed prints."""

from __future__ import annotations

import contextlib
import gc
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from coordinator.memory import Memory
from nodes.arena import Arena
from numalab import cli
from numalab.simulation.campaign import describe
from numalab.simulation.cluster import draw_plan
from numalab.simulation.seeds import PASSING, Run, draw_diagram, plan_of, run_seed, tell_page

SEEDS = range(30)
#: Quiet calls that the seeds above compare at least, by what they were and what they met.
COMPARED = {
    "migrate_pages": 20,
    "move_pages": 20,
    "mbind": 15,
    "set_mempolicy": 2,
    "cpuset write mems": 2,
    "cpuset write tasks": 3,
    "memory follows its cpuset": 1,
    "cpuset": 3,
    "buffers": 2,
    "writeback": 2,
    "ext3-journal": 2,
    "special": 1,
    "mapped several times": 1,
    "no memory": 1,
}

run_once = cache(run_seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_wrong_is_ever_seen(seed: int) -> None:
    result = run_once(seed)
    assert result.ok, describe(result)


def test_the_same_seed_gives_the_same_bytes_whatever_the_hash_seed() -> None:
    program = (
        "from numalab.simulation.seeds import run_seed;"
        "print([run_seed(seed).journal_digest for seed in (3, 5, 15)])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("0", "1", "77")
    }
    assert outputs == {f"{[run_seed(seed).journal_digest for seed in (3, 5, 15)]}\n"}


def test_a_seed_leaves_the_garbage_collector_as_it_was() -> None:
    assert gc.isenabled()
    run_seed(1)
    assert gc.isenabled()


def test_seeds_differ_in_everything_that_can_differ() -> None:
    plans = [draw_plan(seed) for seed in range(100)]
    assert {len(plan.frames) for plan in plans} == {2, 3, 4}
    assert {plan.profile for plan in plans} == {"seed", "modern"}
    assert {plan.fault_around for plan in plans} == {1, 4, 16}
    assert {rule.fault for plan in plans for rule in plan.rules} >= {"loss", "partition", "damage"}
    assert any(not plan.rules for plan in plans) and any(max(plan.frames) < 10 for plan in plans)
    for name, _ in plans[0].mix[3:]:
        used = [dict(plan.mix)[name] > 0 for plan in plans]
        assert any(used) and not all(used), f"{name} should be in some plans"


def test_the_seeds_compare_every_kind_of_call_with_the_oracle() -> None:
    tally = sum((run_once(seed).tally for seed in SEEDS), Counter())
    assert all(tally[kind] >= least for kind, least in COMPARED.items()), tally
    assert sum(tally[f"{kind} undetermined"] for kind in COMPARED) < 15, tally


def test_a_failing_seed_says_what_who_when_and_how_to_see_it_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Arena, "zero", lambda self, frame: None)
    seed = next(seed for seed in range(40) if "could be" in run_seed(seed).sentence)
    assert cli.run(["sim", "--seed", str(seed)]) == 1
    printed = capsys.readouterr().out
    for part in (
        f"seed {seed}: load at 0x",
        "where it could be",
        "operations: store",
        " had node ",
        "Translations node ",
        "coordinator   node0",
        f"replay: numalab sim --seed {seed}",
        "1 failed",
    ):
        assert part in printed


def test_what_a_core_raises_fails_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    def commit(self: Memory, *frames: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(Memory, "commit", commit)
    results = [run_seed(seed) for seed in range(6)]
    failed = [result for result in results if not result.ok]
    assert failed and failed[0].sentence == "ZeroDivisionError: by zero"
    assert "in commit" in failed[0].report


def test_what_a_passing_look_finds_is_told_as_a_close_one_sees_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put = Memory.remove_migration_ptes

    def one_too_many(self: Memory, nid: int, pfn: Any, *target: Any) -> None:
        put(self, nid, pfn, *target)
        self.mem_map[nid].mapcount[pfn] += 1

    monkeypatch.setattr(Memory, "remove_migration_ptes", one_too_many)
    for seed in range(4):
        passing, close = Run(plan_of(seed), PASSING), Run(plan_of(seed))
        for run in (passing, close):
            with contextlib.suppress(AssertionError):
                run.to_the_end()
        assert passing.world.events >= close.world.events
        assert run_seed(seed).events == close.world.events


def test_the_story_of_a_page_follows_it_from_node_to_node() -> None:
    moved = (tell_page(seed, 0x1C000000000) for seed in range(20))
    text = next(story for story in moved if "CopyPages" in story)
    lines = text.splitlines()
    assert lines[0].startswith("seed ")
    assert any("CopyPages" in line and " to node " in line for line in lines)
    assert any("PutPages" in line for line in lines)


def test_the_diagram_shows_the_last_messages() -> None:
    lines = draw_diagram(1, last=5).splitlines()
    assert lines[0] == "seed 1: it ended well" and len(lines) == 2 + 1 + 5
    assert all("o" in line and (">" in line or "<" in line) for line in lines[3:])


def test_many_seeds_are_summed_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["sim", "--seeds", "0-3", "--processes", "2"]) == 0
    assert capsys.readouterr().out.startswith("4 seeds, ")


@pytest.mark.parametrize("crashes", [False, True])
def test_a_machine_of_64_nodes(crashes: bool) -> None:
    plan = replace(plan_of(7, crashes=crashes), frames=(24,) * 64)
    run = Run(plan, PASSING)
    run.to_the_end()
    assert len(run.cluster.topology.nids) == 64
    assert not crashes or (run.cluster.step is not None and run.cluster.step.hits)
