"""What a question of a migration was about."""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.life import State
from coordinator.mem_map import Rows
from coordinator.placement import Zonelist


@dataclass(slots=True, eq=False)
class Asked:
    """What a question was about; ``zonelist``: this node and those that may be asked after it.

    ``wanted``: the node that the policy chose.  ``since``: when it is put, in seconds.
    ``early``: it was put before its rows were in ``state`` (few.py).
    """

    state: State
    rows: Rows
    zonelist: Zonelist = Zonelist((), ())
    wanted: int = -1
    since: float = 0.0
    early: bool = False
