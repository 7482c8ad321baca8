"""The commands of the console program, as functions that know nothing of a command line.

Each gives an ``Answer``, or raises what ``console.explain`` makes a sentence of.
"""

from __future__ import annotations

import errno
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import trio

from coordinator.syscalls import OPERATOR
from numalab import cluster, shell, sysfs
from numalab.checker import Verdict
from numalab.console import Answer, CommandFailed, Exit, Heed
from numalab.constants import MPOL_MF_MOVE, MPOL_MF_MOVE_ALL
from numalab.demo import Options, Screen
from numalab.demo import demo as play
from numalab.hardware import (
    COUNTERS,
    hardware_text,
    numastat_text,
    process_numastat_text,
    process_pages,
)
from numalab.image import Source, open_core, open_process
from numalab.importer import digests_path, find_digests, import_image
from numalab.locate import MachineFile, MachineUnreachable, read_machine
from numalab.machine import Machine, connect
from numalab.task import Task
from numalab.verify import verify_task
from protocol.messages import TaskList
from protocol.nodemask import format_nodes
from protocol.status import describe

POLL_SECONDS = 0.05
#: How long the coordinator may take to answer ``status``.
STATUS_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where the machine is: its run directory, or ``tcp://host:port`` of its coordinator."""

    run_directory: Path
    address: str | None = None

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Machine]:
        """The machine there.  Raises MachineUnreachable."""
        async with connect(self.address or self.run_directory) as machine:
            yield machine

    def environment(self) -> dict[str, str]:
        """What tells a command where this machine is, whoever it runs as."""
        address = {"NUMALAB_ADDRESS": self.address} if self.address else {}
        return {"NUMALAB_RUN_DIRECTORY": str(self.run_directory), **address}


