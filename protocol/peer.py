"""The state of a session's conversation with one name: what we asked it and what it asked us."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field

from protocol.core import Frames
from protocol.reply_cache import SLOTS, ReplyCache
from protocol.schema import Message

#: Hello stands outside the numbering: executing it twice is harmless.
HELLO_XID = 0


@dataclass(slots=True, eq=False)
class Asked:
    """A question of ours: waiting while ``frames`` is None, outstanding from then on.

    ``epoch`` is the one that ``frames`` carry; times in seconds, ``due`` is when to look again.
    """

    ticket: int
    peer: Peer
    message: Message
    expires: float
    interval: float
    due: float = math.inf
    xid: int = HELLO_XID
    epoch: int = 0
    frames: Frames | None = None


@dataclass(slots=True, eq=False)
class Peer:
    """Both halves of the conversation.  ``boot`` 0: nothing heard of it yet.

    ``outstanding`` is by slot, in the order of xids; ``waiting`` is by ticket, in the order asked.
    """

    name: str
    boot: int = 0
    next_xid: int = 1
    outstanding: OrderedDict[int, Asked] = field(default_factory=OrderedDict)
    waiting: OrderedDict[int, Asked] = field(default_factory=OrderedDict)
    hello: Asked | None = None
    replies: ReplyCache = field(default_factory=ReplyCache)

    def floor(self) -> int:
        """The lowest outstanding xid: everything below is settled."""
        return next(iter(self.outstanding.values())).xid

    def find(self, xid: int) -> Asked | None:
        """The outstanding question of that number."""
        asked = self.outstanding.get(xid % SLOTS)
        return asked if asked is not None and asked.xid == xid else None

    def number_next(self) -> Asked:
        """Make the first that waits outstanding, under the next xid whose slot is free."""
        _, asked = self.waiting.popitem(last=False)
        xid = self.next_xid
        while xid % SLOTS in self.outstanding:
            xid += 1
        self.next_xid = xid + 1
        asked.xid = xid
        self.outstanding[xid % SLOTS] = asked
        return asked

    def drop(self, asked: Asked) -> None:
        """A question is over, whether it waits or is outstanding."""
        if asked.frames is None:
            del self.waiting[asked.ticket]
        else:
            del self.outstanding[asked.xid % SLOTS]

    def validate(self, window: int) -> int:
        """Check the invariants; return how many of our questions are in hand, Hello included."""
        where = f"peer {self.name}"
        assert len(self.outstanding) <= window, f"{where}: {len(self.outstanding)} outstanding"
        lowest = 0
        for slot, asked in self.outstanding.items():
            assert asked.xid % SLOTS == slot, f"{where}: xid {asked.xid} in slot {slot}"
            assert lowest < asked.xid < self.next_xid, f"{where}: xid {asked.xid} out of order"
            assert asked.frames is not None, f"{where}: xid {asked.xid} outstanding, yet unsent"
            lowest = asked.xid
        for asked in self.waiting.values():
            assert asked.frames is None, f"{where}: ticket {asked.ticket} sent, yet waiting"
        if self.boot == 0:
            assert not self.outstanding, f"{where}: asked before its boot_id was known"
            assert (self.hello is not None) == bool(self.waiting), f"{where}: Hello without need"
        else:
            assert self.hello is None, f"{where}: Hello to an acquaintance"
            full = len(self.outstanding) == window
            assert full or not self.waiting, f"{where}: waiting with room in the window"
        self.replies.validate()
        return len(self.outstanding) + len(self.waiting) + (self.hello is not None)
