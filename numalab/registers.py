"""Registers: all the writes to one place of memory that somebody may still see.

The contents of a page are a register for each word.  A page of a file is one for all who map it
shared; a private mapping of it sees the file until the first write to the page, and from then on
what the file had at that moment.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

#: A register with more writes than this is rid of those that nobody can see any more.
WRITES_KEPT = 24

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Write(Generic[T]):
    """It happened once between ``start`` and ``end``; end is inf while nobody knows whether.

    inherited: by a fork, and exactly one of the inherited writes of a register happened.
    seen: when the last load that saw it started, so that it was still there.
    """

    value: T
    start: float
    end: float = math.inf
    inherited: bool = False
    seen: float = -math.inf

    def contradicts(self, other: Write[T]) -> bool:
        """Each of the two is known to have been there before, and again after, the other."""
        mine, others = max(self.start, self.seen), max(other.start, other.seen)
        return self.end < others and other.end < mine


class Register(Generic[T]):
    """All writes to one place that somebody may still see; or all, if it does not forget."""

    def __init__(self, writes: list[Write[T]], *, forgets: bool = True) -> None:
        self.writes, self._forgets = writes, forgets

    def begin(self, value: T, now: float, oldest: float) -> Write[T]:
        """A write starts.  ``oldest``: no operation that still runs started before."""
        if self._forgets and len(self.writes) > WRITES_KEPT:
            latest = self._latest(oldest)
            self.writes = [write for write in self.writes if write.end >= latest]
        write = Write(value, now)
        self.writes.append(write)
        return write

    def possible(self, start: float, end: float) -> list[Write[T]]:
        """The writes that may have been current at some moment of ``start`` .. ``end``."""
        latest = self._latest(start)
        return [write for write in self.writes if write.start <= end and write.end >= latest]

    def observe(self, write: Write[T], start: float, end: float) -> Write[T] | None:
        """Somebody saw it: it had happened by ``end``, and was there at ``start`` or later.

        Gives a write that cannot have come before it and cannot have come after it, if there is
        one.  As each write happens once, no register without one can be caught out (Gibbons and
        Korach, Testing Shared Memories, 1997).
        """
        write.end, write.seen = min(write.end, end), max(write.seen, start)
        if write.inherited:
            self.writes = [w for w in self.writes if w is write or not w.inherited]
        return next((w for w in self.writes if w is not write and w.contradicts(write)), None)

    def _latest(self, start: float) -> float:
        """What ended before this moment was overwritten before ``start``."""
        return max((w.start for w in self.writes if w.end < start), default=-math.inf)


#: (value, register, write, start): what a load may give, which write to which register it then saw,
#: and from when on it may have seen it.
Seen = tuple[int, Register[int], Write[int], float]


class Words:
    """The contents of one page: a register for each word ever touched."""

    def __init__(self) -> None:
        self.registers: dict[int, Register[int]] = {}

    def at(self, offset: int) -> Register[int]:
        if offset not in self.registers:
            self.registers[offset] = self._untouched()
        return self.registers[offset]

    def _untouched(self) -> Register[int]:
        return Register([Write(0, -math.inf, -math.inf)])

    def offsets(self) -> set[int]:
        """Where something may have been stored."""
        return set(self.registers)

    def seen(self, offset: int, start: float, end: float) -> Iterator[Seen]:
        """What a load between ``start`` and ``end`` may give."""
        register = self.at(offset)
        for write in register.possible(start, end):
            yield write.value, register, write, start

    def copied(self, start: float) -> None:
        """A private page may be copied for a writer from ``start`` on."""

    def written(self, now: float) -> None:
        """A store to the page has succeeded."""

    def copy(self, start: float, end: float) -> Words:
        """What a fork between ``start`` and ``end`` gives the child."""
        copy = self._child(start, end)
        for offset, register in self.registers.items():
            writes = register.possible(start, end)
            copy.registers[offset] = Register([Write(w.value, start, end, True) for w in writes])
        return copy

    def _child(self, start: float, end: float) -> Words:
        return Words()

    def fresh(self) -> Words:
        """What MADV_DONTNEED leaves of a private page."""
        return Words()


class FileWords(Words):
    """A page of a file.  Nothing is forgotten: who copied it long ago has what it was then."""

    def _untouched(self) -> Register[int]:
        return Register([Write(0, -math.inf, -math.inf)], forgets=False)


class PrivateWords(Words):
    """A page of a private mapping of a file.

    ``_copy``: since when and until when it may have become a copy of its own.  A register with
    ``_OF_THE_FILE`` in it has, as far as that goes, what the file has, or had then.
    """

    _OF_THE_FILE = -1

    def __init__(self, file: Words) -> None:
        super().__init__()
        self.file = file
        self._copy = (math.inf, math.inf)

    def _untouched(self) -> Register[int]:
        return Register([Write(self._OF_THE_FILE, -math.inf, -math.inf)])

    def offsets(self) -> set[int]:
        return self.registers.keys() | self.file.registers.keys()

    def seen(self, offset: int, start: float, end: float) -> Iterator[Seen]:
        first, last = self._copy
        since, until = (first, last) if last < start else (min(first, start), end)
        for value, register, write, _ in super().seen(offset, start, end):
            if value != self._OF_THE_FILE:
                yield value, register, write, start
                continue
            for of_file, *_ in self.file.seen(offset, since, until):
                yield of_file, register, write, start

    def copied(self, start: float) -> None:
        self._copy = min(self._copy[0], start), self._copy[1]

    def written(self, now: float) -> None:
        self._copy = self._copy[0], min(self._copy[1], now)

    def _child(self, start: float, end: float) -> Words:
        """It shares the copy if there is one by then, and has its own later if there is none."""
        child, (first, last) = PrivateWords(self.file), self._copy
        if first <= end:
            child._copy = first, last if last < start else math.inf
        return child

    def fresh(self) -> Words:
        return PrivateWords(self.file)
