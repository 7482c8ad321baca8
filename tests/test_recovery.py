"""A coordinator dies at some moment and another one starts from its journal (design 7).

What was committed counts, what was not is undone; nothing that was acknowledged is lost, no frame
leaks, and nobody who woke up late can do any harm.
"""

from __future__ import annotations

import errno

import numpy as np
import pytest

from coordinator.calls import Ask, Reply
from coordinator.poison import EHWPOISON
from coordinator.recovery import recover_node
from protocol.messages import (
    CopyPages,
    IsolateLruPage,
    LandPages,
    MigratePrep,
    NewPages,
    PutbackLruPages,
    PutPages,
    RecoveredFrames,
    RecoverFrames,
    SetGeneration,
    UnlockPages,
)
from protocol.notes import (
    FramesPoisoned,
    NodeSettled,
    StaleRefused,
    ZoneReplaced,
)
from protocol.schema import Message
from protocol.syscalls import (
    Fault,
    Fork,
    Mprotect,
    Munmap,
)
from tests.calls import migration
from tests.crashes import CrashLab
from tests.lab import PAGE, WRITE, pages_from

SOURCE, TARGET = 0, 1
PAGES = 6
STEPS = (
    MigratePrep,
    IsolateLruPage,
    NewPages,
    CopyPages,
    LandPages,
    PutbackLruPages,
    PutPages,
)


@pytest.fixture
def lab() -> CrashLab:
    return CrashLab()


def written(lab: CrashLab, pages: int = PAGES) -> tuple[int, int]:
    """A task with pages on the source, each with contents of its own."""
    pid = lab.spawn()
    start = lab.mapped(pid, pages)
    for offset in range(pages):
        lab.write(pid, start + offset, 50 + offset)
    return pid, start


def contents(lab: CrashLab, pid: int, start: int, pages: int = PAGES) -> list[int]:
    return [lab.read(pid, start + offset) - 50 for offset in range(pages)]


@pytest.mark.parametrize("stops_at", STEPS)
@pytest.mark.parametrize("executed", [False, True], ids=["before it arrives", "its answer is lost"])
def test_a_migration_that_was_under_way_is_finished_or_undone(
    lab: CrashLab, stops_at: type[Message], executed: bool
) -> None:
    pid, start = written(lab)
    lab.hold_back(stops_at)
    lab.start(migration(0, pid, (SOURCE,), (TARGET,)))
    lab.run()
    assert lab.held(stops_at)
    if executed:
        lab.let_pass(stops_at, answered=False)
    lab.recover()
    lab.drop_held()
    committed = stops_at in (PutbackLruPages, PutPages)
    assert lab.where(pid, start, PAGES) == [TARGET if committed else SOURCE] * PAGES
    assert contents(lab, pid, start) == list(range(PAGES))
    assert sum(lab.free()) == 4 * 256 - PAGES
    lab.validate()
    assert lab.migrate(pid, (SOURCE, TARGET), (2, 3)) == 0
    assert contents(lab, pid, start) == list(range(PAGES))
    lab.validate()


@pytest.mark.parametrize("stops_at", [NewPages, CopyPages, LandPages])
def test_a_right_that_was_taken_from_a_page_on_its_way_stays_taken(
    lab: CrashLab, stops_at: type[Message]
) -> None:
    """munmap relied on the end of the migration for a new generation, and that never came."""
    pid = lab.spawn()
    start = lab.mapped(pid, 1, shared=True)
    lab.write(pid, start, 50)
    child = lab.fork(pid)
    where = lab.fault(child, start)
    lab.hold_back(stops_at)
    lab.start(migration(0, pid, (SOURCE,), (TARGET,)))
    lab.run()
    assert lab.held(stops_at)
    munmap = lab.start(Munmap(child, start * PAGE, PAGE))
    assert lab.answer_to(munmap) is None
    lab.recover()
    lab.drop_held()
    assert lab.store(where, 0, 99) != 0
    assert lab.read(pid, start) == 50
    lab.validate()


@pytest.mark.parametrize("call", [Munmap, Mprotect, Fork])
def test_rights_are_taken_away_though_the_node_had_not_heard_of_it(
    lab: CrashLab, call: type[Message]
) -> None:
    pid, start = written(lab, 1)
    where = lab.fault(pid, start)
    lab.hold_back(PutPages if call is Munmap else SetGeneration)
    if call is Munmap:
        lab.start(Munmap(pid, start * PAGE, PAGE))
    elif call is Mprotect:
        lab.start(Mprotect(pid, start * PAGE, PAGE, 1))
    else:
        lab.start(Fork(pid, -1, 0))
    lab.run()
    lab.recover()
    lab.drop_held()
    assert lab.store(where, 0, 99) != 0
    lab.validate()


