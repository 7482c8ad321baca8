"""The page list of migrate_pages(): rows of frames in arrays, and how the life table is applied."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from coordinator.life import EMPTY, FAILS, NEXT, SETTLED, InvalidTransition, State
from coordinator.mem_map import Nids, Pfns, Rows, grouped
from coordinator.mpol import Mempolicy
from coordinator.rows import span
from protocol.status import StatusClass, status_class
from protocol.values import value

#: By state: the page has moved.
_MOVED: npt.NDArray[np.bool_] = np.isin(
    np.arange(len(State)), (State.SETTLING, State.SETTLED, State.RELEASING, State.MOVED)
)
#: By number: an enum looks one up by a function.
_STATES = tuple(State)
#: By state: where a page goes with which all is well.
_ALL_GO: list[int] = NEXT[:, StatusClass.OK, 0].tolist()
#: A longer list is worth the round trips that each step of it costs.
FEW_PAGES = 16
Nodes = npt.NDArray[np.int32]
Statuses32 = npt.NDArray[np.int32]
Columns = npt.NDArray[np.uint8]


@value
class Settings:
    """How one call of migrate_pages() goes about it; sizes in pages.

    ``fallback``: the allocation may use the zonelist of the wanted node (K 1.18).
    ``policy``: what the destinations follow, if they follow one: BIND is never left.
    ``granule``: 0, or of how many pages a granule is that moves as a whole; its pages have no page
    structs and so need no isolation (uncached.py).
    ``local``: node of the cpu that runs the call (numastat, K 6.7).  ``caller``: its pid, or 0.
    ``mems_allowed``: of the cpuset that is charged; None: every node.
    ``few_pages``: a list of so many or fewer goes the short way, where the caller knows one.
    ``strict_order``: node pairs one after the other, as in the kernel, also where they have nothing
    to do with each other (pairs.py).
    """

    chunk_pages: int = 4096
    forced_chunk_pages: int = 16
    fallback: bool = True
    local: int = 0
    caller: int = 0
    reason: str = "syscall_or_cpuset"
    policy: Mempolicy | None = None
    mems_allowed: frozenset[int] | None = None
    granule: int = 0
    few_pages: int = FEW_PAGES
    strict_order: bool = False


class PageList:
    """Rows of (source nid, pfn) and all that happens to them; columns are numpy arrays."""

    def __init__(self, pid: int, *, few: bool = False) -> None:
        self.pid = pid
        self.rows = 0
        #: It goes the short way (few.py).
        self.few = few
        #: The call has ended; what is left to be done goes on behind it (few.py).
        self.trailing = False
        #: The target has recovered while its pages were being taken: what it gave them is free.
        self.outlived = False
        #: How often a pass has left a page to be tried again.
        self.retries = 0
        self._parts: list[tuple[Nids, Pfns, npt.NDArray[np.int64]]] = []
        #: The last steps: state before, column of each row (None: OK for all), state after, rows.
        self.log: deque[tuple[State, Columns | None, State, Rows]] = deque(maxlen=64)

    def add(self, source: Nids, pfn: Pfns, page: npt.NDArray[np.int64]) -> None:
        """Append frames; ``page`` is the virtual page number at which each was found."""
        self._parts.append((source, pfn, page))
        self.rows += pfn.size

    def seal(self, state: State = State.LISTED) -> None:
        """The list is complete: make the columns."""
        if len(self._parts) == 1:
            [(self.source, self.pfn, self.page)] = self._parts
        else:
            self.source, self.pfn, self.page = map(np.concatenate, zip(*self._parts, strict=True))
        self._parts.clear()
        #: The nodes that its pages are on at first.
        self.sources = np.array([nid for nid, _ in grouped(self.source)], np.uint8)
        self.state = np.zeros(self.rows, np.uint8)
        self.state[:] = state
        self.counts = [0] * len(State)
        self.counts[state] = self.rows
        self.status = np.zeros(self.rows, np.int32)
        self.failed = np.zeros(self.rows, np.uint8)
        self.target = np.zeros(self.rows, np.uint8)
        self.target_pfn = np.zeros(self.rows, np.uint32)
        self.transfer = np.zeros(self.rows, np.int64)
        #: When each row's entries became migration entries, in seconds.
        self.unmapped = np.zeros(self.rows, np.float64)

    def begin(self, state: State) -> None:
        """All pages, which are LISTED, begin in this state."""
        self.state[:] = state
        self.counts[State.LISTED], self.counts[state] = 0, self.rows

    def apply(self, rows: Rows, status: Statuses32 | None) -> list[tuple[State, Rows]]:
        """Rows that are all in one state take the step that the table has for it and their status.

        ``status`` None: OK for all.  Returns the states they are in now, ascending, each with its
        rows.
        """
        at = span(rows)
        number = int(self.state[rows[0]])
        before = _STATES[number]
        apart = np.count_nonzero(self.state[at] != number)
        assert not apart, "rows in different states were asked together"
        failed = np.count_nonzero(self.failed[at])
        if not failed and (status is None or not np.count_nonzero(status)):
            return [self._all_go(before, rows, at)]
        if status is None:
            status = np.zeros(rows.size, np.int32)
        column = status_class(status)
        # One index into the rows of this state: two arrays as indices take three times as long.
        goes_to = NEXT[before].reshape(-1).take(2 * column + self.failed[rows])
        if (goes_to == EMPTY).any():
            empty = int(np.flatnonzero(goes_to == EMPTY)[0])
            raise InvalidTransition(before, int(status[empty]), self.story(int(rows[empty])))
        self._note_status(rows, status, FAILS[before, column])
        self.state[rows] = goes_to
        self.counts[before] -= rows.size
        groups = []
        for went_to in np.flatnonzero(np.bincount(goes_to)):
            group = goes_to == went_to
            after, mine = _STATES[went_to], rows[group]
            self.counts[after] += mine.size
            self.log.append((before, column[group], after, mine))
            groups.append((after, mine))
        return groups

    def _all_go(self, before: State, rows: Rows, at: Rows | slice) -> tuple[State, Rows]:
        """``apply`` where all went well and no row has failed: one cell of the table for all."""
        cell = _ALL_GO[before]
        if cell == EMPTY:
            raise InvalidTransition(before, 0, self.story(int(rows[0])))
        after = _STATES[cell]
        self.state[at] = cell
        self.counts[before] -= rows.size
        self.counts[after] += rows.size
        self.log.append((before, None, after, rows))
        return after, rows

    def _note_status(self, rows: Rows, status: Statuses32, fails: npt.NDArray[np.bool_]) -> None:
        """Keep why the last attempt failed, and once a page has failed for good, only that."""
        wrong = (status < 0) & (self.failed[rows] == 0)
        if wrong.any():
            self.status[rows[wrong]] = status[wrong]
            self.failed[rows[fails]] = 1

    def give_up(self, rows: Rows, status: int) -> None:
        """These pages fail for good, with a status that elsewhere means to try again."""
        self.status[rows] = status
        self.failed[rows] = 1

    def story(self, row: int) -> str:
        """The last steps of one page, oldest first."""
        lines = []
        for before, column, after, rows in self.log:
            for at in np.flatnonzero(rows == row):
                got = StatusClass.OK if column is None else StatusClass(column[at])
                lines.append(f"  {before.name} -{got.name}-> {after.name}")
        where = f"page {self.page[row]:#x}, node {self.source[row]} frame {self.pfn[row]}"
        return "\n".join([where, *lines])

    def count(self, state: State) -> int:
        """How many rows are in this state."""
        return self.counts[state]

    def by_source(self, rows: Rows) -> Iterator[tuple[int, Rows]]:
        """These rows by the node that their pages are on at first."""
        if self.sources.size == 1 and rows.size:
            yield int(self.sources[0]), rows
        else:
            for nid, mine in grouped(self.source[rows]):
                yield nid, rows[mine]

    def by_target(self, rows: Rows) -> Iterator[tuple[int, Rows]]:
        """These rows by the node that their pages go to."""
        target = self.target[span(rows)]
        if rows.size and not np.count_nonzero(target != target[0]):
            yield int(target[0]), rows
        else:
            for nid, mine in grouped(target):
                yield nid, rows[mine]

    def moved(self) -> npt.NDArray[np.bool_]:
        """Which rows have been moved, whatever is left to be done about their frames."""
        return _MOVED[self.state]

    def unsettled(self) -> int:
        """How many rows are not where they will be."""
        return self.rows - sum([self.counts[state] for state in SETTLED])


#: new_page_t: on which node to allocate, for each of ``rows`` of the list; -1 for no page.
new_page_t = Callable[[PageList, Rows, object], Nodes]


class LoadedNewPage(Protocol):
    """A new_page_t from a user's file, for one call; ``wrong``: it failed, and gave no nodes."""

    wrong: bool

    def __call__(self, pagelist: PageList, rows: Rows, private: object) -> Nodes: ...
