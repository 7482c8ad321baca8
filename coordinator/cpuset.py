"""Cpusets: which cpus a task may run on and which nodes its memory may come from (K 5.12).

A hierarchy, named by paths; the top is ``/`` and has everything at first.  A task is attached to
one of them, a child of fork to that of its parent.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntFlag
from typing import TYPE_CHECKING

from protocol.topology import Topology
from protocol.values import at_hand

if TYPE_CHECKING:
    from coordinator.memory import Memory
    from coordinator.mm import Task
from coordinator.mpol import Mempolicy

EACCES, EBUSY, EINVAL, ENOSPC = 13, 16, 22, 28
TOP = "/"


@at_hand
class CpusetFlag(IntFlag):
    """The attribute files that hold 0 or 1."""

    CPU_EXCLUSIVE = 1
    MEM_EXCLUSIVE = 2
    MEMORY_MIGRATE = 4


_EXCLUSIVE = int(CpusetFlag.CPU_EXCLUSIVE | CpusetFlag.MEM_EXCLUSIVE)


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


def mems_charged(memory: Memory, caller: int) -> frozenset[int]:
    """Where the allocations of a call by ``caller`` may come from (K 1.18); 0: the operator."""
    task = memory.tasks.get(caller)
    return frozenset(memory.nids) if task is None else mems_allowed(memory, task)


def cpu_of(task: Task, cpu: int) -> int:
    """The cpu that a task runs on which believes to be on ``cpu``: its own if it may not be there.

    A client hears of a change of cpus at the answer to its next write to the cpuset files.
    """
    return cpu if task.cpus_allowed is None or cpu in task.cpus_allowed else task.cpu


def parent_of(path: str) -> str:
    """The path of the parent of a cpuset that is not the top."""
    return path.rpartition("/")[0] or TOP


def children_of(memory: Memory, path: str) -> list[Cpuset]:
    """The cpusets right below this one, in the order of making."""
    others = (cpuset for cpuset in memory.cpusets.values() if cpuset.path != TOP)
    return [cpuset for cpuset in others if parent_of(cpuset.path) == path]


def tasks_of(memory: Memory, path: str) -> list[Task]:
    """The tasks attached to it, by pid."""
    return [task for _, task in sorted(memory.tasks.items()) if task.cpuset == path]


def is_subset(inner: Cpuset, outer: Cpuset) -> bool:
    """is_cpuset_subset(): masks, and no exclusive flag that the outer one has not."""
    inside = inner.cpus <= outer.cpus and inner.mems <= outer.mems
    return inside and not int(inner.flags) & _EXCLUSIVE & ~int(outer.flags)


def overlaps_exclusively(one: Cpuset, other: Cpuset) -> bool:
    """Whether two siblings share what one of them has for itself."""
    flags = one.flags | other.flags
    return bool(
        (flags & CpusetFlag.CPU_EXCLUSIVE and one.cpus & other.cpus)
        or (flags & CpusetFlag.MEM_EXCLUSIVE and one.mems & other.mems)
    )


def validate_change(memory: Memory, trial: Cpuset) -> int:
    """May the cpuset of this path become ``trial``?  0, -EBUSY (a child would stick out), -EACCES
    (it would stick out of its parent), -EINVAL (exclusive siblings overlap), or -ENOSPC (tasks
    would be left with nothing, where the profile looks).
    """
    if not all(is_subset(child, trial) for child in children_of(memory, trial.path)):
        return -EBUSY
    if trial.path == TOP:
        return 0
    parent = parent_of(trial.path)
    if not is_subset(trial, memory.cpusets[parent]):
        return -EACCES
    siblings = (other for other in children_of(memory, parent) if other.path != trial.path)
    if any(overlaps_exclusively(trial, sibling) for sibling in siblings):
        return -EINVAL
    now = memory.cpusets[trial.path]
    emptied = (now.cpus and not trial.cpus) or (now.mems and not trial.mems)
    if emptied and tasks_of(memory, trial.path):
        return -ENOSPC
    return 0
