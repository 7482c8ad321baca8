"""The commands about tasks and their memory, as functions that know nothing of a command line.

Each gives an ``Answer``, or raises what ``console.explain`` makes a sentence of.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import trio

from coordinator.syscalls import OPERATOR
from numalab.checker import Verdict
from numalab.console import Answer, CommandFailed, Exit, Heed
from numalab.constants import MPOL_MF_MOVE, MPOL_MF_MOVE_ALL
from numalab.emulation import Emulated, Spent
from numalab.hardware import (
    COUNTERS,
    KINDS,
    hardware_text,
    numastat_text,
    process_numastat_text,
    process_pages,
)
from numalab.image import Source, open_core, open_process
from numalab.importer import digests_path, find_digests, import_image
from numalab.machine import Machine, connect
from numalab.orders import IndefiniteError
from numalab.task import Task
from numalab.verify import verify_task
from protocol.nodemask import format_nodes
from protocol.status import describe
from protocol.syscalls import TaskList

POLL_SECONDS = 0.05
#: After so many seconds without progress who waits is told why.
PATIENCE_SECONDS = 3.0
_CURE = "start it again with 'numalab restart'; 'numalab status' tells which processes live"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the machine is: its run directory, or ``tcp://host:port`` of its coordinator."""

    run_directory: Path
    address: str | None = None

    @property
    def where(self) -> str | Path:
        """As ``connect`` takes it."""
        return self.address or self.run_directory

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Machine]:
        """The machine there.  Raises MachineUnreachable."""
        async with connect(self.where) as machine:
            yield machine

    def environment(self) -> dict[str, str]:
        """What tells a command where this machine is, whoever it runs as."""
        address = {"NUMALAB_ADDRESS": self.address} if self.address else {}
        return {"NUMALAB_RUN_DIRECTORY": str(self.run_directory), **address}


@asynccontextmanager
async def about(machine: Machine, pid: int) -> AsyncIterator[None]:
    """Say what an errno of a call about task ``pid`` means."""
    try:
        yield
    except IndefiniteError:
        raise
    except OSError as error:
        raise CommandFailed(await _meaning(machine, pid, error)) from None


async def _meaning(machine: Machine, pid: int, error: OSError) -> str:
    match error.errno:
        case errno.ESRCH:
            return (
                f"There is no task {pid} in this machine: 'numalab ps' lists those that there are."
            )
        case errno.ENOSYS:
            return (
                "This machine moves no pages: it was started with --migration off, so take it "
                "down and start it without that."
            )
        case errno.ENODEV:
            down = await _down(machine)
            if down:
                return f"{down}: use other nodes, or {_CURE}."
    return f"The machine refuses that for task {pid}: {error.strerror}."


async def _down(machine: Machine) -> str:
    """Which nodes do not answer, as the beginning of a sentence; empty: all do."""
    found = await machine.hardware()
    down = [f"node{nid}" for nid in found.nid[found.up == 0].tolist()]
    return f"{' and '.join(down)} {'are' if len(down) > 1 else 'is'} down" if down else ""


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
        async with about(machine, pid):
            maps = await machine.numa_maps(pid)
        tasks = await machine.tasks()
        nids, size = machine.nids, machine.page_size
    pages = process_pages(maps, nids)
    by_kind = {kind.lower(): row for kind, row in zip(KINDS, pages.tolist(), strict=True)}
    text = process_numastat_text(pid, _name_of(tasks, pid), maps, nids, size)
    document = {"pid": pid, "nodes": list(nids), "pages": pages.sum(axis=0).tolist()}
    return Answer(text, document | by_kind)


def _name_of(tasks: TaskList, pid: int) -> str:
    names = dict(zip(tasks.pid.tolist(), tasks.names, strict=True))
    return str(names.get(pid, ""))


async def numa_maps(place: Place, pid: int) -> Answer:
    """/proc/PID/numa_maps."""
    async with place.connected() as machine:
        async with about(machine, pid):
            text = await machine.numa_maps(pid)
    return Answer(text, {"pid": pid, "lines": text.splitlines()})


