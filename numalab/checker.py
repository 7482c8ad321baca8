"""Is the machine right?  The verdict, and the checks of tables against zones.

Shared by the simulator and by live runs: it sees copies of page tables (``Entries``) and of frames
(``Frames``), however they were got.  What tasks did and were told is judged in ``history.py``.
Every finding is one sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from nodes.flags import Flag
from protocol.values import at_hand

I64 = npt.NDArray[np.int64]
Locate = Callable[[int, int], tuple[int, int] | None]

#: Bytes of what is stored at once (design 4).
WORD = 8

#: So many findings of one kind say enough.
FINDINGS_MAX = 8
#: What no frame may be when nothing is under way.
UNDER_WAY = int(Flag.ISOLATED | Flag.LOCKED)


@at_hand
class Verdict(IntEnum):
    """The worse of two verdicts is the larger one."""

    VALID = 0
    UNKNOWN = 1
    INVALID = 2


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence, and the page that it is about (pid 0: about no page); address in bytes."""

    verdict: Verdict
    sentence: str
    pid: int = 0
    address: int = 0


def invalid(sentence: str, pid: int = 0, address: int = 0) -> Finding:
    """Something is wrong."""
    return Finding(Verdict.INVALID, sentence, pid, address)


def unknown(sentence: str, pid: int = 0, address: int = 0) -> Finding:
    """Something cannot be told."""
    return Finding(Verdict.UNKNOWN, sentence, pid, address)


def verdict(findings: Iterable[Finding]) -> Verdict:
    """The worst of them; VALID without any."""
    return max((finding.verdict for finding in findings), default=Verdict.VALID)


@at_hand
class Kind(IntEnum):
    """What names a frame."""

    PRESENT = 0
    MIGRATION = 1
    #: The page cache of a shared object (pid 0; ``page`` is the index in the object).
    CACHE = 2


@dataclass(frozen=True, slots=True)
class Entries:
    """A row for everything that names a frame; columns of one length.

    object, index: which page of which object the entry's vma says that it is.
    """

    kind: I64
    pid: I64
    page: I64
    nid: I64
    pfn: I64
    generation: I64
    object: I64
    index: I64

    def describe(self, row: int, page_size: int) -> str:
        """``page 0x7000 of task 7 names frame 12 of node 0``."""
        what = f"page {int(self.page[row]) * page_size:#x} of task {self.pid[row]}"
        if self.kind[row] == Kind.CACHE:
            what = f"page {self.page[row]} of object {self.object[row]}"
        return f"{what} names frame {self.pfn[row]} of node {self.nid[row]}"


@dataclass(frozen=True, slots=True)
class Frames:
    """The zone of one node: a row for each frame in use, ascending; ``flags`` as in nodes/flags.py.

    frames: all there are.  free: what the node says is free.  contents: the bytes of a frame.
    """

    nid: int
    page_size: int
    frames: int
    free: int
    pfn: I64
    flags: I64
    generation: I64
    owner: I64
    index: I64
    contents: Callable[[int], bytes]


def check_placement(entries: Entries, zones: Sequence[Frames], *, settled: bool) -> list[Finding]:
    """Every entry names a frame that is in use, for the same page of the same object.

    settled: nothing is under way, so there are no migration entries, and every frame is mapped and
    of the generation that the entry expects; otherwise one of the two may be a generation ahead.
    """
    slack = 0 if settled else 1
    findings: list[Finding] = []
    elsewhere = np.ones(entries.nid.size, np.bool_)
    for zone in zones:
        here = entries.nid == zone.nid
        elsewhere &= ~here
        rows = np.flatnonzero(here)
        at, found = _find(zone, entries.pfn[rows])
        _blame(findings, entries, rows[~found], zone, "which is free")
        rows, at = rows[found], at[found]
        ahead = zone.generation[at] - entries.generation[rows]
        _blame(findings, entries, rows[ahead < -slack], zone, "which has an older generation")
        _blame(findings, entries, rows[ahead > slack], zone, "which has a newer generation")
        other = zone.owner[at] != entries.object[rows]
        other |= zone.index[at] != entries.index[rows]
        _blame(findings, entries, rows[other], zone, "which belongs to another page")
        if settled:
            unmapped = zone.flags[at] & int(Flag.MAPPED) == 0
            _blame(findings, entries, rows[unmapped], zone, "which its node does not serve")
            left = entries.kind[rows] == Kind.MIGRATION
            _blame(findings, entries, rows[left], zone, "by a migration entry that nobody will end")
    for row in np.flatnonzero(elsewhere)[:FINDINGS_MAX]:
        findings.append(invalid(f"task {entries.pid[row]} names a node that is not there."))
    return findings


