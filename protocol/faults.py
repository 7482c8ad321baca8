"""The vocabulary of faults: what can happen to a letter (a message on its way) or to a process.

A ``Rule`` is a fault of letters, a ``Crash`` or a ``Pause`` one of a process, a ``Strain`` one of a
machine's resources.
Each says what it does in one sentence.  ``protocol/judge.py`` applies them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Protocol

from protocol.messages import (
    CopyPages,
    IsolateLruPage,
    NewPages,
    PutbackLruPages,
    PutPages,
    TakePages,
    UnlockPages,
)
from protocol.schema import MESSAGES, ROWS, Message
from protocol.values import at_hand, value

#: How far apart the copies of one letter arrive at most, in seconds.
ECHO_SECONDS = 0.25
SOURCE, TARGET = "source", "target"


class Draw(Protocol):
    """Where chance comes from; random.Random is one."""

    def random(self) -> float: ...

    def uniform(self, a: float, b: float) -> float: ...


@at_hand
class Fault(StrEnum):
    """What can happen to a letter."""

    LOSS = "loss"
    DELAY = "delay"
    DUPLICATE = "duplicate"
    REORDER = "reorder"
    DAMAGE = "damage"
    PARTITION = "partition"
    BANDWIDTH = "bandwidth"


@at_hand
class Side(StrEnum):
    """Which letters of a conversation."""

    ANY = "any"
    QUESTION = "question"
    ANSWER = "answer"


#: What each state of a page that waits asks (coordinator/life.py), and of which node.
STEPS: dict[str, tuple[type[Message], str]] = {
    "TAKING": (TakePages, SOURCE),
    "ISOLATING": (IsolateLruPage, SOURCE),
    "ALLOCATING": (NewPages, TARGET),
    "COPYING": (CopyPages, SOURCE),
    "UNLOCKING": (UnlockPages, SOURCE),
    "RESTORING": (PutPages, TARGET),
    "SETTLING": (PutbackLruPages, TARGET),
    "RELEASING": (PutPages, SOURCE),
    "PUTTING_BACK": (PutbackLruPages, SOURCE),
}


@dataclass(frozen=True, slots=True)
class Step:
    """A moment of the protocol: ``before`` a state's question arrives, ``after`` its answer left.

    The question is known by its message; where two states ask the same, by whether the node was
    last asked for what one asks a source, or a target.
    """

    when: str
    state: str

    @property
    def side(self) -> Side:
        return Side.QUESTION if self.when == "before" else Side.ANSWER

    @property
    def opcode(self) -> int:
        return ROWS[STEPS[self.state][0]].opcode

    @property
    def role(self) -> str:
        return STEPS[self.state][1]


@value
class Letter:
    """What a rule may look at: between whom, which message, when (seconds).

    asked: opcode of the question that an answer answers (-1: unknown), or its own.  size: bytes.
    """

    source: str
    target: str
    opcode: int
    now: float
    side: Side = Side.QUESTION
    asked: int = -1
    size: int = 0


@value
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
    messages (empty: all); of side ANSWER, the answers to them.  chance: of each letter.  seconds:
    of a delay, at most.  both_ways: the links target -> source as well.  step: only the letters of
    that moment.  nth: only the n-th letter concerned.  times: so many letters at most (0: all).
    rate: of a bandwidth, bytes in a second.
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
    side: Side = Side.ANY
    step: Step | None = None
    nth: int = 0
    times: int = 0
    rate: float = 0.0

    def concerns(self, letter: Letter) -> bool:
        """The letter is on this rule's links, in its time, and one of its messages."""
        if not self.start <= letter.now < self.end:
            return False
        if self.side != Side.ANY and letter.side != self.side:
            return False
        named = letter.asked if self.side == Side.ANSWER else letter.opcode
        if self.opcodes and named not in self.opcodes:
            return False
        there = fits(self.source, letter.source) and fits(self.target, letter.target)
        back = fits(self.source, letter.target) and fits(self.target, letter.source)
        return there or (self.both_ways and back)

    def verdict(self, draw: Draw) -> Verdict:
        """What becomes of a letter that it hits."""
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
            case Fault.BANDWIDTH:
                return PASS

    def describe(self) -> str:
        """One sentence: what, where, when."""
        arrow = "<->" if self.both_ways else "->"
        names = ", ".join(MESSAGES[opcode].name for opcode in self.opcodes)
        of = f"{self.side} of {names}" if self.side != Side.ANY else names
        what = f"{self.fault} of {of}" if names else str(self.fault)
        if not names and self.side != Side.ANY:
            what = f"{self.fault} of every {self.side}"
        amount = f" up to {self.seconds:g} s" if self.seconds else ""
        amount += f" of {self.rate:g} bytes/s" if self.rate else ""
        chance = f" with chance {self.chance:g}" if self.chance < 1.0 else ""
        return (
            f"{what}{amount} on {self.source} {arrow} {self.target}{chance}"
            f"{_when(self.step, self.nth)}{_window(self.start, self.end)}"
        )


