"""Stress: load, migrations and faults on a machine of real processes, and a verdict at the end.

The seed decides the load and the schedule of faults; which comes first on a live machine it cannot
decide, so a run with the same seed is alike and not the same.
"""

from __future__ import annotations

import os
import random
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import trio

from numalab import cluster, processes
from numalab.checker import Finding, Verdict, invalid, verdict
from numalab.faults import KINDS, Crash, Schedule, draw_schedule, format_schedule
from numalab.locate import read_machine
from numalab.machine import Machine, connect
from numalab.rundirectory import JOURNAL
from numalab.stress_clients import Fleet
from numalab.stress_events import FAULT_EVENTS, TRACE, KeptTrace
from numalab.stress_harm import Clients, Harm, write_faults
from numalab.stress_verdict import (
    Counted,
    check_history,
    check_journal,
    check_machine,
    check_nothing_left,
    check_refusals,
    summarize,
)
from protocol.live.interference import Counts
from protocol.schema import node_name
from protocol.topology import Topology

#: After the faults everything must be answered within so many seconds.
HEAL_SECONDS = 60.0
FILE = "/stress"
#: So that a client that stands still does not lose its tasks.
LEASE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Options:
    """seconds: of load and faults.  schedule: None to draw one of these ``kinds`` from the seed.

    directory: where the results go.  existing: run directory of a machine that is up already.
    pages: of each area of a client.  clients: how many.  secure: CURVE on every socket.
    """

    directory: Path
    seed: int
    seconds: float = 60.0
    nodes: int = 4
    memory: str = "32M"
    profile: str = "seed"
    schedule: Schedule | None = None
    kinds: tuple[str, ...] = KINDS
    existing: Path | None = None
    clients: int = 3
    pages: int = 128
    secure: bool = False


@dataclass(slots=True)
class Outcome:
    """How it ended; ``document`` is verdict.json."""

    verdict: Verdict
    sentence: str
    document: dict[str, object] = field(default_factory=dict)


Say = Callable[[str], None]


async def stress(options: Options, say: Say) -> Outcome:
    """Run it; gives the verdict.  say: told once a second how far it is.

    Raises ConfigurationError, MachineUnreachable.
    """
    schedule = options.schedule
    if schedule is None:
        names = [node_name(nid) for nid in range(options.nodes)]
        draw = random.Random(f"schedule {options.seed}")
        schedule = draw_schedule(draw, names, options.seconds * 0.9, options.kinds)
    directory = options.directory
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    (directory / "schedule").write_text(format_schedule(schedule))
    (directory / "configuration.json").write_bytes(_configuration(options))
    write_faults(directory, (), options.seed)
    async with _machine(options) as place:
        run = _Run(options, schedule, place, say)
        await run.to_the_end()
        for name, page in (await _scrape(place)).items():
            processes.write_private(directory / f"{name}.metrics", page.encode())
        if options.existing is None:
            await _keep_journal(place, directory)
            run.findings += await check_journal(directory / JOURNAL, run.counted)
    run.findings += await trio.to_thread.run_sync(check_history, directory)
    outcome = run.outcome()
    (directory / "verdict.json").write_bytes(msgspec.json.format(_json(outcome.document)))
    return outcome


def _json(document: object) -> bytes:
    return msgspec.json.encode(document)


def _configuration(options: Options) -> bytes:
    plain = {
        name: str(value) if isinstance(value, Path) else value
        for name in Options.__dataclass_fields__
        if name != "schedule"
        for value in [getattr(options, name)]
    }
    return msgspec.json.format(_json(plain))


@asynccontextmanager
async def _machine(options: Options) -> AsyncIterator[Path]:
    """Where a machine runs: that which is there, or one for as long as the block lasts."""
    if options.existing is not None:
        yield options.existing
        return
    settings = cluster.Settings(
        Topology.uniform(options.nodes, options.memory),
        profile=options.profile,
        lease=LEASE_SECONDS,
        faults=str(options.directory / "faults.json"),
        secure=options.secure,
    )
    place = options.directory / "machine"
    await cluster.up(settings, place, parent=os.getpid())
    try:
        yield place
    finally:
        with trio.CancelScope(shield=True):
            await cluster.down(place)


async def _scrape(place: Path) -> dict[str, str]:
    """The metrics pages of the processes."""
    pages = {}
    for row in read_machine(place).processes:
        if row.metrics:
            with suppress(OSError):
                pages[row.name] = await trio.to_thread.run_sync(_read_page, row.metrics)
    return pages


