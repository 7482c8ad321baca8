"""The commands about a machine as a whole, as functions that know nothing of a command line.

Each gives an ``Answer``, or raises what ``console.explain`` makes a sentence of.
"""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import trio

from numalab import cluster, revival, shell, sysfs_files
from numalab.checker import Verdict
from numalab.commands import Place
from numalab.console import Answer, Exit, Heed, say
from numalab.demo import Options, Screen
from numalab.demo import demo as play
from numalab.locate import MachineFile, MachineUnreachable, read_machine
from numalab.machine import connect
from numalab.stress_command import CODES
from numalab.workload import Schedule, work
from protocol.labels import Role
from protocol.live.exposition import Exposition
from protocol.live.process import serving_metrics
from protocol.nodemask import format_nodes
from protocol.topology import parse_size

#: How long the coordinator may take to answer ``status``.
STATUS_SECONDS = 2.0


# ---- a machine comes and goes --------------------------------------------------------------


async def up(settings: cluster.Settings, run_directory: Path, within: float) -> Answer:
    """Start a machine that outlives this program."""
    machine = await cluster.up(settings, run_directory, within=within)
    nodes = format_nodes(settings.topology.nids)
    text = (
        f"The machine is up, with nodes {nodes}: {machine.coordinator}\n"
        f"Its files are in {run_directory}\n"
    )
    return Answer(text, _machine_document(run_directory, machine))


async def down(run_directory: Path) -> Answer:
    """Stop a machine and remove all that it left."""
    if not await cluster.down(run_directory):
        raise MachineUnreachable(f"No machine runs in {run_directory}: there is nothing to stop.")
    return Answer(
        f"The machine in {run_directory} is down.\n", {"run_directory": str(run_directory)}
    )


async def restart(run_directory: Path, names: Sequence[str], within: float) -> Answer:
    """Start what has died again: with its zone, or from its journal."""
    started = await revival.restart_dead(run_directory, names, within=within)
    text = f"started again: {', '.join(started)}\n" if started else "nobody has died\n"
    return Answer(text, {"started": started})


async def status(run_directory: Path) -> Answer:
    """The processes of a local machine, its epoch, and which nodes answer."""
    machine = read_machine(run_directory)
    alive = cluster.running(run_directory)
    document = _machine_document(run_directory, machine)
    epoch, answering = 0, set[str]()
    sentence = f"The coordinator of the machine in {run_directory} does not answer."
    try:
        with trio.move_on_after(STATUS_SECONDS):
            async with connect(run_directory, within=STATUS_SECONDS) as connection:
                hardware = await connection.hardware()
                epoch = hardware.epoch
                answering = {f"node{nid}" for nid in hardware.nid[hardware.up != 0].tolist()}
                answering.add("coordinator")
                sentence = ""
    except MachineUnreachable:
        pass
    lines = [f"{'PROCESS':<12} {'PID':>8} {'STATE':<14} {'ADDRESS':<24} METRICS"]
    for row, entry in zip(machine.processes, document["processes"], strict=True):
        state = "up" if row.name in answering else "silent" if row.name in alive else "down"
        entry["state"] = state
        lines.append(f"{row.name:<12} {row.pid:>8} {state:<14} {row.address:<24} {row.metrics}")
    document["epoch"] = epoch
    lines.append(f"epoch {epoch}" if epoch else "epoch unknown")
    code = Exit.UNREACHABLE if sentence else Exit.DONE
    return Answer("\n".join(lines) + "\n", document, code, sentence)


def _machine_document(run_directory: Path, machine: MachineFile) -> dict[str, Any]:
    """Without the key: what is printed is often kept."""
    return {
        "run_directory": str(run_directory),
        "coordinator": machine.coordinator,
        "processes": [
            {
                "name": row.name,
                "pid": row.pid,
                "address": row.address,
                "metrics": row.metrics,
                "log": row.log,
            }
            for row in machine.processes
        ],
    }


# ---- the machine as the files of a host ---------------------------------------------------


async def write_sysfs(place: Place, directory: Path, *, watch: bool) -> Answer:
    """The machine as plain files; until this is cancelled if ``watch``."""
    with closing(sysfs_files.Tree(directory)) as files:
        async with place.connected() as machine:
            files.write(await sysfs_files.describe(machine))
            if watch:
                await sysfs_files.refresh(machine, files)
    return Answer("", {"directory": str(directory)})


async def run_shell(place: Place, command: Sequence[str], *, proc: bool) -> Answer:
    """A command that sees the machine in place of the nodes of this host; its exit code."""
    with tempfile.TemporaryDirectory(prefix="numalab-shell-") as directory:
        async with place.connected() as machine:
            code, sentence = await shell.run(
                machine, Path(directory), command, place.environment(), proc=proc
            )
    return Answer("", code=code, sentence=sentence)


# ---- machines of their own ---------------------------------------------------------------------


async def demo(options: Options, heed: Heed, *, quiet: bool) -> Answer:
    """The demonstration; it says what it does as it goes, unless ``quiet``."""
    said: list[str] = []

    def tell(line: str) -> None:
        said.append(line)
        if not quiet:
            say(f"{line}\n")

    result = await play(options, Screen(tell, heed))
    code = Exit.DONE if result == Verdict.VALID else Exit.FAILED
    return Answer("", {"verdict": result.name.lower(), "lines": said}, code)


async def workload(
    place: Place,
    *,
    quiet: bool,
    memory: str,
    interval: float,
    rounds: int | None,
    health: Path | None,
    metrics: str,
) -> Answer:
    """Work until SIGTERM or SIGINT, or until the rounds are over; says what it does as it goes."""
    schedule = Schedule(parse_size(memory), interval, rounds, health)
    exposition = Exposition(Role.CLIENT, ())
    stop = trio.Event()
    with (
        serving_metrics(exposition, metrics),
        trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals,
    ):
        async with trio.open_nursery() as nursery:

            async def heed() -> None:
                await anext(signals)
                stop.set()

            nursery.start_soon(heed)
            tell = (lambda _: None) if quiet else (lambda line: say(f"{line}\n"))
            result, account = await work(place.where, schedule, stop, tell, exposition.feed)
            nursery.cancel_scope.cancel()
    said = [finding.sentence for finding in account.findings]
    text = "".join(f"{sentence}\n" for sentence in said) + (
        f"{account.rounds} migrations, {account.stores} stores\nverdict: {result.name.lower()}\n"
    )
    document = {"verdict": result.name.lower(), "findings": said, "rounds": account.rounds}
    document |= {"stores": account.stores, "tasks": account.lives}
    return Answer(text, document, CODES[result])
