"""Cpusets: which nodes and cpus tasks may use (K 5.12 - 5.16)."""

from __future__ import annotations

from coordinator.cpuset import mems_allowed
from tests.lab import Lab


def test_the_top_cpuset_has_everything(lab: Lab) -> None:
    pid = lab.spawn()
    child = lab.fork(pid)
    for task in (lab.memory.tasks[pid], lab.memory.tasks[child]):
        assert mems_allowed(lab.memory, task) == frozenset(range(4))