def _read_page(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as page:
        return str(page.read().decode())


async def _keep_journal(place: Path, directory: Path) -> None:
    """The coordinator ends first: until then the journal is its own."""
    process = cluster.running(place).get("coordinator")
    if process is not None:
        await processes.end([process], 5.0)
    _copy(place, directory)


def _copy(place: Path, directory: Path) -> None:
    """The journal, and what the processes said."""
    for path in (*place.glob(f"{JOURNAL}*"), *place.glob("*.log")):
        (directory / path.name).write_bytes(path.read_bytes())


class _Run:
    """One stress under way."""

    def __init__(self, options: Options, schedule: Schedule, place: Path, say: Say) -> None:
        self._options, self._schedule, self._place, self._say = options, schedule, place, say
        self.findings: list[Finding] = []
        self.counted = Counted()
        self._seconds = 0.0
        self._trace = KeptTrace(options.directory / TRACE)

    async def to_the_end(self) -> None:
        """Load and faults, then none, then the checks of a machine at rest."""
        options = self._options
        async with AsyncExitStack() as stack:
            machine = await stack.enter_async_context(connect(self._place))
            file = await machine.create_file(FILE, options.pages)
            fleet = await stack.enter_async_context(
                Fleet.open(self._place, options.directory, options.seed, FILE, options.pages)
            )
            cpus = [cpu for row in (await machine.hardware()).cpus for cpu in row]
            for number in range(options.clients):
                await fleet.start(cpus[number % len(cpus)])
            self._trace.machine = machine
            await self._suffer(machine, fleet)
            healed = await self._await_healed(machine)
            self.findings += fleet.findings
            if not healed:
                return
            self._count(fleet)
            with trio.move_on_after(HEAL_SECONDS) as limit:
                try:
                    await self._judge(machine, fleet)
                    await fleet.leave()
                    await file.unlink()
                    if options.existing is None:
                        self.findings += await check_nothing_left(machine)
                except OSError as error:
                    sentence = f"The machine at rest refused a question: {error.strerror}."
                    self.findings.append(invalid(sentence))
            if limit.cancelled_caught:
                self.findings.append(
                    invalid(f"Something was not answered {HEAL_SECONDS:g} s after the last fault.")
                )

    async def _judge(self, machine: Machine, fleet: Fleet) -> None:
        """No faults any more, and then no load."""
        await fleet.stop()
        self.findings += await check_machine(machine, fleet.pids)
        await fleet.read()
        self._count(fleet)
        self.counted.vmstat = await machine.vmstat()
        await self._trace.take()
        lost = any(isinstance(fault, Crash) and not fault.keep_zone for fault in self._schedule)
        self.findings += check_refusals(Counter(self.counted.progress.refused), zones_lost=lost)

    async def _suffer(self, machine: Machine, fleet: Fleet) -> None:
        options = self._options
        write_faults(options.directory, self._schedule, options.seed)
        counts = Counts(options.directory / "counts")
        clients = Clients(fleet.kill_one, fleet.pause_one, fleet.pages)
        events = options.directory / FAULT_EVENTS
        harm = Harm(self._place, self._schedule, counts, machine, clients, events)
        started = time.monotonic()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(harm.run)
            nursery.start_soon(self._trace.keep)
            with trio.move_on_after(options.seconds):
                while True:
                    await trio.sleep(1)
                    self._tell(fleet, harm, time.monotonic() - started)
            self.counted.hits = harm.hit()
            write_faults(options.directory, (), options.seed)
            fleet.resume()
            harm.end()
            self._trace.end()
        self._seconds = time.monotonic() - started
        self.counted.restarts = harm.restarts
        self.findings += harm.findings

    def _tell(self, fleet: Fleet, harm: Harm, seconds: float) -> None:
        made = fleet.total()
        faults = sum(hits for _, hits in harm.hit())
        self._say(
            f"{seconds:.0f} s: {made.operations} operations, {made.moves} migrations, "
            f"{faults} faults, {made.indefinite} indefinite"
        )

    async def _await_healed(self, machine: Machine) -> bool:
        """All processes are up and answer."""
        with trio.move_on_after(HEAL_SECONDS):
            while True:
                with suppress(OSError):
                    hardware = await machine.hardware()
                    if all(hardware.up.tolist()):
                        return True
                await trio.sleep(0.1)
        missing = ", ".join(sorted(cluster.running(self._place))) or "none"
        self.findings.append(
            invalid(
                f"The machine did not come up again within {HEAL_SECONDS:g} s after the last "
                f"fault; of its processes these run: {missing}."
            )
        )
        return False

    def _count(self, fleet: Fleet) -> None:
        self.counted.progress = fleet.total()

    def outcome(self) -> Outcome:
        result = verdict(self.findings)
        sentence, document = summarize(
            result, self.findings, self.counted, self._schedule, self._seconds
        )
        document |= {"seed": self._options.seed, "directory": str(self._options.directory)}
        return Outcome(result, sentence, document)
