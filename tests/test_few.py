"""Few pages go a short way: the same end, in fewer round trips, whatever happens on it."""

from __future__ import annotations

import errno
import gc
import weakref

import numpy as np
import pytest

from coordinator.life import State
from coordinator.pagelist import FEW_PAGES, PageList
from nodes.node import LAND_SECONDS
from protocol.messages import (
    CopyPages,
    IsolateLruPage,
    IsolatePages,
    LandNewPages,
    MigratePrep,
    NewPages,
    PutbackLruPages,
    PutPages,
    Statuses,
    TakePages,
)
from protocol.profile import MODERN, SEED, Profile
from protocol.schema import Message, node_name
from protocol.syscalls import Exit
from tests.crashes import RECOVERY_SECONDS, CrashLab
from tests.few import SHORT, MakeLab, short, told, value
from tests.filing import create, touched, unlink
from tests.lab import Lab

#: What a migration of few pages asks, of plain pages, and of those of a file.
PLAIN = (TakePages, LandNewPages, PutbackLruPages, PutPages)
OF_A_FILE = (MigratePrep, IsolateLruPage, NewPages, CopyPages, PutbackLruPages, PutPages)
STAGES = [(False, stage) for stage in PLAIN] + [(True, stage) for stage in OF_A_FILE]


def of_a_file(lab: Lab, pid: int, pages: int) -> int:
    """Pages that may have to wait before they are copied: they go step by step."""
    assert create(lab, "ext3", pages) == 0
    return touched(lab, pid, pages)


@pytest.mark.parametrize("profile", [SEED, MODERN])
def test_pages_are_where_they_shall_be_with_what_was_in_them(
    make_lab: MakeLab, profile: Profile
) -> None:
    lab = short(make_lab, profile)
    pid = lab.spawn()
    start = lab.mapped(pid, FEW_PAGES)
    for page in range(FEW_PAGES):
        lab.write(pid, start + page, page + 1)
    before = lab.free()
    assert lab.migrate(pid, 0, 3) == 0
    assert lab.where(pid, start, FEW_PAGES) == [3] * FEW_PAGES
    assert [lab.read(pid, start + page) for page in range(FEW_PAGES)] == [*range(1, FEW_PAGES + 1)]
    assert lab.free() == [before[0] + FEW_PAGES, *before[1:3], before[3] - FEW_PAGES]
    assert lab.memory.counters.pgmigrate_success == FEW_PAGES
    assert lab.zone(3).isolated == lab.zone(3).locked == 0
    assert not lab.memory.page_lists


def test_what_does_not_wait_for_each_other_is_asked_together(make_lab: MakeLab) -> None:
    lab = short(make_lab)
    pid = lab.spawn()
    of_a_file(lab, pid, 3)
    for stage in (MigratePrep, IsolateLruPage, NewPages):
        lab.hold_back(stage)
    call = told(lab, pid, 0, 1)
    assert len(lab.held(MigratePrep)) == 2, "source and target drain by what else they are asked"
    (isolate,), (frames,) = lab.held(IsolateLruPage), lab.held(NewPages)
    assert isolate.drain and frames.drain and isolate.pfn.size == frames.owner.size == 3
    for stage in (MigratePrep, IsolateLruPage, NewPages):
        lab.let_go(stage)
    assert value(lab, call) == 0


def test_the_call_ends_at_the_move_and_the_next_one_waits_for_the_rest(make_lab: MakeLab) -> None:
    lab = short(make_lab)
    pid = lab.spawn()
    start = lab.mapped(pid, 2)
    lab.write(pid, start, 7)
    lab.hold_back(PutbackLruPages)
    assert value(lab, told(lab, pid, 0, 1)) == 0
    assert lab.memory.page_lists[0].count(State.SETTLING) == 2
    second = told(lab, pid, 1, 2)
    assert lab.answer_to(second) is None, "it would have found its pages taken"
    lab.let_go(PutbackLruPages)
    assert value(lab, second) == 0
    assert lab.where(pid, start, 2) == [2, 2] and lab.read(pid, start) == 7


def test_where_frames_are_plenty_nobody_waits_for_old_ones(make_lab: MakeLab) -> None:
    lab = short(make_lab)
    pid = lab.spawn()
    start = lab.mapped(pid, 2)
    lab.write(pid, start, 7)
    lab.hold_back(PutPages)
    assert value(lab, told(lab, pid, 0, 1)) == 0
    assert value(lab, told(lab, pid, 1, 0)) == 0
    moved = lab.move(pid, [start, start + 1], [2, 2])
    assert moved.value == 0 and moved.status.tolist() == [2, 2]
    assert len(lab.memory.page_lists) == 3
    lab.let_go(PutPages)
    assert not lab.memory.page_lists and lab.read(pid, start) == 7
    assert lab.free() == [256, 256, 254, 256]


def test_where_frames_are_scarce_the_next_one_waits_for_old_ones(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=2, frames=4, **SHORT)
    pid = lab.spawn()
    start = lab.mapped(pid, 3)
    lab.hold_back(PutPages)
    assert value(lab, told(lab, pid, 0, 1)) == 0
    back = told(lab, pid, 1, 0)
    assert lab.answer_to(back) is None, "one of three frames is free"
    lab.let_go(PutPages)
    assert value(lab, back) == 0
    assert lab.where(pid, start, 3) == [0, 0, 0] and lab.free() == [1, 4]