@dataclass(frozen=True, slots=True)
class Crash:
    """The process ``name`` is killed at ``at`` seconds and comes back ``after`` seconds later.

    name: of a process, or ``source`` or ``target`` of the migration at ``step``.  effects: it dies
    in the middle of its next answer, when so many effects are carried out.  keep_zone: a node comes
    back with the zone it had; else with an empty one (a new UUID).  step, nth: not at ``at`` but at
    the n-th such moment after it.  share: when so much of a migration's pages is done.
    """

    name: str
    at: float = 0.0
    after: float = 1.0
    effects: int = 0
    keep_zone: bool = True
    step: Step | None = None
    nth: int = 0
    share: float = 0.0

    def describe(self) -> str:
        """One sentence: who, when, with what it comes back."""
        zone = "" if self.keep_zone else " without its zone"
        return (
            f"{self.name} dies{_moment(self)} after {self.effects} effects"
            f" and is back {self.after:.3f} s later{zone}"
        )


@dataclass(frozen=True, slots=True)
class Pause:
    """The process ``name`` stands still for ``seconds`` (SIGSTOP, then SIGCONT).

    The other fields are those of Crash.
    """

    name: str
    at: float = 0.0
    seconds: float = 1.0
    step: Step | None = None
    nth: int = 0
    share: float = 0.0

    def describe(self) -> str:
        """One sentence: who, when, how long."""
        return f"{self.name} stands still{_moment(self)} for {self.seconds:.3f} s"


@at_hand
class Lack(StrEnum):
    """What a machine can be short of."""

    FULL = "full"
    PINNED = "pinned"
    SLOW_DISK = "slow-disk"
    FULL_DISK = "full-disk"


@dataclass(frozen=True, slots=True)
class Strain:
    """From ``at`` on and for ``seconds``, ``name`` is short of something.

    FULL: no frame of the node is free.  PINNED: so many ``pages`` have a user of their own.
    SLOW_DISK: each write to the journal takes ``delay`` seconds more.  FULL_DISK: it is refused,
    which ends the process; it comes back when the time is over.
    """

    lack: Lack
    name: str
    at: float = 0.0
    seconds: float = 1.0
    pages: int = 32
    delay: float = 0.1

    def describe(self) -> str:
        """One sentence: what, who, when."""
        what = {
            Lack.FULL: f"{self.name} has no free frame",
            Lack.PINNED: f"{self.pages} pages of {self.name} are pinned",
            Lack.SLOW_DISK: f"the disk of {self.name} takes {self.delay:g} s more",
            Lack.FULL_DISK: f"the disk of {self.name} is full",
        }[self.lack]
        return f"{what}{_window(self.at, self.at + self.seconds)}"

    def holds(self, now: float) -> bool:
        return self.at <= now < self.at + self.seconds


OfProcess = Crash | Pause
AnyFault = Rule | Crash | Pause | Strain
Schedule = tuple[AnyFault, ...]


def kind_of(fault: AnyFault) -> str:
    """The word that begins its line in a schedule."""
    match fault:
        case Rule(fault=name):
            return str(name)
        case Strain(lack=lack):
            return str(lack)
        case Crash():
            return "crash"
        case Pause():
            return "pause"


@cache
def fits(pattern: str, name: str) -> bool:
    """``node*`` fits every name that begins with ``node``."""
    if pattern.endswith("*"):
        return name.startswith(pattern[:-1])
    return pattern == name


def _when(step: Step | None, nth: int) -> str:
    place = f" {step.when} {step.state}" if step else ""
    return place + (f" the {nth}. time" if nth else "")


def _window(start: float, end: float) -> str:
    since = f" from {start:.3f} s" if start > 0 else ""
    return since + ("" if math.isinf(end) else f" until {end:.3f} s")


def _moment(fault: OfProcess) -> str:
    if fault.share:
        return f" when {fault.share:.0%} of a migration is done"
    return _when(fault.step, fault.nth) if fault.step else f" at {fault.at:.3f} s"
