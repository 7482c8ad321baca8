"""One seed, or many: run, judge, and say what a person needs in order to look into a failure."""

from __future__ import annotations

import gc
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from coordinator.replay import differences, replay
from numalab.checker import (
    Finding,
    Verdict,
    check_conservation,
    check_contents,
    check_leaks,
    check_placement,
    invalid,
)
from numalab.simulation.cluster import FAULTS_END, PAGE_SIZE, Cluster, Plan, draw_plan, with_crashes
from numalab.simulation.compaction import Compaction, entries_of
from numalab.simulation.load import Driver
from numalab.simulation.story import diagram, story
from protocol.schema import COORDINATOR
from protocol.syscalls import Exit

#: After the network healed, everything must be answered within so many virtual seconds.
BOUND_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Care:
    """How closely a run is looked at.

    core: the invariants of a Core are looked at after so many of its events (World says more).
    tables: tables are held against zones after so many events.
    """

    core: int
    tables: int


CLOSE = Care(core=1, tables=16)
#: A seed is run so first, and once more with a close look if anything was wrong.
PASSING = Care(core=16, tables=64)


@dataclass(frozen=True, slots=True)
class Result:
    """How a seed ended.  sentence: the first finding, empty if all is well.

    seconds: virtual ones.  hits: how often the fault at a step of a migration happened.
    tally: quiet calls by what they were and what they met.
    report: the plan, the story of the page and the diagram, of a seed that failed.
    """

    seed: int
    ok: bool
    sentence: str
    events: int
    journal_digest: str
    seconds: float
    tally: Counter[str]
    hits: int = 0
    report: str = ""


class Failed(Exception):
    """The first finding ends a run."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.sentence)
        self.finding = finding


#: A coordinator that is new to the client refuses what was meant for the one before.
UNLINKS = 2


class Run:
    """A seed under way."""

    def __init__(self, plan: Plan, care: Care = CLOSE) -> None:
        self.plan, self.care = plan, care
        self.cluster = Cluster(self.plan, every=care.core)
        self.world = self.cluster.world
        self.driver = Driver(self.cluster)
        self.compaction = Compaction(plan.seed)
        self.world.watches.append(self._watch)

    def to_the_end(self) -> None:
        """Faults, then none, then nothing under way, then no task.  Raises Failed."""
        self.driver.start()
        self.world.run_for(FAULTS_END)
        self.world.heal()
        self._until(lambda: self.driver.done() and not self.cluster.recovering, "some order")
        self.driver.release_all(self.cluster.clients[0])
        self.driver.kinds.calm_devices(self.cluster.clients[0])
        self._until(self._quiet, "letting go of pages")
        self._check_settled()
        for pid in list(self.driver.draws.tasks):
            self.driver.ask(self.cluster.clients[0], Exit(pid), lambda _: None)
        self._until(self._quiet, "exit")
        for _ in range(UNLINKS):
            self.driver.kinds.unlink_all()
            self._until(self._quiet, "unlink")
        self._check_empty()

    def _until(self, done: Callable[[], bool], what: str) -> None:
        self.world.run_until(done, within=BOUND_SECONDS, what=what)
        self.world.check()

    def _quiet(self) -> bool:
        return self.driver.quiet() and self.cluster.idle()

    def _watch(self, name: str) -> None:
        if name == COORDINATOR:
            self.compaction.watch(self.cluster.memory, self.world.processes[name].journal)
        if self.driver.history.findings or self.driver.findings:
            self._raise(self.driver.history.findings)
            self._raise(self.driver.findings)
        if self.world.events % self.care.tables == 0 and not self.cluster.recovering:
            frames = self.cluster.frames()
            self._raise(check_placement(self.cluster.entries(), frames, settled=False))
            self._raise(check_conservation(frames, settled=False))

    def _check_settled(self) -> None:
        """Nothing is under way: tables, zones and contents agree to the last frame."""
        entries, frames = self.cluster.entries(), self.cluster.frames()
        self._raise(check_placement(entries, frames, settled=True))
        self._raise(check_conservation(frames, settled=True))
        self._raise(check_leaks(entries, frames))
        words = self.driver.history.words(self.world.now)
        self._raise(check_contents(words, self.cluster.locate, frames))
        memory = self.cluster.memory
        for journal in (self.world.processes[COORDINATOR].journal, entries_of(memory)):
            told = replay(self.cluster.topology, journal)
            self._raise([invalid(f"{line}.") for line in differences(told, memory)])

    def _check_empty(self) -> None:
        """The last task is gone, and every frame is free."""
        tasks = list(self.cluster.memory.tasks)
        for frames in self.cluster.frames():
            if frames.pfn.size and not tasks:
                sentence = f"frame {frames.pfn[0]} of node {frames.nid} outlives the last task."
                raise Failed(invalid(sentence))

    def _raise(self, findings: list[Finding]) -> None:
        for finding in findings:
            if finding.verdict == Verdict.INVALID:
                raise Failed(finding)

    def report(self, pid: int, address: int) -> str:
        """What a person reads: the plan, the page's story, the last messages."""
        parts = [self.plan.describe()]
        if pid:
            parts.append(story(self.world, pid, address, PAGE_SIZE))
        parts.append(diagram(self.world))
        return "\n\n".join(parts)


