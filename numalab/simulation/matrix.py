"""The crash matrix: every state of the life table, before and after its effect, by every fault.

A cell is a simulated machine with a load of its own, no other fault, and this one at its step.  All
that a seed is judged by holds for it: histories, contents, placement, conservation, the journal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

from coordinator.life import State
from numalab.simulation.cluster import Plan, draw_plan
from numalab.simulation.seeds import Result, run_plan
from numalab.simulation.steps import StepFault, What, all_steps

#: So many loads are drawn until one comes to the step.
TRIES = 60


@dataclass(frozen=True, slots=True)
class Cell:
    """How it went: ``result`` of the last seed that was run."""

    fault: StepFault
    result: Result

    @property
    def verdict(self) -> str:
        """``valid``, ``invalid``, or ``never met``: no load came to the step."""
        if not self.result.ok:
            return "invalid"
        return "valid" if self.result.hits else "never met"


def plan_of_cell(seed: int, fault: StepFault) -> Plan:
    """A load that migrates much, also pages that somebody holds, and this fault alone."""
    plan = draw_plan(seed)
    mix = {name: weight for name, weight in plan.mix if name in ("store", "load", "touch", "map")}
    mix |= {"migrate": 8, "move": 6, "touch": 4, "hold": 6 if fault.state in _OF_HELD else 2}
    frames = tuple(max(40, frames) for frames in plan.frames)
    return replace(
        plan,
        frames=frames,
        mix=tuple(mix.items()),
        rules=(),
        step=fault,
        quiet=0,
        heartbeat=0.5,
        operations=40,
    )


#: States that only pages come to which cannot be moved.
_OF_HELD = (State.UNLOCKING, State.RESTORING, State.PUTTING_BACK, State.FAILED)


def run_cell(fault: StepFault, first_seed: int = 0) -> Cell:
    """Draw loads until one comes to the step, or fails."""
    for seed in range(first_seed, first_seed + TRIES):
        result = run_plan(plan_of_cell(seed, fault))
        if result.hits or not result.ok:
            break
    return Cell(fault, result)


def run_matrix(first_seed: int = 0, *, processes: int = 2) -> Iterator[Cell]:
    """Every cell, row by row."""
    steps = list(all_steps())
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(run_cell, steps, [first_seed] * len(steps), chunksize=2)


def draw_matrix(cells: Sequence[Cell]) -> str:
    """The table, for a person: a line for each state and moment, a column for each fault."""
    rows: dict[tuple[State, bool], dict[What, str]] = {}
    for cell in cells:
        row = rows.setdefault((cell.fault.state, cell.fault.before), {})
        row[cell.fault.what] = cell.verdict
    width = max(len(what) for what in What) + 2
    lines = [" " * 22 + "".join(f"{what:<{width}}" for what in What)]
    for (state, before), verdicts in rows.items():
        when = "before" if before else "after"
        told = "".join(f"{verdicts.get(what, ''):<{width}}" for what in What)
        lines.append(f"{when:<7}{state.name:<15}{told}")
    return "\n".join(line.rstrip() for line in lines)
