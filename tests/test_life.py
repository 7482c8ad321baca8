"""The table of a page's life: every state meets every status, on a page list of three pages."""

from __future__ import annotations

import errno
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from coordinator.life import FINAL, PLACES, TRANSITIONS, InvalidTransition, State
from coordinator.pagelist import PageList
from numalab.documents import life_of_a_page
from protocol.status import STATUSES, StatusClass, StatusRow, status_class

ROOT = Path(__file__).parent.parent
BY_CELL = {(row.state, row.column): row for row in TRANSITIONS}
EVERY_STATUS = [pytest.param(row, id=row.name) for row in STATUSES]
EVERY_STATE = [pytest.param(state, id=state.name) for state in State]


def pages_in(state: State, *, failed: int = 0) -> PageList:
    """A page list of three pages, all in this state."""
    pagelist = PageList(pid=7)
    page = np.array([0x70, 0x71, 0x72], np.int64)
    pagelist.add(np.zeros(3, np.uint8), np.array([3, 4, 5], np.uint32), page)
    pagelist.seal()
    pagelist.state[:], pagelist.failed[:] = state, failed
    pagelist.counts[State.LISTED], pagelist.counts[state] = 0, 3
    return pagelist


def take(pagelist: PageList, rows: list[int], status: int) -> None:
    pagelist.apply(np.array(rows, np.intp), np.full(len(rows), status, np.int32))


# ---- all states x all statuses -------------------------------------------------------------


@pytest.mark.parametrize("status", EVERY_STATUS)
@pytest.mark.parametrize("state", EVERY_STATE)
def test_a_status_takes_the_step_of_the_table_or_is_refused(
    state: State, status: StatusRow
) -> None:
    row = BY_CELL.get((state, status.column))
    for failed in (0, 1):
        pages = pages_in(state, failed=failed)
        if row is None:
            with pytest.raises(InvalidTransition, match=f"a page in {state.name} got "):
                take(pages, [1, 2], status.number)
            assert pages.state.tolist() == [state] * 3
            assert pages.failed.tolist() == [failed] * 3
            assert pages.status.tolist() == [0] * 3 and not pages.log
            continue
        take(pages, [1, 2], status.number)
        goes_to = row.if_failed if failed and row.if_failed is not None else row.goes_to
        assert pages.state.tolist() == [state, goes_to, goes_to]
        assert pages.failed.tolist() == [failed, failed or row.fails, failed or row.fails]


def test_no_cell_is_given_twice() -> None:
    assert len(BY_CELL) == len(TRANSITIONS)


def test_one_refused_row_keeps_all_rows_of_the_step_where_they_are() -> None:
    pages = pages_in(State.ISOLATING)
    status = np.array([0, -errno.EIO, 0], np.int32)
    with pytest.raises(InvalidTransition, match="page 0x71"):
        pages.apply(np.arange(3), status)
    assert pages.state.tolist() == [State.ISOLATING] * 3
    assert pages.count(State.ISOLATING) == 3 and not pages.failed.any()


def test_a_chunk_with_different_answers_parts() -> None:
    pages = pages_in(State.COPYING)
    status = np.array([0, -errno.EAGAIN, -errno.EIO], np.int32)
    pages.apply(np.arange(3), status)
    assert pages.state.tolist() == [State.SETTLING, State.UNLOCKING, State.UNLOCKING]
    assert pages.failed.tolist() == [0, 0, 1]
    assert [pages.count(state) for state in (State.COPYING, State.SETTLING)] == [0, 1]


# ---- what the table promises ---------------------------------------------------------------


@pytest.mark.parametrize("state", EVERY_STATE)
def test_a_state_in_ing_has_a_question_and_no_other_has(state: State) -> None:
    assert ("ING" in state.name) == bool(PLACES[state].asks)
    assert PLACES[state].meaning


@pytest.mark.parametrize("state", EVERY_STATE)
def test_a_final_state_ends_it_and_no_other_does(state: State) -> None:
    leaves = {row.goes_to for row in TRANSITIONS if row.state == state}
    assert bool(leaves) != (state in FINAL)


