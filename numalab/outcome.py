"""Where the end of an order is awaited."""

from __future__ import annotations

import trio


class Outcome:
    """``result`` is there when ``ended`` is set."""

    __slots__ = ("ended", "result")

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.result: object = None
