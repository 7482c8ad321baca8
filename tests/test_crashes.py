"""Processes die in simulated machines: nothing wrong is seen, whoever dies and wherever."""

from __future__ import annotations

import pytest

from coordinator.life import State
from numalab import cli
from numalab.faults import Crash, Fault, Rule
from numalab.simulation.campaign import describe
from numalab.simulation.cluster import draw_plan
from numalab.simulation.matrix import run_cell
from numalab.simulation.seeds import Run, plan_of, run_seed
from numalab.simulation.shrink import faults_of, shrink, with_faults
from numalab.simulation.steps import StepFault, What, all_steps
from protocol.schema import COORDINATOR

#: A thousand seeds in all.
TESTS, SEEDS_EACH = 40, 25


@pytest.mark.parametrize("part", range(TESTS))
def test_nothing_wrong_is_seen_though_processes_die(part: int) -> None:
    for seed in range(part * SEEDS_EACH, (part + 1) * SEEDS_EACH):
        result = run_seed(seed, crashes=True)
        assert result.ok, describe(result, crashes=True)
        assert result.hits, f"seed {seed}: nobody died in the middle of a migration"


@pytest.mark.parametrize("seed", [8838, 16793])
def test_seeds_that_have_failed_are_valid(seed: int) -> None:
    """8838: the end of a device's trouble was lost in a failover, and a migration waited for ever.
    16793: a source repeated an answer from before its target had recovered (test_taking.py).
    """
    result = run_seed(seed, crashes=True)
    assert result.ok, result.report


@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
def test_every_fault_before_and_after_a_state_is_survived(state: State) -> None:
    for fault in all_steps():
        if fault.state == state:
            cell = run_cell(fault)
            assert cell.verdict == "valid", f"{fault.describe()}: {cell.result.sentence}"


def test_the_same_seed_with_crashes_gives_the_same_bytes() -> None:
    first, second = (run_seed(7, crashes=True).journal_digest for _ in range(2))
    assert first == second


def test_the_fewest_faults_that_still_fail_are_found() -> None:
    guilty = Rule(Fault.LOSS, chance=0.5)
    plan = with_faults(
        draw_plan(1),
        [
            Rule(Fault.DELAY, seconds=1.0),
            guilty,
            Crash("node0", 1.0, 1.0),
            StepFault(State.COPYING, True, What.SOURCE),
        ],
    )
    assert shrink(plan, lambda tried: guilty in faults_of(tried)) == [guilty]


def test_who_dies_is_printed_with_the_plan() -> None:
    plan = next(plan for seed in range(20) if (plan := plan_of(seed, crashes=True)).crashes)
    assert "dies at" in plan.describe() and plan.step is not None
    assert plan.step.describe() in plan.describe()


def test_the_console_program_runs_crashes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["sim", "--crashes", "--seeds", "0-3", "--processes", "1"]) == 0
    said = capsys.readouterr().out
    assert "with a crash in the middle of a migration: 0 failed" in said
    assert "virtual seconds" in said


def test_a_matrix_takes_no_other_faults(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["sim", "--matrix", "--crashes"]) == 2
    assert "--matrix goes with --seed alone" in capsys.readouterr().err


def test_files_go_although_a_new_coordinator_refused_their_unlink(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Run(plan_of(3))
    unlink_all, files = run.driver.kinds.unlink_all, list[int]()

    def unlink_all_and_crash() -> None:
        files.append(len(run.cluster.memory.files))
        unlink_all()
        if len(files) == 1:
            run.world.crash_for(COORDINATOR, 0.01)

    monkeypatch.setattr(run.driver.kinds, "unlink_all", unlink_all_and_crash)
    run.to_the_end()
    assert files[0] > 0 and not run.cluster.memory.files
