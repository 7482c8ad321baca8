"""TABLE: the life of a page under migration.

Rules.  (1) Everything that decides what happens next to a page is in ``TRANSITIONS``.  (2) A state
in -ING means that exactly one question about the page is outstanding; any other means none.
(3) The table is applied to a whole chunk at once: ``NEXT`` is the same table as an array, indexed
by state, column of the status, and whether the page has failed for good.

An empty cell is an assertion about us: ``InvalidTransition`` prints the story of the page.
The drawing in ``docs/life-of-a-page.md`` is generated from here.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from protocol.status import StatusClass, describe
from protocol.values import at_hand

EMPTY = 255


@at_hand
class State(IntEnum):
    """Where a page of a page list stands."""

    LISTED = 0
    TAKING = 1
    ISOLATING = 2
    ISOLATED = 3
    ALLOCATING = 4
    ALLOCATED = 5
    COPYING = 6
    UNLOCKING = 7
    RESTORING = 8
    SETTLING = 9
    SETTLED = 10
    RELEASING = 11
    PUTTING_BACK = 12
    MOVED = 13
    FAILED = 14
    SKIPPED = 15


class Place(NamedTuple):
    """What a state means, for people."""

    asks: str
    meaning: str


PLACES: dict[State, Place] = {
    State.LISTED: Place("", "found by the scan, nothing asked yet"),
    State.TAKING: Place(
        "source: isolate_lru_page, lock and copy; the target gives frames",
        "few pages, by one question; entries are migration entries; faults wait",
    ),
    State.ISOLATING: Place("source: isolate_lru_page", "being taken off the LRU"),
    State.ISOLATED: Place("", "on the page list, waits for a pass"),
    State.ALLOCATING: Place("target: new_page", "a frame on the target is asked for"),
    State.ALLOCATED: Place("", "has a frame, waits for the chunk before it to be copied"),
    State.COPYING: Place(
        "source: lock and copy to the target", "entries are migration entries; faults wait"
    ),
    State.UNLOCKING: Place("source: unlock; bulk cancelled", "the attempt failed"),
    State.RESTORING: Place("target: put the unused frame", "entries name the old frame again"),
    State.SETTLING: Place("target: putback_lru_pages", "committed: entries name the new frame"),
    State.SETTLED: Place("", "the target serves the page; the old frame waits for more of them"),
    State.RELEASING: Place("source: put the old frame", "the last of the old frame"),
    State.PUTTING_BACK: Place("source: putback_lru_pages", "stays where it is"),
    State.MOVED: Place("", "final: on the target"),
    State.FAILED: Place("", "final: on the source, counted as not migrated"),
    State.SKIPPED: Place("", "final: was not on the LRU; not counted (K 1.15)"),
}


class Transition(NamedTuple):
    """From ``state``, on a status of ``column``: to ``goes_to`` (``if_failed`` if it has failed).

    ``fails``: the status is permanent, the page has failed.  ``resolves``: the status is indefinite
    and the next state asks an absolute question that is right whichever way it was.
    """

    state: State
    column: StatusClass
    goes_to: State
    effect: str
    if_failed: State | None = None
    fails: bool = False
    resolves: bool = False


_S, _C = State, StatusClass

TRANSITIONS: tuple[Transition, ...] = (
    Transition(_S.LISTED, _C.OK, _S.ISOLATING, "asked"),
    Transition(_S.TAKING, _C.OK, _S.SETTLING, "THE MOVE: entries -> new, recorded"),
    Transition(_S.TAKING, _C.PERMANENT, _S.SKIPPED, "not on the LRU: left alone"),
    Transition(_S.TAKING, _C.AGAIN, _S.UNLOCKING, "isolated, not copied: next pass"),
    Transition(_S.TAKING, _C.NOMEM, _S.UNLOCKING, "isolated, no frame: next pass"),
    Transition(_S.TAKING, _C.NODEV, _S.UNLOCKING, "unlock, isolate", resolves=True),
    Transition(_S.ISOLATING, _C.OK, _S.ISOLATED, "off the LRU"),
    Transition(_S.ISOLATING, _C.AGAIN, _S.SKIPPED, "left alone"),
    Transition(_S.ISOLATING, _C.NODEV, _S.PUTTING_BACK, "put back", fails=True, resolves=True),
    Transition(_S.ISOLATED, _C.OK, _S.ALLOCATING, "a pass takes it", if_failed=_S.PUTTING_BACK),
    Transition(_S.ALLOCATING, _C.OK, _S.ALLOCATED, "has a frame"),
    Transition(_S.ALLOCATING, _C.NOMEM, _S.ISOLATED, "ends the job"),
    Transition(_S.ALLOCATING, _C.NODEV, _S.ISOLATED, "next pass"),
    Transition(_S.ALLOCATED, _C.OK, _S.COPYING, "try_to_unmap: entries"),
    Transition(_S.ALLOCATED, _C.AGAIN, _S.RESTORING, "under writeback; next pass"),
    Transition(_S.ALLOCATED, _C.NOMEM, _S.RESTORING, "a page before it ended the job"),
    Transition(_S.COPYING, _C.OK, _S.SETTLING, "THE MOVE: entries -> new, recorded"),
    Transition(_S.COPYING, _C.AGAIN, _S.UNLOCKING, "next pass"),
    Transition(_S.COPYING, _C.PERMANENT, _S.UNLOCKING, "failed", fails=True),
    Transition(_S.COPYING, _C.NODEV, _S.UNLOCKING, "unlock, cancel", resolves=True),
    Transition(_S.UNLOCKING, _C.OK, _S.RESTORING, "entries -> old"),
    Transition(_S.UNLOCKING, _C.NODEV, _S.UNLOCKING, "ask again", resolves=True),
    Transition(_S.RESTORING, _C.OK, _S.ISOLATED, "new frame is free", if_failed=_S.PUTTING_BACK),
    Transition(_S.RESTORING, _C.NODEV, _S.RESTORING, "ask again", resolves=True),
    Transition(_S.SETTLING, _C.OK, _S.SETTLED, "waiters wake"),
    Transition(_S.SETTLING, _C.NODEV, _S.SETTLING, "ask again", resolves=True),
    Transition(_S.SETTLED, _C.OK, _S.RELEASING, "asked"),
    Transition(_S.RELEASING, _C.OK, _S.MOVED, "old frame is free"),
    Transition(_S.RELEASING, _C.NODEV, _S.RELEASING, "ask again", resolves=True),
    Transition(_S.PUTTING_BACK, _C.OK, _S.FAILED, "on the LRU again"),
    Transition(_S.PUTTING_BACK, _C.NODEV, _S.PUTTING_BACK, "ask again", resolves=True),
)

#: Where the pages of a list begin: step by step, few at once, or where nothing has to be isolated.
INITIAL = (State.LISTED, State.TAKING, State.ISOLATED)
FINAL = (State.MOVED, State.FAILED, State.SKIPPED)
#: The page is where it will be, and served; of its old frame something may be left to be done.
SETTLED = (State.SETTLED, State.RELEASING, *FINAL)


def _as_array() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    goes_to = np.full((len(State), len(StatusClass), 2), EMPTY, np.uint8)
    fails = np.zeros((len(State), len(StatusClass)), np.bool_)
    for row in TRANSITIONS:
        assert goes_to[row.state, row.column, 0] == EMPTY, "a cell is given twice"
        goes_to[row.state, row.column, 0] = row.goes_to
        goes_to[row.state, row.column, 1] = row.goes_to if row.if_failed is None else row.if_failed
        fails[row.state, row.column] = row.fails
    return goes_to, fails


NEXT, FAILS = _as_array()


class InvalidTransition(AssertionError):
    """A status came for a page that cannot have got it: we are wrong."""

    def __init__(self, state: State, status: int, story: str) -> None:
        super().__init__(f"a page in {state.name} got {describe(status)}\n{story}")
        self.state, self.status = state, status
