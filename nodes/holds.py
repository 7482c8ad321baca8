"""Page locks and extra references that clients have taken, as other users of a page would."""

from __future__ import annotations

import numpy as np

from nodes.zone import Statuses, Zone
from protocol.messages import HoldPages


class Holds:
    """By client, {pfn: generation when it was taken}: few, as only tests and tools play this part.

    What was held when the process of the node ended stays held until it is let go by name.
    """

    def __init__(self, zone: Zone) -> None:
        self._zone = zone
        self._taken: dict[str, dict[int, int]] = {}

    def hold(self, client: str, message: HoldPages) -> Statuses:
        """Absolute: just these are held from now on; refused as by ``Zone.hold``."""
        status = self._zone.hold(message.pfn, message.generation, message.locked, message.pinned)
        mine = self._taken.setdefault(client, {})
        taken = (message.locked | message.pinned) != 0
        for row in np.flatnonzero(status == 0):
            mine.pop(int(message.pfn[row]), None)
            if taken[row]:
                mine[int(message.pfn[row])] = int(message.generation[row])
        return status

    def drop(self, client: str) -> None:
        """The client died."""
        mine = self._taken.pop(client, {})
        pfn = np.array(list(mine), np.uint32)
        generation = np.array(list(mine.values()), np.uint32)
        nothing = np.zeros(pfn.size, np.uint8)
        self._zone.hold(pfn, generation, nothing, nothing)
