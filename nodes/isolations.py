"""What clients have taken off the LRU of a node: another isolate_lru_page() than migration's."""

from __future__ import annotations

import numpy as np

from nodes.generation import U32, same_incarnation
from nodes.zone import Statuses, Zone
from protocol.messages import IsolatePages


class Isolations:
    """By client, {pfn: generation when it was taken}: few, as only tests and tools play this part.

    Only its client puts a frame back; one that was freed meanwhile is nobody's.
    """

    def __init__(self, zone: Zone) -> None:
        self._zone = zone
        self._taken: dict[str, dict[int, int]] = {}

    def isolate(self, client: str, message: IsolatePages) -> Statuses:
        """Absolute: what this client has taken answers OK again, what it has not is not put back.

        -EBUSY: the page is not on the LRU (K 1.16).
        """
        mine = self._taken.setdefault(client, {})
        pfn, generation = message.pfn, message.generation
        taken = np.array([mine.get(number, 0) for number in pfn.tolist()], np.uint32)
        known = same_incarnation(taken, generation)
        take = np.flatnonzero((message.isolated != 0) & ~known)
        back = np.flatnonzero((message.isolated == 0) & known)
        status = np.zeros(pfn.size, np.int32)
        self._zone.migrate_prep()
        status[take] = self._zone.isolate_lru_page(pfn[take], generation[take])
        status[back] = self._zone.putback_lru_pages(pfn[back], generation[back])
        for row in take[status[take] == 0]:
            mine[int(pfn[row])] = int(generation[row])
        for row in back[status[back] == 0]:
            mine.pop(int(pfn[row]), None)
        return status

    def drop(self, client: str) -> None:
        """The client died."""
        mine = self._taken.pop(client, {})
        if mine:
            pfn, _, generation, *_ = self._zone.inventory()
            taken: U32 = np.array([mine.get(number, 0) for number in pfn.tolist()], np.uint32)
            still = same_incarnation(taken, generation)
            self._zone.putback_lru_pages(pfn[still], generation[still])
