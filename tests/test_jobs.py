"""Migration jobs on virtual time: slices, pause, resume, cancel, the rate limit, the plan, the ETA.

A job that is paused, or waits for its rate, is between two slices and holds nothing.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from coordinator.job import REMEMBERED
from coordinator.replay import differences, replay
from protocol.jobs import (
    JobList,
    JobState,
    ListJobs,
    PlanMigration,
    SetJob,
    StartJob,
    WaitJob,
    Wish,
)
from protocol.messages import CopyPages, Done
from protocol.notes import JobEnded, MigrationEnded
from protocol.profile import MODERN
from protocol.schema import Message
from protocol.syscalls import DescribeHardware, Hardware, Munmap
from protocol.user_mask import MAXNODE, user_mask
from tests.calls import as_nodes, migration
from tests.lab import PAGE, Lab
from tests.test_migrate import row_of

MakeLab = Callable[..., Lab]
MANY = 200_000
#: Bytes a second at which those take 10 s.
RATE = MANY * PAGE // 10


def starting(
    pid: int, source: Any, target: Any, rate_limit: int = 0, caller: int = 0, new_page: str = ""
) -> StartJob:
    nodes = (user_mask(as_nodes(source)), user_mask(as_nodes(target)))
    return StartJob(caller, pid, MAXNODE, *nodes, new_page, rate_limit)


def row(lab: Lab, job: int) -> dict[str, Any]:
    """The row of a job by the names of its fields."""
    told = lab.ask(ListJobs(), JobList)
    at = told.job.tolist().index(job)
    return {
        name: column[at].item() if isinstance(column, np.ndarray) else column[at]
        for name, column in ((name, getattr(told, name)) for name in JobList.__annotations__)
    }


def state(lab: Lab, job: int) -> JobState:
    return JobState(row(lab, job)["state"])


def big(make_lab: MakeLab, pages: int = MANY, **how: Any) -> tuple[Lab, int, int]:
    """A task with so many pages on node 0, and room for them on node 1."""
    lab = make_lab(nodes=2, frames=pages + 64, **how)
    pid = lab.spawn()
    return lab, pid, lab.mapped(pid, pages)


def on_node(lab: Lab, pid: int, page: int, nid: int) -> int:
    """How many pages of the vma at ``page`` are there."""
    vma = lab.vma(pid, page)
    return int(np.count_nonzero(vma.nid[vma.present()] == nid))


# ---- the whole -----------------------------------------------------------------------------


def test_a_job_moves_what_the_call_moves_and_says_the_same(make_lab: MakeLab) -> None:
    lab = make_lab(frames=1024)
    pid = lab.spawn()
    start = lab.mapped(pid, 900)
    where = lab.fault(pid, start, 900)
    lab.hold_pages(row_of(where, 500), pinned=1)
    job = lab.call(starting(pid, 0, 1))
    told = lab.ask(WaitJob(job), JobList)
    assert (told.state.tolist(), told.result) == ([JobState.DONE], (1,))
    assert (told.total.tolist(), told.settled.tolist(), told.moved.tolist()) == (
        [900],
        [900],
        [899],
    )
    assert told.retries.tolist() == [10], "the pinned page is tried again after each pass"
    assert told.pairs == ((0, 1),)
    assert lab.where(pid, start, 900) == [1] * 500 + [0] + [1] * 399
    assert len(lab.noted(MigrationEnded)) > 1, "it is more than one migration"
    assert [note.state for note in lab.noted(JobEnded)] == ["done"]
    lab.hold_pages(row_of(where, 500), pinned=0)
    assert lab.migrate(pid, 0, 1) == 0


def test_pairs_are_worked_on_in_the_order_of_the_kernel(lab: Lab) -> None:
    # K 1.8: 1 -> 2 makes room in node 1 first, then 0 -> 1.
    pid = lab.spawn()
    first, second = lab.mapped(pid, 5, cpu=0), lab.mapped(pid, 7, cpu=1)
    job = lab.call(starting(pid, (0, 1), (1, 2)))
    assert row(lab, job)["pairs"] == (1, 2, 0, 1)
    assert lab.where(pid, first, 5) + lab.where(pid, second, 7) == [1] * 5 + [2] * 7


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        (starting(77, 0, 1), errno.ESRCH),
        (starting(1, 0, 1, caller=2), errno.EPERM),
        (starting(1, 0, 9), errno.EINVAL),
        (starting(1, 0, 1, new_page="nothing"), errno.EINVAL),
    ],
)
def test_a_job_is_refused_with_the_errno_of_the_call(lab: Lab, asked: StartJob, error: int) -> None:
    lab.spawn()
    lab.spawn(uid=1000, capable=False)
    same = (asked.caller, asked.pid, asked.maxnode, asked.old_nodes, asked.new_nodes)
    assert lab.call(asked) == -error
    assert lab.ask(PlanMigration(*same, asked.new_page), Done).value == -error
    assert lab.call(migration(asked.caller, asked.pid, (0,), (1,), asked.new_page)) in (-error, 0)
    assert not lab.ask(ListJobs(), JobList).job.size


def test_without_migration_there_are_no_jobs(make_lab: MakeLab) -> None:
    lab = make_lab(migration=False)
    pid = lab.spawn()
    assert lab.call(starting(pid, 0, 1)) == -errno.ENOSYS


def test_a_full_target_ends_it_with_what_had_moved_in_place(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=2, frames=700, profile=MODERN)
    pid = lab.spawn()
    start = lab.mapped(pid, 600)
    lab.mapped(lab.spawn(cpu=1), 300, cpu=1)
    job = lab.call(starting(pid, 0, 1))
    told = row(lab, job)
    assert (told["state"], told["result"]) == (JobState.FAILED, -errno.ENOMEM)
    assert on_node(lab, pid, start, 1) == told["moved"] == 400
    assert lab.read(pid, start) == 0


# ---- pause, resume, cancel -----------------------------------------------------------------


def test_a_paused_job_of_200000_pages_keeps_neither_munmap_nor_fork_waiting(
    make_lab: MakeLab,
) -> None:
    lab, pid, start = big(make_lab)
    job = lab.call(starting(pid, 0, 1, 2 * RATE))
    lab.wait(1.5)
    assert lab.call(SetJob(job, Wish.PAUSE)) == 0
    told = row(lab, job)
    assert told["state"] == JobState.PAUSED and 0 < told["settled"] < MANY
    lab.validate()
    mm = lab.memory.tasks[pid].mm
    assert not mm.mmap_sem.readers and not mm.mmap_sem.waiting and not lab.memory.page_lists
    # Neither of them waits, and time stands still.
    child = lab.fork(pid)
    assert child > 0 and lab.exit(child) == 0
    assert lab.call(Munmap(pid, start * PAGE, 1000 * PAGE)) == 0
    lab.wait(100.0)
    assert row(lab, job)["settled"] == told["settled"], "it went on while it was paused"
    assert row(lab, job)["seconds"] == pytest.approx(told["seconds"])

    assert lab.call(SetJob(job, Wish.RUN)) == 0
    lab.wait(20.0)
    assert state(lab, job) == JobState.DONE
    assert on_node(lab, pid, start + 1000, 1) == MANY - 1000
    assert row(lab, job)["result"] == 0


def test_a_cancelled_job_leaves_every_page_whole_on_one_node_or_the_other(
    make_lab: MakeLab,
) -> None:
    lab, pid, start = big(make_lab)
    for page in (0, 1, MANY // 2, MANY - 1):
        lab.write(pid, start + page, 7000 + page)
    job = lab.call(starting(pid, 0, 1, RATE))
    lab.wait(2.5)
    waiter = lab.start(WaitJob(job))
    assert lab.call(SetJob(job, Wish.CANCEL)) == 0
    told = lab.answer_to(waiter)
    assert isinstance(told, JobList)
    assert (told.state.tolist(), told.result) == ([JobState.CANCELLED], (-errno.ECANCELED,))
    moved = int(told.moved[0])
    assert 0 < moved < MANY
    assert (on_node(lab, pid, start, 0), on_node(lab, pid, start, 1)) == (MANY - moved, moved)
    for page in (0, 1, MANY // 2, MANY - 1):
        assert lab.read(pid, start + page) == 7000 + page
    assert lab.call(SetJob(job, Wish.CANCEL)) == -errno.EALREADY
    lab.validate()
    assert list(differences(replay(lab.topology, lab.records), lab.memory)) == []


def test_pause_is_answered_when_the_slice_under_way_has_ended(make_lab: MakeLab) -> None:
    lab, pid, start = big(make_lab, 1000)
    lab.hold_back(CopyPages)
    job = lab.call(starting(pid, 0, 1))
    asked = lab.start(SetJob(job, Wish.PAUSE))
    assert lab.answer_to(asked) is None, "pages are being copied"
    assert row(lab, job)["wish"] == Wish.PAUSE
    freeing = lab.start(Munmap(pid, start * PAGE, PAGE))
    assert lab.answer_to(freeing) is None, "munmap waits for the slice, as for any migration"
    lab.let_go(CopyPages)
    assert lab.answer_to(asked) is not None and lab.answer_to(freeing) is not None
    assert state(lab, job) == JobState.PAUSED
    assert lab.call(SetJob(job, Wish.CANCEL)) == 0
    assert state(lab, job) == JobState.CANCELLED


def test_who_is_asked_for_a_job_that_is_not_there_says_so(lab: Lab) -> None:
    asked: list[Message] = [SetJob(5, Wish.PAUSE), WaitJob(5), SetJob(0, Wish.CANCEL)]
    for question in asked:
        assert lab.ask(question, Done).value == -errno.ENOENT


def test_a_task_that_exits_ends_its_job(make_lab: MakeLab) -> None:
    lab, pid, _ = big(make_lab, 5000)
    job = lab.call(starting(pid, 0, 1, 1000 * PAGE))
    lab.wait(1.0)
    assert lab.exit(pid) == 0
    lab.wait(1.0)
    told = row(lab, job)
    assert (told["state"], told["result"]) == (JobState.FAILED, -errno.ESRCH)


def test_a_job_waits_for_a_node_that_is_down(make_lab: MakeLab) -> None:
    lab, pid, start = big(make_lab, 5000)
    job = lab.call(starting(pid, 0, 1, 1000 * PAGE))
    lab.wait(1.0)
    lab.memory.lost = frozenset({1})
    lab.wait(1.0)
    settled = row(lab, job)["settled"]
    assert state(lab, job) == JobState.WAITING
    assert not lab.memory.tasks[pid].mm.mmap_sem.readers
    lab.wait(10.0)
    assert row(lab, job)["settled"] == settled
    lab.memory.lost = frozenset()
    lab.wait(10.0)
    assert state(lab, job) == JobState.DONE and on_node(lab, pid, start, 1) == 5000


# ---- the list ------------------------------------------------------------------------------


def test_other_migrations_under_way_are_listed_without_a_number(lab: Lab) -> None:
    pid = lab.spawn()
    lab.mapped(pid, 10)
    lab.hold_back(CopyPages)
    call = lab.start(migration(0, pid, (0,), (1,)))
    lab.run()
    told = lab.ask(ListJobs(), JobList)
    assert (told.job.tolist(), told.pid.tolist(), told.total.tolist()) == ([0], [pid], [10])
    lab.let_go(CopyPages)
    assert lab.answer_to(call) is not None
    assert not lab.ask(ListJobs(), JobList).job.size


def test_a_slice_of_a_job_is_not_listed_beside_it(lab: Lab) -> None:
    pid = lab.spawn()
    lab.mapped(pid, 10)
    lab.hold_back(CopyPages)
    job = lab.call(starting(pid, 0, 1))
    assert lab.ask(ListJobs(), JobList).job.tolist() == [job]
    lab.let_go(CopyPages)


def test_the_last_jobs_that_ended_are_remembered(lab: Lab) -> None:
    pid = lab.spawn()
    lab.mapped(pid, 2)
    jobs = [lab.call(starting(pid, nid % 2, (nid + 1) % 2)) for nid in range(REMEMBERED + 3)]
    assert lab.ask(ListJobs(), JobList).job.tolist() == jobs[-REMEMBERED:]


def test_a_job_dies_with_its_coordinator_and_is_known_to_be_lost(make_lab: MakeLab) -> None:
    lab, pid, start = big(make_lab, 5000)
    ended = lab.call(starting(lab.spawn(), 0, 1))
    job = lab.call(starting(pid, 0, 1, 1000 * PAGE))
    lab.wait(2.0)
    later = replay(lab.topology, lab.records)
    told = {each.number: each.state for each in later.jobs}
    assert told == {ended: JobState.DONE, job: JobState.LOST}
    again = make_lab(nodes=2, frames=5064, journal=list(lab.coordinator.snapshot()))
    assert state(again, job) == JobState.LOST
    assert again.ask(SetJob(job, Wish.RUN), Done).value == -errno.EALREADY
    task = again.memory.tasks[pid].mm.find(start)
    assert task is not None and int(np.count_nonzero(task.nid == 1)) == on_node(lab, pid, start, 1)
    assert again.call(starting(again.spawn(), 0, 1)) == job + 1, "no number is given twice"
    lab.call(SetJob(job, Wish.CANCEL))


def test_a_node_that_restarts_in_the_middle_of_a_slice_costs_no_page(make_lab: MakeLab) -> None:
    lab, pid, start = big(make_lab, 3000)
    for page in (0, 1500, 2999):
        lab.write(pid, start + page, 70 + page)
    lab.hold_back(CopyPages)
    job = lab.call(starting(pid, 0, 1))
    lab.run()
    lab.restart(0)
    lab.let_go(CopyPages)
    lab.wait(30.0)
    assert state(lab, job) == JobState.DONE
    assert on_node(lab, pid, start, 1) == row(lab, job)["moved"] == 3000 - row(lab, job)["result"]
    assert [lab.read(pid, start + page) for page in (0, 1500, 2999)] == [70, 1570, 3069]


def test_a_job_that_was_asked_for_during_recovery_begins_after_it(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mapped(pid, 10)
    lab.coordinator.recovering = {0}
    asked = lab.start(starting(pid, 0, 1))
    assert lab.answer_to(asked) is None
    lab.coordinator.recovering.clear()
    lab.memory.woken = True
    assert lab.ask(DescribeHardware(), Hardware).epoch == 1
    assert lab.answer_to(asked) is not None
    assert on_node(lab, pid, start, 1) == 10
