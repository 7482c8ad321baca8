"""A local machine of real processes: started and stopped without a container and without root.

Everything of it is in one run directory, but the zones, which are in /dev/shm if there is room.
``machine.json`` is written last: who finds it finds a machine that is up.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import trio

from coordinator.vm_operations import new_extensions
from numalab import processes, rundirectory
from numalab.locate import (
    DESCRIPTION,
    MachineFile,
    MachineUnreachable,
    ProcessRow,
    default_run_directory,
    read_machine,
)
from numalab.machine import Machine, connect
from numalab.plan import CLIENT, Plan, make_plan, write_configurations
from numalab.processes import Process
from protocol.bulk import BATCH_PAGES, CREDIT
from protocol.core import ConfigurationError
from protocol.distance import check_pace
from protocol.live.extension import load_extension
from protocol.live.journal_file import Synchronous
from protocol.schema import COORDINATOR, node_name
from protocol.topology import Topology

START_SECONDS = 30.0
END_SECONDS = 5.0
#: From one question to the next while a machine is not up: whoever starts one waits for that.
_POLL_SECONDS = 0.02
_LOCAL = re.compile(r"local-(\d+)-[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a local machine shall be.

    ports, metrics_ports: by process name (``coordinator``, ``node0``); any free one where nothing
    is said.  metrics: whether the processes serve them.  behaviours: rows of the profile that are
    set by hand (docs/profiles.md).  load: users' Python files that add methods to the machine
    (docs/extending.md).  faults: path of a file of faults that the processes shall suffer
    (docs/faults.md), or empty.  secure: CURVE on every socket (docs/security.md).
    local: unix sockets and pipes within the host (protocol/live/local.py), else all by TCP.
    synchronous: of the journal (protocol/live/journal.py).  batch_pages, credit: of the nodes
    (protocol/bulk.py).
    The others are those of ``coordinator.coordinator.Coordinator``.
    """

    topology: Topology
    migration: bool = True
    profile: str = "seed"
    behaviours: Mapping[str, bool] = field(default_factory=dict)
    chunk_pages: int = 4096
    strict_order: bool = False
    lease: float = 10.0
    pace: float = 0.0
    ports: Mapping[str, int] = field(default_factory=dict)
    metrics_ports: Mapping[str, int] = field(default_factory=dict)
    metrics: bool = True
    load: Sequence[str | Path] = ()
    faults: str = ""
    secure: bool = False
    local: bool = True
    synchronous: Synchronous = Synchronous.NORMAL
    batch_pages: int = BATCH_PAGES
    credit: int = CREDIT

    @property
    def names(self) -> list[str]:
        """The processes, the nodes first."""
        return [*(node_name(nid) for nid in self.topology.nids), COORDINATOR]


async def up(
    settings: Settings,
    run_directory: str | Path | None = None,
    *,
    parent: int = 0,
    within: float = START_SECONDS,
) -> MachineFile:
    """Start a machine and wait until all of it is up; nothing is left behind if that fails.

    run_directory: None for the default one.  parent: pid of this process if the machine must not
    outlive it (called in its main thread then); 0: it may.  within: seconds.
    Raises ConfigurationError.
    """
    check_pace(settings.pace)
    # What is wrong with a file is said before anything is started.
    for path in settings.load:
        load_extension(path, new_extensions(settings.topology))
    directory = directory_of(run_directory)
    rundirectory.claim(directory)
    with rundirectory.locked(directory):
        _refuse_running(directory)
        rundirectory.remove(directory)
        try:
            plan = make_plan(settings, directory, parent)
            write_configurations(plan)
            plan.zones.mkdir(mode=0o700, exist_ok=True)
            started = {name: _start(directory, name) for name in settings.names}
            machine = _describe(plan, started)
            await _await_up(plan, machine, started, within)
            processes.write_private(directory / DESCRIPTION, msgspec.json.encode(machine))
        except BaseException:
            with trio.CancelScope(shield=True):
                await _take_down(directory)
            raise
    return machine


async def down(run_directory: str | Path | None = None) -> bool:
    """Stop a machine, also one that was started in part, and remove all that it left.

    False: there was none.  Raises ConfigurationError if the directory is somebody else's.
    """
    directory = directory_of(run_directory)
    if not (directory / rundirectory.MARK).exists():
        return False
    rundirectory.claim(directory)
    with rundirectory.locked(directory):
        await _take_down(directory)
    return True


def running(run_directory: str | Path) -> dict[str, Process]:
    """The processes of a local machine that are alive, by name."""
    found = {
        path.stem: processes.recall(path) for path in sorted(Path(run_directory).glob("*.pid"))
    }
    return {name: process for name, process in found.items() if process and process.alive}


def restart(run_directory: str | Path, name: str) -> Process:
    """Start a process of the machine again after its end: with its old zone or journal.

    Raises ConfigurationError if it still runs, or if there is no such process.
    """
    directory = Path(run_directory).absolute()
    if not (directory / f"{name}.json").exists():
        raise ConfigurationError(f"The machine in {directory} has no process '{name}'.")
    if name in running(directory):
        raise ConfigurationError(f"{name} of the machine in {directory} still runs: end it first.")
    process = _start(directory, name)
    machine = read_machine(directory)
    rows = tuple(
        msgspec.structs.replace(row, pid=process.pid, started=process.started)
        if row.name == name
        else row
        for row in machine.processes
    )
    changed = msgspec.structs.replace(machine, processes=rows)
    processes.write_private(directory / DESCRIPTION, msgspec.json.encode(changed))
    return process


