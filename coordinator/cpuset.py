"""Cpusets: which cpus a task may run on and which nodes its memory may come from (K 5.12).

A hierarchy, named by paths; the top is ``/`` and has everything at first.  A task is attached to
one of them, a child of fork to that of its parent.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntFlag
from typing import TYPE_CHECKING

from protocol.topology import Topology

if TYPE_CHECKING:
    from coordinator.memory import Memory
    from coordinator.mm import Mempolicy, Task

TOP = "/"


class CpusetFlag(IntFlag):
    """The attribute files that hold 0 or 1."""

    CPU_EXCLUSIVE = 1
    MEM_EXCLUSIVE = 2
    MEMORY_MIGRATE = 4


@dataclass(frozen=True, slots=True)
class Cpuset:
    """struct cpuset: a change of it puts another one in its place."""

    path: str
    cpus: frozenset[int] = frozenset()
    mems: frozenset[int] = frozenset()
    flags: CpusetFlag = CpusetFlag(0)


def top_cpuset(topology: Topology) -> Cpuset:
    """All cpus and nodes; both exclusive, so that its children may be."""
    exclusive = CpusetFlag.CPU_EXCLUSIVE | CpusetFlag.MEM_EXCLUSIVE
    return Cpuset(TOP, frozenset(topology.cpus), frozenset(topology.nids), exclusive)


def contextualized(memory: Memory, task: Task, policy: Mempolicy | None) -> Mempolicy | None:
    """The policy, with the note that its nodes are meant within the task's cpuset now (K 5.15)."""
    if policy is None:
        return None
    return replace(policy, mems_allowed=tuple(sorted(mems_allowed(memory, task))))


def mems_allowed(memory: Memory, task: Task) -> frozenset[int]:
    """The nodes of the task's cpuset: where its user pages may be allocated (K 5.12)."""
    return memory.cpusets[task.cpuset].mems