@contextmanager
def _about(pid: int) -> Iterator[None]:
    """Say what an errno of a call about task ``pid`` means."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ESRCH:
            raise CommandFailed(
                f"There is no task {pid} in this machine: 'numalab ps' lists those that there are."
            ) from None
        if error.errno == errno.ENOSYS:
            raise CommandFailed(
                "This machine moves no pages: it was started with --migration off, so take it "
                "down and start it without that."
            ) from None
        raise


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


# ---- what one reads ------------------------------------------------------------------------


async def hardware(place: Place) -> Answer:
    """``numactl --hardware``."""
    async with place.connected() as machine:
        found = await machine.hardware()
    size = len(found.nid)
    nodes = [
        {
            "id": nid,
            "up": bool(found.up[row]),
            "cpus": list(found.cpus[row]),
            "size": int(found.frames[row]) * found.page_size,
            "free": int(found.free[row]) * found.page_size,
            "distances": found.distance.reshape(size, size)[row].tolist(),
        }
        for row, nid in enumerate(found.nid.tolist())
    ]
    document = {"page_size": found.page_size, "migration": bool(found.migration), "nodes": nodes}
    return Answer(hardware_text(found), document)


async def numastat(place: Place, pid: int | None) -> Answer:
    """``numastat`` and ``numastat -p PID``."""
    async with place.connected() as machine:
        if pid is None:
            found = await machine.hardware()
            counters = {name: getattr(found, name).tolist() for name in COUNTERS}
            return Answer(numastat_text(found), {"nodes": found.nid.tolist(), **counters})
        with _about(pid):
            maps = await machine.numa_maps(pid)
        tasks = await machine.tasks()
        nids, size = machine.nids, machine.page_size
    pages = process_pages(maps, nids).sum(axis=0).tolist()
    text = process_numastat_text(pid, _name_of(tasks, pid), maps, nids, size)
    return Answer(text, {"pid": pid, "nodes": list(nids), "pages": pages})


def _name_of(tasks: TaskList, pid: int) -> str:
    names = dict(zip(tasks.pid.tolist(), tasks.names, strict=True))
    return str(names.get(pid, ""))


async def numa_maps(place: Place, pid: int) -> Answer:
    """/proc/PID/numa_maps."""
    async with place.connected() as machine:
        with _about(pid):
            text = await machine.numa_maps(pid)
    return Answer(text, {"pid": pid, "lines": text.splitlines()})


async def ps(place: Place) -> Answer:
    """The tasks; sizes in pages."""
    async with place.connected() as machine:
        tasks = await machine.tasks()
    names = ("pid", "ppid", "uid", "cpu", "present", "mapped")
    rows = list(zip(*(getattr(tasks, name).tolist() for name in names), tasks.names, strict=True))
    lines = ["    PID    PPID   UID   CPU    PRESENT     MAPPED COMMAND"]
    lines += [
        f"{pid:7} {ppid:7} {uid:5} {cpu:5} {present:10} {mapped:10} {comm}"
        for pid, ppid, uid, cpu, present, mapped, comm in rows
    ]
    document = {"tasks": [dict(zip((*names, "command"), row, strict=True)) for row in rows]}
    return Answer("\n".join(lines) + "\n", document)


async def write_sysfs(place: Place, directory: Path, *, watch: bool) -> Answer:
    """The machine as plain files; until this is cancelled if ``watch``."""
    with closing(sysfs.Tree(directory)) as files:
        async with place.connected() as machine:
            files.write(await sysfs.describe(machine))
            if watch:
                await sysfs.refresh(machine, files)
    return Answer("", {"directory": str(directory)})


async def run_shell(place: Place, command: Sequence[str]) -> Answer:
    """A command that sees the machine in place of the nodes of this host; its exit code."""
    with tempfile.TemporaryDirectory(prefix="numalab-shell-") as directory:
        async with place.connected() as machine:
            code, sentence = await shell.run(machine, Path(directory), command, place.environment())
    return Answer("", code=code, sentence=sentence)


# ---- an image comes ------------------------------------------------------------------------


def _open(what: str) -> AbstractContextManager[Source]:
    """A number is a process, anything else the path of a core file."""
    return open_process(int(what)) if what.isdecimal() else open_core(what)


async def import_(place: Place, what: str, node: str | None, heed: Heed) -> Answer:
    """Bring a snapshot of a process, or a core file, into the machine; its pid there."""
    async with place.connected() as machine:
        nids = machine.nodes(node) if node is not None else (None,)
        if len(nids) != 1:
            raise CommandFailed(
                f"--node {node} names {len(nids)} nodes: name the one that the pages shall go to "
                "first.",
                Exit.USAGE,
            )
        with _open(what) as source:
            image = source.image
            imported = await import_image(
                machine, source, node=nids[0], heed=lambda come: heed("import", come, image.pages)
            )
    pid = imported.task.pid
    notes = list(imported.notes)
    if place.address is None:
        imported.digests.save(digests_path(place.run_directory, pid))
    else:
        notes.append("there is no run directory to keep digests in, so verify compares nothing")
    document = {"pid": pid, "command": image.comm, "pages": imported.pages, "notes": notes}
    return Answer(f"{pid}\n", document, sentence="\n".join(f"note: {note}" for note in notes))


async def verify(place: Place, pid: int) -> Answer:
    """Read everything back: is every page in one frame, and as it was imported?"""
    digests = None if place.address else find_digests(place.run_directory, pid)
    async with place.connected() as machine:
        with _about(pid):
            found = await verify_task(machine, pid, digests)
    compared = f"{found.compared:10} compared with the import: the same"
    if digests is None:
        compared = f"{0:10} compared: no digests of an import of this task are kept here"
    lines = [f"{found.read:10} pages read back", compared]
    if found.written:
        lines.append(f"{found.written:10} not compared: a task has written to them since")
    if found.unmapped:
        lines.append(f"{found.unmapped:10} not compared: their mapping is gone")
    lines += [finding.sentence for finding in found.findings[:1]]
    result = found.verdict.name.lower()
    document = {
        "pid": pid,
        "verdict": result,
        "read": found.read,
        "compared": found.compared,
        "written": found.written,
        "unmapped": found.unmapped,
        "findings": [finding.sentence for finding in found.findings],
    }
    code = Exit.DONE if found.verdict == Verdict.VALID else Exit.FAILED
    return Answer("\n".join([*lines, f"verdict: {result}"]) + "\n", document, code)


# ---- pages move ----------------------------------------------------------------------------


async def migratepages(
    place: Place, pid: int, from_nodes: str, to_nodes: str, heed: Heed
) -> Answer:
    """migratepages(8): move all pages of a task that are on some nodes to others."""
    async with place.connected() as machine:
        operator = Task(machine, OPERATOR, 0, leased=False)
        source, target = machine.nodes(from_nodes), machine.nodes(to_nodes)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch, machine, pid, heed)
            with _about(pid):
                not_moved = await operator.migrate_pages(pid, source, target)
            nursery.cancel_scope.cancel()
    document = {"pid": pid, "not_moved": not_moved}
    if not_moved:
        sentence = (
            f"{not_moved} pages of task {pid} stayed on nodes {format_nodes(source)}: somebody "
            "holds them, or they are shared or find no room, so try again later."
        )
        return Answer("", document, Exit.PARTLY, sentence)
    return Answer("", document)


async def _watch(machine: Machine, pid: int, heed: Heed) -> None:
    while True:
        try:
            made = await machine.progress(pid)
        except OSError:
            return
        heed("move", made.settled, made.listed)
        await trio.sleep(POLL_SECONDS)


async def move_pages(
    place: Place, pid: int, addresses: Sequence[int], to: str | None, *, move_all: bool
) -> Answer:
    """move_pages(2) for these addresses; a query where ``to`` is None."""
    flags = MPOL_MF_MOVE_ALL if move_all else MPOL_MF_MOVE
    places = np.array(addresses, np.uint64)
    async with place.connected() as machine:
        operator = Task(machine, OPERATOR, 0, leased=False)
        nodes = None
        if to is not None:
            nids = machine.nodes(to)
            if len(nids) != 1:
                raise CommandFailed(f"--to {to} names {len(nids)} nodes: name one.", Exit.USAGE)
            nodes = [nids[0]] * len(addresses)
        with _about(pid):
            status = await _moved(operator, pid, places, nodes, flags)
    rows = list(zip(addresses, status, strict=True))
    text = "".join(f"{address:x} {describe(each)}\n" for address, each in rows)
    document = {
        "pid": pid,
        "pages": [{"address": address, "status": each} for address, each in rows],
    }
    stayed = sum(each != wanted for each, wanted in zip(status, nodes or status, strict=True))
    if stayed:
        sentence = f"{stayed} of {len(status)} pages are not on node {to}: their statuses say why."
        return Answer(text, document, Exit.PARTLY, sentence)
    return Answer(text, document)


async def _moved(
    operator: Task,
    pid: int,
    addresses: npt.NDArray[np.uint64],
    nodes: Sequence[int] | None,
    flags: int,
) -> list[int]:
    """move_pages(2); a query if it says that nothing had to move (K 4.15)."""
    try:
        return await operator.move_pages(pid, addresses, nodes, flags)
    except FileNotFoundError:
        return await operator.move_pages(pid, addresses, None, flags)


# ---- the demonstration ---------------------------------------------------------------------


async def demo(options: Options, heed: Heed, *, quiet: bool) -> Answer:
    """The demonstration; it says what it does as it goes, unless ``quiet``."""
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if not quiet:
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()

    result = await play(options, Screen(say, heed))
    code = Exit.DONE if result == Verdict.VALID else Exit.FAILED
    return Answer("", {"verdict": result.name.lower(), "lines": said}, code)