def test_frames_that_a_node_gave_before_it_died_are_freed_by_its_successor(lab: CrashLab) -> None:
    pid = lab.spawn()
    start = lab.mmap(pid, PAGES)
    lab.hold_back(NewPages)
    fault = lab.start(Fault(pid, 0, WRITE, pages_from(start, PAGES)))
    lab.run()
    lab.let_pass(NewPages, answered=False)
    lab.restart(0)
    lab.let_go(NewPages)
    lab.wait(3.0)
    assert lab.answer_to(fault) is not None
    assert lab.free() == [256 - PAGES, 256, 256, 256]
    assert lab.noted(NodeSettled)[-1].frames == 0
    lab.validate()


def test_a_coordinator_that_wakes_up_late_has_no_effect(lab: CrashLab) -> None:
    """Fencing: its successor has a higher epoch, and nodes refuse the lower one, unexecuted."""
    pid, start = written(lab)
    lab.hold_back(CopyPages)
    lab.hold_back(NewPages)
    lab.start(migration(0, pid, (SOURCE,), (TARGET,)))
    lab.run()
    lab.recover()
    free = lab.free()
    before = len(lab.noted(StaleRefused))
    lab.let_go(NewPages)
    lab.let_go(CopyPages)
    assert len(lab.noted(StaleRefused)) > before
    assert lab.free() == free
    assert contents(lab, pid, start) == list(range(PAGES))
    lab.validate()


# ---- zones that are lost ---------------------------------------------------------------------


def test_pages_of_a_lost_zone_are_poisoned_and_named(lab: CrashLab) -> None:
    pid, start = written(lab)
    other = lab.mapped(pid, 2, cpu=1)
    lab.replace_zone(SOURCE)
    lab.wait(5.0)
    assert [note.node for note in lab.noted(ZoneReplaced)] == [SOURCE]
    lab.recover()
    assert sum(note.frames for note in lab.noted(FramesPoisoned)) == PAGES
    status = lab.fault(pid, start, PAGES).status
    assert status.tolist() == [-EHWPOISON] * PAGES
    assert any(f"hwpoison={PAGES}" in line for line in lab.numa_maps(pid))
    assert lab.where(pid, other, 2) == [1, 1]
    assert lab.free() == [256, 254, 256, 256]
    lab.validate()
    lab.recover()
    assert lab.fault(pid, start, PAGES).status.tolist() == [-EHWPOISON] * PAGES


def test_a_poisoned_page_can_be_unmapped_and_is_inherited_by_fork(lab: CrashLab) -> None:
    pid, start = written(lab)
    lab.replace_zone(SOURCE)
    lab.wait(5.0)
    lab.recover()
    child = lab.fork(pid)
    assert lab.fault(child, start).status.tolist() == [-EHWPOISON]
    assert lab.call(Munmap(pid, start * PAGE, PAGE)) == 0
    assert lab.fault(pid, start).status.tolist() != [-EHWPOISON]
    lab.validate()


def test_a_page_of_a_lost_cache_is_poisoned_for_all_who_map_it(lab: CrashLab) -> None:
    pid = lab.spawn()
    start = lab.mapped(pid, 2, shared=True)
    child = lab.fork(pid)
    lab.replace_zone(SOURCE)
    lab.wait(5.0)
    lab.recover()
    for task in (pid, child):
        assert lab.fault(task, start, 2).status.tolist() == [-EHWPOISON] * 2
    lab.validate()


def test_a_zone_that_is_lost_with_nothing_in_it_is_replaced_without_a_word(lab: CrashLab) -> None:
    pid, start = written(lab)
    lab.replace_zone(2)
    lab.wait(5.0)
    assert not lab.noted(ZoneReplaced) and not lab.noted(FramesPoisoned)
    assert lab.migrate(pid, SOURCE, 2) == 0
    assert contents(lab, pid, start) == list(range(PAGES))


def test_unlocking_is_finished_by_the_next_coordinator(lab: CrashLab) -> None:
    pid, start = written(lab, 1)
    lab.hold_pages(lab.fault(pid, start), pinned=1)
    lab.hold_back(UnlockPages)
    lab.start(migration(0, pid, (SOURCE,), (TARGET,)))
    lab.run()
    lab.recover()
    lab.drop_held()
    assert lab.read(pid, start) == 50
    assert lab.free() == [255, 256, 256, 256]
    lab.validate()


def test_a_late_answer_about_a_frame_that_was_given_out_again_poisons_nothing() -> None:
    lab = CrashLab(nodes=1, frames=1)
    pid = lab.spawn()
    start = lab.mapped(pid, 1)
    lab.write(pid, start, 5)
    steps = recover_node(lab.memory, 0, revoke=False)
    (asked,) = next(steps)  # type: ignore[misc]
    assert isinstance(asked, Ask) and isinstance(asked.message, RecoverFrames)
    # Before the answer comes the page goes, and its frame is another page's.
    lab.call(Munmap(pid, start * PAGE, PAGE))
    again = lab.mapped(pid, 1)
    lab.write(pid, again, 6)
    gone = RecoveredFrames(np.array([-errno.ESTALE], np.int32), asked.message.generation, 0)
    with pytest.raises(StopIteration):
        steps.send(Reply(asked, gone, 0))
    assert lab.read(pid, again) == 6
    lab.validate()