def test_a_task_may_end_while_the_rest_of_its_migration_goes_on(make_lab: MakeLab) -> None:
    lab = short(make_lab)
    before = lab.free()
    pid = lab.spawn()
    lab.mapped(pid, 4)
    lab.hold_back(PutbackLruPages)
    told(lab, pid, 0, 1)
    exited = lab.start(Exit(pid))
    lab.let_go(PutbackLruPages)
    lab.run()
    assert lab.answer_to(exited) is not None
    assert lab.free() == before and not lab.memory.page_lists


def test_frames_for_pages_that_could_not_be_isolated_are_given_back(make_lab: MakeLab) -> None:
    lab = short(make_lab)
    pid = lab.spawn()
    start = lab.mapped(pid, 4)
    where = lab.fault(pid, start)
    generation = lab.memory.mem_map[0].generation[where.pfn]
    asked = IsolatePages(where.pfn, generation, np.ones(1, np.uint8))
    assert not lab.ask(asked, Statuses, node_name(0)).status.any()
    before = lab.free()
    assert lab.migrate(pid, 0, 1) == 0
    assert lab.where(pid, start, 4) == [0, 1, 1, 1]
    assert lab.free()[1] == before[1] - 3
    back = IsolatePages(where.pfn, generation, np.zeros(1, np.uint8))
    assert not lab.ask(back, Statuses, node_name(0)).status.any()


@pytest.mark.parametrize("few_pages", [0, FEW_PAGES])
def test_a_full_target_ends_both_ways_alike(make_lab: MakeLab, few_pages: int) -> None:
    lab = make_lab(nodes=2, frames=8, profile=MODERN, few_pages=few_pages)
    other = lab.spawn(cpu=1)
    lab.mapped(other, 6, cpu=1)
    pid = lab.spawn()
    start = lab.mapped(pid, 4)
    assert lab.migrate(pid, 0, 1) == -errno.ENOMEM
    assert sorted(lab.where(pid, start, 4)) == [0, 0, 1, 1]
    assert lab.free()[1] == 0


def test_a_pinned_page_is_tried_again_and_stays(make_lab: MakeLab) -> None:
    lab = short(make_lab)
    pid = lab.spawn()
    start = lab.mapped(pid, 3)
    lab.hold_pages(lab.fault(pid, start + 1), pinned=1)
    before = lab.free()
    assert lab.migrate(pid, 0, 1) == 1
    assert lab.where(pid, start, 3) == [1, 0, 1]
    assert lab.free() == [before[0] + 2, before[1] - 2, *before[2:]]


@pytest.mark.parametrize(("file", "stage"), STAGES)
@pytest.mark.parametrize("nid", [0, 1])
def test_a_node_dies_at_a_step_and_nothing_is_lost(
    file: bool, stage: type[Message], nid: int
) -> None:
    lab = CrashLab(**SHORT)
    pid, start = written(lab, file)
    lab.hold_back(stage)
    call = told(lab, pid, 0, 1)
    lab.restart(nid)
    lab.drop_held()
    lab.wait(LAND_SECONDS + RECOVERY_SECONDS)
    assert value(lab, call) == 0 or stage is IsolateLruPage
    nothing_is_lost(lab, pid, start)


@pytest.mark.parametrize(("file", "stage"), STAGES)
def test_the_coordinator_dies_at_a_step_and_nothing_is_lost(
    file: bool, stage: type[Message]
) -> None:
    lab = CrashLab(**SHORT)
    pid, start = written(lab, file)
    lab.hold_back(stage)
    told(lab, pid, 0, 1)
    lab.drop_held()
    lab.recover()
    nothing_is_lost(lab, pid, start)


def written(lab: Lab, file: bool) -> tuple[int, int]:
    """A task with three pages on node 0, which have 1, 2 and 3 in them: pid and first page."""
    pid = lab.spawn()
    start = of_a_file(lab, pid, 3) if file else lab.mapped(pid, 3)
    for page in range(3):
        lab.write(pid, start + page, page + 1)
    return pid, start


def nothing_is_lost(lab: Lab, pid: int, start: int) -> None:
    """The pages have what was in them and can be moved; no frame has leaked."""
    assert [lab.read(pid, start + page) for page in range(3)] == [1, 2, 3]
    assert lab.migrate(pid, 0, 1) == 0 and lab.where(pid, start, 3) == [1, 1, 1]
    assert lab.exit(pid) == 0
    unlink(lab)
    assert lab.free() == [256] * 4, "frames leaked"
    lab.validate()


@pytest.mark.parametrize("pages", [3, FEW_PAGES + 1])
def test_a_list_does_not_outlive_its_call(make_lab: MakeLab, pages: int) -> None:
    lab = short(make_lab)
    pid = lab.spawn()
    of_a_file(lab, pid, pages)
    lists: list[weakref.ref[PageList]] = []
    lab.hold_back(CopyPages)
    told(lab, pid, 0, 1)
    lists += map(weakref.ref, lab.memory.page_lists)
    gc.disable()
    try:
        lab.let_go(CopyPages)
        assert lists and lists[0]() is None, "columns for each page are kept by a cycle"
    finally:
        gc.enable()