def check_leaks(entries: Entries, zones: Sequence[Frames]) -> list[Finding]:
    """Every frame in use is named by somebody; only true while nothing is under way."""
    findings: list[Finding] = []
    for zone in zones:
        named = entries.pfn[entries.nid == zone.nid]
        for pfn in zone.pfn[~np.isin(zone.pfn, named)][:FINDINGS_MAX]:
            findings.append(invalid(f"frame {pfn} of node {zone.nid} is in use by nobody."))
    return findings


def check_conservation(zones: Sequence[Frames], *, settled: bool) -> list[Finding]:
    """Free and used frames are all there are; settled: none is isolated or locked."""
    findings: list[Finding] = []
    for zone in zones:
        used = zone.pfn.size
        if zone.free + used != zone.frames:
            findings.append(
                invalid(
                    f"node {zone.nid} says that {zone.free} frames are free, "
                    f"but {used} of {zone.frames} are in use."
                )
            )
        left = zone.pfn[zone.flags & UNDER_WAY != 0] if settled else zone.pfn[:0]
        for pfn in left[:FINDINGS_MAX]:
            findings.append(invalid(f"frame {pfn} of node {zone.nid} is still isolated or locked."))
    return findings


def check_contents(
    words: Iterable[tuple[int, int, frozenset[int]]], locate: Locate, zones: Sequence[Frames]
) -> list[Finding]:
    """Every word has, in the frame itself, a value that it may have (0 where there is no frame).

    words: (pid, byte address, values) as ``History.words`` gives them.
    locate: (nid, pfn) of a page number of a task, or None.
    """
    by_nid = {zone.nid: zone for zone in zones}
    page_size = zones[0].page_size
    findings: list[Finding] = []
    for pid, address, values in words:
        place = locate(pid, address // page_size)
        value, where = 0, "no frame"
        if place is not None:
            nid, pfn = place
            offset = address % page_size
            word = by_nid[nid].contents(pfn)[offset : offset + WORD]
            value, where = int.from_bytes(word, "little"), f"frame {pfn} of node {nid}"
        if value not in values:
            could = ", ".join(map(str, sorted(values)))
            sentence = f"{address:#x} of task {pid} is {value} ({where}), but must be {could}."
            findings.append(invalid(sentence, pid, address))
    return findings


def _find(zone: Frames, pfn: I64) -> tuple[I64, npt.NDArray[np.bool_]]:
    """Rows of the zone for these frames, and which of them are there."""
    if zone.pfn.size == 0:
        return np.zeros(pfn.size, np.int64), np.zeros(pfn.size, np.bool_)
    at = np.minimum(np.searchsorted(zone.pfn, pfn), zone.pfn.size - 1).astype(np.int64)
    return at, zone.pfn[at] == pfn


def _blame(
    findings: list[Finding], entries: Entries, rows: npt.NDArray[np.intp], zone: Frames, what: str
) -> None:
    for row in rows[:FINDINGS_MAX].tolist():
        sentence = f"{entries.describe(row, zone.page_size)}, {what}."
        address = int(entries.page[row]) * zone.page_size
        findings.append(invalid(sentence, int(entries.pid[row]), address))
