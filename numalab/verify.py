"""Is the memory of a running machine right?  Page tables against zones, contents against an image.

The page tables are those that the coordinator answers faults with, the zones are told by the nodes
themselves.  The checks are those of ``numalab/checker.py``, shared with the simulator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
import numpy.typing as npt
import trio

from numalab.address_space import PAGE_SIZE
from numalab.checker import (
    Entries,
    Finding,
    Frames,
    Kind,
    Verdict,
    check_conservation,
    check_leaks,
    check_placement,
    invalid,
    unknown,
    verdict,
)
from numalab.importer import (
    PIECE_PAGES,
    PIECES_AT_ONCE,
    Digests,
    first_cpu,
    page_digests,
)
from numalab.machine import Machine
from numalab.work import FaultAccess
from protocol.messages import LoadBytes, LoadedBytes
from protocol.schema import node_name
from protocol.syscalls import AddressSpace, Fault, Translations

FAULT_PAGES = 4096
#: Tables and zones are read one after the other, so what moves meanwhile has to be read again.
TRIES = 5
PAUSE_SECONDS = 0.05

I64 = npt.NDArray[np.int64]
Pages = npt.NDArray[np.uint64]
_NONE: I64 = np.zeros(0, np.int64)


@dataclass(slots=True)
class Verification:
    """What was found out about one task.

    read: pages read back.  compared: of them, those that hold what was imported.  written: those
    that a task was allowed to write since, which are not compared.  unmapped: imported pages
    whose mapping is gone.
    """

    pid: int
    read: int = 0
    compared: int = 0
    written: int = 0
    unmapped: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        """The worst of the findings."""
        return verdict(self.findings)


async def verify_task(machine: Machine, pid: int, digests: Digests | None) -> Verification:
    """Check where the pages of ``pid`` are, read all back, compare with what was imported.

    digests: of the import, None to compare nothing.  Raises OSError (ESRCH).
    """
    space = await machine.address_space(pid)
    found = Verification(pid)
    found.findings += await check_frames(machine, pid)
    cpu = first_cpu(await machine.hardware())
    contents = await _read_back(machine, cpu, space.page, found)
    if digests is not None:
        # Asked for again: what was written before it was read is told by now.
        _compare(await machine.address_space(pid), digests, contents, found)
    return found


# ---- where the pages are -------------------------------------------------------------------


async def check_frames(machine: Machine, pid: int | None = None) -> list[Finding]:
    """Every page of ``pid`` (None: of every task) is in one frame, which its node serves.

    With None also: no frame is used by nobody, isolated or locked, and free and used frames are
    all there are; only true while no task is at work.
    """
    findings: list[Finding] = []
    cpu = first_cpu(await machine.hardware())
    for again in reversed(range(TRIES)):
        entries, names = await _entries(machine, cpu)
        zones = [await _zone(machine, nid) for nid in machine.nids]
        findings = _check(_with_objects(entries, zones), names, zones, pid)
        if not findings or not again:
            break
        await trio.sleep(PAUSE_SECONDS)
    return findings


def _check(entries: Entries, names: I64, zones: Sequence[Frames], pid: int | None) -> list[Finding]:
    own = np.full(names.size, True) if pid is None else entries.pid == pid
    entries_of_all, entries = entries, _rows(entries, own)
    findings = check_placement(entries, zones, settled=True)
    findings += _check_shared(entries, names[own])
    if pid is not None:
        return findings + _check_copies(entries, entries_of_all, zones)
    return findings + check_leaks(entries, zones) + check_conservation(zones, settled=True)


def _check_shared(entries: Entries, names: I64) -> list[Finding]:
    """No two pages of a task are in one frame, if they are not one page of a file."""
    pages = np.unique(np.stack([entries.pid, entries.nid, entries.pfn, names]), axis=1)
    frames, counts = np.unique(pages[:3], axis=1, return_counts=True)
    return [
        invalid(f"frame {pfn} of node {nid} holds several pages of task {pid}.", pid)
        for pid, nid, pfn in frames[:, counts > 1].T.tolist()
    ]


def _names(space: AddressSpace, page: I64) -> I64:
    """A number for each present page, the same for addresses at which one page of a file is."""
    names = -1 - page
    pieces = zip(space.start, space.end, space.file, space.pgoff, strict=True)
    for start, end, file, pgoff in (map(int, piece) for piece in pieces):
        if file:
            rows = (page >= start) & (page < end)
            names[rows] = (file << 32) + page[rows] - start + pgoff
    return names


def _check_copies(own: Entries, entries: Entries, zones: Sequence[Frames]) -> list[Finding]:
    """No second frame holds one of these pages, unless a task maps it (copy-on-write)."""
    findings: list[Finding] = []
    pages = np.unique(own.object << 32 | own.index)
    for zone in zones:
        copies = np.isin(zone.owner << 32 | zone.index, pages)
        copies &= ~np.isin(zone.pfn, entries.pfn[entries.nid == zone.nid])
        for pfn in zone.pfn[copies].tolist():
            sentence = f"frame {pfn} of node {zone.nid} is a second copy of a page, mapped by none."
            findings.append(invalid(sentence))
    return findings


def _rows(entries: Entries, chosen: npt.NDArray[np.bool_]) -> Entries:
    return Entries(*(getattr(entries, each.name)[chosen] for each in fields(Entries)))


async def _entries(machine: Machine, cpu: int) -> tuple[Entries, I64]:
    """What the coordinator answers for every present page of every task; without objects.

    And the name of each page (``_names``).
    """
    names: list[I64] = [_NONE]
    pids: list[I64] = [_NONE]
    pages: list[I64] = [_NONE]
    frames: list[I64] = [np.zeros((3, 0), np.int64)]
    tasks = await machine.tasks()
    # The threads of a process have one mm.
    for pid in tasks.pid[np.unique(tasks.tgid, return_index=True)[1]].tolist():
        try:
            space = await machine.address_space(pid)
            there, nid, pfn, generation = await _translate(machine, pid, cpu, space.page)
        except ProcessLookupError:
            continue
        pages.append(there.astype(np.int64))
        names.append(_names(space, pages[-1]))
        pids.append(np.full(there.size, pid, np.int64))
        frames.append(np.stack([nid, pfn, generation]))
    page, (nid, pfn, generation) = np.concatenate(pages), np.concatenate(frames, axis=1)
    none = np.zeros(page.size, np.int64)
    kind = np.full(page.size, int(Kind.PRESENT), np.int64)
    entries = Entries(kind, np.concatenate(pids), page, nid, pfn, generation, none, none)
    return entries, np.concatenate(names)


async def _translate(
    machine: Machine, pid: int, cpu: int, page: Pages
) -> tuple[Pages, I64, I64, I64]:
    """Those of the present pages ``page`` that are still there: page, nid, pfn, generation."""
    pages: list[Pages] = [np.zeros(0, np.uint64)]
    frames: list[I64] = [np.zeros((3, 0), np.int64)]
    for start in range(0, page.size, FAULT_PAGES):
        part = page[start : start + FAULT_PAGES]
        # A populating access is not stopped by the protection, and a present page stays as it is.
        fault = Fault(pid, cpu, int(FaultAccess.POPULATE_FILE), part)
        answer = await machine.expect(fault, Translations)
        there = (answer.status == 0) & (answer.nid >= 0)
        pages.append(part[there])
        columns = (answer.nid, answer.pfn, answer.generation)
        frames.append(np.stack([column[there].astype(np.int64) for column in columns]))
    nid, pfn, generation = np.concatenate(frames, axis=1)
    return np.concatenate(pages), nid, pfn, generation


async def _zone(machine: Machine, nid: int) -> Frames:
    count = await machine.count_zone(nid)
    used = await machine.inventory(nid)
    order = np.argsort(used.pfn)
    columns = (used.pfn, used.flags, used.generation, used.owner, used.index)
    pfn, flags, generation, owner, index = (column[order].astype(np.int64) for column in columns)
    return Frames(
        nid,
        machine.page_size,
        count.frames,
        count.free,
        pfn,
        flags,
        generation,
        owner,
        index,
        _no_contents,
    )


def _no_contents(pfn: int) -> bytes:
    raise AssertionError(f"the contents of frame {pfn} are read back through their task")


def _with_objects(entries: Entries, zones: Sequence[Frames]) -> Entries:
    """The entries with the object and index of their frames, which only the zones can tell."""
    owner, index = entries.object.copy(), entries.index.copy()
    for zone in zones:
        rows = np.flatnonzero(entries.nid == zone.nid)
        if not zone.pfn.size:
            continue
        at = np.minimum(np.searchsorted(zone.pfn, entries.pfn[rows]), zone.pfn.size - 1)
        owner[rows], index[rows] = zone.owner[at], zone.index[at]
    return replace(entries, object=owner, index=index)


# ---- what is in them -----------------------------------------------------------------------


@dataclass(slots=True)
class _Contents:
    """Digests of what was read back, in no order."""

    page: list[Pages]
    digest: list[Pages]


async def _read_back(machine: Machine, cpu: int, page: Pages, found: Verification) -> Digests:
    """Read all pages from their nodes, past the protection; digests of what could be read."""
    pieces = iter([page[at : at + PIECE_PAGES] for at in range(0, page.size, PIECE_PAGES)])
    contents = _Contents([np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)])

    async def carry() -> None:
        for piece in pieces:
            left = await _read_piece(machine, found.pid, cpu, piece, contents)
            for number in left.tolist():
                address = number * machine.page_size
                sentence = f"{address:#x} of task {found.pid} could not be read: its node refuses."
                found.findings.append(unknown(sentence, found.pid, address))

    async with trio.open_nursery() as nursery:
        for _ in range(PIECES_AT_ONCE):
            nursery.start_soon(carry)
    read, digest = np.concatenate(contents.page), np.concatenate(contents.digest)
    found.read = read.size
    order = np.argsort(read)
    return Digests(read[order], digest[order])


async def _read_piece(
    machine: Machine, pid: int, cpu: int, page: Pages, contents: _Contents
) -> Pages:
    """Read these pages; gives those that could not be read."""
    size = machine.page_size
    for again in reversed(range(TRIES)):
        page, nid, pfn, generation = await _translate(machine, pid, cpu, page)
        left = [np.zeros(0, np.uint64)]
        for node in np.unique(nid).tolist():
            rows = np.flatnonzero(nid == node)
            start = np.zeros(rows.size, np.uint32)
            columns = pfn[rows].astype(np.uint32), generation[rows].astype(np.uint32)
            question = LoadBytes(size, *columns, start)
            answer = await machine.expect(question, LoadedBytes, node_name(node), within=10.0)
            served = answer.status == 0
            sums = page_digests(memoryview(answer.data), size)
            contents.page.append(page[rows[served]])
            contents.digest.append(sums[served])
            left.append(page[rows[~served]])
        page = np.concatenate(left)
        if not page.size or not again:
            break
        await trio.sleep(PAUSE_SECONDS)
    return page


def _compare(space: AddressSpace, digests: Digests, read: Digests, found: Verification) -> None:
    """Compare what was read with what was imported; ``space`` was asked for afterwards."""
    written = np.isin(digests.page, space.page[space.written != 0])
    at = np.minimum(np.searchsorted(read.page, digests.page), max(read.page.size - 1, 0))
    there = read.page[at] == digests.page if read.page.size else np.zeros(at.size, np.bool_)
    mapped = np.zeros(at.size, np.bool_)
    for start, end in zip(space.start.tolist(), space.end.tolist(), strict=True):
        mapped |= (digests.page >= start) & (digests.page < end)
    same = there.copy()
    same[there] = read.digest[at[there]] == digests.digest[there]
    found.compared = int(np.count_nonzero(there & same & ~written))
    found.written = int(np.count_nonzero(there & written))
    found.unmapped = int(np.count_nonzero(~mapped))
    for what, rows in (("is lost", mapped & ~there), ("differs", there & ~same & ~written)):
        for page in digests.page[rows].tolist():
            address = page * PAGE_SIZE
            sentence = f"The page at {address:#x} of task {found.pid} {what}: it was imported and "
            found.findings.append(invalid(f"{sentence}nobody wrote it.", found.pid, address))
