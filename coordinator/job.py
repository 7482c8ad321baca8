"""What a migration job is: its numbers, its rate limit, how long it still takes.  Arithmetic only.

``jobs.py`` has the loop that works on one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from coordinator.job_records import JobNoted
from coordinator.pagelist import PageList
from protocol.jobs import JobState, Wish
from protocol.notes import JobsCounted

#: Seconds that a slice shall take, so that a pause does not wait long; and the least that it has.
SLICE_SECONDS = 0.08
FEW_PAGES, FEW_BYTES = 2048, 8 << 20
#: Pages of the first slice, of which nobody knows yet how long it takes.
FIRST_SLICE = 256
#: What a slice moves of a job with a rate limit, in seconds of its rate; of one that is late.
LIMITED_SECONDS, LATE_SECONDS = 0.05, 0.5
#: What a job that was held up may make up for, in seconds of its rate.
CREDIT_SECONDS = 1.0
#: Slices that the rate of late is taken from.
RECENT = 64
#: Jobs that have ended and are still told of.
REMEMBERED = 64

UNDER_WAY = (JobState.RUNNING, JobState.PAUSED, JobState.WAITING)


class RateLimit:
    """At most ``rate`` bytes a second (0: any number), by the time until which all is paid for.

    Whoever has moved something waits until then.  So the last bytes are waited for as well, and a
    whole job never takes less than its bytes divided by its rate.
    """

    def __init__(self, rate: int, now: float) -> None:
        self.rate = rate
        self.paid = now

    def moved(self, size: int, started: float) -> None:
        """``size`` bytes have moved since ``started``."""
        if self.rate:
            self.paid = max(self.paid, started - CREDIT_SECONDS) + size / self.rate

    def goes_on(self, now: float) -> None:
        """After a pause nothing is made up for."""
        self.paid = max(self.paid, now)


class SliceSize:
    """How many pages the next slice has: as many as moved in SLICE_SECONDS before, or fewer.

    A slice takes some time however small it is, and more of it while this host is busy with other
    things.  So few pages are never too many, and a job that cannot keep its rate with slices of
    LIMITED_SECONDS gets larger ones.
    """

    def __init__(self, most: int, rate_limit: int, page_size: int) -> None:
        self._most = most
        self._few = min(FEW_PAGES, max(FEW_BYTES // page_size, 1), most)
        self._per_second = rate_limit / page_size
        self._least = self._limit = max(int(self._per_second * LIMITED_SECONDS), 1)
        self._size = min(FIRST_SLICE, most)

    @property
    def pages(self) -> int:
        return min(self._size, self._limit) if self._per_second else self._size

    def took(self, pages: int, seconds: float) -> None:
        """A slice of ``pages`` is over; the next is half as large to twice as large."""
        wanted = 2 * pages if seconds <= 0 else int(pages * SLICE_SECONDS / seconds)
        fitting = min(max(wanted, self._size // 2), 2 * self._size)
        self._size = min(max(fitting, self._few), self._most)
        if not self._per_second:
            return
        paid = pages / self._per_second
        if seconds > 0.8 * paid:
            self._limit = min(2 * self._limit, max(int(self._per_second * LATE_SECONDS), 1))
        elif seconds < 0.3 * paid:
            self._limit = max(self._limit // 2, self._least)


class Speed:
    """Pages a second lately, of the time in which the job was let run."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque([(0.0, 0)], maxlen=RECENT)

    def settled(self, pages: int, seconds: float) -> None:
        """``pages`` in all were settled by ``seconds`` of running."""
        self._samples.append((seconds, pages))

    @property
    def pages_per_second(self) -> float:
        """0 while nothing is known."""
        (first, before), (last, after) = self._samples[0], self._samples[-1]
        return (after - before) / (last - first) if last > first else 0.0


@dataclass(slots=True)
class Job:
    """One job; ``since``: when it was let run last, ``ran``: seconds for which it ran before that.

    ``pairs``: source and target by turns, in the order of working.  Numbers of pages are those of
    ``protocol.jobs.JobList``.
    """

    number: int
    pid: int
    caller: int
    pairs: tuple[int, ...]
    rate_limit: int = 0
    state: JobState = JobState.RUNNING
    wish: Wish = Wish.RUN
    total: int = 0
    settled: int = 0
    moved: int = 0
    retries: int = 0
    result: int = 0
    since: float = 0.0
    ran: float = 0.0
    speed: Speed = field(default_factory=Speed)
    #: That of the slice under way.
    pagelist: PageList | None = None

    @property
    def under_way(self) -> bool:
        return self.state in UNDER_WAY

    def seconds(self, now: float) -> float:
        """For which it has been let run."""
        return self.ran + (now - self.since if self.state == JobState.RUNNING else 0.0)

    def become(self, state: JobState, now: float) -> None:
        """It stands there from now on; only a running one's time passes."""
        self.ran = self.seconds(now)
        self.state, self.since = state, now

    def pages_per_second(self, now: float) -> float:
        """Settled lately, or in all if it has ended; 0: nobody knows."""
        if self.under_way:
            return self.speed.pages_per_second
        seconds = self.seconds(now)
        return self.settled / seconds if seconds > 0 else 0.0

    def eta(self, now: float) -> float:
        """Seconds of running that it still takes at the rate of late; -1: nobody knows."""
        if not self.under_way:
            return 0.0
        rate = self.pages_per_second(now)
        return max(self.total - self.settled, 0) / rate if rate else -1.0

    def noted(self, now: float) -> JobNoted:
        """What the journal is told of it."""
        return JobNoted(
            self.number,
            self.pid,
            self.caller,
            self.state,
            self.pairs,
            self.rate_limit,
            self.total,
            self.settled,
            self.moved,
            self.retries,
            self.result,
            self.seconds(now),
        )


class Jobs:
    """All jobs that are told of, by number, in the order of starting."""

    def __init__(self) -> None:
        self._jobs: dict[int, Job] = {}
        self._next = 1
        #: What was reported of them last.
        self.counted = JobsCounted(0, 0, 0, 0, 0.0)

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs.values())

    def known(self) -> list[tuple[int, JobState]]:
        """The numbers of all, and how those stand that have ended or died with their loop."""
        return [(job.number, JobState.LOST if job.under_way else job.state) for job in self]

    def find(self, number: int) -> Job | None:
        return self._jobs.get(number)

    def start(
        self, pid: int, caller: int, pairs: tuple[int, ...], rate_limit: int, now: float
    ) -> Job:
        """A new one, which runs."""
        job = Job(self._next, pid, caller, pairs, rate_limit, since=now)
        self._keep(job)
        return job

    def restore(self, entry: JobNoted) -> None:
        """What the journal has told; what was under way then has died with its coordinator."""
        job = Job(entry.job, entry.pid, entry.caller, entry.pairs, entry.rate_limit)
        job.total, job.settled, job.moved = entry.total, entry.settled, entry.moved
        job.retries, job.result, job.ran = entry.retries, entry.result, entry.seconds
        state = JobState(entry.state)
        job.state = JobState.LOST if state in UNDER_WAY else state
        self._keep(job)

    def _keep(self, job: Job) -> None:
        self._jobs[job.number] = job
        self._next = max(self._next, job.number + 1)
        self.forget()

    def forget(self) -> None:
        """Of those that have ended the last are enough."""
        ended = [other.number for other in self if not other.under_way]
        for number in ended[:-REMEMBERED]:
            del self._jobs[number]
