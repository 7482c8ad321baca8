"""Page contents that the thread of the pipes reads straight to where they belong.

It reads in pieces, and looks before each whether the memory may still be written to; without the
lock that it holds meanwhile, nobody gives it away.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from protocol.core import Buffer

#: Bytes of a piece, for which whoever gives memory away may have to wait.
PIECE_BYTES = 1 << 20


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
