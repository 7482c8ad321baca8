"""The journal read back: tasks come and go, and what each of them is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coordinator.cred import Capability, Credentials
from coordinator.memory import Memory
from coordinator.mm import Mm, Task
from coordinator.mmap import copy_mm
from coordinator.records import (
    CredentialsSet,
    TaskCloned,
    TaskExited,
    TaskForked,
    TaskRunsOn,
    TaskSpawned,
)
from coordinator.threads import copy_process
from protocol.schema import Message


def _spawned(memory: Memory, entry: TaskSpawned) -> None:
    memory.claim_pid(entry.pid)
    memory.tasks[entry.pid] = task = Task(
        entry.pid,
        entry.ppid,
        Credentials.of(entry.uid, capable=bool(entry.capable)),
        entry.cpu,
        entry.comm,
        Mm(entry.pid),
        entry.client or None,
        entry.pid,
    )
    task.mm.users = 1


def _forked(memory: Memory, entry: TaskForked) -> None:
    memory.claim_pid(entry.child)
    parent = memory.tasks[entry.pid]
    child = copy_process(parent, entry.child, Mm(entry.child), entry.cpu, entry.client or None)
    copy_mm(memory, parent, child)
    memory.tasks[child.pid] = child


def _cloned(memory: Memory, entry: TaskCloned) -> None:
    memory.claim_pid(entry.tid)
    parent = memory.tasks[entry.pid]
    client = entry.client or None
    memory.tasks[entry.tid] = copy_process(parent, entry.tid, parent.mm, entry.cpu, client)


def _runs_on(memory: Memory, entry: TaskRunsOn) -> None:
    memory.tasks[entry.pid].cpu = entry.cpu


def _exited(memory: Memory, entry: TaskExited) -> None:
    memory.tasks.pop(entry.pid).mm.users -= 1


def _credentials_set(memory: Memory, entry: CredentialsSet) -> None:
    task = memory.tasks[entry.pid]
    task.cred = Credentials(
        entry.uid,
        entry.euid,
        entry.suid,
        Capability(entry.permitted),
        Capability(entry.effective),
    )
    task.mm.dumpable = bool(entry.dumpable)


def user_of(memory: Memory, pid: int) -> Task:
    """A task that has the mm of ``pid``, which need not live any more itself."""
    task = memory.tasks.get(pid)
    if task is not None and task.mm.pid == pid:
        return task
    return next(task for task in memory.tasks.values() if task.mm.pid == pid)


#: What ``replay.py`` applies of each of these entries.
TASK_ENTRIES: dict[type[Message], Callable[[Memory, Any], None]] = {
    TaskSpawned: _spawned,
    TaskForked: _forked,
    TaskCloned: _cloned,
    TaskRunsOn: _runs_on,
    TaskExited: _exited,
    CredentialsSet: _credentials_set,
}
