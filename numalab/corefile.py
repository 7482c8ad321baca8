"""Read an ELF core file into an address space (elf(5), core(5)).

A PT_LOAD segment is an area, and what the file holds of it is present: what the segment has beyond
``p_filesz``, and what a hole of a sparse file stands for, was never touched or was not dumped.
The NT_FILE note names the files, NT_PRPSINFO the process.  A core says neither which areas were
shared nor which pages a private area of a file had copied: all areas are private, and the pages
of a file's area that may not be written count as file pages.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple

import numpy as np
from elftools.common.exceptions import ELFError
from elftools.construct import ConstructError
from elftools.elf.constants import P_FLAGS
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import NoteSegment

from numalab.address_space import (
    PAGE_SHIFT,
    PAGE_SIZE,
    Area,
    Extent,
    Image,
    ImageError,
    Pages,
    Source,
    describe_skipped,
)

_ELF_HEADER = 64
_AT_PAGESZ = 6
_VSYSCALL = 0xFFFFFFFFFF600000
_USER_LIMIT = 1 << 57
_PROT = (
    (P_FLAGS.PF_R, mmap.PROT_READ),
    (P_FLAGS.PF_W, mmap.PROT_WRITE),
    (P_FLAGS.PF_X, mmap.PROT_EXEC),
)


# What pyelftools raises over bytes that make no sense: it seeks, reads and counts as they say.
_DAMAGE = (ELFError, ConstructError, ValueError, OverflowError, OSError, MemoryError)


class _Mapping(NamedTuple):
    """One entry of NT_FILE: addresses, and bytes into the file."""

    start: int
    end: int
    offset: int
    name: str


@dataclass(slots=True)
class _Notes:
    """What the notes of a core say."""

    pid: int = 0
    comm: str = ""
    mappings: list[_Mapping] = field(default_factory=list)


@contextmanager
def open_core(path: str | os.PathLike[str]) -> Iterator[Source]:
    """Open the core file at ``path``; the same interface as ``open_process``.

    Only cores of 64-bit little-endian machines with pages of 4096 bytes are read.
    Raises ImageError: not an ELF file, not a core, cut off, damaged, or of another kind of machine.
    """
    where = f"core {os.fspath(path)}"
    with _open_regular(path, where) as file:
        size = os.fstat(file.fileno()).st_size
        _check_head(file, where)
        try:
            elf = ELFFile(file)
            _check_tables(elf, size, where)
            notes = _read_notes(elf, where)
            segments = [segment.header for segment in elf.iter_segments("PT_LOAD")]
        except _DAMAGE as error:
            raise ImageError(f"{where} is damaged or cut off ({error}): write it again") from None
        areas, extents, skipped = _read_areas(file.fileno(), segments, notes, size, where)
        absent = sum(mapping.start not in extents for mapping in notes.mappings)
        note = f"atomic: a core file; {absent} areas of files are not in it"
        image = Image(notes.pid, notes.comm, areas, True, note + describe_skipped(skipped))
        yield Source(image, file, extents, f"{where} was cut off while read")


def _open_regular(path: str | os.PathLike[str], where: str) -> IO[bytes]:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ImageError(f"{where} is not a regular file: name a core file")
        return open(path, "rb")
    except OSError as error:
        raise ImageError(f"{where} cannot be opened ({error.strerror}): check the path") from None


def _check_head(file: IO[bytes], where: str) -> None:
    head = file.read(_ELF_HEADER)
    if not head.startswith(b"\x7fELF"):
        raise ImageError(
            f"{where} is not an ELF file: unpack it if it is compressed, or make one with gcore"
        )
    if len(head) < _ELF_HEADER:
        raise ImageError(f"{where} ends inside its ELF header: write it again")
    if head[4:6] != b"\x02\x01":
        raise ImageError(
            f"{where} is not of a 64-bit little-endian machine: use one that is (readelf -h)"
        )


def _check_tables(elf: ELFFile, size: int, where: str) -> None:
    if elf["e_type"] != "ET_CORE":
        raise ImageError(
            f"{where} is an ELF file but not a core ({elf['e_type']}): make one with gcore PID"
        )
    missing = elf["e_phoff"] + elf.num_segments() * elf["e_phentsize"] - size
    if missing > 0:
        raise ImageError(
            f"{where} lacks the last {missing} bytes of its program headers: "
            "write it again with more room (ulimit -c, disk)"
        )


def _read_notes(elf: ELFFile, where: str) -> _Notes:
    notes = _Notes()
    for segment in elf.iter_segments("PT_NOTE"):
        assert isinstance(segment, NoteSegment)
        for note in segment.iter_notes():
            content: Any = note["n_desc"]
            if note["n_name"] != "CORE":
                continue
            if note["n_type"] == "NT_PRPSINFO":
                notes.pid = content["pr_pid"]
                name = content["pr_fname"].partition(b"\0")[0]
                notes.comm = name.decode("utf-8", "backslashreplace")
            elif note["n_type"] == "NT_AUXV":
                words = np.frombuffer(content[: len(content) & ~15], "<u8").reshape(-1, 2)
                for value in words[words[:, 0] == _AT_PAGESZ, 1].tolist():
                    _check_page_size(value, where)
            elif note["n_type"] == "NT_FILE":
                notes.mappings = _read_mappings(content, where)
    return notes


def _check_page_size(size: int, where: str) -> None:
    if size != PAGE_SIZE:
        raise ImageError(
            f"{where} is of a machine with pages of {size} bytes: "
            f"use one of a machine with pages of {PAGE_SIZE}"
        )


def _read_mappings(content: Any, where: str) -> list[_Mapping]:
    unit = content["page_size"]
    # gdb counts offsets in bytes, the kernel in pages.
    if unit != 1:
        _check_page_size(unit, where)
    entries = zip(content["Elf_Nt_File_Entry"], content["filename"], strict=True)
    return sorted(
        _Mapping(
            entry["vm_start"],
            entry["vm_end"],
            entry["page_offset"] * unit,
            name.decode("utf-8", "backslashreplace"),
        )
        for entry, name in entries
    )


def _read_areas(
    fd: int, segments: list[Any], notes: _Notes, size: int, where: str
) -> tuple[tuple[Area, ...], dict[int, Extent], Counter[str]]:
    areas: list[Area] = []
    extents: dict[int, Extent] = {}
    skipped: Counter[str] = Counter()
    end = 0
    for number, header in enumerate(segments):
        if header["p_vaddr"] == _VSYSCALL:
            skipped["[vsyscall]"] += header["p_memsz"] >> PAGE_SHIFT
            continue
        _check_segment(header, number, size, where)
        if not header["p_memsz"]:
            continue
        if header["p_vaddr"] < end:
            raise ImageError(f"{where} is damaged: segment {number} begins inside another one")
        area = _read_area(fd, header, notes.mappings)
        end = area.end
        areas.append(area)
        position = header["p_offset"]
        extents[area.start] = Extent(position, position + header["p_filesz"])
    return tuple(areas), extents, skipped


def _check_segment(header: Any, number: int, size: int, where: str) -> None:
    start, length, stored = header["p_vaddr"], header["p_memsz"], header["p_filesz"]
    missing = min(stored, header["p_offset"] + stored - size)
    if missing > 0:
        raise ImageError(
            f"{where} is cut off: segment {number} (at {start:#x}) lacks the last {missing} of "
            f"{stored} bytes: write it again with more room (ulimit -c, disk)"
        )
    if start % PAGE_SIZE:
        raise ImageError(
            f"{where}: segment {number} (at {start:#x}) does not begin at a page of {PAGE_SIZE} "
            "bytes: use a core of a machine with such pages"
        )
    if stored > length or start + length > _USER_LIMIT:
        raise ImageError(
            f"{where} is damaged: segment {number} (at {start:#x}) has {stored} bytes stored "
            f"of {length}: write it again"
        )


def _read_area(fd: int, header: Any, mappings: list[_Mapping]) -> Area:
    start = header["p_vaddr"]
    end = start + -(-header["p_memsz"] // PAGE_SIZE) * PAGE_SIZE
    prot = sum(bit for flag, bit in _PROT if header["p_flags"] & flag)
    name, offset, flags = "", 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    at = bisect_right(mappings, start, key=lambda mapping: mapping.start) - 1
    if at >= 0 and start < mappings[at].end:
        name, flags = mappings[at].name, mmap.MAP_PRIVATE
        offset = mappings[at].offset + start - mappings[at].start
    present = _stored_pages(fd, header["p_offset"], header["p_filesz"])
    present += np.uint64(start >> PAGE_SHIFT)
    of_file = bool(name) and not prot & mmap.PROT_WRITE
    return Area(start, end, prot, flags, name, offset, present, np.full(present.size, of_file))


def _stored_pages(fd: int, position: int, length: int) -> Pages:
    """Numbers, from 0, of the pages of a segment of which the file holds anything but a hole."""
    pieces = [np.empty(0, np.uint64)]
    at, end = position, position + length
    while at < end:
        try:
            data = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole from here on
                break
            raise
        if data >= end:
            break
        at = min(os.lseek(fd, data, os.SEEK_HOLE), end)
        first, last = (data - position) >> PAGE_SHIFT, (at - position - 1) >> PAGE_SHIFT
        pieces.append(np.arange(first, last + 1, dtype=np.uint64))
    # A page of which both ends are stored and the middle is a hole comes twice.
    return np.unique(np.concatenate(pieces))
