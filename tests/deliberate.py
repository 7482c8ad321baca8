"""Bugs on purpose: how one is put into the shipped code, and how it is found that it is seen.

Of a load drawn for everything most is of no matter to one bug: a ``Load`` is drawn for what the bug
is about, so that a few seeds show it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from numalab.simulation import seeds
from numalab.simulation.cluster import Plan, draw_plan
from numalab.simulation.seeds import run_seed

#: Who catches a bug, and what it says.
HISTORY = r"gave \d+, where it could be|, but must be"
ORACLE = r"where the kernel|passes \(retry, failed\)"
TABLES = r"names frame|in use by nobody|outlives the last task|still isolated or locked"
JOURNAL = r"the journal has|AssertionError: a frame was freed while it is mapped"
CORE = r"AssertionError"

SEEDS_MAX = 150
Patch = pytest.MonkeyPatch
Bug = Callable[[Patch], None]


@dataclass(frozen=True)
class Load:
    """What the plan of a seed has in the place of what was drawn, and how often acts are drawn."""

    plan: dict[str, Any] = field(default_factory=dict)
    acts: dict[str, int] = field(default_factory=dict)

    def draw_plan(self, seed: int) -> Plan:
        plan = draw_plan(seed)
        return replace(plan, mix=tuple((dict(plan.mix) | self.acts).items()), **self.plan)


ANY = Load()
#: Many calls for the oracle, and a network that behaves.
CALLS: dict[str, Any] = {"quiet": 20, "operations": 60, "rules": ()}
RACES: dict[str, Any] = {"operations": 150, "quiet": 0, "chunk_pages": 64, "frames": (80, 80)}


def wrap(patch: Patch, owner: Any, name: str, around: Callable[..., Any]) -> None:
    """Replace ``owner.name`` by ``around``, which gets the original first."""
    original = getattr(owner, name)
    patch.setattr(owner, name, lambda *args, **more: around(original, *args, **more))


def is_caught(bug: Bug, says: str, load: Load) -> None:
    """Some seed of the load fails with what the bug deserves, and not without the bug."""
    assert any(caught(bug, says, load, seed) for seed in range(SEEDS_MAX)), (
        f"no seed below {SEEDS_MAX} says {says}"
    )


def caught(bug: Bug, says: str, load: Load, seed: int) -> bool:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seeds, "draw_plan", load.draw_plan)
        with pytest.MonkeyPatch.context() as of_bug:
            bug(of_bug)
            sentence = run_seed(seed).sentence
        return re.search(says, sentence) is not None and run_seed(seed).ok
