"""Memory for page contents that go from process to process, and the files that it lies in.

Who is given such a file, to be read, need not be sent what lies in it (protocol/live/pipes.py).
"""

from __future__ import annotations

import fcntl
import mmap
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protocol.bulk import BATCH_BYTES

#: Buffers that are kept; more at a time are made, and forgotten again.
KEPT_BUFFERS = 16


@dataclass(frozen=True, slots=True)
class Mapped:
    """A part of a file and where it lies in memory: who has the file too can read it there."""

    descriptor: int
    start: int
    address: int
    size: int

    @classmethod
    def of(cls, descriptor: int, buffer: memoryview, start: int = 0) -> Mapped:
        """The file of this descriptor, which is mapped as ``buffer`` from ``start`` on."""
        return cls(descriptor, start, _address(buffer), buffer.nbytes)

    def find(self, view: memoryview) -> int | None:
        """Where in the file this memory is, None: it is no part of it."""
        at = _address(view) - self.address
        return self.start + at if 0 <= at <= self.size - view.nbytes else None


def _address(view: memoryview) -> int:
    return int(np.frombuffer(view, np.uint8).__array_interface__["data"][0])


def files_of(mapped: Sequence[Mapped]) -> list[int]:
    """The descriptors of the files that these are parts of."""
    return list(dict.fromkeys(part.descriptor for part in mapped))


class Foreign:
    """What is in a file of somebody else, to be read; ``descriptor`` is closed with it.

    It is mapped when it is first read, if that can be: to read it by the kernel takes half as long
    again.  Raises OSError if it is no file.
    """

    def __init__(self, descriptor: int) -> None:
        self.size = os.fstat(descriptor).st_size
        self._descriptor = descriptor
        self._mapped: npt.NDArray[np.uint8] | None = None
        self._is_tried = False

    def read(self, into: memoryview, at: int) -> int:
        """Copy what begins at byte ``at``; how much that was.  Raises OSError."""
        if not self._is_tried:
            self._map()
        if self._mapped is None:
            return os.preadv(self._descriptor, [into], at)
        # By numpy, which lets other threads go on.
        np.copyto(np.frombuffer(into, np.uint8), self._mapped[at : at + into.nbytes])
        return into.nbytes

    def close(self) -> None:
        """Forget it."""
        os.close(self._descriptor)
        self._mapped = None

    def _map(self) -> None:
        self._is_tried = True
        with suppress(OSError, ValueError):
            mapped = mmap.mmap(self._descriptor, 0, prot=mmap.PROT_READ)
            self._mapped = np.frombuffer(mapped, np.uint8)


def _references(buffers: list[bytearray | mmap.mmap]) -> list[int]:
    """How many references there are to each, those of this function included."""
    return [sys.getrefcount(buffer) for buffer in buffers]


#: Those to a buffer that nobody uses; how many that is, is Python's affair.
_UNUSED = _references([bytearray()])[0]


class Buffers:
    """Memory for frames, used again when nobody refers to it: fresh memory costs a fault a page."""

    def __init__(self) -> None:
        self._buffers: list[bytearray | mmap.mmap] = []

    def take(self, size: int) -> memoryview:
        """Room for a frame of ``size`` bytes, for as long as anybody holds a view of it."""
        if size <= BATCH_BYTES:
            for buffer, references in zip(self._buffers, _references(self._buffers), strict=True):
                if references == _UNUSED:
                    return memoryview(buffer)[:size]
            if len(self._buffers) < KEPT_BUFFERS:
                self._buffers.append(self._make(len(self._buffers)))
                return memoryview(self._buffers[-1])[:size]
        return memoryview(bytearray(size))

    def _make(self, number: int) -> bytearray | mmap.mmap:
        return bytearray(BATCH_BYTES)


class Staging(Buffers):
    """Buffers in a file of memory, so that what is put together there need not be copied again.

    mapped: for the writers of pipes; it gets longer with each buffer that is made.
    """

    def __init__(self, *mapped: Mapped) -> None:
        super().__init__()
        self.mapped = list(mapped)
        # Open for as long as the process is: buffers may be on their way out when it ends.
        self._file = os.memfd_create("numalab-staging", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self._file, KEPT_BUFFERS * BATCH_BYTES)
        # Whoever has mapped it would die of it.
        fcntl.fcntl(self._file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
        # At once, so that the file is among those that readers are given.
        self._buffers.append(self._make(0))

    def room(self, size: int) -> npt.NDArray[np.uint8]:
        """The same as an array of bytes."""
        return np.frombuffer(self.take(size), np.uint8)

    def _make(self, number: int) -> mmap.mmap:
        start = number * BATCH_BYTES
        buffer = mmap.mmap(self._file, BATCH_BYTES, offset=start)
        self.mapped.append(Mapped.of(self._file, memoryview(buffer), start))
        return buffer
