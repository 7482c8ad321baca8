"""A migration job: migrate_pages(2) as a loop of slices, each of which is a whole migration.

A slice takes mmap_sem for read, moves a bounded number of pages of one pair of nodes with
migrate_pages(), and lets go of everything before the next one begins.  Between two slices, and
nowhere else, a job is paused, cancelled, or waits for its rate limit; so then it holds no lock,
and munmap and fork go on.  The loop is a call of the coordinator and dies with it: the journal
knows of a job that has begun, and the next coordinator calls it lost.  What it moved stays moved.
"""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.calls import PARKED, Steps, down_read, up_read
from coordinator.job import Job, RateLimit, SliceSize
from coordinator.life import State
from coordinator.memory import Memory
from coordinator.mempolicy import migrate_list, migrate_prep, new_node_page, node_pairs
from coordinator.migrate import migrate_vmas
from coordinator.mm import Mm
from coordinator.pagelist import PageList
from coordinator.plan import Pairs, next_slice, pages_to_try, plan
from coordinator.syscalls import Kernel, Migrating
from protocol.jobs import JobState, Wish
from protocol.messages import Done
from protocol.notes import JobEnded, JobsCounted
from protocol.profile import Profile
from protocol.schema import Message

ESRCH, EIO, ECANCELED = 3, 5, 125
#: Chunks of a slice: two are copied at a time.
CHUNKS = 2
#: How often a job looks whether a node is back.
LOOK_SECONDS = 0.25


def pairs_of(memory: Memory, call: Migrating, profile: Profile) -> Pairs:
    """The pairs of nodes in the order of working; a source that is not there has no pages."""
    skip = profile.skip_common_sources
    pairs = node_pairs(call.from_nodes, call.to_nodes, skip_common_sources=skip)
    return [pair for pair in pairs if pair[0] in memory.mem_map]


def start_job(
    memory: Memory, kernel: Kernel, call: Migrating, rate_limit: int
) -> tuple[Job, Steps[Message]]:
    """A new job, and the steps of its work."""
    pairs = pairs_of(memory, call, kernel.profile)
    flat = tuple(nid for pair in pairs for nid in pair)
    mm, caller = call.task.mm, call.settings.caller
    job = memory.jobs.start(call.task.pid, caller, flat, rate_limit, memory.now)
    job.total = pages_to_try(plan(memory, mm, pairs, call.flags))
    memory.records.append(job.noted(memory.now))
    count_jobs(memory)
    return job, Work(memory, kernel, job, call, pairs).run()


def count_jobs(memory: Memory) -> None:
    """Report how the jobs stand, if that is news."""
    jobs = [job for job in memory.jobs if job.under_way]
    states = [job.state for job in jobs]
    counted = JobsCounted(
        states.count(JobState.RUNNING),
        states.count(JobState.PAUSED),
        states.count(JobState.WAITING),
        sum(max(job.total - job.settled, 0) for job in jobs),
        max((job.eta(memory.now) for job in jobs), default=0.0),
    )
    if counted != memory.jobs.counted:
        memory.jobs.counted = counted
        memory.notes.append(counted)


