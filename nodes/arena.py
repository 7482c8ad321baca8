"""Page contents: one flat run of bytes, copied as seldom and in as long pieces as possible.

A *position* is a byte offset into the arena.  Neighbouring frames are one slice copy; long runs of
neighbours are a slice copy each; what is scattered goes through numpy's gather and scatter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from protocol.core import Buffer

Positions = npt.NDArray[np.intp]
#: Memory for so many bytes.
Room = Callable[[int], npt.NDArray[np.uint8]]

#: From this mean length on, a slice copy for each run beats one gather over all rows.
RUN_ROWS = 8
#: The runs of a single row.
_ONE_RUN = np.ones(1, np.intp)


def fresh(size: int) -> npt.NDArray[np.uint8]:
    """Memory that nobody else has."""
    return np.empty(size, np.uint8)


class Arena:
    """The pages of a zone as bytes; knows no flags and checks no rights."""

    def __init__(self, flat: npt.NDArray[np.uint8], page_size: int) -> None:
        """``flat``: uint8, contiguous, a multiple of ``page_size`` bytes; it is not copied."""
        self._flat = flat
        self._page_size = page_size
        self._pages = flat.reshape(-1, page_size)

    def gather(self, position: Positions, size: int, *, copy: bool, room: Room = fresh) -> Buffer:
        """``size`` bytes from each position, one after another.

        Without ``copy`` it may be a view of the arena: what is stored later shows in it.
        ``room``: where what is put together from several places lies.
        """
        rows = position.size
        if rows * size == 0:
            return b""
        ends = _run_ends(position, size)
        if ends.size == 1:
            view = self._flat[position[0] : position[0] + rows * size]
            return view.tobytes() if copy else view.data
        if rows >= RUN_ROWS * ends.size:
            out = room(rows * size)
            for row, stop in _runs(ends):
                at = position[row]
                out[row * size : stop * size] = self._flat[at : at + (stop - row) * size]
            return out.data
        if size == self._page_size:
            # Without mode="clip" take() would buffer; a whole page can only stand on its frame.
            out = room(rows * size)
            self._pages.take(position // size, 0, out.reshape(rows, size), "clip")
            return out.data
        return self._windows(size)[position].reshape(-1).data

    def scatter(self, position: Positions, size: int, data: Buffer) -> None:
        """Put ``size`` bytes of ``data`` at each position; of two rows at one place the last wins.

        ``data`` has exactly ``position.size * size`` bytes.
        """
        rows = position.size
        if rows * size == 0:
            return
        source = np.frombuffer(data, dtype=np.uint8)
        ends = _run_ends(position, size)
        if ends.size == 1:
            target = self._flat[position[0] : position[0] + rows * size]
            # What has landed in place is there already.
            if _address(target) != _address(source):
                target[:] = source
        elif rows >= RUN_ROWS * ends.size:
            for row, stop in _runs(ends):
                at = position[row]
                self._flat[at : at + (stop - row) * size] = source[row * size : stop * size]
        elif size == self._page_size:
            self._pages[position // size] = source.reshape(rows, size)
        else:
            self._windows(size)[position] = source.reshape(rows, size)

    def read(self, position: int, size: int) -> bytes:
        """``size`` bytes from one position."""
        return self._flat[position : position + size].tobytes()

    def write(self, position: int, data: Buffer) -> None:
        """Put ``data`` at one position."""
        source = np.frombuffer(data, np.uint8)
        self._flat[position : position + source.size] = source

    def zero(self, frame: npt.NDArray[np.intp]) -> None:
        """Fill whole frames with zeros."""
        if frame.size == 0:
            return
        ends = _run_ends(frame, 1)
        if frame.size >= RUN_ROWS * ends.size or ends.size == 1:
            for row, stop in _runs(ends):
                self._pages[frame[row] : frame[row] + stop - row] = 0
        else:
            self._pages[frame] = 0

    def _windows(self, size: int) -> npt.NDArray[np.uint8]:
        """Row i is the ``size`` bytes at position i; the rows overlap, nothing is copied."""
        return np.ndarray(
            (self._flat.size - size + 1, size), np.uint8, self._flat.data, strides=(1, 1)
        )


def _address(array: npt.NDArray[np.uint8]) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def _run_ends(position: Positions, size: int) -> npt.NDArray[np.intp]:
    """For each run of rows that follow one another without a gap, the row after its last."""
    if position.size == 1:
        return _ONE_RUN
    gaps = np.flatnonzero(position[1:] - position[:-1] != size)
    return np.append(gaps + 1, position.size)


def _runs(ends: npt.NDArray[np.intp]) -> Iterator[tuple[int, int]]:
    """(first row, row after the last) of each run."""
    row = 0
    for stop in ends.tolist():
        yield row, stop
        row = stop
