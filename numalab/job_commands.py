"""The commands about migration jobs, as functions that know nothing of a command line."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict

import trio

from numalab.commands import POLL_SECONDS, Place, about, loaded, migrating
from numalab.console import Answer, CommandFailed, Exit, Heed
from numalab.job_rows import JobRow, Plan
from numalab.job_text import jobs_text, plan_lines, row_document
from numalab.jobs import CANCEL_SECONDS
from numalab.locate import MachineUnreachable
from numalab.machine import Machine
from numalab.orders import IndefiniteError
from protocol.jobs import Fate, JobState, Wish
from protocol.nodemask import format_nodes

_DONE = {Wish.RUN: "goes on", Wish.PAUSE: "is paused", Wish.CANCEL: "is cancelled"}


async def jobs(place: Place) -> Answer:
    """The jobs, and other migrations under way."""
    async with place.connected() as machine:
        rows = await machine.jobs()
    return Answer(jobs_text(rows), {"jobs": [row_document(row) for row in rows]})


async def set_job(place: Place, job: int, wish: Wish) -> Answer:
    """Pause it, let it go on, or cancel it."""
    async with place.connected() as machine:
        calls = {
            Wish.RUN: machine.jobs.resume,
            Wish.PAUSE: machine.jobs.pause,
            Wish.CANCEL: machine.jobs.cancel,
        }
        async with _about_job(machine, job):
            await calls[wish](job)
        row = await _find(machine, job)
    state = "" if row is None else row.state.name.lower()
    if row is not None and wish == Wish.CANCEL and row.state != JobState.CANCELLED:
        raise CommandFailed(f"Job {job} was over before it could be cancelled: it is {state}.")
    return Answer(f"Job {job} {_DONE[wish]}.\n", {"job": job, "state": state})


async def _find(machine: Machine, job: int) -> JobRow | None:
    return next((row for row in await machine.jobs() if row.job == job), None)


@asynccontextmanager
async def _about_job(machine: Machine, job: int) -> AsyncIterator[None]:
    """Say what an errno of a call about a job means."""
    try:
        yield
    except IndefiniteError:
        raise
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise CommandFailed(
                f"There is no job {job} in this machine: 'numalab jobs' lists those that there are."
            ) from None
        if error.errno != errno.EALREADY:
            raise
        row = await _find(machine, job)
        how = "" if row is None else f": it is {row.state.name.lower()}"
        raise CommandFailed(f"Job {job} has ended{how}.") from None


# ---- migratepages --------------------------------------------------------------------------


async def start(
    place: Place, pid: int, from_nodes: str, to_nodes: str, *, rate_limit: int, new_page: str
) -> Answer:
    """Begin a migration in the background; the number of its job."""
    async with place.connected() as machine:
        source, target = machine.nodes(from_nodes), machine.nodes(to_nodes)
        async with about(machine, pid), loaded(new_page):
            job = await machine.jobs.start(
                pid, source, target, rate_limit=rate_limit or None, new_page=new_page
            )
    return Answer(f"{job}\n", {"pid": pid, "job": job})


async def migrate(
    place: Place,
    pid: int,
    from_nodes: str,
    to_nodes: str,
    heed: Heed,
    *,
    rate_limit: int,
    timed: bool = False,
    new_page: str = "",
) -> Answer:
    """The same, and wait for it: who is interrupted meanwhile cancels it."""
    async with place.connected() as machine:
        source, target = machine.nodes(from_nodes), machine.nodes(to_nodes)
        before, started = await machine.emulated(), trio.current_time()
        async with about(machine, pid), loaded(new_page):
            job = await machine.jobs.start(
                pid, source, target, rate_limit=rate_limit, new_page=new_page
            )
            not_moved = await _finish(place, machine, job, heed)
        wall, after = trio.current_time() - started, await machine.emulated()
    time = migrating(after, pid, 1) + migrating(before, pid, -1)
    document = {"pid": pid, "job": job, "not_moved": not_moved, "emulated": time, "wall": wall}
    said = f"{time * 1e3:.3f} ms of emulated time, {wall * 1e3:.3f} ms on the clock.\n" * timed
    if not_moved:
        sentence = (
            f"{not_moved} pages of task {pid} stayed on nodes {format_nodes(source)}: somebody "
            "holds them, or they are shared or find no room, so try again later."
        )
        return Answer("", document, Exit.PARTLY, said + sentence)
    return Answer("", document, sentence=said.rstrip("\n"))


async def _finish(place: Place, machine: Machine, job: int, heed: Heed) -> int:
    not_moved, failure = 0, None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch, machine, job, heed)
        try:
            not_moved = await machine.jobs.wait(job)
        except OSError as error:
            # Raised outside of the nursery: it is no group of failures.
            failure = error
        except trio.Cancelled:
            await _cancel(place, job)
            raise
        nursery.cancel_scope.cancel()
    if failure is not None and failure.errno == errno.ECANCELED:
        raise CommandFailed(await _cancelled(machine, job), Exit.PARTLY)
    if failure is not None:
        raise failure
    return not_moved


async def _cancel(place: Place, job: int) -> None:
    """Through another connection: that of the command is being closed."""
    with trio.move_on_after(CANCEL_SECONDS, shield=True), suppress(OSError, MachineUnreachable):
        async with place.connected() as machine:
            await machine.jobs.cancel(job)


async def _cancelled(machine: Machine, job: int) -> str:
    row = await _find(machine, job)
    moved = "" if row is None else f": {row.moved} of {row.total} pages had moved, and stay moved"
    return f"Job {job} was cancelled{moved}."


async def _watch(machine: Machine, job: int, heed: Heed) -> None:
    while True:
        with suppress(OSError):
            row = await _find(machine, job)
            if row is not None:
                heed("move", row.settled, row.total)
        await trio.sleep(POLL_SECONDS)


async def plan(
    place: Place, pid: int, from_nodes: str, to_nodes: str, *, rate_limit: int, new_page: str
) -> Answer:
    """What a migration would do; nothing changes."""
    async with place.connected() as machine:
        source, target = machine.nodes(from_nodes), machine.nodes(to_nodes)
        async with about(machine, pid), loaded(new_page):
            found = await machine.jobs.plan(pid, source, target, new_page=new_page)
        hardware, size = await machine.hardware(), machine.page_size
    free = dict(zip(hardware.nid.tolist(), hardware.free.tolist(), strict=True))
    seconds = _seconds(found, size, rate_limit)
    notes = _without_room(found, free)
    if new_page:
        notes.append(f"new_page '{new_page}' chooses where each page goes, so TO may be another.")
    document = {
        "pid": pid,
        "rows": [asdict(row) | {"fate": row.fate.name.lower()} for row in found.rows],
        "pages": found.pages(Fate.MOVES),
        "bytes": found.pages(Fate.MOVES) * size,
        "staying": found.pages(*(fate for fate in Fate if fate != Fate.MOVES)),
        "seconds": seconds,
        "notes": notes,
    }
    return Answer("\n".join([*plan_lines(found, size, seconds), *notes]) + "\n", document)


def _seconds(found: Plan, page_size: int, rate_limit: int) -> float | None:
    """How long it would take: at the rate of late, or at the limit if that is lower."""
    moving = found.pages(Fate.MOVES)
    times = []
    if found.rate:
        times.append(moving / found.rate)
    if rate_limit:
        times.append(moving * page_size / rate_limit)
    return max(times, default=None)


def _without_room(found: Plan, free: dict[int, int]) -> list[str]:
    """Sentences on the nodes that are full before all that goes there has come."""
    room, least = dict(free), dict(free)
    for row in found.rows:
        if row.fate == Fate.MOVES:
            room[row.target] -= row.pages
            least[row.target] = min(least[row.target], room[row.target])
            room[row.source] += row.pages
    return [
        f"node {nid} has {free[nid]} free pages, {-short} too few: 'numalab hardware' shows where "
        "there is room."
        for nid, short in sorted(least.items())
        if short < 0
    ]
