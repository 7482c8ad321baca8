"""What one asker has asked us lately: the half of a session that executes nothing twice.

How long an answer is kept is bounded twice.  Below the ``floor`` that every question carries all
is settled.  And an xid lives in the slot ``xid % SLOTS``, which the asker uses for one question at
a time (as an NFSv4.1 session does, RFC 8881 2.10.6): a new xid in a slot settles the old one there.
So a single question that takes minutes holds back the floor, but neither memory nor its fellows.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol.core import Frames

#: Both ends must agree on it: questions of one asker that an answerer remembers at most.
SLOTS = 256


@dataclass(slots=True, eq=False)
class _Served:
    """A question: executing, or answered; ``reply`` None: answered, but the answer is not kept."""

    xid: int
    executing: bool = True
    reply: Frames | None = None


class ReplyCache:
    """The questions of one incarnation of one asker, by slot."""

    __slots__ = ("_floor", "_served")

    def __init__(self) -> None:
        self._floor = 0
        self._served: dict[int, _Served] = {}

    def __len__(self) -> int:
        return len(self._served)

    def admit(self, xid: int, floor: int) -> bool:
        """Shall question ``xid`` be executed (now, and not again until it is answered)?

        ``floor`` is the one that came with it.  False for every kind of echo: settled at the asker,
        executing, or answered with an answer that ``kept`` has.
        """
        if floor > self._floor:
            self._settle_below(floor)
        if xid < self._floor:
            return False
        served = self._served.get(xid % SLOTS)
        if served is not None and (
            served.xid > xid
            or (served.xid == xid and (served.executing or served.reply is not None))
        ):
            return False
        self._served[xid % SLOTS] = _Served(xid)
        return True

    def kept(self, xid: int) -> Frames | None:
        """The answer of ``xid``, if it was kept and is still wanted."""
        served = self._served.get(xid % SLOTS)
        return served.reply if served is not None and served.xid == xid else None

    def awaits(self, xid: int) -> bool:
        """Does the asker still want to know?  Raises AssertionError if ``xid`` is answered."""
        served = self._served.get(xid % SLOTS)
        if served is None or served.xid != xid:
            return False
        assert served.executing, f"question {xid} is answered twice"
        return True

    def settle(self, xid: int, reply: Frames | None) -> None:
        """Question ``xid``, which ``awaits`` an answer, has it; None: do not keep the answer."""
        served = self._served[xid % SLOTS]
        served.executing = False
        served.reply = reply

    def validate(self) -> None:
        """Raise AssertionError if an invariant does not hold."""
        assert len(self._served) <= SLOTS, f"{len(self._served)} questions remembered"
        for slot, served in self._served.items():
            assert served.xid % SLOTS == slot, f"question {served.xid} in slot {slot}"
            assert served.xid >= self._floor, f"{served.xid} kept below floor {self._floor}"
            assert not (served.executing and served.reply), f"{served.xid} answered, yet executing"

    def _settle_below(self, floor: int) -> None:
        """Only the slots between the old floor and the new one can hold what is settled."""
        for xid in range(self._floor, min(floor, self._floor + SLOTS)):
            served = self._served.get(xid % SLOTS)
            if served is not None and served.xid < floor:
                del self._served[xid % SLOTS]
        self._floor = floor
