"""Node pairs of one migration that have nothing to do with each other move at the same time."""

from __future__ import annotations

import errno
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.mempolicy import node_pairs
from coordinator.pagelist import Nodes, PageList
from coordinator.pairs import independent
from protocol.hotplug import OfflinePages
from protocol.messages import CopyPages, Done, NewPages, TakePages
from protocol.notes import MachineCounted, MigrationEnded
from protocol.observe import EmulatedTime, ReadEmulated
from protocol.profile import SEED, adjusted
from protocol.syscalls import Fault
from tests.calls import migration
from tests.cpusets import mkdir, write
from tests.lab import Lab, pages_from

MakeLab = Callable[..., Lab]
masks = st.frozensets(st.integers(0, 7), min_size=1)


def on_two_nodes(lab: Lab, pages: int) -> tuple[int, int, int]:
    """A task with so many pages on node 0 and on node 1: (pid, first page here, and there)."""
    pid = lab.spawn()
    return pid, lab.mapped(pid, pages, cpu=0), lab.mapped(pid, pages, cpu=1)


def copying_to(lab: Lab) -> set[int]:
    """The nodes that pages would be copied to now, were it not held back."""
    return {asked.target for asked in lab.held(CopyPages)}


def begin(
    lab: Lab, pid: int, source: tuple[int, ...], target: tuple[int, ...], new_page: str = ""
) -> int:
    """Start a migration that comes as far as its first copies; its ticket."""
    lab.hold_back(CopyPages)
    ticket = lab.start(migration(0, pid, source, target, new_page))
    lab.run()
    return ticket


def test_pairs_without_a_node_in_common_are_copied_at_the_same_time(make_lab: MakeLab) -> None:
    lab = make_lab()
    pid, here, there = on_two_nodes(lab, 20)
    ticket = begin(lab, pid, (0, 1), (2, 3))
    assert copying_to(lab) == {2, 3}
    lab.let_go(CopyPages)
    answer = lab.answer_to(ticket)
    assert isinstance(answer, Done) and answer.value == 0
    assert lab.where(pid, here, 20) == [2] * 20 and lab.where(pid, there, 20) == [3] * 20


def test_two_sources_of_one_target_are_left_at_the_same_time(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=3)
    pid, here, there = on_two_nodes(lab, 20)
    begin(lab, pid, (0, 1), (2,))
    assert [asked.target for asked in lab.held(CopyPages)] == [2, 2]
    lab.let_go(CopyPages)
    assert lab.where(pid, here, 20) + lab.where(pid, there, 20) == [2] * 40


def test_a_node_is_emptied_before_the_pages_of_another_one_come_to_it(make_lab: MakeLab) -> None:
    # K 1.8.
    lab = make_lab(nodes=3)
    pid, here, there = on_two_nodes(lab, 20)
    begin(lab, pid, (0, 1), (1, 2))
    assert copying_to(lab) == {2}
    lab.let_pass(CopyPages)
    assert copying_to(lab) == {1}
    lab.let_go(CopyPages)
    assert lab.where(pid, here, 20) == [1] * 20 and lab.where(pid, there, 20) == [2] * 20


def test_strict_order_has_one_pair_after_the_other(make_lab: MakeLab) -> None:
    lab = make_lab(strict_order=True)
    pid, here, there = on_two_nodes(lab, 20)
    begin(lab, pid, (0, 1), (2, 3))
    assert copying_to(lab) == {2}
    lab.let_pass(CopyPages)
    assert copying_to(lab) == {3}
    lab.let_go(CopyPages)
    assert lab.where(pid, here, 20) == [2] * 20 and lab.where(pid, there, 20) == [3] * 20


def test_emulated_time_that_passes_on_the_clock_is_that_of_one_thread(make_lab: MakeLab) -> None:
    lab = make_lab(pace=1.0)
    pid, _, _ = on_two_nodes(lab, 20)
    begin(lab, pid, (0, 1), (2, 3))
    assert copying_to(lab) == {2}
    lab.let_go(CopyPages)
    lab.wait(60.0)


