"""The migration jobs of a machine: ``machine.jobs`` of the Python API.

job = await task.start_migration(task.pid, "0", "1", rate_limit="100MB/s")
await machine.jobs.pause(job)
await machine.jobs.resume(job)
not_moved = await machine.jobs.wait(job)
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from numalab.job_rows import JobRow, Nodes, Plan, PlanRow
from numalab.orders import IndefiniteError
from numalab.rate import RATE_MAX, parse_rate
from protocol.jobs import (
    Fate,
    JobList,
    JobState,
    ListJobs,
    MigrationPlan,
    PlanMigration,
    SetJob,
    StartJob,
    WaitJob,
    Wish,
)
from protocol.user_mask import MAXNODE, user_mask

if TYPE_CHECKING:
    from numalab.machine import Machine

#: How long whoever is interrupted may wait for the end of a job that goes with it.
CANCEL_SECONDS = 2.0


def bytes_per_second(rate_limit: str | float | None) -> int:
    """A limit as it is asked for: text like ``100MB/s``, or bytes a second; 0 for None.

    Raises ConfigurationError for a text that is none, and OSError(EINVAL) for such a number.
    """
    if rate_limit is None:
        return 0
    if isinstance(rate_limit, str):
        return parse_rate(rate_limit)
    if not 1 <= rate_limit <= RATE_MAX:
        raise OSError(errno.EINVAL, f"{rate_limit} is no rate: give bytes a second, 1 or more")
    return int(rate_limit)


class Jobs:
    """``await machine.jobs()`` lists them; the others take the number of a job.

    Errors of those: ENOENT, there is no such job; EALREADY, it has ended.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def __call__(self) -> list[JobRow]:
        """The same as ``rows``."""
        return await self.rows()

    async def rows(self) -> list[JobRow]:
        """The jobs, the last that have ended among them, and other migrations under way."""
        return _rows(await self._machine.expect(ListJobs(), JobList))

    async def start(
        self,
        pid: int,
        from_nodes: Nodes,
        to_nodes: Nodes,
        *,
        rate_limit: str | float | None = None,
        new_page: str = "",
        caller: int = 0,
    ) -> int:
        """Begin a migration; the number of the job.  caller: pid of who does it, 0 the operator.

        It goes on when this connection ends.  Errors: those of ``Task.migrate_pages``.
        """
        masks = self._masks(from_nodes, to_nodes)
        limit = bytes_per_second(rate_limit)
        return await self._machine.call(StartJob(caller, pid, MAXNODE, *masks, new_page, limit))

    async def plan(
        self, pid: int, from_nodes: Nodes, to_nodes: Nodes, *, new_page: str = "", caller: int = 0
    ) -> Plan:
        """What such a migration would do; nothing changes."""
        masks = self._masks(from_nodes, to_nodes)
        asked = PlanMigration(caller, pid, MAXNODE, *masks, new_page)
        told = await self._machine.expect(asked, MigrationPlan)
        columns = told.source, told.target, told.start, told.end, told.fate, told.pages
        rows = zip(*(column.tolist() for column in columns), told.names, strict=True)
        return Plan(
            tuple(
                PlanRow(source, target, start, end, name, Fate(fate), pages)
                for source, target, start, end, fate, pages, name in rows
            ),
            told.rate,
        )

    def _masks(self, from_nodes: Nodes, to_nodes: Nodes) -> tuple[bytes, bytes]:
        nodes = self._machine.nodes
        return user_mask(nodes(from_nodes)), user_mask(nodes(to_nodes))

    async def pause(self, job: int) -> None:
        """Returns when it holds no lock any more, and nothing of it is isolated."""
        await self._machine.call(SetJob(job, Wish.PAUSE))

    async def resume(self, job: int) -> None:
        """Let it go on."""
        await self._machine.call(SetJob(job, Wish.RUN))

    async def cancel(self, job: int) -> None:
        """Returns when it has ended; what had moved stays moved."""
        await self._machine.call(SetJob(job, Wish.CANCEL))

    async def wait(self, job: int) -> int:
        """Pages that could not be moved, when the job has ended.

        Errors: ENOENT, those of ``Task.migrate_pages``, ECANCELED; IndefiniteError, the
        coordinator has died with it.
        """
        (row,) = _rows(await self._machine.expect(WaitJob(job), JobList))
        if row.state == JobState.LOST:
            said = f"the coordinator died with job {job}: what it had moved by then stays moved"
            raise IndefiniteError(errno.ENODEV, said)
        if row.result < 0:
            raise OSError(-row.result, f"job {job}: {os.strerror(-row.result)}")
        return row.result

    async def finish(self, job: int) -> int:
        """``wait`` for a job of one's own: whoever is cancelled meanwhile cancels it."""
        try:
            return await self.wait(job)
        except (trio.Cancelled, KeyboardInterrupt):
            with trio.move_on_after(CANCEL_SECONDS, shield=True), suppress(OSError):
                await self.cancel(job)
            raise


def _rows(told: JobList) -> list[JobRow]:
    return [
        JobRow(
            job=int(told.job[at]),
            pid=int(told.pid[at]),
            caller=int(told.caller[at]),
            state=JobState(int(told.state[at])),
            wish=Wish(int(told.wish[at])),
            pairs=tuple(zip(told.pairs[at][::2], told.pairs[at][1::2], strict=True)),
            total=int(told.total[at]),
            settled=int(told.settled[at]),
            moved=int(told.moved[at]),
            retries=int(told.retries[at]),
            rate_limit=int(told.rate_limit[at]),
            rate=told.rate[at],
            seconds=told.seconds[at],
            eta=None if told.eta[at] < 0 else told.eta[at],
            result=told.result[at],
        )
        for at in range(told.job.size)
    ]
