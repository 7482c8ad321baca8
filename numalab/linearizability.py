"""Is what loads gave what one memory could have given?  For a million operations at once.

Each word of memory is a register.  Its history is linearizable if every operation can be put at one
moment between its start and its end so that each load gives what the last store before it stored.
A store that nobody answered may have happened at any moment from its start on, or never.

Where no value is stored twice, that is decided exactly and for all words together (Gibbons and
Korach, Testing Shared Memories, 1997).  The operations of one value (its store, and the loads that
gave it) stand together in any right order.  Between the first of their ends and the last of their
starts, if that comes later, the word certainly held the value, so no two values may have such
spans that overlap, and no value may have all its operations inside the span of another.
Words with equal values are searched, one after the other, as far as a budget lasts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.bool_]

#: The end of a store that nobody answered, and the start and end of what was there at first.
NEVER = np.iinfo(np.int64).max
AT_FIRST = np.iinfo(np.int64).min
#: States of one word that a search keeps at once, before it gives up.
STATES_MAX = 20_000
CONFLICTS_MAX = 8


@dataclass(frozen=True, slots=True)
class Operations:
    """Columns of one length: a row for each load that was answered and for each store.

    key: which word.  start, end: nanoseconds; NEVER where a store was not answered.
    who: whose operation it was, for people.
    """

    key: I64
    is_store: Flags
    value: U64
    start: I64
    end: I64
    who: I64

    def take(self, rows: npt.NDArray[np.intp] | Flags) -> Operations:
        """Some of the rows."""
        return Operations(
            self.key[rows],
            self.is_store[rows],
            self.value[rows],
            self.start[rows],
            self.end[rows],
            self.who[rows],
        )


def join(parts: list[Operations]) -> Operations:
    """All of the rows."""
    names = Operations.__dataclass_fields__
    return Operations(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


@dataclass(frozen=True, slots=True)
class Conflict:
    """Rows of operations of one word that no memory could have answered so.

    what: why not.  definite: else the search gave up, and nobody knows.
    """

    key: int
    what: str
    rows: tuple[int, ...]
    definite: bool = True


def check_registers(operations: Operations, initial: int = 0) -> list[Conflict]:
    """The first conflicts of each kind; none: every word is linearizable.

    initial: what every word holds at first.
    """
    count = operations.key.size
    if not count:
        return []
    keys = np.unique(operations.key)
    at_first = np.full(keys.size, AT_FIRST, np.int64)
    first = Operations(
        keys,
        np.ones(keys.size, np.bool_),
        np.full(keys.size, initial, np.uint64),
        at_first,
        at_first,
        np.full(keys.size, -1, np.int64),
    )
    clusters = _Clusters(join([operations, first]), count)
    conflicts = [*clusters.unstored(), *clusters.early(), *clusters.torn()]
    for key in clusters.ambiguous.tolist():
        conflict = _search(operations, key, initial)
        if conflict is not None:
            conflicts.append(conflict)
    return conflicts


class _Clusters:
    """The operations of each value of each word.

    first_end, last_start: of a cluster, which is a number for each pair of word and value.
    """

    def __init__(self, all_: Operations, count: int) -> None:
        self._all, self._count = all_, count
        key = np.unique(all_.key, return_inverse=True)[1]
        value = np.unique(all_.value, return_inverse=True)[1].astype(np.int64)
        pair = key * (int(value.max()) + 1) + value
        self._pairs, self._cluster = np.unique(pair, return_inverse=True)
        size = self._pairs.size
        self._key_of = np.zeros(size, np.int64)
        self._key_of[self._cluster] = key
        self._keys = np.unique(all_.key)
        stores = np.bincount(self._cluster[all_.is_store], minlength=size)
        self._stored = stores > 0
        twice = np.unique(self._key_of[stores > 1])
        self.ambiguous: I64 = self._keys[twice]
        #: Clusters of words in which no value is stored twice.
        self._exact = ~np.isin(self._key_of, twice)
        self._first_end = np.full(size, NEVER, np.int64)
        np.minimum.at(self._first_end, self._cluster, all_.end)
        self._last_start = np.full(size, AT_FIRST, np.int64)
        np.maximum.at(self._last_start, self._cluster, all_.start)

    def unstored(self) -> Iterator[Conflict]:
        """Loads of a value that nobody has ever stored there."""
        rows = np.flatnonzero(~self._stored[self._cluster])
        for row in rows[:CONFLICTS_MAX].tolist():
            yield Conflict(int(self._all.key[row]), "nobody ever stored that value there", (row,))

    def early(self) -> Iterator[Conflict]:
        """Loads that ended before the store of their value began."""
        stored_at = np.full(self._pairs.size, AT_FIRST, np.int64)
        stores = np.flatnonzero(self._all.is_store)
        stored_at[self._cluster[stores]] = self._all.start[stores]
        use = self._exact[self._cluster] & ~self._all.is_store
        rows = np.flatnonzero(use & (self._all.end < stored_at[self._cluster]))
        for row in rows[:CONFLICTS_MAX].tolist():
            members = np.flatnonzero((self._cluster == self._cluster[row]) & self._all.is_store)
            what = "a load gave a value before its store began"
            yield Conflict(int(self._all.key[row]), what, (row, *members.tolist()))

    def torn(self) -> Iterator[Conflict]:
        """Pairs of values each of which must have been there before the other."""
        use = np.flatnonzero(self._exact & self._stored)
        end, start = self._first_end[use], self._last_start[use]
        is_span = end < start
        spans = use[is_span]
        spans = spans[np.lexsort((self._first_end[spans], self._key_of[spans]))]
        same = self._key_of[spans][1:] == self._key_of[spans][:-1]
        overlap = same & (self._first_end[spans][1:] < self._last_start[spans][:-1])
        pairs = [(int(spans[at]), int(spans[at + 1])) for at in np.flatnonzero(overlap).tolist()]
        inner = use[~is_span]
        if spans.size and inner.size:
            # The last span that began before all of the value's operations had.
            times = np.unique(np.concatenate([end, start]))
            scale = times.size + 1
            places = self._key_of[spans] * scale + np.searchsorted(times, self._first_end[spans])
            wanted = self._key_of[inner] * scale + np.searchsorted(times, self._last_start[inner])
            at = np.searchsorted(places, wanted, side="left") - 1
            outer = spans[np.maximum(at, 0)]
            inside = (at >= 0) & (self._key_of[outer] == self._key_of[inner])
            inside &= self._first_end[inner] < self._last_start[outer]
            pairs += list(zip(outer[inside].tolist(), inner[inside].tolist(), strict=True))
        # Of several, the one that could be told first, so that there is least to look at.
        pairs.sort(key=lambda pair: max(self._last_start[list(pair)].tolist()))
        for one, other in pairs[:CONFLICTS_MAX]:
            yield self._explain(one, other)

    def _explain(self, one: int, other: int) -> Conflict:
        """At most four operations show it: of each value, one that ended and one that began."""
        rows: list[int] = []
        for cluster in (one, other):
            members = np.flatnonzero(self._cluster == cluster)
            rows.append(int(members[np.argmin(self._all.end[members])]))
            rows.append(int(members[np.argmax(self._all.start[members])]))
            rows += members[self._all.is_store[members]].tolist()
        shown = sorted({row for row in rows if row < self._count}, key=self._all.start.__getitem__)
        key = int(self._all.key[rows[0]])
        return Conflict(key, "each value was there before the other", tuple(shown))


def _search(operations: Operations, key: int, initial: int) -> Conflict | None:
    """The same for a word in which values are stored several times.

    A state is what the word holds, and which of the stores under way have happened.  A load is
    put at the first moment at which it could have given what it gave.
    """
    rows = np.flatnonzero(operations.key == key)
    events: list[tuple[int, int, int]] = []
    for row in rows.tolist():
        events.append((int(operations.start[row]), 0, row))
        if operations.end[row] != NEVER:
            events.append((int(operations.end[row]), 1, row))
    value = dict(zip(rows.tolist(), operations.value[rows].tolist(), strict=True))
    stores = set(rows[operations.is_store[rows]].tolist())
    states = {(initial, frozenset[int]())}
    running: set[int] = set()
    for _, ends, row in sorted(events):
        if not ends:
            running.add(row)
            continue
        wide = _all_reachable(states, running, stores, value)
        if wide is None:
            return Conflict(key, "too many stores of equal values at once to tell", (row,), False)
        states = {(held, done - {row}) for held, done in wide if row in done}
        running.discard(row)
        if not states:
            return Conflict(key, "no order of its operations explains it", (row,))
    return None


State = tuple[int, frozenset[int]]


def _all_reachable(
    states: set[State], running: set[int], stores: set[int], value: dict[int, int]
) -> set[State] | None:
    """The states that any operations under way can lead to; None: too many."""
    found: set[State] = set()
    left = list(states)
    while left:
        held, done = left.pop()
        loads = {row for row in running - done if row not in stores and value[row] == held}
        state = held, done | loads
        if state in found:
            continue
        found.add(state)
        if len(found) > STATES_MAX:
            return None
        left += [(value[row], state[1] | {row}) for row in (running & stores) - state[1]]
    return found
