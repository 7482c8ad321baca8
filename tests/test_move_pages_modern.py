"""move_pages(2) of 6.1: entry by entry, in batches, with statuses on the way (K 4.13 - 4.20)."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from coordinator.mempolicy import check_range
from coordinator.pagelist import PageList
from protocol.messages import IsolateLruPage
from protocol.notes import MigrationEnded
from protocol.profile import MODERN
from protocol.syscalls import MovedPages, MovePages, Mprotect
from tests.calls import PREFILL, migration, moving
from tests.lab import PAGE, READ, Lab


@pytest.fixture
def modern() -> Lab:
    return Lab(profile=MODERN)


def call(lab: Lab, asked: MovePages) -> tuple[int, list[int]]:
    answer = lab.ask(asked, MovedPages)
    return answer.value, answer.status.tolist()


def move(lab: Lab, pid: int, pages: Sequence[int], nodes: Sequence[int]) -> tuple[int, list[int]]:
    return call(lab, moving(pid, [page * PAGE for page in pages], nodes))


def pinned(lab: Lab, pid: int, page: int) -> None:
    lab.hold_pages(lab.fault(pid, page), pinned=1)


@pytest.mark.parametrize(("node", "error"), [(-1, errno.ENODEV), (4, errno.ENODEV)])
def test_k_4_13_what_comes_before_a_bad_node_has_moved(modern: Lab, node: int, error: int) -> None:
    pid = modern.spawn()
    start = modern.mapped(pid, 4)
    value, status = move(modern, pid, range(start, start + 4), [1, 2, node, 3])
    assert (value, status) == (-error, [1, 2, PREFILL, PREFILL])
    assert modern.where(pid, start, 4) == [1, 2, 0, 0]


def test_k_4_12_an_entry_that_cannot_be_read_stops_it_there(modern: Lab) -> None:
    pid = modern.spawn()
    start = modern.mapped(pid, 3)
    asked = moving(pid, [page * PAGE for page in range(start, start + 3)], [1, 1, 1])
    assert call(modern, replace(asked, node=asked.node[:2])) == (-errno.EFAULT, [1, 1, PREFILL])
    assert modern.where(pid, start, 3) == [1, 1, 0]
    # There is no limit for their number: it is an unreadable entry that ends it (K 4.13).
    many = replace(asked, count=1 << 62)
    assert call(modern, many) == (-errno.EFAULT, [1, 1, 1])


def test_k_4_16_a_status_that_cannot_be_written_stops_it_when_its_page_has_moved(
    modern: Lab,
) -> None:
    pid = modern.spawn()
    start = modern.mapped(pid, 3)
    asked = moving(pid, [page * PAGE for page in range(start, start + 3)], [1, 2, 3])
    assert call(modern, replace(asked, status=asked.status[:1])) == (-errno.EFAULT, [1])
    assert modern.where(pid, start, 3) == [1, 2, 0]


def test_k_4_15_failed_and_not_attempted_are_counted_together(modern: Lab) -> None:
    pid = modern.spawn()
    start = modern.mapped(pid, 6)
    pinned(modern, pid, start + 2)
    # Batches: 0-1 to node 1, 2-3 to node 2, of which one fails, and 4-5 are not attempted.
    value, status = move(modern, pid, range(start, start + 6), [1, 1, 2, 2, 3, 3])
    assert value == 1 + 2
    assert status == [1, 1, *[PREFILL] * 4]
    assert modern.where(pid, start, 6) == [1, 1, 0, 2, 0, 0]


def test_k_4_15_an_entry_that_is_stored_before_the_batch_is_moved_counts_as_done(
    modern: Lab,
) -> None:
    pid = modern.spawn()
    start = modern.mapped(pid, 4)
    pinned(modern, pid, start)
    nowhere = start + 99
    value, status = move(modern, pid, [start, nowhere, start + 1, start + 2], [1] * 4)
    assert (value, status) == (1 + 2, [PREFILL, -errno.EFAULT, PREFILL, PREFILL])


def test_k_4_15_a_failure_in_the_last_batch_is_only_itself(modern: Lab) -> None:
    pid = modern.spawn()
    start = modern.mapped(pid, 3)
    pinned(modern, pid, start + 2)
    assert move(modern, pid, range(start, start + 3), [1, 2, 3]) == (1, [1, 2, PREFILL])


def test_a_bad_node_hides_that_the_batch_before_it_failed(modern: Lab) -> None:
    pid = modern.spawn()
    start = modern.mapped(pid, 2)
    pinned(modern, pid, start)
    value, status = move(modern, pid, [start, start + 1], [1, 77])
    assert (value, status) == (-errno.ENODEV, [PREFILL, PREFILL])


def test_neighbours_for_one_node_are_moved_as_one_list(modern: Lab) -> None:
    pid = modern.spawn()
    start = modern.mapped(pid, 8)
    wanted = [1, 1, 1, 2, 2, 1, 1, 1]
    assert move(modern, pid, range(start, start + 8), wanted) == (0, wanted)
    assert [note.moved for note in modern.noted(MigrationEnded)] == [3, 2, 3]


def test_k_4_17_a_page_twice_in_a_batch_is_busy_and_later_moves_again(modern: Lab) -> None:
    pid = modern.spawn()
    start = modern.mapped(pid, 2)
    first, second = start, start + 1
    assert move(modern, pid, [first, first, second], [1, 1, 1]) == (0, [1, -errno.EBUSY, 1])
    assert move(modern, pid, [first, first, first], [2, 3, 3]) == (0, [2, 3, -errno.EBUSY])
    assert modern.where(pid, start, 2) == [3, 1]


def test_a_child_does_not_inherit_the_zero_page(modern: Lab) -> None:
    """copy_page_range() copies nothing of a vma without anonymous pages: a fault fills it in."""
    pid = modern.spawn()
    start = modern.mmap(pid, 2)
    modern.fault(pid, start, 1, access=READ)
    child = modern.fork(pid)
    for task in (pid, child):
        assert modern.call(Mprotect(task, start * PAGE, 2 * PAGE, 0)) == 0
    assert modern.where(pid, start, 2) == [-errno.ENOENT, -errno.EFAULT]
    assert modern.where(child, start, 2) == [-errno.EFAULT, -errno.EFAULT]


def test_k_4_17_the_zero_page_and_what_was_never_touched(modern: Lab) -> None:
    pid = modern.spawn()
    start = modern.mmap(pid, 2)
    modern.fault(pid, start, access=READ)
    shared = modern.mmap(pid, 1, shared=True)
    pages = [start, start + 1, shared]
    assert move(modern, pid, pages, [1] * 3)[1] == [-errno.EFAULT, -errno.EFAULT, -errno.ENOENT]
    later = Lab(profile=replace(MODERN, untouched_is_efault=False))
    pid = later.spawn()
    start = later.mmap(pid, 2)
    later.fault(pid, start, access=READ)
    assert move(later, pid, [start, start + 1], [1, 1])[1] == [-errno.EFAULT, -errno.ENOENT]
    later.fault(pid, start)
    assert move(later, pid, [start], [1]) == (0, [1])


def test_k_4_20_no_entries_and_all_there_already_are_no_error(modern: Lab) -> None:
    pid = modern.spawn()
    start = modern.mapped(pid, 2)
    assert move(modern, pid, [], []) == (0, [])
    assert move(modern, pid, [start, start + 1], [0, 0]) == (0, [0, 0])


def test_a_full_target_ends_the_call_and_says_nothing_of_its_batch() -> None:
    lab = Lab(nodes=3, frames=4, profile=MODERN)
    pid, other = lab.spawn(), lab.spawn()
    start = lab.mapped(pid, 3)
    lab.mapped(other, 3, cpu=1)
    value, status = move(lab, pid, range(start, start + 3), [2, 1, 1])
    assert (value, status) == (-errno.ENOMEM, [2, PREFILL, PREFILL])
    assert lab.where(pid, start, 3) == [2, 1, 0]
    lab.validate()


def test_a_long_run_is_looked_up_in_pieces_and_moved_at_once() -> None:
    lab = Lab(nodes=2, frames=2048, profile=MODERN)
    pid = lab.spawn()
    start = lab.mapped(pid, 1300)
    pages = list(range(start, start + 1300))
    assert move(lab, pid, pages, [1] * 1300) == (0, [1] * 1300)
    assert [note.moved for note in lab.noted(MigrationEnded)] == [1300]


def test_k_4_19_a_query_goes_in_chunks_of_sixteen(modern: Lab) -> None:
    pid = modern.spawn()
    start = modern.mapped(pid, 20)
    query = moving(pid, [page * PAGE for page in range(start, start + 20)], None)
    assert call(modern, replace(query, address=query.address[:18])) == (
        -errno.EFAULT,
        [0] * 16 + [PREFILL] * 4,
    )
    assert call(modern, replace(query, status=query.status[:5])) == (-errno.EFAULT, [0] * 5)


@pytest.mark.parametrize(("counted", "value"), [(False, 0), (True, 2)])
def test_k_1_15_pages_that_are_not_isolated_are_counted_since_6_7(
    counted: bool, value: int
) -> None:
    lab = Lab(profile=replace(MODERN, unisolated_are_counted=counted))
    pid = lab.spawn()
    start = lab.mapped(pid, 4)
    lab.fork(lab.spawn())
    lab.hold_back(IsolateLruPage)
    first = lab.start(moving(pid, [start * PAGE, (start + 1) * PAGE], [1, 1]))
    lab.run()
    pages = PageList(pid)
    assert check_range(lab.memory, lab.memory.tasks[pid].mm, 0, 2, pages) == 2
    pages.seal()
    lab.memory.release(pages.source, pages.pfn)
    second = lab.start(migration(0, pid, (0,), (2,)))
    lab.run()
    lab.let_go(IsolateLruPage)
    assert lab.answer_to(first) is not None
    answer = lab.answer_to(second)
    assert answer is not None and getattr(answer, "value", None) == value
    assert np.array_equal(lab.where(pid, start, 4), [1, 1, 2, 2])