def test_a_target_that_may_fill_up_ends_the_call_as_in_the_kernel(make_lab: MakeLab) -> None:
    # K 1.6, 1.20: the pair after the one without a frame is not attempted.
    lab = make_lab(frames=64, profile=adjusted(SEED, {"allocation_falls_back": False}))
    pid, here, there = on_two_nodes(lab, 40)
    lab.mapped(lab.spawn(cpu=2), 30, cpu=2)
    assert lab.migrate(pid, (0, 1), (2, 3)) == -errno.ENOMEM
    assert lab.where(pid, there, 40) == [1] * 40
    moved = lab.where(pid, here, 40)
    assert moved == [2] * 34 + [0] * 6


def test_a_target_that_gives_no_frames_sends_nothing_to_a_node_that_is_left(
    make_lab: MakeLab,
) -> None:
    # K 1.18: what falls back on node 3 moves on when its turn comes.
    lab = make_lab(nodes=5)
    pid = lab.spawn()
    start = lab.mapped(pid, 20, cpu=0)
    lab.mapped(pid, 20, cpu=3)
    assert lab.call(OfflinePages(2)) == 0
    assert lab.migrate(pid, (0, 3), (2, 4)) == 0
    assert set(lab.where(pid, start, 20)) == {4}


def test_behind_a_target_that_gives_no_frames_no_pair_is_attempted(make_lab: MakeLab) -> None:
    # K 1.6, 1.20.
    lab = make_lab(profile=adjusted(SEED, {"allocation_falls_back": False}))
    pid, _, there = on_two_nodes(lab, 20)
    assert lab.call(OfflinePages(2)) == 0
    assert lab.migrate(pid, (0, 1), (2, 3)) == -errno.ENOMEM
    assert set(lab.where(pid, there, 20)) == {1}


def test_a_target_outside_of_the_cpuset_is_one_that_gives_no_frames(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=5)
    pid, caller = lab.spawn(), lab.spawn()
    start = lab.mapped(pid, 20, cpu=0)
    lab.mapped(pid, 20, cpu=3)
    assert mkdir(lab, "/a") == 0
    for file, text in (("cpus", "0"), ("mems", "0-1,3-4"), ("tasks", str(caller))):
        assert write(lab, "/a", file, text) == 0
    assert lab.migrate(pid, (0, 3), (2, 4), caller=caller) == 0
    assert set(lab.where(pid, start, 20)) == {4}


def test_frames_that_another_task_takes_meanwhile_leave_no_page_on_a_node_that_is_left(
    make_lab: MakeLab,
) -> None:
    lab = make_lab(nodes=5, frames=64)
    pid, other = lab.spawn(), lab.spawn(cpu=2)
    start = lab.mapped(pid, 40, cpu=0)
    lab.mapped(pid, 20, cpu=3)
    area = lab.mmap(other, 30)
    lab.hold_back(NewPages, "node2")
    lab.start(Fault(other, 2, 1, pages_from(area, 30)))
    lab.run()
    ticket = lab.start(migration(0, pid, (0, 3), (2, 4)))
    lab.let_go(NewPages)
    answer = lab.answer_to(ticket)
    assert isinstance(answer, Done) and answer.value == 0
    where = lab.where(pid, start, 40)
    assert where.count(2) == 34 and 3 not in where and 0 not in where


def test_the_threads_of_a_call_are_no_calls_and_nobody_waits_but_the_caller(
    make_lab: MakeLab,
) -> None:
    lab = make_lab()
    pid, _, _ = on_two_nodes(lab, 20)
    begin(lab, pid, (0, 1), (2, 3))
    counted = lab.noted(MachineCounted)[-1]
    assert (counted.calls, counted.faults_parked) == (1, 0)
    lab.let_go(CopyPages)
    counted = lab.noted(MachineCounted)[-1]
    assert (counted.calls, counted.faults_parked) == (0, 0)


