"""The fixed scenarios, all of them; each is called after its topic."""

from __future__ import annotations

from numalab.conformance import (
    fixed_cpuset,
    fixed_locks,
    fixed_mbind,
    fixed_memory,
    fixed_migrate,
    fixed_move,
    fixed_policy,
)
from numalab.conformance.scenario import Scenario

TOPICS = {
    "migrate_pages": fixed_migrate.SCENARIOS,
    "move_pages": fixed_move.SCENARIOS,
    "mbind": fixed_mbind.SCENARIOS,
    "policy": fixed_policy.SCENARIOS,
    "memory": fixed_memory.SCENARIOS,
    "locks": fixed_locks.SCENARIOS,
    "cpuset": fixed_cpuset.SCENARIOS,
}

FIXED = tuple(
    Scenario(f"{topic}: {each.name}", each.steps)
    for topic, scenarios in TOPICS.items()
    for each in scenarios
)