@dataclass(slots=True)
class Work:
    """A job under way."""

    memory: Memory
    kernel: Kernel
    job: Job
    call: Migrating
    pairs: Pairs

    @property
    def mm(self) -> Mm:
        return self.call.task.mm

    def run(self) -> Steps[Message]:
        """All of it; the answer is the job's result."""
        job, memory = self.job, self.memory
        limit = RateLimit(job.rate_limit, memory.now)
        most = CHUNKS * self.kernel.chunk_pages
        size = SliceSize(most, job.rate_limit, memory.topology.page_size)
        job.result = yield from self._all_pairs(limit, size)
        state = JobState.DONE if job.result >= 0 else JobState.FAILED
        self._become(JobState.CANCELLED if job.result == -ECANCELED else state)
        if state == JobState.DONE:
            job.total = job.settled
        memory.records.append(job.noted(memory.now))
        memory.notes.append(JobEnded(job.state.name.lower()))
        memory.jobs.forget()
        count_jobs(memory)
        return Done(job.result)

    def _all_pairs(self, limit: RateLimit, size: SliceSize) -> Steps[int]:
        """As do_migrate_pages: pages not moved, or the first negative errno (K 1.5 - 1.8)."""
        if not (yield from self._turn(limit)):
            return -ECANCELED
        error = yield from self._offer_to_hooks()
        if error:
            return min(error, 0)
        stayed = 0
        for number, pair in enumerate(self.pairs):
            if number:
                rest = plan(self.memory, self.mm, self.pairs[number:], self.call.flags)
                self.job.total = self.job.settled + pages_to_try(rest)
            page: int | None = 0
            while page is not None:
                if not (yield from self._turn(limit, pair)):
                    return -ECANCELED
                page, result = yield from self._slice(pair, page, limit, size)
                if result < 0:
                    return result
                stayed += result
        # The last slice is paid for as well; there is nothing left to cancel.
        yield from self._turn(limit)
        return stayed

    def _offer_to_hooks(self) -> Steps[int]:
        """vm_ops->migrate of the vmas that have it: each moves all of its vma at once."""
        yield from down_read(self.mm)
        try:
            return (
                yield from migrate_vmas(
                    self.memory,
                    self.mm,
                    from_nodes=self.call.from_nodes,
                    to_nodes=self.call.to_nodes,
                    flags=self.call.flags,
                    profile=self.kernel.profile,
                )
            )
        finally:
            up_read(self.memory, self.mm)

    # ---- one slice -------------------------------------------------------------------------

    def _slice(
        self, pair: tuple[int, int], page: int, limit: RateLimit, size: SliceSize
    ) -> Steps[tuple[int | None, int]]:
        """Move the next pages; the page to go on from, and pages not moved or -errno."""
        memory, call = self.memory, self.call
        pagelist, goes_on = PageList(self.mm.pid), None
        yield from down_read(self.mm)
        started = memory.now
        try:
            if not self.mm.users:
                return None, -ESRCH
            yield from migrate_prep(memory, self.mm)
            goes_on, left = next_slice(
                memory, self.mm, pair[0], call.flags, page, size.pages, pagelist
            )
            chooser = call.loaded or new_node_page
            self.job.pagelist = pagelist if pagelist.rows else None
            result = yield from migrate_list(
                memory, pagelist, left, pair[1], call.settings, chooser
            )
        finally:
            self.job.pagelist = None
            up_read(memory, self.mm)
        if pagelist.rows:
            size.took(pagelist.rows, memory.now - started)
            self._settled(pagelist, limit, started)
        wrong = call.loaded is not None and call.loaded.wrong
        return goes_on, -EIO if wrong else result

    def _settled(self, pagelist: PageList, limit: RateLimit, started: float) -> None:
        job, moved = self.job, pagelist.count(State.MOVED)
        job.settled += pagelist.rows
        job.moved += moved
        job.retries += pagelist.retries
        job.total = max(job.total, job.settled)
        limit.moved(moved * self.memory.topology.page_size, started)
        paid = max(limit.paid, self.memory.now)
        job.speed.settled(job.settled, job.seconds(paid))
        count_jobs(self.memory)

    # ---- between two slices ----------------------------------------------------------------

    def _turn(self, limit: RateLimit, nodes: tuple[int, ...] = ()) -> Steps[bool]:
        """Wait until the job may go on to work on these nodes; False: it is cancelled."""
        while True:
            if self.job.wish == Wish.CANCEL:
                return False
            if self.job.wish == Wish.PAUSE:
                self._become(JobState.PAUSED)
            elif self.memory.lost & frozenset(nodes):
                self._become(JobState.WAITING)
                self._wake_at(self.memory.now + LOOK_SECONDS)
            else:
                if self.job.state != JobState.RUNNING:
                    limit.goes_on(self.memory.now)
                self._become(JobState.RUNNING)
                if limit.paid <= self.memory.now:
                    return True
                self._wake_at(limit.paid)
            yield PARKED

    def _wake_at(self, time: float) -> None:
        if not any(self.memory.now < alarm <= time for alarm in self.memory.alarms):
            self.memory.alarms.append(time)

    def _become(self, state: JobState) -> None:
        if self.job.state != state:
            self.job.become(state, self.memory.now)
            self.memory.woken = True
            count_jobs(self.memory)


def calls_under_way(memory: Memory) -> list[tuple[PageList, int]]:
    """The page lists of other migrations, and how many pages of each are settled."""
    mine = [job.pagelist for job in memory.jobs]
    return [
        (pages, pages.rows - pages.unsettled())
        for pages in memory.page_lists
        if not any(pages is other for other in mine)
    ]
