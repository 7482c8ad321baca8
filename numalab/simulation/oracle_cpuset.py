"""Cpusets in straight lines: what a write to their files changes, whose memory follows (K 5.13).

Texts are good ones: how they are read is not for the oracle.
"""

from __future__ import annotations

import errno
from dataclasses import replace

from numalab.simulation.oracle import MPOL_MF_MOVE_ALL, do_migrate_pages
from numalab.simulation.oracle_machine import Area, Cpuset, Machine, Nodes, Process
from numalab.simulation.oracle_policy import rebind_areas, rebind_task

TOP = "/"
#: An mm that is to be migrated at the end of a write, and from where to where.
Queued = tuple[Process, Nodes, Nodes]


def parent_of(path: str) -> str:
    return path.rpartition("/")[0] or TOP


def children(machine: Machine, path: str) -> list[Cpuset]:
    """The cpusets right below this one."""
    below = (other for other in machine.cpusets if other != TOP and parent_of(other) == path)
    return [machine.cpusets[other] for other in below]


def attached(machine: Machine, path: str) -> list[Process]:
    """The tasks in it, by pid."""
    return [task for _, task in sorted(machine.processes.items()) if task.cpuset == path]


def may_write(machine: Machine, caller: int) -> bool:
    """The files belong to root; caller 0 is root's shell."""
    return caller == 0 or machine.processes[caller].uid == 0


def sys_mkdir(machine: Machine, caller: int, path: str) -> int:
    """mkdir(2) of a good name: 0 or -errno."""
    if path in machine.cpusets:
        return -errno.EEXIST
    if parent_of(path) not in machine.cpusets:
        return -errno.ENOENT
    if not may_write(machine, caller):
        return -errno.EACCES
    machine.cpusets[path] = Cpuset(frozenset(), frozenset())
    return 0


def sys_rmdir(machine: Machine, caller: int, path: str) -> int:
    """rmdir(2): 0 or -errno."""
    if path not in machine.cpusets:
        return -errno.ENOENT
    if not may_write(machine, caller):
        return -errno.EACCES
    if path == TOP or attached(machine, path) or children(machine, path):
        return -errno.EBUSY
    del machine.cpusets[path]
    return 0


def sys_write(machine: Machine, caller: int, path: str, file: str, numbers: Nodes) -> int:
    """write(2) of a list, of a pid (0: the writer) or of 0 or 1: 0 or -errno (K 5.14)."""
    if path not in machine.cpusets:
        return -errno.ENOENT
    if not may_write(machine, caller):
        return -errno.EACCES
    if file == "tasks":
        return attach(machine, min(numbers) or caller, path)
    now = machine.cpusets[path]
    if file == "memory_migrate":
        machine.cpusets[path] = replace(now, migrates=numbers == {1})
        return 0
    if path == TOP and machine.modern:
        return -errno.EACCES
    there = frozenset(machine.free if file == "mems" else machine.node_of_cpu)
    if machine.modern and not numbers <= there:
        return -errno.EINVAL
    numbers &= there
    if file == "cpus":
        return update_cpumask(machine, path, numbers)
    return update_nodemask(machine, path, numbers)


def validate_change(machine: Machine, path: str, trial: Cpuset) -> int:
    """Inside of its parent and around its children, and not empty with tasks in it."""
    for child in children(machine, path):
        if not (child.cpus <= trial.cpus and child.mems <= trial.mems):
            return -errno.EBUSY
    if path == TOP:
        return 0
    parent, now = machine.cpusets[parent_of(path)], machine.cpusets[path]
    if not (trial.cpus <= parent.cpus and trial.mems <= parent.mems):
        return -errno.EACCES
    emptied = (now.cpus and not trial.cpus) or (now.mems and not trial.mems)
    return -errno.ENOSPC if emptied and attached(machine, path) else 0


def update_cpumask(machine: Machine, path: str, cpus: frozenset[int]) -> int:
    """Now tasks hear of it at once, at the seed when they are attached again."""
    trial = replace(machine.cpusets[path], cpus=cpus)
    if not machine.modern and not cpus:
        return -errno.ENOSPC
    if error := validate_change(machine, path, trial):
        return error
    changed = machine.cpusets[path] != trial
    machine.cpusets[path] = trial
    if machine.modern and changed:
        for task in attached(machine, path):
            set_cpus_allowed(machine, task, cpus)
    return 0


def set_cpus_allowed(machine: Machine, task: Process, cpus: frozenset[int]) -> None:
    if task.cpu not in cpus:
        task.cpu = min(cpus)
        task.node = machine.node_of_cpu[task.cpu]


def update_nodemask(machine: Machine, path: str, mems: Nodes) -> int:
    """Every mm is rebound; and migrated, at the seed at once, now when all are rebound (K 5.14)."""
    now = machine.cpusets[path]
    trial = replace(now, mems=mems)
    if mems == now.mems:
        return 0
    if not machine.modern and not mems:
        return -errno.ENOSPC
    if error := validate_change(machine, path, trial):
        return error
    machine.cpusets[path] = trial
    if machine.modern:
        for task in attached(machine, path):
            rebind_task(machine, task)
    queue: list[Queued] = []
    seen: list[list[Area]] = []
    for task in attached(machine, path):
        if not any(areas is task.areas for areas in seen):
            seen.append(task.areas)
            _mm_follows(machine, task, now.mems, trial, queue)
    _work_off(machine, queue)
    return 0


def attach(machine: Machine, pid: int, path: str) -> int:
    """attach_task(): its cpu, its policy, and its memory (CS-17)."""
    cpuset = machine.cpusets[path]
    empty = not cpuset.cpus or not cpuset.mems
    task = machine.processes.get(pid)
    if empty and not machine.modern:
        return -errno.ENOSPC
    if task is None:
        return -errno.ESRCH
    if machine.modern and task.cpuset == path:
        return 0
    if empty:
        return -errno.ENOSPC
    old, task.cpuset = machine.mems(task), path
    set_cpus_allowed(machine, task, cpuset.cpus)
    if machine.modern:
        rebind_task(machine, task)
    queue: list[Queued] = []
    if task.leader or not machine.modern:
        _mm_follows(machine, task, old, cpuset, queue)
    _work_off(machine, queue)
    return 0


def _mm_follows(
    machine: Machine, task: Process, old: Nodes, cpuset: Cpuset, queue: list[Queued]
) -> None:
    rebind_areas(machine, task, cpuset.mems)
    if cpuset.migrates:
        queue.append((task, old, cpuset.mems))
        if not machine.modern:
            _work_off(machine, queue)


def _work_off(machine: Machine, queue: list[Queued]) -> None:
    """cpuset_migrate_mm(): MOVE_ALL whoever writes, to the new nodes alone, errors ignored."""
    for task, old, new in queue:
        if old != new or not machine.modern:
            machine.met.add("memory follows its cpuset")
            do_migrate_pages(machine, task, old, new, MPOL_MF_MOVE_ALL, new)
    queue.clear()
