"""A schedule of faults at work: what becomes of a letter, and which process dies of it.

The same in the simulated network and in the transport of a live process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from protocol.faults import (
    PASS,
    SOURCE,
    STEPS,
    TARGET,
    AnyFault,
    Crash,
    Draw,
    Fault,
    Letter,
    OfProcess,
    Pause,
    Rule,
    Side,
    Step,
    Verdict,
)
from protocol.messages import PutbackLruPages, PutPages
from protocol.schema import COORDINATOR, ROWS

#: By these a node is known to be the source or the target of a migration; the others ask either.
_ROLES = {
    ROWS[asked].opcode: role
    for asked, role in STEPS.values()
    if asked not in (PutPages, PutbackLruPages)
}


class Counters(Protocol):
    """A number for each fault: a list, or memory that several processes share."""

    def __getitem__(self, number: int) -> int: ...

    def __setitem__(self, number: int, count: int) -> None: ...


def _every(name: str, fault: OfProcess) -> bool:
    """For who sees all letters."""
    return True


class Judge:
    """A schedule at work: says what becomes of each letter, and which process dies of it.

    matched, hits: a number for each fault of the schedule; letters concerned, and those (or
    processes) hit.  Both may lie in memory that several processes share.
    """

    def __init__(
        self,
        schedule: Sequence[AnyFault],
        draw: Draw,
        *,
        matched: Counters | None = None,
        hits: Counters | None = None,
    ) -> None:
        self.schedule = tuple(schedule)
        self.matched: Counters = [0] * len(schedule) if matched is None else matched
        self.hits: Counters = [0] * len(schedule) if hits is None else hits
        self._draw = draw
        self._rules = [(n, f) for n, f in enumerate(schedule) if isinstance(f, Rule)]
        self._steps = [
            (n, f) for n, f in enumerate(schedule) if isinstance(f, Crash | Pause) and f.step
        ]
        self._roles: dict[str, str] = {}
        self._last = {SOURCE: "", TARGET: ""}
        self._busy: dict[tuple[str, str], float] = {}
        #: The rule that hit the last letter, if one did.
        self.applied: Rule | None = None
        #: Whether a rule looks at more than names and times, so that letters have to be opened.
        self.opens = bool(self._steps) or any(
            rule.opcodes or rule.step or rule.side != Side.ANY for _, rule in self._rules
        )

    def verdict(self, letter: Letter) -> Verdict:
        """The first verdict of the rules, in their order; without one the letter passes."""
        self._learn(letter)
        self.applied = None
        for number, rule in self._rules:
            if not rule.concerns(letter) or (rule.step and not self._is_at(rule.step, letter)):
                continue
            self.matched[number] += 1
            if rule.nth and self.matched[number] != rule.nth:
                continue
            if rule.times and self.hits[number] >= rule.times:
                continue
            if rule.chance < 1.0 and self._draw.random() >= rule.chance:
                continue
            self.hits[number] += 1
            self.applied = rule
            if rule.fault == Fault.BANDWIDTH:
                return self._queue(rule, letter)
            return rule.verdict(self._draw)
        return PASS

    @property
    def has_steps(self) -> bool:
        """Whether a process is to be struck at a step."""
        return bool(self._steps)

    def struck(
        self, letter: Letter, may: Callable[[str, OfProcess], bool] = _every
    ) -> list[tuple[int, str, OfProcess]]:
        """The processes that this letter is the end of: number of the fault, name, fault.

        may: whether it is for us to say so of this process.
        """
        self._learn(letter)
        found: list[tuple[int, str, OfProcess]] = []
        for number, fault in self._steps:
            assert fault.step is not None
            if letter.now < fault.at or not self._is_at(fault.step, letter) or self.hits[number]:
                continue
            name = self._last.get(fault.name, fault.name)
            if not name or not may(name, fault):
                continue
            self.matched[number] += 1
            if self.matched[number] >= fault.nth:
                self.hits[number] += 1
                found.append((number, name, fault))
        return found

    def _queue(self, rule: Rule, letter: Letter) -> Verdict:
        """It leaves when those before it have left."""
        link = letter.source, letter.target
        free = max(self._busy.get(link, 0.0), letter.now) + letter.size / rule.rate
        self._busy[link] = free
        return Verdict(copies=(free - letter.now,))

    def _learn(self, letter: Letter) -> None:
        role = _ROLES.get(letter.opcode)
        if role is not None and letter.source == COORDINATOR:
            self._roles[letter.target] = role
            self._last[role] = letter.target

    def _is_at(self, step: Step, letter: Letter) -> bool:
        if letter.side != step.side or letter.asked != step.opcode:
            return False
        asked = letter.target if letter.side == Side.QUESTION else letter.source
        return self._roles.get(asked, step.role) == step.role
