"""What is told of a migration under way: its backlog, and how long each step of a batch took."""

from __future__ import annotations

from coordinator.life import PLACES
from protocol import labels
from protocol.labels import Role
from protocol.messages import CopyPages
from protocol.notes import AccessesTold, MigrationsCounted, StepAnswered
from tests.calls import migration
from tests.lab import Lab
from tests.test_distance import accrue

STEPS = ["isolating", "allocating", "copying", "settling", "releasing"]


def test_every_state_that_asks_is_a_step() -> None:
    asking = [state.name.lower() for state, place in PLACES.items() if place.asks]
    assert list(labels.STEP.values(Role.COORDINATOR, ())) == asking


def test_the_backlog_is_what_is_not_settled_and_ends_with_the_call(lab: Lab) -> None:
    pid = lab.spawn()
    lab.mapped(pid, 40)
    lab.hold_back(CopyPages)
    question = migration(pid, pid, [0], [1])
    ticket = lab.start(question)
    lab.run()
    assert lab.noted(MigrationsCounted)[-1] == MigrationsCounted(calls=1, pages=40)
    lab.let_go(CopyPages)
    lab.run()
    assert lab.answer_to(ticket) is not None
    assert lab.noted(MigrationsCounted)[-1] == MigrationsCounted(calls=0, pages=0)


def test_each_step_says_its_pages_and_how_long_its_answer_took(lab: Lab) -> None:
    pid = lab.spawn()
    lab.mapped(pid, 40)
    lab.hold_back(CopyPages)
    lab.start(migration(pid, pid, [0], [1]))
    lab.run()
    lab.wait(0.25)
    lab.let_go(CopyPages)
    lab.run()
    told = lab.noted(StepAnswered)
    assert [(note.step, note.pages) for note in told] == [(step, 40) for step in STEPS]
    (copying,) = [note.seconds for note in told if note.step == "copying"]
    assert 0.25 <= copying < 0.35
    assert all(note.seconds < 0.1 for note in told if note.step != "copying")


def test_an_access_is_local_if_the_cpu_is_on_the_node_of_the_page(lab: Lab) -> None:
    pid = lab.spawn()
    assert lab.call(accrue(pid, 0, 0, 0, 10, 2000)) == 0
    assert lab.call(accrue(pid, 0, 2, 1, 7, 2000)) == 0
    assert lab.noted(AccessesTold) == [
        AccessesTold(0, "load", "local", 10),
        AccessesTold(2, "store", "remote", 7),
    ]
