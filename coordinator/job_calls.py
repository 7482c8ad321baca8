"""What clients ask about migration jobs: one function for each question."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from coordinator.calls import PARKED, Steps
from coordinator.desk import Desk, handles
from coordinator.job import Job
from coordinator.jobs import calls_under_way, pairs_of, start_job
from coordinator.life import State
from coordinator.memory import Memory
from coordinator.pagelist import PageList
from coordinator.plan import plan
from coordinator.syscalls import check_migrate_pages
from protocol import jobs as m
from protocol.messages import Done
from protocol.schema import Message
from protocol.session import Question

ENOENT, EALREADY = 2, 114


@handles(m.StartJob)
def on_start_job(desk: Desk, question: Question, asked: m.StartJob) -> Message:
    call = check_migrate_pages(desk.memory, desk.kernel, asked)
    if isinstance(call, int):
        return Done(call)
    job, steps = start_job(desk.memory, desk.kernel, call, asked.rate_limit)
    desk.memory.started.append(steps)
    return Done(job.number)


@handles(m.SetJob)
def on_set_job(desk: Desk, question: Question, asked: m.SetJob) -> Message | Steps[Message]:
    job = desk.memory.jobs.find(asked.job)
    if job is None or not job.under_way:
        return Done(-ENOENT if job is None else -EALREADY)
    return _set_job(desk.memory, job, m.Wish(asked.wish))


def _set_job(memory: Memory, job: Job, wish: m.Wish) -> Steps[Message]:
    job.wish, memory.woken = wish, True
    yield PARKED
    while job.wish == wish and not _heeded(job):
        yield PARKED
    return Done(0)


def _heeded(job: Job) -> bool:
    if job.wish == m.Wish.RUN:
        return job.state != m.JobState.PAUSED
    return not job.under_way or (job.wish == m.Wish.PAUSE and job.state == m.JobState.PAUSED)


@handles(m.WaitJob)
def on_wait_job(desk: Desk, question: Question, asked: m.WaitJob) -> Message | Steps[Message]:
    job = desk.memory.jobs.find(asked.job)
    return Done(-ENOENT) if job is None else _wait_job(desk.memory, job)


def _wait_job(memory: Memory, job: Job) -> Steps[Message]:
    while job.under_way:
        yield PARKED
    return _job_list([_row(memory, job)])


@handles(m.ListJobs)
def on_list_jobs(desk: Desk, question: Question, asked: m.ListJobs) -> Message:
    memory = desk.memory
    calls = calls_under_way(memory)
    rows = [_row(memory, job) for job in memory.jobs]
    return _job_list([*rows, *(_row_of_call(pages, done) for pages, done in calls)])


def _row(memory: Memory, job: Job) -> dict[str, Any]:
    now = memory.now
    names = ("pid", "caller", "state", "wish", "total", "settled", "moved", "retries")
    return {
        "job": job.number,
        "pairs": job.pairs,
        "rate_limit": job.rate_limit,
        "result": job.result,
        "seconds": job.seconds(now),
        "rate": job.pages_per_second(now) * memory.topology.page_size,
        "eta": job.eta(now),
        **{name: getattr(job, name) for name in names},
    }


def _row_of_call(pages: PageList, settled: int) -> dict[str, Any]:
    """Of a call under way only its page list is known, not when it began or where all goes."""
    numbers = dict.fromkeys(("job", "caller", "state", "wish", "rate_limit", "result"), 0)
    return {
        **numbers,
        "pid": pages.pid,
        "pairs": (),
        "seconds": 0.0,
        "rate": 0.0,
        "eta": -1.0,
        "total": pages.rows,
        "settled": settled,
        "moved": pages.count(State.MOVED),
        "retries": pages.retries,
    }


def _job_list(rows: list[dict[str, Any]]) -> Message:
    def column(name: str, dtype: str) -> Any:
        return np.array([row[name] for row in rows], dtype)

    def told(name: str) -> tuple[Any, ...]:
        return tuple(row[name] for row in rows)

    return m.JobList(
        told("pairs"),
        told("result"),
        told("seconds"),
        told("rate"),
        told("eta"),
        column("job", "<u8"),
        column("pid", "<i4"),
        column("caller", "<i4"),
        column("state", "|u1"),
        column("wish", "|u1"),
        *(column(name, "<u8") for name in ("total", "settled", "moved", "retries", "rate_limit")),
    )


@handles(m.PlanMigration)
def on_plan_migration(desk: Desk, question: Question, asked: m.PlanMigration) -> Message:
    memory, size = desk.memory, desk.memory.topology.page_size
    call = check_migrate_pages(memory, desk.kernel, asked)
    if isinstance(call, int):
        return Done(call)
    rows = plan(memory, call.task.mm, pairs_of(memory, call, desk.kernel.profile), call.flags)

    def column(values: Iterable[int], dtype: str) -> Any:
        return np.array(list(values), dtype)

    return m.MigrationPlan(
        memory.emulated.pages_per_second(),
        tuple(row.vma.name for row in rows),
        column((row.source for row in rows), "<i4"),
        column((row.target for row in rows), "<i4"),
        column((row.vma.start * size for row in rows), "<u8"),
        column((row.vma.end * size for row in rows), "<u8"),
        column((row.fate for row in rows), "|u1"),
        column((row.pages for row in rows), "<u8"),
    )
