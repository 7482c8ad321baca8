"""What a client has asked, and for which order."""

from __future__ import annotations

from dataclasses import dataclass

from numalab.access import Translating, Working
from numalab.orders import Ask


@dataclass(frozen=True, slots=True, eq=False)
class Asking:
    """An Ask on its way; ``until`` is when its time is over."""

    order: Ask
    until: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Accessing:
    """A question of the access of order ``ticket``."""

    ticket: int
    step: Translating | Working
