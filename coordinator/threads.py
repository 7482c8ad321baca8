"""clone(2) of a thread, and what a new task has of the one that made it (kernel/fork.c)."""

from __future__ import annotations

from coordinator.cpuset import cpu_of
from coordinator.memory import Memory
from coordinator.mm import Mm, Task
from coordinator.records import TaskCloned, TaskRunsOn

EINVAL, ESRCH = 22, 3


def copy_process(parent: Task, pid: int, mm: Mm, cpu: int, client: str | None) -> Task:
    """A task with the credentials, the policy and the cpuset of ``parent``.

    With the parent's mm it is a thread of its process, else a child.
    """
    thread = mm is parent.mm
    task = Task(
        pid,
        parent.ppid if thread else parent.tgid,
        parent.cred,
        cpu,
        parent.comm,
        mm,
        client,
        tgid=parent.tgid if thread else pid,
    )
    task.policy, task.cpuset = parent.policy, parent.cpuset
    task.cpus_allowed = parent.cpus_allowed
    task.il_prev, task.il_weight = parent.il_prev, parent.il_weight
    mm.users += 1
    return task


def sched_setaffinity(memory: Memory, task: Task, cpu: int) -> int:
    """sched_setaffinity(2) to one cpu: 0, or -EINVAL, there is none or its cpuset has it not.

    What a system call fills in or moves "here" goes by that cpu; loads and stores bring their own.
    """
    allowed = memory.topology.cpus if task.cpus_allowed is None else task.cpus_allowed
    if cpu not in allowed:
        return -EINVAL
    if cpu != task.cpu:
        task.cpu = cpu
        memory.records.append(TaskRunsOn(task.pid, cpu))
    return 0


def do_clone(memory: Memory, parent: Task, cpu: int, client: str | None) -> int:
    """clone(2) with CLONE_VM and CLONE_THREAD: the tid, -EINVAL (no such cpu) or -ESRCH."""
    if cpu not in memory.topology.cpus:
        return -EINVAL
    if parent.exiting:
        return -ESRCH
    task = copy_process(parent, memory.new_pid(), parent.mm, cpu_of(parent, cpu), client)
    memory.tasks[task.pid] = task
    memory.records.append(TaskCloned(parent.pid, task.pid, task.cpu, client or ""))
    return task.pid
