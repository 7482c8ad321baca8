"""What the tasks of a stress did and were told: a file of rows for each client, and one history.

A client may be killed at any moment, so the rows of a store are in the file before it is asked for,
and its outcome is a row of its own behind them.  Times are nanoseconds of the host's one clock.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt

from numalab.linearizability import AT_FIRST, I64, NEVER, Operations, join

U64 = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.void]

ROW = np.dtype(
    [
        ("what", "u1"),
        ("batch", "<u4"),
        ("space", "<i8"),
        ("place", "<u8"),
        ("value", "<u8"),
        ("start", "<i8"),
        ("end", "<i8"),
    ]
)
#: Places of one space, as bits of a key.
PLACE_BITS = 32


class What(IntEnum):
    """What a row says.  ENDED: the stores of ``batch`` were acknowledged.

    FORKED: ``space`` is a copy of the space ``place``.
    """

    LOAD = 0
    STORE = 1
    ENDED = 2
    FORKED = 3


class Log:
    """The rows of one client, written at once.  ``operations``: words loaded or acknowledged."""

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o600)
        self._batches = 0
        self.operations = 0

    def loaded(self, space: int, place: U64, value: U64, start: int) -> None:
        self._write(What.LOAD, 0, space, place, value, start, time.monotonic_ns())
        self.operations += place.size

    def storing(self, space: int, place: U64, value: U64) -> int:
        """Before it is asked for; gives the number for ``stored``."""
        self._batches += 1
        now = time.monotonic_ns()
        self._write(What.STORE, self._batches, space, place, value, now, NEVER)
        return self._batches

    def stored(self, batch: int, words: int) -> None:
        """All of it was acknowledged."""
        none = np.zeros(1, np.uint64)
        now = time.monotonic_ns()
        self._write(What.ENDED, batch, 0, none, none, now, now)
        self.operations += words

    def forked(self, parent: int, child: int, start: int) -> None:
        place = np.array([parent], np.uint64)
        self._write(What.FORKED, 0, child, place, place, start, time.monotonic_ns())

    def _write(
        self, what: What, batch: int, space: int, place: U64, value: U64, start: int, end: int
    ) -> None:
        rows = np.zeros(place.size, ROW)
        rows["what"], rows["batch"], rows["space"] = what, batch, space
        rows["place"], rows["value"], rows["start"], rows["end"] = place, value, start, end
        os.write(self._descriptor, rows.tobytes())


def read_log(path: Path) -> Rows:
    """The rows of one client; what a killed one had begun to write is not there."""
    data = path.read_bytes()
    return np.frombuffer(data[: len(data) - len(data) % ROW.itemsize], ROW)


def history_of(logs: Sequence[Rows]) -> Operations:
    """One history of all: a word is a key, and a fork has given each child its words."""
    parts, forks = [], []
    for who, rows in enumerate(logs):
        rows = rows.copy()
        ended = rows[rows["what"] == What.ENDED]
        stores = np.flatnonzero(rows["what"] == What.STORE)
        if ended.size:
            ends = np.full(int(max(rows["batch"].max(), 0)) + 1, NEVER, np.int64)
            ends[ended["batch"]] = ended["end"]
            rows["end"][stores] = ends[rows["batch"][stores]]
        forks.append(rows[rows["what"] == What.FORKED])
        rows = rows[rows["what"] <= What.STORE]
        parts.append(
            Operations(
                _key(rows["space"], rows["place"].astype(np.int64)),
                rows["what"] == What.STORE,
                rows["value"].astype(np.uint64),
                rows["start"].astype(np.int64),
                rows["end"].astype(np.int64),
                np.full(rows.size, who, np.int64),
            )
        )
    history = join(parts)
    for fork in np.concatenate(forks) if forks else ():
        history = _inherit(history, fork)
    return history


def _key(space: I64 | int, place: I64) -> I64:
    return np.int64(space) << np.int64(PLACE_BITS) | place


def word_of(key: int) -> tuple[int, int]:
    """Space and place of a key."""
    return key >> PLACE_BITS, key & ((1 << PLACE_BITS) - 1)


def _inherit(history: Operations, fork: np.void) -> Operations:
    """What the child found and never stored, it has from its parent, as of the fork.

    For the child that is what its word held at first, for the parent it is a load by the fork.
    """
    child, parent = int(fork["space"]), int(fork["place"])
    own = history.key >> PLACE_BITS == child
    stored = history.value[own & history.is_store]
    found = np.flatnonzero(own & ~history.is_store & ~np.isin(history.value, stored))
    # Of each word the value that was found first; another one is then from nowhere.
    found = found[np.argsort(history.end[found], kind="stable")]
    keys, first = np.unique(history.key[found], return_index=True)
    value = history.value[found[first]]
    place, who = keys & ((1 << PLACE_BITS) - 1), history.who[found[first]]
    size = keys.size
    seen = Operations(
        _key(parent, place),
        np.zeros(size, np.bool_),
        value,
        np.full(size, fork["start"], np.int64),
        np.full(size, fork["end"], np.int64),
        who,
    )
    at_first = np.full(size, AT_FIRST, np.int64)
    given = Operations(keys, np.ones(size, np.bool_), value, at_first, at_first, who)
    # A word is 0 at first without being told.
    return join([history, seen, given.take(value != 0)])
