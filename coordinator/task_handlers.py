"""What a task asks about itself: its credentials, its threads, what its memory is to be like."""

from __future__ import annotations

from coordinator.calls import Steps
from coordinator.cred import capset, setresuid
from coordinator.desk import ESRCH, Desk, handles, leaseholder, task_call
from coordinator.madvise import do_madvise
from coordinator.mlock import do_mlock
from coordinator.threads import do_clone, sched_setaffinity
from protocol import task_calls as m
from protocol.messages import Done
from protocol.schema import Message
from protocol.session import Question


@handles(m.Setresuid)
def on_setresuid(desk: Desk, question: Question, asked: m.Setresuid) -> Message:
    task = desk.memory.tasks.get(asked.pid)
    if task is None:
        return Done(-ESRCH)
    return Done(setresuid(desk.memory, task, asked.ruid, asked.euid, asked.suid))


@handles(m.Capset)
def on_capset(desk: Desk, question: Question, asked: m.Capset) -> Message:
    task = desk.memory.tasks.get(asked.pid)
    if task is None:
        return Done(-ESRCH)
    return Done(capset(desk.memory, task, asked.effective, asked.permitted))


@handles(m.Clone)
def on_clone(desk: Desk, question: Question, asked: m.Clone) -> Message:
    task = desk.memory.tasks.get(asked.pid)
    if task is None:
        return Done(-ESRCH)
    client = leaseholder(desk, question, asked.leased)
    return Done(do_clone(desk.memory, task, asked.cpu, client))


@handles(m.SchedSetaffinity)
def on_sched_setaffinity(desk: Desk, question: Question, asked: m.SchedSetaffinity) -> Message:
    task = desk.memory.tasks.get(asked.pid)
    return Done(-ESRCH if task is None else sched_setaffinity(desk.memory, task, asked.cpu))


@handles(m.Mlock)
def on_mlock(desk: Desk, question: Question, asked: m.Mlock) -> Message | Steps[Message]:
    where = asked.address, asked.length
    return task_call(desk, asked.pid, lambda task: do_mlock(desk.memory, task, *where, lock=True))


@handles(m.Munlock)
def on_munlock(desk: Desk, question: Question, asked: m.Munlock) -> Message | Steps[Message]:
    where = asked.address, asked.length
    return task_call(desk, asked.pid, lambda task: do_mlock(desk.memory, task, *where, lock=False))


@handles(m.Madvise)
def on_madvise(desk: Desk, question: Question, asked: m.Madvise) -> Message | Steps[Message]:
    where = asked.address, asked.length
    return task_call(
        desk, asked.pid, lambda task: do_madvise(desk.memory, task, *where, asked.advice)
    )
