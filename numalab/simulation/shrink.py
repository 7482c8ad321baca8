"""The fewest faults of a plan with which it still fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from numalab.faults import Crash, Rule
from numalab.simulation.cluster import Plan
from numalab.simulation.steps import StepFault

Fault = Rule | Crash | StepFault


def faults_of(plan: Plan) -> list[Fault]:
    """All of them, in the order in which they are printed."""
    return [*plan.rules, *plan.crashes, *([] if plan.step is None else [plan.step])]


def with_faults(plan: Plan, faults: list[Fault]) -> Plan:
    """The same machine and load with just these faults."""
    step = [fault for fault in faults if isinstance(fault, StepFault)]
    return replace(
        plan,
        rules=tuple(fault for fault in faults if isinstance(fault, Rule)),
        crashes=tuple(fault for fault in faults if isinstance(fault, Crash)),
        step=step[0] if step else None,
    )


def shrink(plan: Plan, fails: Callable[[Plan], bool]) -> list[Fault]:
    """Leave out one fault after the other, as long as it fails without."""
    needed = faults_of(plan)
    for fault in faults_of(plan):
        fewer = [other for other in needed if other is not fault]
        if fails(with_faults(plan, fewer)):
            needed = fewer
    return needed
