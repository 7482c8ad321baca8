"""Two lists of answers to one scenario: what agrees, what differs for a reason, what is a fault."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from numalab.conformance.scenario import Scenario, Step

Answer = dict[str, Any]
F_NODE, F_ADDR = 1, 2


class Rule(NamedTuple):
    """A difference that is none: ``forget`` makes both sides alike where the reason holds."""

    name: str
    reason: str
    forget: Callable[[Any, Step], Any]


def _lines(change: Callable[[str], str]) -> Callable[[Any, Step], Any]:
    """A rule about the lines of numa_maps."""

    def forget(answer: Any, step: Step) -> Any:
        seen = {
            task: {**look, "maps": [change(line) for line in look["maps"]]}
            for task, look in answer.get("seen", {}).items()
        }
        return {**answer, "seen": seen}

    return forget


def _without(*keys: str) -> Callable[[Any], Any]:
    def forget(answer: Any) -> Any:
        return {key: value for key, value in answer.items() if key not in keys}

    return forget


def _node_of_zero_page(answer: Any, step: Step) -> Any:
    """A node told of an address where move_pages says -EFAULT: the zero page's."""
    if (
        step["op"] != "get_mempolicy"
        or step.get("flags") != F_NODE | F_ADDR
        or "mode" not in answer
    ):
        return answer
    area, page = step["place"][:2]
    status = answer["seen"][step.get("by", "t")]["nodes"][area][page]
    return {**answer, "mode": None} if status == "EFAULT" else answer


#: TABLE.  A rule is applied to both sides, and named when it made a difference.
RULES: tuple[Rule, ...] = (
    Rule(
        "file name",
        "a file system has a mount point; shared anonymous memory is a deleted /dev/zero there",
        _lines(lambda line: re.sub(r" file=/dev/zero\S*", "", line).replace("=/files/", "=/")),
    ),
    Rule(
        "zero page",
        "the zero page lies on the kernel's first free node, which differs from boot to boot",
        _node_of_zero_page,
    ),
)


@dataclass
class Tally:
    """What was compared so far."""

    scenarios: int = 0
    whole: int = 0
    steps: int = 0
    agreements: int = 0
    named: Counter[str] = field(default_factory=Counter)
    not_yet: Counter[str] = field(default_factory=Counter)
    faults: list[Fault] = field(default_factory=list)


@dataclass(frozen=True)
class Fault:
    """An unexplained difference: of which step, and the parts of both answers that differ."""

    scenario: Scenario
    number: int
    parts: dict[str, tuple[Any, Any]]

    def describe(self, real: str, ours: str) -> str:
        step = self.scenario.steps[self.number]
        lines = [f"{self.scenario.name}: step {self.number + 1}, {tell(step)}"]
        for part, (expected, got) in self.parts.items():
            lines.append(f"    {part}: {real} {expected!r}")
            lines.append(f"    {' ' * len(part)}  {ours} {got!r}")
        return "\n".join(lines)


def compare(tally: Tally, scenario: Scenario, real: list[Answer], ours: list[Answer]) -> bool:
    """Count the steps up to the first fault; False if there is one."""
    tally.scenarios += 1
    answers = zip(scenario.steps, real, ours, strict=False)
    for number, (step, expected, got) in enumerate(answers):
        if "not yet" in got:
            tally.not_yet[got["not yet"]] += 1
            return True
        tally.steps += 1
        parts, named = differences(expected, got, step)
        tally.named.update(named)
        if parts:
            tally.faults.append(Fault(scenario, number, parts))
            return False
        tally.agreements += not named
    tally.whole += 1
    return True


def differences(
    real: Answer, ours: Answer, step: Step
) -> tuple[dict[str, tuple[Any, Any]], list[str]]:
    """The parts that differ, and the names of the rules that made others alike."""
    if "moved" not in ours:
        real = _without("moved", "failed")(real)
    if not _parts(real, ours):
        return {}, []
    found = _parts(*_forgetting(RULES, real, ours, step))
    if found:
        return found, []
    needed = [
        rule.name
        for rule in RULES
        if _parts(*_forgetting([other for other in RULES if other is not rule], real, ours, step))
    ]
    return {}, needed


def _forgetting(
    rules: Iterable[Rule], real: Answer, ours: Answer, step: Step
) -> tuple[Answer, Answer]:
    for rule in rules:
        real, ours = rule.forget(real, step), rule.forget(ours, step)
    return real, ours


def _parts(real: Answer, ours: Answer) -> dict[str, tuple[Any, Any]]:
    flat_real, flat_ours = dict(_flat(real)), dict(_flat(ours))
    keys = [*flat_real, *(key for key in flat_ours if key not in flat_real)]
    both = {key: (flat_real.get(key), flat_ours.get(key)) for key in keys}
    return {key: pair for key, pair in both.items() if pair[0] != pair[1]}


def _flat(answer: Answer, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in answer.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key} ")
        else:
            yield prefix + key, value


def tell(step: Step) -> str:
    """A step as a person writes a call."""
    given = ", ".join(f"{key}={value}" for key, value in step.items() if key not in ("op", "by"))
    return f"{step.get('by', 't')}: {step['op']}({given})"
