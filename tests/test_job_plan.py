"""The plan of a migration (`migratepages --dry-run`): what would move, what cannot, and why."""

from __future__ import annotations

from typing import Any

from coordinator.mm import MAP_LOCKED
from protocol.jobs import Fate, MigrationPlan, PlanMigration
from protocol.messages import CopyPages
from protocol.notes import MigrationEnded
from protocol.syscalls import Mmap
from protocol.user_mask import MAXNODE, user_mask
from tests.calls import as_nodes, migration
from tests.lab import PAGE, RW, Lab
from tests.test_jobs import MANY, MakeLab, big, on_node, row, starting


def planned(lab: Lab, pid: int, source: Any, target: Any, caller: int = 0) -> MigrationPlan:
    nodes = (user_mask(as_nodes(source)), user_mask(as_nodes(target)))
    return lab.ask(PlanMigration(caller, pid, MAXNODE, *nodes, ""), MigrationPlan)


def fates(told: MigrationPlan) -> list[tuple[int, int, Fate, int]]:
    """Source, target, fate, pages of each row."""
    columns = told.source, told.target, told.fate, told.pages
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [(source, target, Fate(fate), pages) for source, target, fate, pages in rows]


def test_the_plan_says_what_would_move_and_changes_nothing(make_lab: MakeLab) -> None:
    lab, pid, start = big(make_lab)
    told = planned(lab, pid, 0, 1)
    assert fates(told) == [(0, 1, Fate.MOVES, MANY)]
    assert (told.start.tolist(), told.end.tolist()) == ([start * PAGE], [(start + MANY) * PAGE])
    assert told.rate == 0.0, "nothing has moved yet"
    assert on_node(lab, pid, start, 0) == MANY and not lab.noted(MigrationEnded)
    assert not lab.memory.tasks[pid].mm.mmap_sem.readers


def test_the_plan_knows_what_cannot_move_and_why(lab: Lab) -> None:
    pid = lab.spawn(uid=1000, capable=False)
    shared = lab.mapped(pid, 3)
    child = lab.fork(pid)
    lab.mapped(pid, 4)
    lab.mapped(pid, 5, name="[fail_migrate_page]")
    lab.mapped(pid, 6, name="[io]")
    lab.mapped(pid, 16, name="[uncached]", shared=True)
    flags = MAP_LOCKED | 0x22
    locked = lab.call(Mmap(pid, 0, 7 * PAGE, RW, flags, "", 0)) // PAGE
    assert lab.where(pid, locked, 7) == [0] * 7
    told = {fate: pages for _, _, fate, pages in fates(planned(lab, pid, 0, 1, caller=pid))}
    assert told == {
        Fate.SHARED: 3,
        Fate.MOVES: 4,
        Fate.REFUSED: 5,
        Fate.SPECIAL: 6,
        Fate.OWN_METHOD: 16,
        Fate.LOCKED: 7,
    }
    by_operator = fates(planned(lab, pid, 0, 1))
    assert (0, 1, Fate.MOVES, 7) in by_operator, "who is privileged moves shared pages too"
    lab.exit(child)
    assert lab.where(pid, shared, 3) == [0] * 3


def test_pages_that_are_being_moved_are_busy_in_a_plan(lab: Lab) -> None:
    pid = lab.spawn()
    lab.mapped(pid, 10)
    lab.hold_back(CopyPages)
    call = lab.start(migration(0, pid, (0,), (1,)))
    lab.run()
    assert fates(planned(lab, pid, 0, 1)) == [(0, 1, Fate.BUSY, 10)]
    lab.let_go(CopyPages)
    assert lab.answer_to(call) is not None


def test_a_plan_of_a_ring_moves_pages_twice_as_the_call_does(lab: Lab) -> None:
    # K 1.8: with no node to begin with that is not emptied itself, pages go round.
    pid = lab.spawn()
    lab.mapped(pid, 5, cpu=0)
    lab.mapped(pid, 7, cpu=1)
    told = fates(planned(lab, pid, (0, 1), (1, 0)))
    job = lab.call(starting(pid, (0, 1), (1, 0)))
    assert sum(pages for *_, pages in told) == row(lab, job)["settled"] == row(lab, job)["total"]
    assert row(lab, job)["result"] == 0