def test_time_that_passed_for_two_pairs_has_passed_once(make_lab: MakeLab) -> None:
    lab = make_lab()
    pid, _, _ = on_two_nodes(lab, 20)
    begin(lab, pid, (0, 1), (2, 3))
    lab.wait(1.0)
    lab.let_go(CopyPages)
    told = lab.ask(ReadEmulated(), EmulatedTime)
    wall = told.task_ns.reshape(len(told.pid), -1)[:, told.columns.index("wall")]
    assert wall.sum() == pytest.approx(1e9) and told.migration_wall_ns.tolist() == [10**9] * 2
    assert lab.memory.emulated.pages_per_second() == pytest.approx(40.0)


def test_what_does_not_move_is_counted_over_all_pairs(make_lab: MakeLab) -> None:
    lab = make_lab()
    pid, here, there = on_two_nodes(lab, 20)
    for start in (here, there):
        lab.hold_pages(lab.fault(pid, start, 3), pinned=1)
    assert lab.migrate(pid, (0, 1), (2, 3)) == 6
    assert sorted(note.failed for note in lab.noted(MigrationEnded)) == [3, 3]
    assert lab.where(pid, here, 3) + lab.where(pid, there, 3) == [0] * 3 + [1] * 3


def test_few_pages_on_both_nodes_take_the_short_way_together(make_lab: MakeLab) -> None:
    lab = make_lab(few_pages=16)
    pid, here, there = on_two_nodes(lab, 2)
    lab.hold_back(TakePages)
    lab.start(migration(0, pid, (0, 1), (2, 3)))
    lab.run()
    assert {asked.target for asked in lab.held(TakePages)} == {2, 3}
    lab.let_go(TakePages)
    assert lab.where(pid, here, 2) + lab.where(pid, there, 2) == [2, 2, 3, 3]


def test_a_loaded_new_page_is_asked_in_the_order_of_the_kernel(make_lab: MakeLab) -> None:
    class ToItsNode:
        wrong = ""

        def __call__(self, pagelist: PageList, rows: Nodes, private: object) -> Nodes:
            return np.full(rows.size, private, np.int32)

    lab = make_lab()
    lab.memory.new_pages["loaded"] = ToItsNode  # type: ignore[assignment]
    pid, _, _ = on_two_nodes(lab, 20)
    begin(lab, pid, (0, 1), (2, 3), "loaded")
    assert copying_to(lab) == {2}
    lab.let_go(CopyPages)


def test_a_node_that_dies_under_one_pair_leaves_the_other_alone(make_lab: MakeLab) -> None:
    lab = make_lab()
    pid, here, there = on_two_nodes(lab, 20)
    ticket = begin(lab, pid, (0, 1), (2, 3))
    lab.restart(2)
    lab.let_go(CopyPages)
    lab.wait(30.0)
    assert lab.answer_to(ticket) is not None
    assert lab.where(pid, there, 20) == [3] * 20
    assert len(set(lab.where(pid, here, 20))) == 1


# ---- the groups ----------------------------------------------------------------------------


@given(masks, masks)
def test_groups_keep_the_order_and_have_no_node_on_both_sides(
    old: frozenset[int], new: frozenset[int]
) -> None:
    pairs = node_pairs(old, new, skip_common_sources=False)
    groups = independent(pairs)
    assert [pair for group in groups for pair in group] == pairs
    for group in groups:
        left, entered = {source for source, _ in group}, {dest for _, dest in group}
        assert group and not left & entered


@given(masks, masks)
def test_a_new_group_begins_only_where_it_must(old: frozenset[int], new: frozenset[int]) -> None:
    groups = independent(node_pairs(old, new, skip_common_sources=False))
    for before, after in zip(groups, groups[1:], strict=False):
        source, dest = after[0]
        assert any(source == to or dest == left for left, to in before)
