"""The frames that a client holds as another user of its tasks' pages (``orders.Hold``).

A forced migration waits for a page lock (K 1.28) while faults on the page wait for the migration,
so whoever holds a page has to know its frame: to let go of it must not take a fault.  The frame's
generation may have changed by then; its node asks for the incarnation only (``HoldPages``).  Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from numalab.access import Access, Translation, Working
from numalab.work import Rows
from protocol.messages import HoldPages
from protocol.schema import Message
from protocol.syscalls import Exit, Mmap, Munmap

_Page = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Held:
    """A frame and how it is held, or may be."""

    frame: Translation
    locked: bool
    pinned: bool

    def covers(self, locked: bool, pinned: bool) -> bool:
        """To hold just this takes nothing more."""
        return locked <= self.locked and pinned <= self.pinned


class Holds:
    """What is held, by (pid, page).  It knows nothing of what other clients hold."""

    def __init__(self) -> None:
        self._held: dict[_Page, _Held] = {}

    def preset(self, access: Access, locked: bool, pinned: bool) -> None:
        """Rows of an order to hold just this that take nothing more need no fault."""
        if not self._held:
            return
        for row, page in enumerate(access.page.tolist()):
            held = self._held.get((access.pid, page))
            if held is not None and held.covers(locked, pinned):
                access.preset(row, held.frame)

    def answered(self, access: Access, asked: Working, refused: Rows) -> None:
        """The node did what it was asked, but for the rows that it ``refused``."""
        if not isinstance(asked.message, HoldPages):
            return
        wrong = frozenset(refused.tolist())
        for row, page, shall in _rows(access, asked, asked.message):
            if row in wrong:
                continue
            if shall.locked or shall.pinned:
                self._held[page] = shall
            else:
                self._held.pop(page, None)

    def lost(self, access: Access, asked: Working) -> None:
        """Nobody knows what the node did: what it was to take may be held by now.

        If the order goes on, rows that let go are asked again where they were.
        """
        if not isinstance(asked.message, HoldPages):
            return
        for row, page, shall in _rows(access, asked, asked.message):
            held = self._held.get(page)
            if held is not None and held.covers(shall.locked, shall.pinned):
                access.preset(row, held.frame)
            elif held is None and (shall.locked or shall.pinned):
                self._held[page] = shall

    def drop(self, pid: int, pages: range | None = None) -> None:
        """The task does not map these pages any more (None: no page at all)."""
        for page in list(self._held):
            if page[0] == pid and (pages is None or page[1] in pages):
                del self._held[page]

    def unmapped(self, message: Message, value: int, page_size: int) -> None:
        """A call has ended with ``value``: what was held at its addresses is mapped no more."""

        def pages(address: int, length: int) -> range:
            return range(address // page_size, -(-(address + length) // page_size))

        match message:
            case Exit(pid=pid):
                self.drop(pid)
            case Munmap(pid=pid, address=start, length=length):
                self.drop(pid, pages(start, length))
            case Mmap(pid=pid, length=length):
                self.drop(pid, pages(value, length))


def _rows(access: Access, asked: Working, message: HoldPages) -> Iterator[tuple[int, _Page, _Held]]:
    """(row, page, what shall be held) of a question."""
    columns = (
        asked.rows,
        access.page[asked.rows],
        message.pfn,
        message.generation,
        message.locked,
        message.pinned,
    )
    for row, page, pfn, generation, locked, pinned in zip(
        *(column.tolist() for column in columns), strict=True
    ):
        frame = Translation(asked.nid, pfn, generation, writable=False)
        yield row, (access.pid, page), _Held(frame, bool(locked), bool(pinned))
