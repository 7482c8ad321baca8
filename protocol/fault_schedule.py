"""A schedule of faults as text: one line a fault, read and written.

    # kind, who, then what else there is to say
    partition node0 <-> node1 at=2 until=3.5
    loss * -> node* message=CopyPages side=answer chance=0.5
    crash source before=COPYING nth=2 back=0.5
    pause coordinator at=4 for=3

Reading what was written gives the same schedule.  docs/faults.md has all words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from protocol.core import ConfigurationError
from protocol.faults import (
    STEPS,
    AnyFault,
    Crash,
    Fault,
    Lack,
    Pause,
    Rule,
    Schedule,
    Side,
    Step,
    Strain,
    kind_of,
)
from protocol.schema import MESSAGES

_OPCODES = {row.name: opcode for opcode, row in MESSAGES.items()}


class _Word(NamedTuple):
    """``key=value`` of a line: the field it sets, how the value is read and written."""

    field: str
    read: Callable[[str], Any]
    write: Callable[[Any], str]


def _seconds(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or value < 0:
        raise ValueError
    return value


def _chance(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise ValueError
    return value


def _positive(text: str) -> float:
    value = _seconds(text)
    if not value:
        raise ValueError
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def _messages(text: str) -> tuple[int, ...]:
    return tuple(_OPCODES[name] for name in text.split(","))


def _message_names(opcodes: tuple[int, ...]) -> str:
    return ",".join(MESSAGES[opcode].name for opcode in opcodes)


def _number(value: float) -> str:
    return repr(value).removesuffix(".0")


def _state(when: str) -> Callable[[str], Step]:
    def read(text: str) -> Step:
        if text not in STEPS:
            raise ValueError
        return Step(when, text)

    return read


def _lost(text: str) -> bool:
    if text != "lost":
        raise ValueError
    return False


_AT = _Word("at", _seconds, _number)
_NTH = _Word("nth", _count, str)
_STEPS = {
    when: _Word("step", _state(when), lambda step: str(step.state)) for when in ("before", "after")
}
_OF_RULE = {
    "at": _Word("start", _seconds, _number),
    "until": _Word("end", _positive, _number),
    "message": _Word("opcodes", _messages, _message_names),
    "side": _Word("side", Side, str),
    **_STEPS,
    "nth": _NTH,
    "times": _Word("times", _count, str),
    "chance": _Word("chance", _chance, _number),
    "seconds": _Word("seconds", _positive, _number),
    "rate": _Word("rate", _positive, _number),
}
_OF_PROCESS = {
    "at": _AT,
    **_STEPS,
    "nth": _NTH,
    "share": _Word("share", _chance, _number),
}
_OF_CRASH = _OF_PROCESS | {
    "back": _Word("after", _seconds, _number),
    "effects": _Word("effects", _count, str),
    "zone": _Word("keep_zone", _lost, lambda keep: "lost"),
}
_OF_PAUSE = _OF_PROCESS | {"for": _Word("seconds", _positive, _number)}
_OF_STRAIN = {
    "at": _AT,
    "for": _Word("seconds", _positive, _number),
    "pages": _Word("pages", _count, str),
    "delay": _Word("delay", _positive, _number),
}
_KINDS = (*Fault, "crash", "pause", *Lack)


def format_schedule(schedule: Iterable[AnyFault]) -> str:
    """A line for each fault."""
    return "".join(f"{format_fault(fault)}\n" for fault in schedule)


def format_fault(fault: AnyFault) -> str:
    """The line of one fault; what is as it is without being said is not said."""
    if isinstance(fault, Rule):
        arrow = "<->" if fault.both_ways else "->"
        who, words = f"{fault.source} {arrow} {fault.target}", _OF_RULE
        plain: AnyFault = Rule(fault.fault)
    elif isinstance(fault, Strain):
        who, words, plain = fault.name, _OF_STRAIN, Strain(fault.lack, fault.name)
    elif isinstance(fault, Crash):
        who, words, plain = fault.name, _OF_CRASH, Crash(fault.name)
    else:
        who, words, plain = fault.name, _OF_PAUSE, Pause(fault.name)
    said = [kind_of(fault), who]
    for key, word in words.items():
        value = getattr(fault, word.field)
        if isinstance(value, Step) and value.when != key:
            continue
        if value != getattr(plain, word.field):
            said.append(f"{key}={word.write(value)}")
    return " ".join(said)


def parse_schedule(text: str) -> Schedule:
    """The faults of a text; empty lines and what follows a # is for people.

    Raises ConfigurationError: one sentence with the number of the line.
    """
    faults: list[AnyFault] = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].split()
        if words:
            try:
                faults.append(_parse(words))
            except _Wrong as wrong:
                raise ConfigurationError(f"Line {number} of the schedule {wrong}.") from None
    return tuple(faults)


class _Wrong(Exception):
    """What is wrong with a line, and what to write."""


def _parse(words: list[str]) -> AnyFault:
    kind, *rest = words
    if kind not in _KINDS:
        raise _Wrong(f"begins with '{kind}': write one of {', '.join(_KINDS)}")
    names = [word for word in rest if "=" not in word]
    pairs = [word for word in rest if "=" in word]
    if kind in list(Fault):
        if len(names) != 3 or names[1] not in ("->", "<->"):
            raise _Wrong(f"does not say which links: write '{kind} node0 -> node1', or <->")
        ends = {"source": names[0], "target": names[2], "both_ways": names[1] == "<->"}
        values = _values(pairs, _OF_RULE) | ends
        if ("rate" in values) != (kind == Fault.BANDWIDTH):
            raise _Wrong("needs rate=BYTES, in a second, for a bandwidth and for nothing else")
        return Rule(Fault(kind), **values)
    if len(names) != 1:
        raise _Wrong(f"does not name one process: write '{kind} node0'")
    if kind in list(Lack):
        return Strain(Lack(kind), names[0], **_values(pairs, _OF_STRAIN))
    if kind == "crash":
        return Crash(names[0], **_values(pairs, _OF_CRASH))
    return Pause(names[0], **_values(pairs, _OF_PAUSE))


def _values(pairs: list[str], words: dict[str, _Word]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for pair in pairs:
        key, _, text = pair.partition("=")
        word = words.get(key)
        if word is None:
            raise _Wrong(f"has '{key}=': only {', '.join(words)} can be said of this fault")
        if word.field in values:
            raise _Wrong(f"says '{key}' twice or both before= and after=: say it once")
        try:
            values[word.field] = word.read(text)
        except (ValueError, KeyError):
            raise _Wrong(f"has '{pair}', which is no value of {key}: see docs/faults.md") from None
    return values
