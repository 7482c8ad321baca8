"""The simulated machine gives the answers that Linux 6.1 gave; a live one does so for a handful.

The kernel's answers were recorded (docs/conformance.md), so that nothing has to be booted here.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from numalab.conformance import live, recorded, sim
from numalab.conformance.compare import Answer, Tally, compare
from numalab.conformance.fixed import FIXED, TOPICS
from numalab.conformance.random_steps import WEIGHTS, draw_scenario
from numalab.conformance.scenario import Layout, Scenario, Step
from numalab.conformance.shrink import shrink, without

HERE = Path(__file__).parent / "conformance"
KERNEL, RECORDED = recorded.read(HERE / "answers-6.1.json")
LIVE = (
    "migrate_pages: migrate [0, 1, 2] to [1, 2, 3]",
    "migrate_pages: migrate the child alone",
    "move_pages: move each to its own node",
    "move_pages: move pages that a fork shares",
    "mbind: mbind INTERLEAVE 0,2, flags 2",
    "memory: a child writes",
)


def faults(tally: Tally) -> str:
    return "\n".join(fault.describe("real", "ours") for fault in tally.faults)


def test_the_answers_are_those_of_the_fixed_list() -> None:
    told = [json.loads(json.dumps(each.plain())) for each in FIXED]
    assert [scenario.plain() for scenario, _ in RECORDED] == told, (
        "the list has changed: record it again, python -m numalab.conformance --record FILE"
    )


def test_the_answers_are_of_linux_6_1() -> None:
    assert "Linux version 6.1." in KERNEL["kernel"]


@pytest.mark.parametrize("topic", TOPICS)
def test_the_simulated_machine_answers_as_linux_does(topic: str) -> None:
    tally = Tally()
    for scenario, answers in RECORDED:
        if scenario.name.startswith(f"{topic}: "):
            compare(tally, scenario, answers, sim.run(scenario))
    assert not tally.faults, f"\n{faults(tally)}"


@pytest.mark.slow
def test_a_live_machine_answers_as_linux_does() -> None:
    chosen = [row for row in RECORDED if row[0].name in LIVE]
    tally = Tally()
    for (scenario, answers), ours in zip(
        chosen, live.run_all([scenario for scenario, _ in chosen]), strict=True
    ):
        compare(tally, scenario, answers, ours)
    assert not tally.faults, f"\n{faults(tally)}"


# ---- the instruments -----------------------------------------------------------------------


def test_a_wrong_answer_is_a_fault() -> None:
    scenario, answers = next(row for row in RECORDED if row[0].name == LIVE[0])
    wrong = [*answers[:-1], {**answers[-1], "value": 3}]
    tally = Tally()
    assert not compare(tally, scenario, answers, wrong)
    assert tally.faults[0].parts == {"value": (0, 3)}


def test_the_same_seed_draws_the_same_scenario() -> None:
    assert draw_scenario(7) == draw_scenario(7)
    assert draw_scenario(7).steps != draw_scenario(8).steps


def test_a_drawn_scenario_has_twenty_calls_and_places_that_exist() -> None:
    for seed in range(50):
        scenario = draw_scenario(seed)
        layout = Layout(scenario.steps)
        assert len(scenario.steps) >= 20
        for step in scenario.steps:
            for place in (*step.get("places", []), *filter(None, [step.get("place")])):
                assert layout.covers(layout.address(place)), f"seed {seed}: {step}"


def test_five_hundred_draws_try_every_call_and_callers_without_privilege() -> None:
    drawn = [draw_scenario(seed).steps for seed in range(500)]
    assert min(map(len, drawn)) >= 20
    calls = Counter(op for steps in drawn for op in {step["op"] for step in steps})
    assert set(calls) == set(WEIGHTS) and min(calls.values()) >= 50, calls
    strangers = 0
    for steps in drawn:
        names = {step["task"] for step in steps if step["op"] == "spawn" and step["uid"]}
        moving = [step for step in steps if step["op"] in ("move_pages", "migrate_pages")]
        strangers += any(step["by"] in names for step in moving)
    assert strangers >= 40, f"only {strangers} have an unprivileged caller that moves pages"


def test_a_scenario_that_differs_is_shrunk_to_what_matters() -> None:
    """The machine that is wrong here says that migrate_pages left a page where it was."""

    def wrong(scenario: Scenario) -> list[Answer]:
        answers = sim.run(scenario)
        for step, answer in zip(scenario.steps, answers, strict=False):
            if step["op"] == "migrate_pages" and answer.get("value") == 0:
                answer["value"] = 1
        return answers

    for seed in range(100):
        scenario, tally = draw_scenario(seed), Tally()
        compare(tally, scenario, sim.run(scenario), wrong(scenario))
        if tally.faults:
            break
    short = shrink(tally.faults[0], sim.run, wrong)
    assert [step["op"] for step in short.scenario.steps] == ["migrate_pages"], f"seed {seed}"


def test_without_a_task_nothing_of_it_is_left() -> None:
    steps: list[Step] = [
        {"op": "fork", "task": "u"},
        {"op": "mmap", "area": "a", "pages": 1, "by": "u"},
        {"op": "write", "place": ["a", 0], "pages": 1, "value": 1},
        {"op": "migrate_pages", "task": "u", "old": [0], "new": [1]},
        {"op": "run_on", "cpu": 1},
    ]
    assert without(steps, 0) == [{"op": "run_on", "cpu": 1}]
