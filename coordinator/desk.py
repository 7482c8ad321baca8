"""The registry of questions that the coordinator answers, and what their handlers work with.

A module of handlers enters its functions with ``handles``; ``coordinator.py`` imports the modules.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from coordinator.calls import Steps
from coordinator.members import Members
from coordinator.memory import Memory
from coordinator.mm import Task
from coordinator.syscalls import Kernel
from protocol.messages import Done
from protocol.schema import Message
from protocol.session import Question

ESRCH = 3


@dataclass(slots=True)
class Desk:
    """What the handlers work with.  news: a node listens where none did, which all shall hear."""

    memory: Memory
    kernel: Kernel
    members: Members
    addresses: dict[str, str]
    epoch: int
    news: bool = False


Handler = Callable[[Desk, Question], Message | Steps[Message]]
HANDLERS: dict[type[Message], Handler] = {}


def handles(cls: type[Message]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a function ``(desk, question, message)`` as the handler of ``cls``."""

    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        HANDLERS[cls] = lambda desk, question: function(desk, question, question.message)
        return function

    return enter


def done(steps: Steps[int]) -> Steps[Message]:
    """The answer of a call whose result is one number."""
    return Done((yield from steps))


def task_call(desk: Desk, pid: int, call: Callable[[Task], Steps[int]]) -> Message | Steps[Message]:
    """Start a call on a task, or -ESRCH."""
    task = desk.memory.tasks.get(pid)
    return Done(-ESRCH) if task is None else done(call(task))


def leaseholder(desk: Desk, question: Question, leased: int) -> str | None:
    """Whose silence ends the task; asking for one starts a lease anew that had run out."""
    if not leased:
        return None
    desk.members.attach(question.peer, desk.memory.now)
    return question.peer
