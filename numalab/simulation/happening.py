"""What there is in a simulated world, and what happens in it: processes, packets, things due."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from protocol.core import Core
from protocol.values import value

Make = Callable[[int, list[bytes]], Core]


@dataclass(slots=True, eq=False)
class Packet:
    """One message, as the network sees it.  Times in seconds; ``arrived``: once for each copy."""

    number: int
    sent: float
    source: str
    target: str
    frames: tuple[bytes, ...]
    arrived: list[float] = field(default_factory=list)
    fate: str = "on its way"


@dataclass(slots=True, eq=False)
class Process:
    """A Core and what lives as long as its process, or (``journal``) longer."""

    name: str
    make: Make
    boot: int
    core: Core | None
    journal: list[bytes]
    #: The deadline that the valid wake in the heap is for; None: there is none.
    armed: float | None = None
    #: It dies when so many more effects are carried out; None: it lives.
    effects_left: int | None = None
    #: How often it was woken at the time ``woken``.
    wakes: int = 0
    woken: float = -1.0
    #: Its invariants are looked at after so many more of its events.
    look_in: int = 1
    #: It stands still (SIGSTOP): what has happened to it meanwhile; None: it runs.
    missed: list[What] | None = None


@value
class Wake:
    """A deadline of one incarnation; void when the process is armed for another time by now."""

    name: str
    boot: int
    time: float


@value
class Arrival:
    """A copy of a packet is at its target."""

    packet: Packet
    frames: tuple[bytes, ...]


@value
class Order:
    """The owner of a Core tells it something."""

    name: str
    order: object


@value
class Call:
    """The scenario does something to the world (heals it, kills somebody)."""

    function: Callable[[], None]


What = Wake | Arrival | Order | Call
