"""Page contents that the thread of the pipes reads straight to where they belong.

It reads in pieces, each between two events of the Core, and looks before each whether the memory
may still be written to: so the Core, which knows no threads, never sees a frame change that it has
given away.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from protocol.core import Buffer, Core, Effect, Event

#: Bytes of a piece, for which the Core may have to wait.
PIECE_BYTES = 256 << 10


class Place(Protocol):
    """Memory for the last frame of a message, which may come to be somebody else's meanwhile."""

    @property
    def view(self) -> memoryview:
        """As long as that frame."""

    def is_mine(self) -> bool:
        """Whether it may still be written to."""


class Grounds:
    """Where page contents may land.

    find: the place for the last frame, of so many bytes, of a message of which all the others have
    come; None: nowhere in particular.  It is called, and places are written to, under ``lock``.
    """

    def __init__(self, find: Callable[[Sequence[Buffer], int], Place | None]) -> None:
        self.find = find
        self.lock = threading.Lock()


class Guarded:
    """A Core during whose events nobody writes to its places."""

    def __init__(self, core: Core, grounds: Grounds) -> None:
        self._core, self._lock = core, grounds.lock

    @property
    def name(self) -> str:
        return self._core.name

    def handle(self, event: Event, *, now: float) -> Sequence[Effect]:
        with self._lock:
            return self._core.handle(event, now=now)

    def next_deadline(self) -> float | None:
        return self._core.next_deadline()

    def validate(self) -> None:
        self._core.validate()
