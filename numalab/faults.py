"""The vocabulary of faults, shared by the simulator and by stress on a live cluster.

What a fault is stands in ``protocol/faults.py``, for the transport of a live process has to know
it; how schedules are drawn from a seed stands here.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from protocol.fault_schedule import format_fault, format_schedule, parse_schedule
from protocol.faults import (
    STEPS,
    AnyFault,
    Crash,
    Fault,
    Lack,
    Letter,
    Pause,
    Rule,
    Schedule,
    Side,
    Step,
    Strain,
    Verdict,
    kind_of,
)
from protocol.judge import Judge
from protocol.schema import COORDINATOR, MESSAGES

__all__ = [
    "AnyFault",
    "Crash",
    "Fault",
    "Judge",
    "Lack",
    "Letter",
    "Pause",
    "Rule",
    "Schedule",
    "Side",
    "Step",
    "Strain",
    "Verdict",
    "draw_schedule",
    "format_fault",
    "format_schedule",
    "kind_of",
    "parse_schedule",
    "swarm",
]

#: The longer ones outlast every time-out of a question between processes of the machine.
PAUSE_SECONDS = (0.5, 6.0)
KINDS = ("kills", "coordinator-kills", "pauses", "messages", "partitions", "strains")


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


def draw_schedule(
    draw: random.Random, nodes: Sequence[str], until: float, kinds: Sequence[str] = KINDS
) -> Schedule:
    """Faults of a live machine for ``until`` seconds: one every few seconds, of these kinds.

    Each begins before ``until``, and ends by itself.
    """
    faults: list[AnyFault] = []
    now = draw.uniform(0.3, 1.5)
    while kinds and now < until:
        faults.append(_draw_fault(draw, draw.choice(list(kinds)), nodes, round(now, 3)))
        now += draw.uniform(1.0, 5.0)
    return tuple(faults)


def _draw_fault(draw: random.Random, kind: str, nodes: Sequence[str], now: float) -> AnyFault:
    node = draw.choice(list(nodes))

    def some(least: float, most: float) -> float:
        return round(draw.uniform(least, most), 3)

    match kind:
        case "kills" if draw.random() < 0.4:
            step = Step(draw.choice(("before", "after")), draw.choice(sorted(STEPS)))
            who = draw.choice(("source", "target"))
            return Crash(who, now, some(0.0, 2.0), step=step, nth=draw.randint(1, 5))
        case "kills":
            return Crash(node, now, some(0.0, 2.0))
        case "coordinator-kills" if draw.random() < 0.4:
            step = Step(draw.choice(("before", "after")), draw.choice(sorted(STEPS)))
            return Crash(COORDINATOR, now, some(0.0, 2.0), step=step, nth=draw.randint(1, 5))
        case "coordinator-kills":
            return Crash(COORDINATOR, now, some(0.0, 2.0))
        case "pauses":
            who = draw.choice((*nodes, COORDINATOR, "client"))
            return Pause(who, now, some(*PAUSE_SECONDS))
        case "partitions":
            source, target = draw.sample([*nodes, COORDINATOR, "client*"], 2)
            both = draw.random() < 0.5
            end = round(now + some(0.5, 5.0), 3)
            return Rule(Fault.PARTITION, source, target, start=now, end=end, both_ways=both)
        case "strains":
            lack = draw.choice((Lack.FULL, Lack.PINNED, Lack.PINNED, Lack.SLOW_DISK))
            strain = Strain(lack, node, now, some(0.5, 4.0))
            if lack == Lack.PINNED:
                return replace(strain, name="client", pages=draw.randint(1, 64))
            if lack == Lack.SLOW_DISK:
                return replace(strain, name=COORDINATOR, delay=some(0.01, 0.2))
            return strain
    fault, most, seconds = draw.choice(_OF_LETTERS)
    side = draw.choice((Side.ANY, Side.QUESTION, Side.ANSWER))
    end, rate = round(now + some(1.0, 6.0), 3), 0.0
    if fault == Fault.BANDWIDTH:
        rate = float(draw.choice((1_000_000, 10_000_000)))
    chance = 1.0 if rate else some(0.01, most)
    return Rule(fault, start=now, end=end, chance=chance, seconds=seconds, side=side, rate=rate)


#: Fault, the highest chance of it, and seconds at most.
_OF_LETTERS = (
    (Fault.LOSS, 0.2, 0.0),
    (Fault.DAMAGE, 0.05, 0.0),
    (Fault.DUPLICATE, 0.3, 1.0),
    (Fault.REORDER, 0.3, 0.05),
    (Fault.DELAY, 0.2, 0.3),
    (Fault.BANDWIDTH, 1.0, 0.0),
)
