"""A scenario whose answers differ, made as short as it can be and still differ in the same way."""

from __future__ import annotations

from collections.abc import Callable

from numalab.conformance.compare import Answer, Fault, Tally, compare
from numalab.conformance.scenario import FIRST, Scenario, Step

Run = Callable[[Scenario], list[Answer]]
TRIES_MAX = 60


def shrink(fault: Fault, real: Run, ours: Run) -> Fault:
    """The fault in the shortest scenario that dropping steps leads to."""
    steps = fault.scenario.steps[: fault.number + 1]
    kind, tries = kind_of(fault), 0
    shrunk = True
    while shrunk and tries < TRIES_MAX:
        shrunk = False
        for number in reversed(range(len(steps) - 1)):
            candidate = without(steps, number)
            if len(candidate) == len(steps) or tries == TRIES_MAX or not candidate:
                continue
            tries += 1
            scenario = Scenario(fault.scenario.name, candidate)
            tally = Tally()
            compare(tally, scenario, real(scenario), ours(scenario))
            found = next((one for one in tally.faults if kind_of(one) == kind), None)
            if found is not None:
                fault, steps = found, candidate[: found.number + 1]
                shrunk = True
                break
    return fault


def kind_of(fault: Fault) -> tuple[object, ...]:
    """What must not change: the call, and which parts of the answers differ."""
    step = fault.scenario.steps[fault.number]
    return (step["op"], *sorted({part.split(" ")[-1] for part in fault.parts}))


def without(steps: list[Step], number: int) -> list[Step]:
    """The steps but one, and but those that cannot be without it."""
    dropped = steps[number]
    rest = [step for place, step in enumerate(steps) if place != number]
    if dropped["op"] == "mmap":
        area = dropped["area"]
        return [step for step in rest if not uses_area(step, area)]
    if dropped["op"] in ("fork", "spawn", "clone"):
        return without_task(rest, dropped["task"])
    if dropped["op"] == "file":
        return [step for step in rest if step.get("file") != dropped["name"]]
    return rest


def uses_area(step: Step, area: str) -> bool:
    places = [step.get("place"), step.get("at"), *step.get("places", [])]
    return any(place and place[0] == area for place in places) or step.get("area") == area


def without_task(steps: list[Step], task: str) -> list[Step]:
    """Without what it does, what is done to it, and the tasks that it has made."""
    gone, kept = {task}, []
    lost: set[str] = set()
    for step in steps:
        if step.get("by", FIRST) in gone or step.get("task") in gone:
            if step["op"] in ("fork", "clone"):
                gone.add(step["task"])
            if step["op"] == "mmap":
                lost.add(step["area"])
            continue
        kept.append(step)
    return [step for step in kept if not any(uses_area(step, area) for area in lost)]
