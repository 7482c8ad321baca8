"""mmap_sem: who may look at the vmas of an mm, and who may change them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class MmapSem:
    """mmap_sem: many readers or one writer; turns in the order of asking, so nobody starves.

    Faults do not queue (``read_now``): they pass while readers hold it, as a page that is not
    being moved must be usable all through a migration (K 1.5).
    """

    readers: int = 0
    writer: bool = False
    waiting: list[tuple[int, bool]] = field(default_factory=list)
    _next: int = 0

    def ask(self, *, write: bool) -> int:
        self._next += 1
        self.waiting.append((self._next, write))
        return self._next

    def granted(self, ticket: int) -> bool:
        """Take it if it is this ticket's turn and the semaphore is free enough."""
        first, write = self.waiting[0]
        if first != ticket or self.writer or (write and self.readers):
            return False
        self.waiting.pop(0)
        if write:
            self.writer = True
        else:
            self.readers += 1
        return True

    def read_now(self) -> bool:
        return not self.writer
