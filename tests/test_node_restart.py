"""A node's process dies in the middle of a migration and comes back with its zone (design 6, 7).

Whatever was asked of it is indefinite then, and asked again of the new process: each page ends on
one of the two nodes with its contents, and no frame is lost.
"""

from __future__ import annotations

import errno

import pytest

from protocol.messages import (
    CopyPages,
    Done,
    IsolateLruPage,
    LandPages,
    MigratePrep,
    NewPages,
    PutbackLruPages,
    PutPages,
    SetGeneration,
    UnlockPages,
)
from protocol.notes import PagesNotMoved
from protocol.schema import Message
from protocol.syscalls import Fault, Fork, Munmap, Translations
from tests.calls import migration
from tests.lab import PAGE, WRITE, Lab, pages_from

SOURCE, TARGET = 0, 1
PAGES = 6


def migrating(lab: Lab, stops_at: type[Message], target: str = "") -> tuple[int, int, int]:
    """A task whose pages are on their way until this question: (pid, first page, the call)."""
    pid = lab.spawn()
    start = lab.mapped(pid, PAGES)
    for offset in range(PAGES):
        lab.write(pid, start + offset, 50 + offset)
    lab.hold_back(stops_at, target)
    call = lab.start(migration(0, pid, (SOURCE,), (TARGET,)))
    lab.run()
    return pid, start, call


def value(lab: Lab, call: int) -> int:
    lab.wait(30.0)
    answer = lab.answer_to(call)
    assert isinstance(answer, Done)
    return answer.value


def contents(lab: Lab, pid: int, start: int) -> list[int]:
    return [lab.read(pid, start + offset) - 50 for offset in range(PAGES)]


@pytest.mark.parametrize(
    ("stops_at", "dies"),
    [
        (MigratePrep, SOURCE),
        (NewPages, TARGET),
        (LandPages, TARGET),
        (LandPages, SOURCE),
        (CopyPages, SOURCE),
        (PutbackLruPages, TARGET),
        (PutPages, SOURCE),
    ],
    ids=lambda what: getattr(what, "__name__", ("source", "target")[what == TARGET]),
)
def test_every_page_moves_all_the_same(lab: Lab, stops_at: type[Message], dies: int) -> None:
    pid, start, call = migrating(lab, stops_at)
    lab.restart(dies)
    lab.let_go(stops_at)
    assert value(lab, call) == 0
    assert lab.where(pid, start, PAGES) == [TARGET] * PAGES
    assert contents(lab, pid, start) == list(range(PAGES))
    assert lab.free() == [256, 256 - PAGES, 256, 256]


def test_pages_whose_isolation_is_unknown_stay_and_are_counted(lab: Lab) -> None:
    pid, start, call = migrating(lab, IsolateLruPage)
    lab.restart(SOURCE)
    lab.let_go(IsolateLruPage)
    assert value(lab, call) == PAGES
    assert lab.noted(PagesNotMoved) == [PagesNotMoved(SOURCE, -errno.ENODEV, PAGES)]
    assert lab.where(pid, start, PAGES) == [SOURCE] * PAGES
    assert contents(lab, pid, start) == list(range(PAGES))
    assert lab.migrate(pid, SOURCE, TARGET) == 0


def test_a_failed_attempt_is_undone_by_the_next_process(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mapped(pid, 1)
    lab.write(pid, start, 50)
    lab.hold_pages(lab.fault(pid, start), pinned=1)
    lab.hold_back(UnlockPages)
    call = lab.start(migration(0, pid, (SOURCE,), (TARGET,)))
    lab.run()
    lab.restart(SOURCE)
    lab.let_go(UnlockPages)
    assert value(lab, call) == 1
    assert lab.read(pid, start) == 50 and lab.free() == [255, 256, 256, 256]


def test_a_translation_survives_a_restart_of_its_node() -> None:
    """Generations are in the zone: what was granted stays granted, and what was taken, taken."""
    lab = Lab(heartbeat=0.5)
    pid = lab.spawn()
    start = lab.mapped(pid, 2)
    where = lab.fault(pid, start, 2)
    lab.store(where, 0, 1)
    lab.call(Munmap(pid, (start + 1) * PAGE, PAGE))
    lab.restart(SOURCE)
    lab.wait(1.0)
    assert lab.read(pid, start) == 1


@pytest.mark.parametrize("stops_at", [SetGeneration, NewPages, CopyPages])
def test_a_fork_and_its_copies_are_finished_with_the_next_process(
    lab: Lab, stops_at: type[Message]
) -> None:
    parent = lab.spawn()
    start = lab.mapped(parent, 1)
    lab.write(parent, start, 8)
    if stops_at is SetGeneration:
        lab.hold_back(stops_at)
    forking = lab.start(Fork(parent, -1, 0))
    lab.run()
    if stops_at is SetGeneration:
        lab.restart(SOURCE)
        lab.let_go(stops_at)
    child = value(lab, forking)
    lab.hold_back(NewPages if stops_at is SetGeneration else stops_at)
    writing = lab.start(Fault(child, 0, WRITE, pages_from(start, 1)))
    lab.run()
    lab.restart(SOURCE)
    lab.let_go(NewPages if stops_at is SetGeneration else stops_at)
    lab.wait(10.0)
    assert isinstance(lab.answer_to(writing), Translations)
    lab.write(child, start, 9)
    assert (lab.read(parent, start), lab.read(child, start)) == (8, 9)
