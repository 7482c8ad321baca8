"""A call in progress: a generator that yields questions and is resumed with one answer at a time.

A call is the coordinator's counterpart of a kernel thread inside a system call, so that
``do_migrate_pages`` reads in the kernel's order.  It yields

* a list of ``Ask``: they are sent; the call is resumed with the next ``Reply`` to any question that
  it has outstanding (an empty list just waits for that);
* ``PARKED``: the call is resumed with None when something changed that it may wait for
  (a migration entry gone, a frame released, mmap_sem let go).

Generators hold no clock, no thread and no callback: the Core resumes them, in a fixed order.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from coordinator.memory import Memory
from coordinator.mm import Mm
from protocol.messages import Done, PutTransfer, Statuses
from protocol.schema import Message


@dataclass(frozen=True, slots=True, eq=False)
class Ask:
    """A question to a node; ``context`` is for the asker alone."""

    peer: str
    message: Message
    context: object = None


@dataclass(frozen=True, slots=True, eq=False)
class Reply:
    """Its answer; ``message`` is None when ``status`` is -ENODEV or -EAGAIN (indefinite)."""

    ask: Ask
    message: Message | None
    status: int


class Parked:
    """The type of PARKED."""


PARKED: Final = Parked()

_T = TypeVar("_T")
Steps = Generator[Sequence[Ask] | Parked, Reply | None, _T]


def ask_all(asks: Sequence[Ask]) -> Steps[list[Message]]:
    """Ask all, wait for all; answers in the order asked.

    For commands that are absolute (design 4): if a node goes away with one unanswered, the same
    command is put to its next incarnation, which is harmless.
    """
    answers: dict[int, Message] = {}
    place = {id(ask): at for at, ask in enumerate(asks)}
    todo: Sequence[Ask] = asks
    while len(answers) < len(asks):
        reply = yield todo
        assert isinstance(reply, Reply)
        if reply.message is None:
            todo = [reply.ask]
            continue
        answers[place[id(reply.ask)]] = reply.message
        todo = []
    return [answers[at] for at in range(len(asks))]


def at_once(memory: Memory, parts: Sequence[Steps[_T]]) -> Steps[list[_T]]:
    """Carry these out beside each other, as kernel threads would; what each gives, in order."""
    given: dict[int, _T] = {}

    def thread(at: int, part: Steps[_T]) -> Steps[Message]:
        given[at] = yield from part
        memory.threads -= 1
        memory.woken = True
        return Done(0)

    memory.started += [thread(at, part) for at, part in enumerate(parts)]
    memory.threads += len(parts)
    memory.joining += 1
    while len(given) < len(parts):
        yield PARKED
    memory.joining -= 1
    return [given[at] for at in range(len(parts))]


def statuses_of(reply: Reply, rows: int) -> npt.NDArray[np.int32]:
    """The status column of an answer; an indefinite reply, and that of PutTransfer, is for all."""
    if reply.message is None:
        return np.full(rows, reply.status, np.int32)
    if isinstance(reply.ask.message, PutTransfer) and isinstance(reply.message, Done):
        return np.full(rows, reply.message.value, np.int32)
    assert isinstance(reply.message, Statuses)
    return reply.message.status


def down_read(mm: Mm) -> Steps[None]:
    """Take mmap_sem for read, in turn."""
    ticket = mm.mmap_sem.ask(write=False)
    while not mm.mmap_sem.granted(ticket):
        yield PARKED


def down_write(mm: Mm) -> Steps[None]:
    """Take mmap_sem for write, in turn."""
    ticket = mm.mmap_sem.ask(write=True)
    while not mm.mmap_sem.granted(ticket):
        yield PARKED


def up_read(memory: Memory, mm: Mm) -> None:
    mm.mmap_sem.readers -= 1
    memory.woken = True


def downgrade_write(memory: Memory, mm: Mm) -> None:
    """From writer to reader without letting another writer in between."""
    mm.mmap_sem.writer = False
    mm.mmap_sem.readers += 1
    memory.woken = True


def up_write(memory: Memory, mm: Mm) -> None:
    mm.mmap_sem.writer = False
    memory.woken = True


def sleep_until(memory: Memory, time: float) -> Steps[None]:
    """Wait for this time of the coordinator's clock."""
    if time > memory.now:
        memory.alarms.append(time)
    while time > memory.now:
        yield PARKED


def let_others(memory: Memory) -> Steps[None]:
    """Go on with a later event, so that whoever asks meanwhile does not wait for all of a call."""
    event = memory.events
    while memory.events == event:
        # Anew each time: an alarm that is due rings once.
        memory.alarms.append(memory.now)
        yield PARKED
