"""The vocabulary of faults, shared by the simulator and by stress on a live cluster.

A network fault is a ``Rule``: it looks at one letter (a message on its way) and passes it on or
gives a verdict.  Rules stand in a list and the first verdict wins.  A process fault is a ``Crash``.
Both say what they do in one sentence, which a failing run prints.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from protocol.schema import MESSAGES

#: How far apart the copies of one letter arrive at most, in seconds.
ECHO_SECONDS = 0.25


class Fault(StrEnum):
    """What can happen to a letter."""

    LOSS = "loss"
    DELAY = "delay"
    DUPLICATE = "duplicate"
    REORDER = "reorder"
    DAMAGE = "damage"
    PARTITION = "partition"


@dataclass(frozen=True, slots=True)
class Letter:
    """What a rule may look at: between whom, which message, when (seconds)."""

    source: str
    target: str
    opcode: int
    now: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a letter.

    copies: extra seconds on the way, for each copy that arrives (none: the letter is lost).
    in_order: it keeps its place among the letters of its link; else it may overtake and be
    overtaken.  damaged: one bit of it is turned over on the way.
    """

    copies: tuple[float, ...] = (0.0,)
    in_order: bool = True
    damaged: bool = False


PASS = Verdict()


@dataclass(frozen=True, slots=True)
class Rule:
    """One fault on the links ``source`` -> ``target``, from ``start`` until ``end`` (seconds).

    source, target: a name, a prefix with a star (``node*``), or ``*``.  opcodes: only these
    messages (empty: all).  chance: of each letter.  seconds: of a delay, at most.
    both_ways: the links target -> source as well.
    """

    fault: Fault
    source: str = "*"
    target: str = "*"
    opcodes: tuple[int, ...] = ()
    start: float = 0.0
    end: float = math.inf
    chance: float = 1.0
    seconds: float = 0.0
    both_ways: bool = False

    def concerns(self, letter: Letter) -> bool:
        """The letter is on this rule's links, in its time, and one of its messages."""
        if not self.start <= letter.now < self.end:
            return False
        if self.opcodes and letter.opcode not in self.opcodes:
            return False
        there = _fits(self.source, letter.source) and _fits(self.target, letter.target)
        back = _fits(self.source, letter.target) and _fits(self.target, letter.source)
        return there or (self.both_ways and back)

    def judge(self, letter: Letter, draw: random.Random) -> Verdict | None:
        """The verdict, or None to pass the letter on to the next rule."""
        if not self.concerns(letter) or (self.chance < 1.0 and draw.random() >= self.chance):
            return None
        match self.fault:
            case Fault.LOSS | Fault.PARTITION:
                return Verdict(copies=())
            case Fault.DELAY:
                return Verdict(copies=(draw.uniform(0.0, self.seconds),))
            case Fault.DUPLICATE:
                echo = draw.uniform(0.0, self.seconds or ECHO_SECONDS)
                return Verdict(copies=(0.0, echo), in_order=False)
            case Fault.REORDER:
                return Verdict(copies=(draw.uniform(0.0, self.seconds),), in_order=False)
            case Fault.DAMAGE:
                return Verdict(damaged=True)

    def describe(self) -> str:
        """One sentence: what, where, when."""
        arrow = "<->" if self.both_ways else "->"
        names = ", ".join(MESSAGES[opcode].name for opcode in self.opcodes)
        what = f"{self.fault} of {names}" if names else str(self.fault)
        amount = f" up to {self.seconds:g} s" if self.seconds else ""
        chance = f" with chance {self.chance:g}" if self.chance < 1.0 else ""
        until = "" if math.isinf(self.end) else f" until {self.end:.3f} s"
        since = f" from {self.start:.3f} s" if self.start > 0 else ""
        return f"{what}{amount} on {self.source} {arrow} {self.target}{chance}{since}{until}"


@dataclass(frozen=True, slots=True)
class Crash:
    """The process ``name`` is killed at ``at`` seconds and comes back ``after`` seconds later.

    effects: it dies in the middle of its next answer, when so many effects are carried out.
    keep_zone: a node comes back with the zone it had; else with an empty one (a new UUID).
    """

    name: str
    at: float
    after: float
    effects: int = 0
    keep_zone: bool = True

    def describe(self) -> str:
        """One sentence: who, when, with what it comes back."""
        zone = "" if self.keep_zone else " without its zone"
        return (
            f"{self.name} dies at {self.at:.3f} s after {self.effects} effects"
            f" and is back {self.after:.3f} s later{zone}"
        )


def judge(rules: Sequence[Rule], letter: Letter, draw: random.Random) -> Verdict:
    """The first verdict of the rules, in their order; without one the letter passes."""
    for rule in rules:
        verdict = rule.judge(letter, draw)
        if verdict is not None:
            return verdict
    return PASS


def swarm(
    draw: random.Random, names: Sequence[str], until: float, worst: float
) -> tuple[Rule, ...]:
    """A mix of faults drawn from the seed: some kinds are absent, so that others can be seen.

    ``names``: who is on the network.  ``until``: when all faults end.  ``worst``: the longest a
    partition lasts, in seconds.
    """
    rules: list[Rule] = []
    for _ in range(draw.choice((0, 0, 1, 1, 2))):
        source, target = draw.sample(sorted(names), 2)
        start = draw.uniform(0.0, until)
        end = min(until, start + draw.uniform(0.0, worst))
        both = draw.random() < 0.5
        rules.append(Rule(Fault.PARTITION, source, target, start=start, end=end, both_ways=both))
    if draw.random() < 0.3:
        opcode = draw.choice(sorted(MESSAGES))
        rules.append(Rule(Fault.LOSS, opcodes=(opcode,), chance=0.5, end=until))
    for fault, most, seconds in (
        (Fault.LOSS, 0.15, 0.0),
        (Fault.DAMAGE, 0.05, 0.0),
        (Fault.DUPLICATE, 0.3, 1.0),
        (Fault.REORDER, 0.3, 0.05),
        (Fault.DELAY, 0.2, 0.1),
    ):
        if draw.random() < 0.5:
            chance = draw.uniform(0.0, most)
            rules.append(Rule(fault, chance=chance, seconds=seconds, end=until))
    return tuple(rules)


def _fits(pattern: str, name: str) -> bool:
    if pattern.endswith("*"):
        return name.startswith(pattern[:-1])
    return pattern == name
