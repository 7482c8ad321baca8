"""Rows of arrays in a quicker form are the same rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.mm import PRESENT, Mapping, Vma
from coordinator.rows import FEW, kept, portions, span

COLUMN = np.arange(4 * FEW) * 7


@given(st.integers(0, FEW), st.integers(0, 3 * FEW), st.sampled_from([np.intp, np.uint32]))
def test_rows_that_follow_one_another_are_a_slice_if_they_are_many(
    first: int, count: int, kind: type[Any]
) -> None:
    rows = np.arange(first, first + count).astype(kind)
    found = span(rows)
    assert isinstance(found, slice) == (count >= FEW)
    assert np.array_equal(COLUMN[found], COLUMN[rows])


@pytest.mark.parametrize("kind", [np.intp, np.uint32])
@pytest.mark.parametrize(
    "rows",
    [
        np.arange(2 * FEW)[::-1],
        np.append(np.arange(FEW), FEW - 1),
        np.concatenate([[0, 2, 1], np.arange(3, FEW)]),
        np.concatenate([[0, 0], np.arange(2, FEW), [FEW - 1]]),
        np.arange(2, 2 * FEW, 2),
    ],
    ids=["backwards", "the last twice", "two in the wrong order", "one twice", "every other"],
)
def test_other_rows_stay_as_they_are(rows: npt.NDArray[Any], kind: type[Any]) -> None:
    assert not isinstance(span(rows.astype(kind)), slice)
    assert np.array_equal(COLUMN[span(rows.astype(kind))], COLUMN[rows])


def test_what_holds_everywhere_keeps_all_rows() -> None:
    slot, rows = np.arange(5), np.arange(5, 10)
    everywhere, odd = np.ones(5, np.bool_), slot % 2 == 1
    assert kept(everywhere, slot, rows) == (slot, rows)
    assert [column.tolist() for column in kept(odd, slot, rows)] == [[1, 3], [6, 8]]


@given(st.integers(0, 40), st.integers(1, 12))
def test_portions_are_all_numbers_in_order_and_none_is_too_long(rows: int, size: int) -> None:
    found = list(portions(rows, size))
    assert [number for portion in found for number in portion.tolist()] == [*range(rows)]
    assert all(portion.size == size for portion in found[:-1])
    assert all(0 < portion.size <= size for portion in found[-1:])


@pytest.mark.parametrize("cut", [0, 1, 7, 16, 33])
def test_the_marked_entries_of_a_long_vma_come_in_pieces_and_none_is_missed(
    cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in (("mm.PORTION", 5), ("mm.BLOCK", 16), ("touched.BLOCK", 16)):
        monkeypatch.setattr(f"coordinator.{name}", size)
    vma = Vma(0, 90, 0, 0, "", 0, Mapping(1, shared=False))
    present = np.array([0, 1, 15, 16, 17, 34, 35, 36, 37, 38, 39, 40, 88, 89])
    vma.set_bits(present, int(PRESENT))
    if cut:
        # What is split off begins anywhere in a block.
        vma = vma.split(cut)
        present = present[present >= cut] - cut
    found = list(vma.marked_parts(PRESENT))
    assert np.concatenate(found).tolist() == present.tolist() == vma.marked(PRESENT).tolist()
    assert max(piece.size for piece in found) <= 5