async def ps(place: Place) -> Answer:
    """The tasks; sizes in pages, emulated time in ms (to a program: in seconds)."""
    async with place.connected() as machine:
        tasks, spent = await machine.tasks(), (await machine.emulated()).tasks
    names = ("pid", "ppid", "uid", "cpu", "present", "mapped")
    times = [spent.get(pid, Spent()).total for pid in tasks.pid.tolist()]
    columns = [*(getattr(tasks, name).tolist() for name in names), times, tasks.names]
    rows = list(zip(*columns, strict=True))
    lines = ["    PID    PPID   UID   CPU    PRESENT     MAPPED    EMULATED COMMAND"]
    lines += [
        f"{pid:7} {ppid:7} {uid:5} {cpu:5} {present:10} {mapped:10} {time * 1e3:11.3f} {comm}"
        for pid, ppid, uid, cpu, present, mapped, time, comm in rows
    ]
    keys = (*names, "emulated", "command")
    document = {"tasks": [dict(zip(keys, row, strict=True)) for row in rows]}
    return Answer("\n".join(lines) + "\n", document)


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
        async with about(machine, pid):
            found = await verify_task(machine, pid, digests)
    compared = f"{found.compared:10} compared with the import: the same"
    if digests is None:
        compared = f"{0:10} compared: no digests of an import of this task are kept here"
    lines = [f"{found.read:10} pages read back", compared]
    if found.written:
        them = "it" if found.written == 1 else "them"
        lines.append(f"{found.written:10} not compared: a task has written to {them} since")
    if found.unmapped:
        their = "its" if found.unmapped == 1 else "their"
        lines.append(f"{found.unmapped:10} not compared: {their} mapping is gone")
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
    place: Place,
    pid: int,
    from_nodes: str,
    to_nodes: str,
    heed: Heed,
    *,
    timed: bool = False,
    new_page: str = "",
) -> Answer:
    """migratepages(8): move all pages of a task that are on some nodes to others.

    new_page: the loaded function that chooses where each goes, or empty.
    """
    async with place.connected() as machine:
        operator = Task(machine, OPERATOR, 0, leased=False)
        source, target = machine.nodes(from_nodes), machine.nodes(to_nodes)
        before, started = await machine.emulated(), trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch, machine, pid, heed)
            async with about(machine, pid), loaded(new_page):
                not_moved = await operator.migrate_pages(pid, source, target, new_page=new_page)
            nursery.cancel_scope.cancel()
        wall, after = trio.current_time() - started, await machine.emulated()
    time = sum(migrating(told, pid, sign) for told, sign in ((after, 1), (before, -1)))
    document = {"pid": pid, "not_moved": not_moved, "emulated": time, "wall": wall}
    said = f"{time * 1e3:.3f} ms of emulated time, {wall * 1e3:.3f} ms on the clock.\n" * timed
    if not_moved:
        sentence = (
            f"{not_moved} pages of task {pid} stayed on nodes {format_nodes(source)}: somebody "
            "holds them, or they are shared or find no room, so try again later."
        )
        return Answer("", document, Exit.PARTLY, said + sentence)
    return Answer("", document, sentence=said.rstrip("\n"))


def migrating(told: Emulated, pid: int, sign: int) -> float:
    return sign * told.tasks.get(pid, Spent()).migration


@asynccontextmanager
async def loaded(new_page: str) -> AsyncIterator[None]:
    """Say what an errno means that methods of a loaded file are the reason of."""
    try:
        yield
    except IndefiniteError:
        raise
    except OSError as error:
        if error.errno == errno.EINVAL and new_page:
            raise CommandFailed(
                f"This machine has no new_page '{new_page}': load a file that registers it, with "
                "'numalab up --load FILE'."
            ) from None
        if error.errno == errno.EIO:
            raise CommandFailed(
                "A method that was loaded into this machine is wrong: the log of its coordinator "
                "says which one, and on which line."
            ) from None
        raise


async def _watch(machine: Machine, pid: int, heed: Heed) -> None:
    """Tell how far it is; and once, if that is no further for a while, which node it waits for."""
    settled, since, told = -1, trio.current_time(), False
    while True:
        try:
            made = await machine.progress(pid)
            if made.settled != settled:
                settled, since = made.settled, trio.current_time()
            elif not told and trio.current_time() - since > PATIENCE_SECONDS:
                down, since = await _down(machine), trio.current_time()
                told = bool(down)
                if down:
                    sys.stderr.write(f"{down}, and this waits for an answer: {_CURE}.\n")
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
        async with about(machine, pid):
            status = await _moved(operator, pid, places, nodes, flags)
    rows = list(zip(addresses, status, strict=True))
    text = "".join(f"{address:x} {describe(each)}\n" for address, each in rows)
    document = {
        "pid": pid,
        "pages": [{"address": f"{address:x}", "status": each} for address, each in rows],
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
    """move_pages(2), and where the pages are after it if it did not say that all have moved.

    It may say that nothing had to move (K 4.15), and of an address that is there twice it finds the
    page isolated already the second time.
    """
    if nodes is None:
        return await operator.move_pages(pid, addresses, None, flags)
    try:
        status = await operator.move_pages(pid, addresses, nodes, flags)
    except FileNotFoundError:
        return await operator.move_pages(pid, addresses, None, flags)
    if status == list(nodes):
        return status
    there = await operator.move_pages(pid, addresses, None, flags)
    rows = zip(there, nodes, status, strict=True)
    return [wanted if at == wanted else said for at, wanted, said in rows]