def test_every_page_can_end_from_wherever_it_is() -> None:
    ends = set(FINAL)
    while more := {row.state for row in TRANSITIONS if {row.goes_to, row.if_failed} & ends} - ends:
        ends |= more
    assert ends == set(State)


def test_whoever_asks_can_be_told_that_the_node_is_gone() -> None:
    for state in State:
        if PLACES[state].asks:
            assert (state, StatusClass.NODEV) in BY_CELL, state.name


def test_only_a_copy_that_failed_can_fail_a_page_or_a_source_that_went_away() -> None:
    fails = {(row.state, row.column) for row in TRANSITIONS if row.fails}
    assert fails == {
        (State.COPYING, StatusClass.PERMANENT),
        (State.ISOLATING, StatusClass.NODEV),
    }


def test_an_indefinite_status_is_never_taken_for_success() -> None:
    for row in TRANSITIONS:
        if row.column == StatusClass.NODEV:
            assert row.goes_to not in (State.SETTLING, State.MOVED, State.RELEASING) or (
                row.goes_to == row.state
            ), row


# ---- the status of a page ------------------------------------------------------------------


def test_retries_that_are_used_up_end_as_eagain() -> None:
    """K 1.34: unlocking and freeing the frame went well, which is not what the page is asked."""
    pages = pages_in(State.COPYING)
    take(pages, [0], -errno.EAGAIN)
    take(pages, [0], 0)
    take(pages, [0], 0)
    assert pages.state[0] == State.ISOLATED
    pages.failed[0] = 1
    take(pages, [0], 0)
    take(pages, [0], 0)
    assert pages.state[0] == State.FAILED and pages.status[0] == -errno.EAGAIN


def test_the_status_of_a_page_that_failed_for_good_is_its_first() -> None:
    pages = pages_in(State.COPYING)
    take(pages, [0], -errno.EIO)
    take(pages, [0], -errno.ENODEV)
    take(pages, [0], 0)
    take(pages, [0], 0)
    assert pages.state[0] == State.PUTTING_BACK and pages.status[0] == -errno.EIO


def test_a_page_tells_its_story() -> None:
    pages = pages_in(State.LISTED)
    take(pages, [0, 1], 0)
    take(pages, [1], 0)
    take(pages, [1], 0)
    with pytest.raises(InvalidTransition) as raised:
        take(pages, [1], -errno.EIO)
    assert str(raised.value).splitlines() == [
        "a page in ALLOCATING got -EIO",
        "page 0x71, node 0 frame 4",
        "  LISTED -OK-> ISOLATING",
        "  ISOLATING -OK-> ISOLATED",
        "  ISOLATED -OK-> ALLOCATING",
    ]


def test_each_page_of_a_chunk_tells_its_own_answer() -> None:
    pages = pages_in(State.COPYING)
    pages.apply(np.arange(3), np.array([0, -errno.EAGAIN, -errno.EIO], np.int32))
    steps = [pages.story(row).splitlines()[-1] for row in range(3)]
    assert steps == [
        "  COPYING -OK-> SETTLING",
        "  COPYING -AGAIN-> UNLOCKING",
        "  COPYING -PERMANENT-> UNLOCKING",
    ]


@pytest.mark.parametrize("status", EVERY_STATUS)
def test_every_status_has_the_column_that_its_row_says(status: StatusRow) -> None:
    assert status_class(np.array([status.number], np.int32)).tolist() == [status.column]


def test_an_unknown_errno_is_permanent_and_a_node_is_ok() -> None:
    columns = status_class(np.array([-errno.EXDEV, 3], np.int32)).tolist()
    assert columns == [StatusClass.PERMANENT, StatusClass.OK]


# ---- the drawing ---------------------------------------------------------------------------


def test_the_page_in_the_documentation_is_the_table() -> None:
    assert (ROOT / "docs" / "life-of-a-page.md").read_text() == life_of_a_page(), "run: make docs"


def test_the_drawing_has_an_arrow_for_each_row() -> None:
    page = life_of_a_page()
    for row, target in product(TRANSITIONS, ("goes_to", "if_failed")):
        goes_to = getattr(row, target)
        if goes_to is not None:
            assert f"{row.state.name} --> {goes_to.name}" in page
    assert all(f"`{state.name}`" in page for state in State)
