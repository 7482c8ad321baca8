"""A zone that a process has opened, or that has a new coordinator, is made to agree with it.

The journal of the coordinator says which frames are in use.  What a node gave and the coordinator
never recorded was never acknowledged to anybody, so it is freed (design 5, 7).
"""

from __future__ import annotations

import errno

import numpy as np

from nodes.flags import ISOLATED, LOCKED, MAPPED, UNCACHED
from nodes.generation import same_incarnation
from nodes.layout import U16, U32
from nodes.zone import Zone
from protocol.messages import CountZone, Describe, Inventory, RecoveredFrames, RecoverFrames
from protocol.schema import ROWS, Message
from protocol.session import Question

#: How far the two may be from each other: a generation is recorded before its node is told, and
#: a failed attempt is acknowledged before it is recorded.
_APART = 2
#: What is answered before the coordinator has said which frames are in use: it changes none.
_BEFORE = (CountZone, Describe, Inventory, RecoverFrames)


class Gate:
    """Shut until the coordinator has recovered the zone: what others ask waits meanwhile."""

    def __init__(self) -> None:
        self.is_open = False
        self._waiting: list[Question] = []

    def keeps(self, question: Question) -> bool:
        """Whether this has to wait; ``open`` gives it back."""
        if self.is_open or isinstance(question.message, _BEFORE):
            return False
        self._waiting.append(question)
        return True

    def open(self) -> list[Question]:
        """The zone is recovered: what has waited, in the order of asking."""
        self.is_open = True
        waiting, self._waiting = self._waiting, []
        return waiting

    def shut(self) -> None:
        """There is a new coordinator: nothing that the old one asked for is done any more.

        Nor is what other nodes asked for its sake.  What tasks ask names a generation, and waits.
        """
        self.is_open = False
        self._waiting = [one for one in self._waiting if _is_of_task(one.message)]


def _is_of_task(message: Message) -> bool:
    return ROWS[type(message)].asker == "client"


def recover_frames(zone: Zone, asked: RecoverFrames, *, free: bool) -> RecoveredFrames:
    """Free what is not named, and settle what is; absolute, as all that a node is told.

    ``free`` False: the node has been serving since, and has frames that are not named.
    """
    pfn, flags, generation, *_ = zone.inventory()
    there = (pfn >= asked.first) & (pfn < asked.end)
    orphan = there & ~np.isin(pfn, asked.pfn) if free else np.zeros(pfn.size, np.bool_)
    zone.put_pages(pfn[orphan], generation[orphan])
    freed = int(np.count_nonzero(orphan))
    at = np.minimum(np.searchsorted(pfn, asked.pfn), max(0, pfn.size - 1))
    now = generation[at] if pfn.size else np.zeros(asked.pfn.size, np.uint32)
    found = pfn[at] == asked.pfn if pfn.size else np.zeros(asked.pfn.size, np.bool_)
    found &= same_incarnation(now, asked.generation) | (_apart(now, asked.generation) <= _APART)
    if free and pfn.size:
        # Put, and given again to somebody whom the coordinator never heard of.
        other = at[~found & (pfn[at] == asked.pfn)]
        zone.put_pages(pfn[other], generation[other])
        freed += other.size
    settled = np.flatnonzero(found & (asked.settle != 0))
    if settled.size:
        known = asked.generation[settled]
        doing = flags[at[settled]]
        # A migration that was cut short, or memory without page structs that may be on its way.
        taken = (doing & (LOCKED | ISOLATED | UNCACHED) != 0) | bool(asked.revoke)
        now[settled] = _settle(
            zone, asked.pfn[settled], doing, now[settled], known + taken.astype(np.uint32)
        )
    status = np.where(found, 0, -errno.ESTALE).astype(np.int32)
    return RecoveredFrames(status, now, freed)


def _apart(one: U32, other: U32) -> U32:
    """How many generations lie between two, whichever is the later one."""
    apart: U32 = np.minimum(one - other, other - one)
    return apart


def _settle(zone: Zone, pfn: U32, flags: U16, now: U32, known: U32) -> U32:
    """Mapped, unlocked, put back; gives the generations: ``known``, or a later one.

    Whoever was given a translation was given one that the coordinator knew of.
    """
    later = np.where((now - known).view(np.int32) >= 0, now, known)
    zone.set_generation(pfn, now, later)
    back = (flags & MAPPED == 0) | (flags & (LOCKED | ISOLATED) != 0)
    zone.putback_lru_pages(pfn[back], later[back])
    return later
