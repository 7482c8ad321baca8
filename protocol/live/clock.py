"""The clock of a process of the machine: that of its host."""

from __future__ import annotations

import time

import trio


class HostClock(trio.abc.Clock):
    """CLOCK_MONOTONIC, seconds since the host began, as trace_pipe has them (K 6.12).

    trio's own clock begins anywhere, so times in two processes, or before and after a restart,
    could not be compared.
    """

    def start_clock(self) -> None:
        """It goes already."""

    def current_time(self) -> float:
        return time.monotonic()

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return deadline - time.monotonic()
