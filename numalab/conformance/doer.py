"""A process of the guest (numalab/conformance/doer.c) and its pipe.  Standard library only."""

from __future__ import annotations

import fcntl
import os
import select
import struct

from numalab.conformance.scenario import PAGE, UNREADABLE, RawMask

PROGRAM = "/doer"
TASKS = 8
SECONDS = 30.0
SYSCALL, WRITE, READ, POKE, PEEK, FORK, CLONE, LOOK = range(8)

SYS = {
    "mmap": 9, "mprotect": 10, "munmap": 11, "madvise": 28, "exit": 60, "execve": 59,
    "setresuid": 117, "capset": 126, "mlock": 149, "munlock": 150, "mount": 165,
    "sched_setaffinity": 203, "exit_group": 231, "mbind": 237, "set_mempolicy": 238,
    "get_mempolicy": 239, "migrate_pages": 256, "openat": 257, "close": 3, "move_pages": 279,
    "finit_module": 313, "home_node": 450,
}  # fmt: skip

#: Memory of a doer for arguments: pages with nothing mapped behind them, then arrays.
SCRATCH = 0x20_0000_0000
MASKS = (SCRATCH, SCRATCH + 2 * PAGE, SCRATCH + 4 * PAGE)
ARRAYS = SCRATCH + 6 * PAGE
ARRAY_PAGES = 6
SPANS = (*((mask, 1) for mask in MASKS), (ARRAYS, ARRAY_PAGES))
RW, PRIVATE_FIXED_POPULATED = 3, 0x8032


class Hangs(Exception):
    """A doer does not answer."""


class Gone(Exception):
    """A doer has ended."""


class Pipes:
    """Two pipes for each task that a scenario may have."""

    def __init__(self) -> None:
        self.down = [os.pipe() for _ in range(TASKS)]
        self.up = [os.pipe() for _ in range(TASKS)]

    def give_to_child(self) -> None:
        """In the child: its ends at the numbers that the doer expects, and no other files."""
        ends = [
            end for down, up in zip(self.down, self.up, strict=True) for end in (down[0], up[1])
        ]
        high = [fcntl.fcntl(end, fcntl.F_DUPFD, 200) for end in ends]
        for number, end in enumerate(high):
            os.dup2(end, 10 + number)
        os.closerange(3, 10)
        os.closerange(10 + len(high), 300)

    def close(self) -> None:
        for pair in (*self.down, *self.up):
            for fd in pair:
                os.close(fd)


class Doer:
    """One task.  ``number``: which of the pipes; ``pid``: of its process; ``tid``: its own."""

    def __init__(self, pipes: Pipes, number: int, pid: int, tid: int) -> None:
        self.number, self.pid, self.tid = number, pid, tid
        self._pipes = pipes
        self._to = pipes.down[number][1]
        self._from = pipes.up[number][0]
        self.alive = True
        self.cpu = 0

    @classmethod
    def start(cls, pipes: Pipes, number: int) -> Doer:
        pid = os.fork()
        if pid == 0:
            try:
                pipes.give_to_child()
                os.execv(PROGRAM, [str(number)])
            finally:
                os._exit(127)
        return cls(pipes, number, pid, pid)

    def scratch(self) -> None:
        """Map the memory for arguments."""
        for address, pages in SPANS:
            got = self.call("mmap", address, pages * PAGE, RW, PRIVATE_FIXED_POPULATED, -1, 0)
            assert got == address, got

    def unshare(self) -> None:
        """Write to all of its own memory, so that none of it is shared after a fork."""
        for address, pages in SPANS:
            self.write(address, pages, 0)

    # ---- the protocol ----------------------------------------------------------------------

    def tell(self, op: int, *numbers: int) -> None:
        padded = [number & 0xFFFF_FFFF_FFFF_FFFF for number in numbers] + [0] * (7 - len(numbers))
        os.write(self._to, struct.pack("<8Q", op, *padded))

    def hear(self, length: int) -> bytes:
        got = b""
        while len(got) < length:
            ready, _, _ = select.select([self._from], [], [], SECONDS)
            if not ready:
                raise Hangs
            part = os.read(self._from, length - len(got))
            if not part:
                raise Gone
            got += part
        return got

    def result(self) -> int:
        return int(struct.unpack("<q", self.hear(8))[0])

    def call(self, name: str, *arguments: int) -> int:
        """A system call: its result, or -errno."""
        self.tell(SYSCALL, SYS[name], *arguments)
        return self.result()

    def poke(self, address: int, data: bytes) -> None:
        self.tell(POKE, address, len(data))
        os.write(self._to, data)
        self.result()

    def peek(self, address: int, length: int) -> bytes:
        self.tell(PEEK, address, length)
        return self.hear(length)

    def write(self, address: int, pages: int, value: int) -> int:
        """A word into each page: value, value + 1, ...; 0 or -errno."""
        self.tell(WRITE, address, pages, PAGE, value)
        return self.result()

    def read(self, address: int, pages: int) -> tuple[int, list[int]]:
        """The first word of each of at most READ_MAX pages."""
        self.tell(READ, address, pages, PAGE)
        result = self.result()
        return result, list(struct.unpack(f"<{pages}Q", self.hear(8 * pages)))

    def look(self, addresses: list[int]) -> list[tuple[int, int | None]]:
        """The status of each page, and its first word if it is present and may be read."""
        self.tell(LOOK, len(addresses), ARRAYS)
        os.write(self._to, struct.pack(f"<{len(addresses)}Q", *addresses))
        rows = struct.iter_unpack("<QiiQ", self.hear(24 * len(addresses)))
        return [(status, word if readable else None) for _, status, readable, word in rows]

    def fork(self, number: int) -> Doer:
        self.tell(FORK, number)
        pid = self.result()
        assert pid > 0, pid
        return Doer(self._pipes, number, pid, pid)

    def clone(self, number: int) -> Doer:
        self.tell(CLONE, number)
        tid = self.result()
        assert tid > 0, tid
        return Doer(self._pipes, number, self.pid, tid)

    # ---- arguments -------------------------------------------------------------------------

    def mask(self, which: int, mask: RawMask) -> int:
        """Put a mask at the end of a page, nothing behind it; its address."""
        if mask.bad:
            return UNREADABLE
        if mask.data is None:
            return 0
        address = MASKS[which] + PAGE - len(mask.data)
        if mask.data:
            self.poke(address, mask.data)
        return address

    def text(self, which: int, text: str) -> int:
        self.poke(MASKS[which], text.encode() + b"\0")
        return MASKS[which]
