"""The cpuset file system: mkdir, rmdir, reading and writing attributes, attaching tasks.

A change that moves memory does for each mm what K 5.13 says: rebind the policies of its vmas, then
do_migrate_pages() from the old nodes to the new ones, whatever the writer may do, errors ignored.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from coordinator.calls import PARKED, Steps, down_write, up_write
from coordinator.cpuset import (
    TOP,
    Cpuset,
    CpusetFlag,
    children_of,
    mems_allowed,
    parent_of,
    tasks_of,
    validate_change,
)
from coordinator.cpuset_files import (
    FLAGS,
    TEXT_LIMIT,
    attribute,
    parse_flag,
    parse_mask,
    parse_pid,
    read,
)
from coordinator.desk import Desk, handles
from coordinator.inode import PATH_MAX
from coordinator.memory import Memory
from coordinator.mempolicy import MPOL_MF_MOVE_ALL, do_migrate_pages
from coordinator.mm import Mm, Task
from coordinator.pagelist import Settings
from coordinator.rebind import rebind_mm, update_task_memory_state
from coordinator.records import CpusetChanged, CpusetRemoved, PoliciesRebound, TaskAttached
from coordinator.syscalls import OPERATOR, Kernel, cpu_node
from protocol import syscalls as m
from protocol.messages import Done
from protocol.schema import Message
from protocol.session import Question

ENOENT, ESRCH, E2BIG, EACCES, EBUSY, EEXIST, EINVAL, ENOSPC, ENAMETOOLONG = (
    2, 3, 7, 13, 16, 17, 22, 28, 36,
)  # fmt: skip
NAME_MAX = 255


@dataclass(slots=True)
class Change:
    """A write under way: ``moved`` are tasks whose cpus were set, ``mms`` those to migrate."""

    memory: Memory
    kernel: Kernel
    caller: int
    moved: list[Task] = field(default_factory=list)
    mms: list[tuple[Mm, frozenset[int], frozenset[int]]] = field(default_factory=list)


# ---- directories -----------------------------------------------------------------------------


def may_write(memory: Memory, caller: int) -> bool:
    """The files belong to root."""
    task = memory.tasks.get(caller)
    return caller == OPERATOR or (task is not None and task.cred.euid == 0)


def cpuset_mkdir(memory: Memory, caller: int, path: str) -> int:
    """mkdir(2): 0, -EEXIST, -ENOENT (no parent), -EACCES, -EINVAL or -ENAMETOOLONG.

    The new cpuset has no cpus, no mems and no flags, whatever its parent has (CS-17).
    """
    name = path.rpartition("/")[2]
    if path in memory.cpusets or attribute(name) is not None:
        return -EEXIST
    if not path.startswith("/") or name in ("", ".", "..") or "\n" in path:
        return -EINVAL
    if parent_of(path) not in memory.cpusets:
        return -ENOENT
    if len(name.encode()) > NAME_MAX or len(path.encode()) >= PATH_MAX:
        return -ENAMETOOLONG
    if not may_write(memory, caller):
        return -EACCES
    _put(memory, Cpuset(path))
    return 0


def cpuset_rmdir(memory: Memory, caller: int, path: str) -> int:
    """rmdir(2): 0, -ENOENT, -EACCES, or -EBUSY while it has tasks or children."""
    if path not in memory.cpusets:
        return -ENOENT
    if not may_write(memory, caller):
        return -EACCES
    if path == TOP or tasks_of(memory, path) or children_of(memory, path):
        return -EBUSY
    del memory.cpusets[path]
    memory.records.append(CpusetRemoved(path))
    return 0


def _put(memory: Memory, cpuset: Cpuset) -> None:
    memory.cpusets[cpuset.path] = cpuset
    cpus, mems = tuple(sorted(cpuset.cpus)), tuple(sorted(cpuset.mems))
    memory.records.append(CpusetChanged(cpuset.path, cpus, mems, int(cpuset.flags)))


# ---- writing ---------------------------------------------------------------------------------


def cpuset_write(change: Change, path: str, name: str, text: str) -> Steps[int]:
    """write(2) to an attribute file: 0 or -errno, when all that follows from it is done (K 5.14).

    One writer at a time; where the migration is queued, the next may write while it goes on.
    """
    memory, bare = change.memory, attribute(name)
    if path not in memory.cpusets or bare is None:
        return -ENOENT
    if not may_write(memory, change.caller):
        return -EACCES
    if len(text.encode()) > TEXT_LIMIT:
        return -E2BIG
    ticket = memory.cpuset_mutex.ask(write=True)
    while not memory.cpuset_mutex.granted(ticket):
        yield PARKED
    try:
        # It may be gone by now.
        if path not in memory.cpusets:
            return -ENOENT
        error = yield from _write(change, memory.cpusets[path], bare, text)
    finally:
        memory.cpuset_mutex.writer = False
        memory.woken = True
    for mm, old, new in change.mms:
        if old != new:
            yield from _migrate_mm(change, mm, old, new)
    return error


def _write(change: Change, cpuset: Cpuset, name: str, text: str) -> Steps[int]:
    if name == "tasks":
        return (yield from _attach(change, cpuset, text))
    if name == "mems":
        return (yield from _write_mems(change, cpuset, text))
    if name == "cpus":
        return _write_cpus(change, cpuset, text)
    return _write_flag(change, cpuset, name, text)


def _write_cpus(change: Change, cpuset: Cpuset, text: str) -> int:
    """update_cpumask()."""
    memory, profile = change.memory, change.memory.profile
    trial = _trial(change, cpuset, "cpus", text)
    if isinstance(trial, int):
        return trial
    if profile.cpuset_masks_off_unknown and not trial.cpus:
        return -ENOSPC
    error = validate_change(memory, trial)
    if error or trial == cpuset:
        return error
    _put(memory, trial)
    if not profile.cpuset_cpus_wait_for_attach:
        for task in tasks_of(memory, cpuset.path):
            _set_cpus_allowed(change, task, trial)
    return 0


def _write_mems(change: Change, cpuset: Cpuset, text: str) -> Steps[int]:
    """update_nodemask()."""
    memory, profile = change.memory, change.memory.profile
    trial = _trial(change, cpuset, "mems", text)
    if isinstance(trial, int) or trial.mems == cpuset.mems:
        return trial if isinstance(trial, int) else 0
    if profile.cpuset_masks_off_unknown and not trial.mems:
        return -ENOSPC
    error = validate_change(memory, trial)
    if error:
        return error
    _put(memory, trial)
    if not profile.task_policy_is_rebound_lazily:
        for task in tasks_of(memory, cpuset.path):
            update_task_memory_state(memory, task)
    done: list[Mm] = []
    # A task that forks meanwhile has a child with the old policies: look until there is no other.
    while mm := next((t.mm for t in tasks_of(memory, cpuset.path) if t.mm not in done), None):
        done.append(mm)
        yield from _mm_follows(change, mm, cpuset.mems, trial)
    return 0


def _trial(change: Change, cpuset: Cpuset, name: str, text: str) -> Cpuset | int:
    """The cpuset with the list of the text, or -errno (CS-16)."""
    memory, profile = change.memory, change.memory.profile
    if cpuset.path == TOP and not profile.top_cpuset_is_writable:
        return -EACCES
    mask = parse_mask(text, profile)
    if isinstance(mask, int):
        return mask
    there = frozenset(memory.topology.cpus if name == "cpus" else memory.nids)
    if profile.cpuset_masks_off_unknown:
        mask &= there
    elif not mask <= there:
        return -EINVAL
    return replace(cpuset, cpus=mask) if name == "cpus" else replace(cpuset, mems=mask)


def _write_flag(change: Change, cpuset: Cpuset, name: str, text: str) -> int:
    """update_flag(): moves nothing; memory_migrate is for the next change (K 5.13)."""
    value = parse_flag(text, change.memory.profile)
    if not isinstance(value, bool):
        return value
    bit = FLAGS[name]
    flags = CpusetFlag(cpuset.flags | bit if value else cpuset.flags & ~bit)
    trial = replace(cpuset, flags=flags)
    error = validate_change(change.memory, trial)
    if not error and trial != cpuset:
        _put(change.memory, trial)
    return error


def _attach(change: Change, cpuset: Cpuset, text: str) -> Steps[int]:
    """attach_task() (K 5.13, CS-17)."""
    memory, profile = change.memory, change.memory.profile
    empty = not cpuset.cpus or not cpuset.mems
    error, pid = parse_pid(text, profile)
    if error:
        return error
    if empty and profile.cpuset_attach_looks_at_pid_last:
        return -ENOSPC
    task = memory.tasks.get(pid or change.caller)
    if task is None:
        return -ESRCH
    if task.cpuset == cpuset.path and not profile.cpuset_cpus_wait_for_attach:
        return 0
    if empty:
        return -ENOSPC
    old = mems_allowed(memory, task)
    task.cpuset = cpuset.path
    _set_cpus_allowed(change, task, cpuset)
    if not profile.task_policy_is_rebound_lazily:
        update_task_memory_state(memory, task)
    if profile.cpuset_migrates_by_any_thread or task.pid == task.mm.pid:
        yield from _mm_follows(change, task.mm, old, cpuset)
    return 0


# ---- what follows ----------------------------------------------------------------------------


def _set_cpus_allowed(change: Change, task: Task, cpuset: Cpuset) -> None:
    """set_cpus_allowed(): a task on another cpu goes to the first of them."""
    task.cpus_allowed = cpuset.cpus
    if task.cpu not in cpuset.cpus:
        task.cpu = min(cpuset.cpus)
    cpus = tuple(sorted(cpuset.cpus))
    change.memory.records.append(TaskAttached(task.pid, task.cpuset, cpus, task.cpu))
    change.moved.append(task)


def _mm_follows(change: Change, mm: Mm, old: frozenset[int], cpuset: Cpuset) -> Steps[None]:
    """Rebind the policies of an mm, and migrate it now or at the end of the write (K 5.14)."""
    yield from _rebind_mm(change.memory, mm, cpuset.mems)
    if not cpuset.flags & CpusetFlag.MEMORY_MIGRATE:
        return
    if change.memory.profile.cpuset_migration_is_queued:
        change.mms.append((mm, old, cpuset.mems))
    else:
        yield from _migrate_mm(change, mm, old, cpuset.mems)


def _rebind_mm(memory: Memory, mm: Mm, mems: frozenset[int]) -> Steps[None]:
    yield from down_write(mm)
    preferred = memory.profile.preferred_is_rebound
    # Whose it is by now; nobody's if all its tasks have exited meanwhile.
    pid = next((pid for pid, task in memory.tasks.items() if task.mm is mm), None)
    if pid is not None and rebind_mm(mm, mems, preferred=preferred):
        memory.records.append(PoliciesRebound(pid, 0, int(preferred), tuple(sorted(mems))))
    up_write(memory, mm)


def _migrate_mm(
    change: Change, mm: Mm, from_nodes: frozenset[int], to_nodes: frozenset[int]
) -> Steps[None]:
    """cpuset_migrate_mm(): MOVE_ALL by whomever; the new nodes are allowed meanwhile (K 5.13).

    Nothing moves where pages cannot, and none from or to a node that is lost.
    """
    memory, kernel = change.memory, change.kernel
    if not kernel.migration or memory.lost & (from_nodes | to_nodes):
        return
    settings = Settings(
        chunk_pages=kernel.chunk_pages,
        fallback=memory.profile.allocation_falls_back,
        local=cpu_node(memory, change.caller),
        mems_allowed=to_nodes,
        few_pages=kernel.few_pages,
        strict_order=kernel.strict_order,
    )
    yield from do_migrate_pages(
        memory,
        mm,
        from_nodes=from_nodes,
        to_nodes=to_nodes,
        flags=MPOL_MF_MOVE_ALL,
        settings=settings,
        profile=memory.profile,
    )


# ---- questions -------------------------------------------------------------------------------


@handles(m.CpusetDirectory)
def on_cpuset_directory(desk: Desk, question: Question, asked: m.CpusetDirectory) -> Message:
    call = cpuset_rmdir if asked.remove else cpuset_mkdir
    return Done(call(desk.memory, asked.caller, asked.path))


@handles(m.CpusetWrite)
def on_cpuset_write(desk: Desk, question: Question, asked: m.CpusetWrite) -> Steps[Message]:
    change = Change(desk.memory, desk.kernel, asked.caller)
    error = yield from cpuset_write(change, asked.path, asked.file, asked.text)
    cpus: frozenset[int] = frozenset()
    if change.moved:
        cpus = change.moved[0].cpus_allowed or cpus
    return m.CpusetWritten(
        error,
        np.array([task.pid for task in change.moved], np.int32),
        np.array([task.cpu for task in change.moved], np.uint32),
        np.array(sorted(cpus), np.uint32),
    )


@handles(m.CpusetRead)
def on_cpuset_read(desk: Desk, question: Question, asked: m.CpusetRead) -> Message:
    cpuset, name = desk.memory.cpusets.get(asked.path), attribute(asked.file)
    if cpuset is None or (name is None and asked.file):
        return m.Description(-ENOENT, "")
    return m.Description(0, read(desk.memory, cpuset, name or ""))
