"""Whether the write-ahead log of a SQLite file is as it was written.

SQLite takes the first frame that is wrong for the end of the log, and so forgets without a word
all that was committed after it.  Our log is emptied at every checkpoint and written from its
beginning to its end, each frame by a commit alone: a process that is killed leaves at most half a
frame at its end, and a whole frame that is wrong was damaged.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")
_MAGIC = 0x377F0682
#: Frames that are read together: 4 MiB of pages.
_FRAMES = 1024

_Words = npt.NDArray[np.uint32]
_Sum = tuple[int, int]


def is_whole(path: Path) -> bool:
    """Whether all frames of the log at ``path`` are right; also if there is no log."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return True
    with file:
        head = file.read(_HEADER.size)
        if len(head) < _HEADER.size:
            return True
        magic, _, page_size, _, *salt, first, second = _HEADER.unpack(head)
        if magic & ~1 != _MAGIC or not 512 <= page_size <= 65536:
            return False
        order = ">u4" if magic & 1 else "<u4"
        total = _chained((0, 0), _sums(_words(head[:24], order, 24)), 24)[-1]
        if total != (first, second):
            return False
        size = _FRAME.size + page_size
        while frames := file.read(_FRAMES * size):
            total, right = _frames(frames[: len(frames) // size * size], size, order, salt, total)
            if not right:
                return False
    return True


def _frames(
    frames: bytes, size: int, order: str, salt: Sequence[int], total: _Sum
) -> tuple[_Sum, bool]:
    """The sum after these frames, and whether each has its own and the salt of the log."""
    if not frames:
        return total, True
    rows = np.frombuffer(frames, np.uint8).reshape(-1, size)
    told = np.ascontiguousarray(rows[:, : _FRAME.size]).view(">u4").astype(np.int64)
    summed = np.hstack([rows[:, :8], rows[:, _FRAME.size :]])
    totals = _chained(total, _sums(_words(summed.tobytes(), order, size - 16)), size - 16)
    right = (told[:, 2:4] == salt).all() and (told[:, 4:6] == totals).all()
    return totals[-1], bool(right)


def _words(data: bytes, order: str, size: int) -> _Words:
    return np.frombuffer(data, order).astype(np.uint32).reshape(-1, size // 4)


@cache
def _powers(steps: int) -> tuple[_Words, _Words, _Sum]:
    """What each pair of words adds to the two sums, ``steps`` pairs being summed; and what an
    earlier sum (1, 0) has become then.

    A step is s0 += x0 + s1; s1 += x1 + s0, modulo 2**32: linear, so a frame is a product.
    """
    first, second = [], []
    a, b, c, d = 1, 0, 0, 1
    for _ in range(steps):
        # (s0, s1) of x0 is column (a + b, c + d) of the steps that follow, and of x1 it is (b, d).
        first.append((a + b, b))
        second.append((c + d, d))
        a, b, c, d = (part % (1 << 32) for part in (a + b, a + 2 * b, c + d, c + 2 * d))
    return _column(first), _column(second), (a, c)


def _column(pairs: list[tuple[int, int]]) -> _Words:
    """For each word in the order of the frame, whose first word is stepped on most."""
    return np.array(pairs[::-1], np.uint64).ravel().astype(np.uint32)


def _sums(words: _Words) -> _Words:
    """The two sums of each row, from zero."""
    first, second, _ = _powers(words.shape[1] // 2)
    with np.errstate(over="ignore"):
        sums = [(words * column).sum(axis=1, dtype=np.uint32) for column in (first, second)]
    return np.stack(sums, axis=1)


def _chained(total: _Sum, sums: _Words, size: int) -> list[_Sum]:
    """The sums of the rows, of ``size`` bytes, when each begins with that of the row before."""
    _, _, (a, c) = _powers(size // 8)
    # The step is symmetric: what (0, 1) has become is told by what (1, 0) has.
    b, d = c, (a + c) % (1 << 32)
    chained = []
    for first, second in sums.tolist():
        total = (
            (a * total[0] + b * total[1] + first) % (1 << 32),
            (c * total[0] + d * total[1] + second) % (1 << 32),
        )
        chained.append(total)
    return chained
