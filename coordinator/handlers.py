"""One function for each question that the coordinator answers, found by the message's type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from coordinator.calls import Steps
from coordinator.fault import Access, handle_mm_fault
from coordinator.life import FINAL
from coordinator.members import Members
from coordinator.memory import Memory
from coordinator.mm import Mm, Pte, Task
from coordinator.mmap import do_exit, do_fork, do_mmap, do_mprotect, do_munmap
from coordinator.numa_maps import numa_maps
from coordinator.policy_calls import sys_get_mempolicy, sys_mbind, sys_set_mempolicy
from coordinator.records import TaskSpawned
from coordinator.syscalls import Kernel, sys_migrate_pages, sys_move_pages
from protocol import syscalls as m
from protocol.messages import Done
from protocol.schema import Message
from protocol.session import Question

ESRCH, EINVAL = 3, 22
UID_MAX = (1 << 32) - 1


@dataclass(slots=True)
class Desk:
    """What the handlers work with."""

    memory: Memory
    kernel: Kernel
    members: Members
    addresses: dict[str, str]
    epoch: int


Handler = Callable[[Desk, Question], Message | Steps[Message]]
HANDLERS: dict[type[Message], Handler] = {}


def handles(cls: type[Message]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a function ``(desk, question, message)`` as the handler of ``cls``."""

    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        HANDLERS[cls] = lambda desk, question: function(desk, question, question.message)
        return function

    return enter


def _done(steps: Steps[int]) -> Steps[Message]:
    return Done((yield from steps))


def _task_call(
    desk: Desk, pid: int, call: Callable[[Task], Steps[int]]
) -> Message | Steps[Message]:
    """Start a call on a task, or -ESRCH."""
    task = desk.memory.tasks.get(pid)
    return Done(-ESRCH) if task is None else _done(call(task))


# ---- clients and tasks -----------------------------------------------------------------------


@handles(m.Attach)
def on_attach(desk: Desk, question: Question, asked: m.Attach) -> Message:
    members = desk.members
    members.attach(question.peer, desk.memory.now)
    names = tuple(sorted(desk.addresses))
    addresses = tuple(desk.addresses[name] for name in names)
    return m.Attached(names, addresses, desk.memory.topology.page_size, members.lease)


@handles(m.Renew)
def on_renew(desk: Desk, question: Question, asked: m.Renew) -> Message:
    return Done(0)


def _leaseholder(desk: Desk, question: Question, leased: int) -> str | None:
    """Whose silence ends the task; asking for one starts a lease anew that had run out."""
    if not leased:
        return None
    desk.members.attach(question.peer, desk.memory.now)
    return question.peer


@handles(m.Spawn)
def on_spawn(desk: Desk, question: Question, asked: m.Spawn) -> Message:
    memory = desk.memory
    if asked.cpu not in memory.topology.cpus or asked.uid > UID_MAX:
        return Done(-EINVAL)
    pid = memory.new_pid()
    client = _leaseholder(desk, question, asked.leased)
    task = Task(pid, 0, asked.uid, asked.cpu, bool(asked.capable), asked.comm, Mm(pid), client)
    memory.tasks[pid] = task
    memory.records.append(
        TaskSpawned(pid, 0, asked.uid, asked.cpu, asked.capable, client or "", asked.comm)
    )
    return Done(pid)


@handles(m.Mmap)
def on_mmap(desk: Desk, question: Question, asked: m.Mmap) -> Message | Steps[Message]:
    return _task_call(desk, asked.pid, lambda task: do_mmap(desk.memory, task, asked))


@handles(m.Munmap)
def on_munmap(desk: Desk, question: Question, asked: m.Munmap) -> Message | Steps[Message]:
    return _task_call(
        desk, asked.pid, lambda task: do_munmap(desk.memory, task, asked.address, asked.length)
    )


@handles(m.Mprotect)
def on_mprotect(desk: Desk, question: Question, asked: m.Mprotect) -> Message | Steps[Message]:
    return _task_call(
        desk,
        asked.pid,
        lambda task: do_mprotect(desk.memory, task, asked.address, asked.length, asked.prot),
    )


@handles(m.Fork)
def on_fork(desk: Desk, question: Question, asked: m.Fork) -> Message | Steps[Message]:
    client = _leaseholder(desk, question, asked.leased)
    return _task_call(desk, asked.pid, lambda task: do_fork(desk.memory, task, client))


@handles(m.Exit)
def on_exit(desk: Desk, question: Question, asked: m.Exit) -> Message | Steps[Message]:
    return _task_call(desk, asked.pid, lambda task: do_exit(desk.memory, task, "exit"))


# ---- memory ----------------------------------------------------------------------------------


@handles(m.Fault)
def on_fault(desk: Desk, question: Question, asked: m.Fault) -> Message | Steps[Message]:
    memory = desk.memory
    task = memory.tasks.get(asked.pid)
    if task is None:
        return Done(-ESRCH)
    if asked.cpu not in memory.topology.cpus or np.unique(asked.page).size != asked.page.size:
        return Done(-EINVAL)
    return handle_mm_fault(memory, task, asked.cpu, Access(asked.access), asked.page)


