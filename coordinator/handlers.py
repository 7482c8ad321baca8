"""What clients and tasks ask of the coordinator: one function for each question."""

from __future__ import annotations

import numpy as np

from coordinator.calls import Steps
from coordinator.cpuset import cpu_of
from coordinator.cred import UID_MAX, Credentials
from coordinator.desk import ESRCH, Desk, done, handles, leaseholder, task_call
from coordinator.fault import Access, handle_mm_fault
from coordinator.fault_around import handle_mm_fault_around
from coordinator.inode import PATH_MAX
from coordinator.mbind import sys_mbind
from coordinator.mm import Mm, Pages, Task
from coordinator.mmap import do_exit, do_fork, do_mmap, do_mprotect, do_munmap
from coordinator.policy_calls import (
    set_interleave_weight,
    sys_get_mempolicy,
    sys_set_mempolicy,
    sys_set_mempolicy_home_node,
)
from coordinator.records import TaskSpawned
from coordinator.rows import FEW
from coordinator.syscalls import sys_migrate_pages, sys_move_pages
from protocol import policies
from protocol import syscalls as m
from protocol.messages import Done
from protocol.schema import Message
from protocol.session import Question

ENOENT, EINVAL, ENAMETOOLONG = 2, 22, 36


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
    """A number that is another one when nodes have come, so that the client attaches anew."""
    return Done(len(desk.addresses))


@handles(m.Spawn)
def on_spawn(desk: Desk, question: Question, asked: m.Spawn) -> Message:
    memory = desk.memory
    if asked.cpu not in memory.topology.cpus or asked.uid > UID_MAX:
        return Done(-EINVAL)
    # What lists the tasks has all their names in one message.
    if len(asked.comm.encode()) >= PATH_MAX:
        return Done(-ENAMETOOLONG)
    pid = memory.new_pid()
    client = leaseholder(desk, question, asked.leased)
    cred = Credentials.of(asked.uid, capable=bool(asked.capable))
    task = Task(pid, 0, cred, asked.cpu, asked.comm, Mm(pid), client, pid)
    task.mm.users = 1
    memory.tasks[pid] = task
    memory.records.append(
        TaskSpawned(pid, 0, asked.uid, asked.cpu, asked.capable, client or "", asked.comm)
    )
    return Done(pid)


@handles(m.Mmap)
def on_mmap(desk: Desk, question: Question, asked: m.Mmap) -> Message | Steps[Message]:
    return task_call(desk, asked.pid, lambda task: do_mmap(desk.memory, task, asked))


@handles(m.Munmap)
def on_munmap(desk: Desk, question: Question, asked: m.Munmap) -> Message | Steps[Message]:
    return task_call(
        desk, asked.pid, lambda task: do_munmap(desk.memory, task, asked.address, asked.length)
    )


@handles(m.Mprotect)
def on_mprotect(desk: Desk, question: Question, asked: m.Mprotect) -> Message | Steps[Message]:
    return task_call(
        desk,
        asked.pid,
        lambda task: do_mprotect(desk.memory, task, asked.address, asked.length, asked.prot),
    )


@handles(m.Fork)
def on_fork(desk: Desk, question: Question, asked: m.Fork) -> Message | Steps[Message]:
    client = leaseholder(desk, question, asked.leased)
    return task_call(desk, asked.pid, lambda task: do_fork(desk.memory, task, asked.cpu, client))


@handles(m.Exit)
def on_exit(desk: Desk, question: Question, asked: m.Exit) -> Message | Steps[Message]:
    return task_call(desk, asked.pid, lambda task: do_exit(desk.memory, task, "exit"))


# ---- memory ----------------------------------------------------------------------------------


def _repeats(page: Pages) -> bool:
    """Some page is named twice."""
    different = len(set(page.tolist())) if page.size < FEW else np.unique(page).size
    return different != page.size


@handles(m.Fault)
def on_fault(desk: Desk, question: Question, asked: m.Fault) -> Message | Steps[Message]:
    memory = desk.memory
    task = memory.tasks.get(asked.pid)
    if task is None:
        return Done(-ESRCH)
    wanted = asked.page.size - asked.wished
    if asked.cpu not in memory.topology.cpus or wanted < 0 or _repeats(asked.page):
        return Done(-EINVAL)
    fault = memory, task, cpu_of(task, asked.cpu), Access(asked.access)
    if not asked.wished:
        return handle_mm_fault(*fault, asked.page)
    return handle_mm_fault_around(*fault, asked.page[:wanted], asked.page[wanted:])


@handles(m.MigratePages)
def on_migrate_pages(
    desk: Desk, question: Question, asked: m.MigratePages
) -> Message | Steps[Message]:
    return done(sys_migrate_pages(desk.memory, desk.kernel, asked))


@handles(m.MovePages)
def on_move_pages(desk: Desk, question: Question, asked: m.MovePages) -> Message | Steps[Message]:
    return sys_move_pages(desk.memory, desk.kernel, asked)


@handles(m.SetMempolicy)
def on_set_mempolicy(desk: Desk, question: Question, asked: m.SetMempolicy) -> Message:
    task = desk.memory.tasks.get(asked.pid)
    if task is None:
        return Done(-ESRCH)
    return Done(sys_set_mempolicy(desk.memory, desk.kernel, task, asked))


@handles(m.GetMempolicy)
def on_get_mempolicy(
    desk: Desk, question: Question, asked: m.GetMempolicy
) -> Message | Steps[Message]:
    task = desk.memory.tasks.get(asked.pid)
    if task is None:
        return m.PolicyTold(-ESRCH, 0, None)
    return sys_get_mempolicy(desk.memory, desk.kernel, task, asked)


@handles(m.Mbind)
def on_mbind(desk: Desk, question: Question, asked: m.Mbind) -> Message | Steps[Message]:
    return task_call(desk, asked.pid, lambda task: sys_mbind(desk.memory, desk.kernel, task, asked))


@handles(policies.SetMempolicyHomeNode)
def on_set_mempolicy_home_node(
    desk: Desk, question: Question, asked: policies.SetMempolicyHomeNode
) -> Message | Steps[Message]:
    profile = desk.kernel.profile
    return task_call(
        desk,
        asked.pid,
        lambda task: sys_set_mempolicy_home_node(desk.memory, profile, task, asked),
    )


@handles(policies.SetInterleaveWeight)
def on_set_interleave_weight(
    desk: Desk, question: Question, asked: policies.SetInterleaveWeight
) -> Message:
    profile = desk.kernel.profile
    return Done(set_interleave_weight(desk.memory, profile, asked.node, asked.weight))


@handles(policies.DescribeInterleaveWeights)
def on_describe_interleave_weights(
    desk: Desk, question: Question, asked: policies.DescribeInterleaveWeights
) -> Message:
    nids = np.array(desk.memory.nids, np.int32)
    told = [desk.memory.interleave_weights.get(nid, 1) for nid in desk.memory.nids]
    value = 0 if desk.kernel.profile.weighted_interleave else -ENOENT
    return policies.InterleaveWeights(value, nids, np.array(told, np.uint32))
