"""The seam: a Core is handed one event and the time, and returns what it wants done.

Nothing here waits, reads a clock or draws a random number.  Two drivers carry the effects out: the
live one (``protocol/live/driver.py``) and the simulated one (``numalab/simulation/world.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from protocol.notes import Note
from protocol.values import value

Buffer = bytes | bytearray | memoryview
Frames = tuple[Buffer, ...]


class Summed(tuple[Buffer, ...]):
    """Frames of whose last one the sum is known: it was added up while the frame came.

    digest: xxh3_64 of that frame.  holds: whether nobody else has been able to write to it since.
    """

    digest: int
    holds: Callable[[], bool]

    @classmethod
    def of(cls, frames: Frames, digest: int, holds: Callable[[], bool]) -> Summed:
        """These frames, with the sum of the last one."""
        made = cls(frames)
        made.digest, made.holds = digest, holds
        return made


@value
class Received:
    """Bytes came from a peer: one message, a zmq frame for each item."""

    frames: Frames


@value
class Deadline:
    """The time that ``next_deadline`` named has come (or passed)."""


@value
class Command:
    """An order from the process that owns this Core (the Python API, a load generator)."""

    order: object


Event = Received | Deadline | Command


@value
class Record:
    """Must be on stable storage before any Send that stands after it leaves."""

    entry: bytes


@value
class Send:
    """Hand these frames to the transport; it never waits, and it may lose them.

    A buffer may be a view of a zone: it stays unchanged while its pages are locked (design 3).
    """

    target: str
    frames: Frames


@value
class Report:
    """Something happened that is worth knowing; metrics, logs and checkers read it."""

    note: Note


Effect = Record | Send | Report


class Core(Protocol):
    """A node, the coordinator or a client: the same kind of thing."""

    @property
    def name(self) -> str: ...

    def handle(self, event: Event, *, now: float) -> Sequence[Effect]:
        """Take one event at time ``now`` (seconds); return what is to be done, in order."""

    def next_deadline(self) -> float | None:
        """When to call ``handle(Deadline())`` at the latest; None for never."""

    def validate(self) -> None:
        """Raise AssertionError if any invariant of this Core does not hold."""


class ConfigurationError(Exception):
    """The process cannot start as it was told to: one sentence, raised before it serves anybody.

    The sentence says what is wrong, where, and what to do.
    """


class JournalError(Exception):
    """A Record could not be made durable: one sentence; the process must not go on."""