@handles(m.MigratePages)
def on_migrate_pages(
    desk: Desk, question: Question, asked: m.MigratePages
) -> Message | Steps[Message]:
    return _done(sys_migrate_pages(desk.memory, desk.kernel, asked))


@handles(m.MovePages)
def on_move_pages(desk: Desk, question: Question, asked: m.MovePages) -> Message | Steps[Message]:
    return sys_move_pages(desk.memory, desk.kernel, asked)


@handles(m.SetMempolicy)
def on_set_mempolicy(desk: Desk, question: Question, asked: m.SetMempolicy) -> Message:
    task = desk.memory.tasks.get(asked.pid)
    if task is None:
        return Done(-ESRCH)
    return Done(sys_set_mempolicy(desk.memory, task, asked.mode, asked.nodes))


@handles(m.GetMempolicy)
def on_get_mempolicy(
    desk: Desk, question: Question, asked: m.GetMempolicy
) -> Message | Steps[Message]:
    task = desk.memory.tasks.get(asked.pid)
    if task is None:
        return m.PolicyTold(-ESRCH, 0, ())
    return sys_get_mempolicy(desk.memory, task, asked.address, asked.flags)


@handles(m.Mbind)
def on_mbind(desk: Desk, question: Question, asked: m.Mbind) -> Message | Steps[Message]:
    return _task_call(
        desk, asked.pid, lambda task: sys_mbind(desk.memory, desk.kernel, task, asked)
    )


# ---- what one reads --------------------------------------------------------------------------


@handles(m.NumaMaps)
def on_numa_maps(desk: Desk, question: Question, asked: m.NumaMaps) -> Message:
    task = desk.memory.tasks.get(asked.pid)
    if task is None:
        return m.Description(-ESRCH, "")
    return m.Description(0, numa_maps(desk.memory, task))


@handles(m.ListTasks)
def on_list_tasks(desk: Desk, question: Question, asked: m.ListTasks) -> Message:
    tasks = list(desk.memory.tasks.values())

    def column(values: list[int], dtype: str) -> Any:
        return np.array(values, dtype)

    present = [sum(int(vma.present().size) for vma in task.mm.vmas) for task in tasks]
    mapped = [sum(vma.pages for vma in task.mm.vmas) for task in tasks]
    return m.TaskList(
        tuple(task.comm for task in tasks),
        column([task.pid for task in tasks], "<i4"),
        column([task.ppid for task in tasks], "<i4"),
        column([task.uid for task in tasks], "<u4"),
        column([task.cpu for task in tasks], "<u4"),
        column(present, "<u8"),
        column(mapped, "<u8"),
    )


@handles(m.DescribeHardware)
def on_describe_hardware(desk: Desk, question: Question, asked: m.DescribeHardware) -> Message:
    memory, topology = desk.memory, desk.memory.topology
    nids = np.array(memory.nids)
    used = np.array([memory.mem_map[nid].used for nid in memory.nids], np.uint64)
    frames = np.array([node.frames for node in topology.nodes], np.uint64)
    up = np.array([desk.members.up(nid) for nid in memory.nids], np.uint8)
    stat = memory.numastat
    return m.Hardware(
        topology.page_size,
        desk.epoch,
        int(desk.kernel.migration),
        tuple(node.cpus for node in topology.nodes),
        nids.astype(np.int32),
        up,
        frames,
        frames - used,
        stat.numa_hit[nids],
        stat.numa_miss[nids],
        stat.numa_foreign[nids],
        stat.interleave_hit[nids],
        stat.local_node[nids],
        stat.other_node[nids],
        np.array(topology.distances, np.uint32).ravel(),
    )


@handles(m.Progress)
def on_progress(desk: Desk, question: Question, asked: m.Progress) -> Message:
    lists = [pages for pages in desk.memory.page_lists if pages.pid == asked.pid]
    settled = sum(int(np.isin(pages.state, FINAL).sum()) for pages in lists)
    listed = sum(pages.rows for pages in lists)
    return m.ProgressMade(listed, settled, desk.memory.longest_entry)


@handles(m.DescribeMm)
def on_describe_mm(desk: Desk, question: Question, asked: m.DescribeMm) -> Message:
    task = desk.memory.tasks.get(asked.pid)
    vmas = [] if task is None else task.mm.vmas
    slots = [vma.present() for vma in vmas]

    def joined(parts: list[Any], dtype: str) -> Any:
        return np.concatenate([np.zeros(0, dtype), *parts]).astype(dtype)

    pairs = list(zip(vmas, slots, strict=True))
    return m.AddressSpace(
        -ESRCH if task is None else 0,
        tuple(vma.name for vma in vmas),
        np.array([vma.start for vma in vmas], "<u8"),
        np.array([vma.end for vma in vmas], "<u8"),
        np.array([vma.prot for vma in vmas], "<u4"),
        np.array([vma.flags for vma in vmas], "<u4"),
        joined([slot + vma.start for vma, slot in pairs], "<u8"),
        joined([vma.nid[slot] for vma, slot in pairs], "<i4"),
        joined([(vma.bits[slot] & Pte.WRITTEN) != 0 for vma, slot in pairs], "<u4"),
    )