@asynccontextmanager
async def local_cluster(
    nodes: int = 4,
    memory: str | int = "256M",
    *,
    topology: Topology | None = None,
    run_directory: str | Path | None = None,
    **settings: Any,
) -> AsyncIterator[Machine]:
    """A machine for as long as the block runs: ``async with numalab.local_cluster() as machine:``.

    memory: of each node.  topology: instead of ``nodes`` and ``memory``.  The other settings are
    those of ``Settings`` (migration, profile, behaviours, chunk_pages, lease, ports, metrics_ports,
    metrics, load, secure).
    It ends with the block, however that ends, and with this process, even when it is killed.
    Raises ConfigurationError.
    """
    if topology is None:
        topology = Topology.uniform(nodes, memory)
    own = default_run_directory(f"local-{os.getpid()}-{secrets.token_hex(4)}")
    directory = directory_of(own if run_directory is None else run_directory)
    await _sweep()
    await up(Settings(topology, **settings), directory, parent=os.getpid())
    try:
        async with connect(directory) as machine:
            yield machine
    finally:
        with trio.CancelScope(shield=True):
            await down(directory)


async def _sweep() -> None:
    """Remove what local machines left whose process was killed."""
    for directory in sorted(default_run_directory().parent.glob("local-*")):
        if _is_orphan(directory):
            with suppress(ConfigurationError, OSError):
                await down(directory)


# ---- how it is done ------------------------------------------------------------------------


def directory_of(run_directory: str | Path | None) -> Path:
    return default_run_directory() if run_directory is None else Path(run_directory).absolute()


def _is_orphan(directory: Path) -> bool:
    """It is named after a process that is gone."""
    match = _LOCAL.fullmatch(directory.name)
    return match is not None and not Path(f"/proc/{match[1]}").exists()


def _refuse_running(directory: Path) -> None:
    alive = running(directory)
    if alive:
        raise ConfigurationError(
            f"A machine runs in {directory} already ({', '.join(alive)}): use it, or take it down "
            "first with 'numalab down'."
        )
    if (directory / DESCRIPTION).exists():
        raise ConfigurationError(
            f"The machine in {directory} has died: bring it back with all that it had by 'numalab "
            "restart', or remove it by 'numalab down'."
        )


def _start(directory: Path, name: str) -> Process:
    module = "coordinator" if name == COORDINATOR else "nodes"
    process = processes.start(module, directory / f"{name}.json", directory / f"{name}.log")
    processes.remember(process, directory / f"{name}.pid")
    return process


def _describe(plan: Plan, started: Mapping[str, Process]) -> MachineFile:
    rows = tuple(
        ProcessRow(
            name,
            process.pid,
            process.started,
            plan.address(name),
            f"http://{where}/metrics" if (where := plan.metrics(name)) else "",
            str(plan.file(name, "log")),
            plan.zone(name),
        )
        for name, process in started.items()
    )
    return MachineFile(1, plan.address(COORDINATOR), plan.key, rows, **plan.keys(CLIENT))


async def _await_up(
    plan: Plan, machine: MachineFile, started: Mapping[str, Process], within: float
) -> None:
    """Wait until the coordinator says that every node answers.  Raises ConfigurationError."""
    dead: list[str] = []
    # The coordinator is asked first: as long as it is silent, it is the one that is missing.
    missing = [COORDINATOR]
    with trio.move_on_after(within):
        async with trio.open_nursery() as nursery:

            async def watch(name: str, process: Process) -> None:
                await processes.ended(process)
                dead.append(name)
                nursery.cancel_scope.cancel()

            for name, process in started.items():
                nursery.start_soon(watch, name, process)
            await ask_until_up(machine, within, missing)
            nursery.cancel_scope.cancel()
    if dead:
        said = rundirectory.last_line(plan.file(dead[0], "log"))
        raise ConfigurationError(f"{dead[0]} ended as soon as it was started: {said}")
    if missing:
        said = rundirectory.last_line(plan.file(missing[0], "log"))
        raise ConfigurationError(
            f"{' and '.join(missing)} did not come up within {within:g} s; the last line of "
            f"{plan.file(missing[0], 'log')}: {said}"
        )


async def ask_until_up(machine: MachineFile, within: float, missing: list[str]) -> None:
    """Keep in ``missing`` who is not up yet; return when it is empty, or nobody answers."""
    key = bytes.fromhex(machine.key)
    with suppress(MachineUnreachable):
        async with connect(
            machine.coordinator,
            key=key,
            within=within,
            resend_max=_POLL_SECONDS,
            keys=machine.client_keys(),
        ) as connection:
            while missing:
                hardware = await connection.hardware()
                rows = zip(hardware.nid.tolist(), hardware.up.tolist(), strict=True)
                missing[:] = [node_name(nid) for nid, is_up in rows if not is_up]
                if missing:
                    await trio.sleep(_POLL_SECONDS)


async def _take_down(directory: Path) -> None:
    """With the lock held: end every process that is ours, then remove everything."""
    await processes.end(list(running(directory).values()), END_SECONDS)
    rundirectory.remove(directory)
    rundirectory.remove_mark(directory)