def plan_of(seed: int, *, crashes: bool = False) -> Plan:
    """What the seed decides; ``crashes``: that processes die, too."""
    return with_crashes(draw_plan(seed)) if crashes else draw_plan(seed)


def run_seed(seed: int, *, crashes: bool = False) -> Result:
    """Run one seed to its end; never raises for what the machine does wrong."""
    return run_plan(plan_of(seed, crashes=crashes))


def run_plan(plan: Plan) -> Result:
    """Run one plan to its end; never raises for what the machine does wrong.

    What a passing look finds is told as a close one sees it: the first event that is wrong.
    """
    passing = _run(plan, PASSING)
    if passing.ok:
        return passing
    close = _run(plan, CLOSE)
    return passing if close.ok else close


@contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection inside: what a world is made of lives until its end.

    A collector that looks at all of it again and again finds nothing.  It finds the whole world,
    which is young then, with its first look after the end.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@_uncollected()
def _run(plan: Plan, care: Care) -> Result:
    run = Run(plan, care)
    sentence, pid, address, trace = "", 0, 0, ""
    try:
        run.to_the_end()
    except Failed as failed:
        sentence, pid = failed.finding.sentence, failed.finding.pid
        address = failed.finding.address
    except Exception as error:  # Whatever a Core raises is a fault of ours, and ends the run.
        sentence = f"{type(error).__name__}: {error}"
        trace = traceback.format_exc(limit=-6)
    world = run.world
    report = "" if not sentence else "\n\n".join(filter(None, (trace, run.report(pid, address))))
    return Result(
        plan.seed,
        not sentence,
        sentence,
        world.events,
        world.journal_digest(),
        world.now,
        run.driver.tally,
        0 if run.cluster.step is None else run.cluster.step.hits,
        report,
    )


def run_seeds(
    first: int, last: int, *, processes: int = 2, crashes: bool = False
) -> Iterator[Result]:
    """The seeds ``first`` to ``last`` (inclusive), in their order, in so many processes."""
    seeds, run_one = range(first, last + 1), partial(run_seed, crashes=crashes)
    if processes == 1 or len(seeds) == 1:
        yield from map(run_one, seeds)
        return
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(run_one, seeds, chunksize=8)


def tell_page(seed: int, address: int, pid: int | None = None, *, crashes: bool = False) -> str:
    """Run a seed and tell the story of the page at ``address`` (bytes) of one or every task."""
    run = Run(plan_of(seed, crashes=crashes))
    ended = "it ended well"
    try:
        run.to_the_end()
    except Exception as error:
        ended = str(error)
    pids = sorted(run.driver.history.spaces) if pid is None else [pid]
    stories = (story(run.world, one, address, PAGE_SIZE) for one in pids)
    return "\n\n".join((f"seed {seed}: {ended}", *stories))


def draw_diagram(seed: int, last: int = 60, *, crashes: bool = False) -> str:
    """Run a seed and draw its last messages."""
    run = Run(plan_of(seed, crashes=crashes))
    try:
        run.to_the_end()
    except Exception as error:
        return f"seed {seed}: {error}\n\n{diagram(run.world, last)}"
    return f"seed {seed}: it ended well\n\n{diagram(run.world, last)}"
