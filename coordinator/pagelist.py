"""The page list of migrate_pages(): rows of frames in arrays, and how the life table is applied."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coordinator.life import EMPTY, FAILS, NEXT, InvalidTransition, State
from coordinator.mem_map import Nids, Pfns, Rows
from protocol.status import StatusClass, status_class

Nodes = npt.NDArray[np.int32]
Statuses32 = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Settings:
    """How one call of migrate_pages() goes about it; sizes in pages.

    ``fallback``: the allocation may use the zonelist of the wanted node (K 1.18).
    ``local``: node of the cpu that runs the call (numastat, K 6.7).
    """

    chunk_pages: int = 4096
    forced_chunk_pages: int = 16
    fallback: bool = True
    local: int = 0
    reason: str = "syscall_or_cpuset"


class PageList:
    """Rows of (source nid, pfn) and all that happens to them; columns are numpy arrays."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.rows = 0
        self._parts: list[tuple[Nids, Pfns, npt.NDArray[np.int64]]] = []
        self.log: deque[tuple[State, StatusClass, State, Rows]] = deque(maxlen=64)

    def add(self, source: Nids, pfn: Pfns, page: npt.NDArray[np.int64]) -> None:
        """Append frames; ``page`` is the virtual page number at which each was found."""
        self._parts.append((source, pfn, page))
        self.rows += pfn.size

    def seal(self) -> None:
        """The list is complete: make the columns."""
        self.source = np.concatenate([source for source, _, _ in self._parts])
        self.pfn = np.concatenate([pfn for _, pfn, _ in self._parts])
        self.page = np.concatenate([page for _, _, page in self._parts])
        self._parts.clear()
        self.state = np.full(self.rows, State.LISTED, np.uint8)
        self.status = np.zeros(self.rows, np.int32)
        self.failed = np.zeros(self.rows, np.uint8)
        self.target = np.zeros(self.rows, np.uint8)
        self.target_pfn = np.zeros(self.rows, np.uint32)
        self.transfer = np.zeros(self.rows, np.int64)

    def apply(self, rows: Rows, status: Statuses32) -> None:
        """Each row takes the step that the table has for its state and status."""
        state, column = self.state[rows], status_class(status)
        goes_to = NEXT[state, column, self.failed[rows]]
        if (goes_to == EMPTY).any():
            at = int(np.flatnonzero(goes_to == EMPTY)[0])
            raise InvalidTransition(State(state[at]), int(status[at]), self.story(int(rows[at])))
        fails = FAILS[state, column]
        self.failed[rows[fails]] = 1
        self.status[rows] = np.where(fails | (self.failed[rows] == 0), status, self.status[rows])
        self.state[rows] = goes_to
        self.log.append((State(state[0]), StatusClass(column[0]), State(goes_to[0]), rows))

    def story(self, row: int) -> str:
        """The last steps of one page, oldest first."""
        lines = [
            f"  {before.name} -{column.name}-> {after.name}"
            for before, column, after, rows in self.log
            if row in rows
        ]
        where = f"page {self.page[row]:#x}, node {self.source[row]} frame {self.pfn[row]}"
        return "\n".join([where, *lines])

    def count(self, state: State) -> int:
        return int(np.count_nonzero(self.state == state))


#: new_page_t: on which node to allocate, for each of ``rows`` of the list; -1 for no page.
new_page_t = Callable[[PageList, Rows, object], Nodes]
