"""Where the end of an order is awaited."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import trio

from numalab.orders import Forget, Order
from protocol.live.driver import Driver
from protocol.notes import OperationEnded

#: Orders that are over within a moment may keep the loop from others for so long together.
TURN_SECONDS = 2e-3


class Outcome:
    """``result`` is there when ``ended`` is set."""

    __slots__ = ("ended", "result")

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.result: object = None


class Outcomes:
    """The orders of one client that are under way, each awaited by who gave it."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._tickets = itertools.count(1)
        self._outcomes: dict[int, Outcome] = {}
        #: When the loop is to have its next turn at the latest; who gave the last order.
        self._turn = 0.0
        self._last: trio.lowlevel.Task | None = None

    def __len__(self) -> int:
        """How many are under way."""
        return len(self._outcomes)

    async def carry_out(self, order: Callable[[int], Order]) -> object:
        """Carry out the order that ``order`` makes of a ticket; gives its result or raises it."""
        ticket = next(self._tickets)
        outcome = self._outcomes[ticket] = Outcome()
        try:
            self._driver.submit(order(ticket))
            # Who orders alone waits in place; of many, each would keep the next from its order.
            last, self._last = self._last, trio.lowlevel.current_task()
            if last is self._last and len(self._outcomes) == 1:
                self._driver.linger(outcome.ended.is_set)
            if outcome.ended.is_set() and trio.current_time() < self._turn:
                await trio.lowlevel.checkpoint_if_cancelled()
            else:
                await outcome.ended.wait()
                self._turn = trio.current_time() + TURN_SECONDS
        finally:
            if self._outcomes.pop(ticket, None) is not None:
                self._driver.submit(Forget(ticket))
        if isinstance(outcome.result, OSError):
            raise outcome.result
        return outcome.result

    def heed(self, note: OperationEnded) -> None:
        """An order is over; nobody may be waiting for it any more."""
        outcome = self._outcomes.pop(note.ticket, None)
        if outcome is not None:
            outcome.result = note.result
            outcome.ended.set()
