"""A core file is read as the process that it was; one that is no core is refused in a sentence."""

from __future__ import annotations

import mmap
import os
import random
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from numalab.image import Area, ImageError, open_core, open_process

PAGE = 4096
PRIVATE_ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE


def offsets(area: Area) -> list[int]:
    """Numbers of the present pages, counted from the start of the area."""
    return [page - (area.start >> 12) for page in area.present.tolist()]


@dataclass
class Segment:
    """What a PT_LOAD says, and the bytes that the file stores of it."""

    start: int
    flags: int
    length: int
    contents: bytes


BASE = 0x7F0000000000
TEXT = Segment(0x400000, 5, 2 * PAGE, b"t" * PAGE)
DATA = Segment(BASE, 6, 4 * PAGE, b"d" * PAGE + b"e" * PAGE + b"odd")
EMPTY = Segment(BASE + 16 * PAGE, 0, 8 * PAGE, b"")
TAIL = Segment(BASE + 32 * PAGE, 4, PAGE, b"x" * PAGE)
VSYSCALL = Segment(0xFFFFFFFFFF600000, 5, PAGE, b"v" * PAGE)


def note(kind: int, content: bytes) -> bytes:
    padding = bytes(-len(content) % 4)
    return struct.pack("<III8s", 5, len(content), kind, b"CORE") + content + padding


def build_core(
    segments: list[Segment], *, unit: int = PAGE, page_size: int = PAGE, elf_type: int = 4
) -> bytes:
    """A core as the kernel lays it out: header, program headers, notes, pages."""
    prpsinfo = struct.pack(
        "<4B4xQIIiiii16s80s", 0, 82, 0, 0, 0, 1000, 1000, 4242, 1, 1, 1, b"loom", b""
    )
    mapping = struct.pack("<QQQQQ", 1, unit, TEXT.start, TEXT.start + TEXT.length, 8192 // unit)
    notes = note(3, prpsinfo) + note(0x46494C45, mapping + b"/bin/loom\0")
    notes += note(6, struct.pack("<QQQQ", 6, page_size, 0, 0))
    header = struct.pack("<4sBBBB8x", b"\x7fELF", 2, 1, 1, 0) + struct.pack(
        "<HHIQQQIHHHHHH", elf_type, 62, 1, 0, 64, 0, 0, 64, 56, 1 + len(segments), 0, 0, 0
    )
    at = 64 + 56 * (1 + len(segments))
    headers = struct.pack("<IIQQQQQQ", 4, 0, at, 0, 0, len(notes), 0, 4)
    body = notes + bytes(-(at + len(notes)) % PAGE)
    for segment in segments:
        headers += struct.pack(
            "<IIQQQQQQ",
            *(1, segment.flags, at + len(body), segment.start, 0),
            *(len(segment.contents), segment.length, PAGE),
        )
        body += segment.contents
    return header + headers + body


def refusal(path: Path) -> str:
    """The sentence with which the file is refused."""
    with pytest.raises(ImageError) as caught, open_core(path):
        pass
    return str(caught.value)


@pytest.fixture
def core(tmp_path: Path) -> Path:
    path = tmp_path / "core"
    path.write_bytes(build_core([TEXT, DATA, EMPTY, TAIL, VSYSCALL]))
    return path


def test_a_core_gives_the_areas_names_and_contents(core: Path) -> None:
    with open_core(core) as source:
        got = source.image
        assert (got.pid, got.comm, got.atomic, got.pages) == (4242, "loom", True, 5)
        text, data, empty, tail = got.areas
        assert (text.name, text.offset, text.prot) == ("/bin/loom", 8192, 5)
        assert (text.start, text.end, text.flags) == (0x400000, 0x402000, mmap.MAP_PRIVATE)
        assert offsets(text) == [0] and text.file_page.all()
        assert (data.name, data.flags, data.prot) == ("", PRIVATE_ANONYMOUS, READ_WRITE)
        assert offsets(data) == [0, 1, 2] and not data.file_page.any()
        assert (empty.prot, len(empty.present)) == (0, 0)
        assert source.read(text, text.present) == b"t" * PAGE
        assert source.read(tail, tail.present) == b"x" * PAGE
        assert got.note.endswith("left out: [vsyscall] (1 page)")


def test_a_page_stored_in_part_ends_in_zeros_and_not_in_its_neighbour(core: Path) -> None:
    with open_core(core) as source:
        data = source.image.areas[1]
        pages = b"d" * PAGE + b"e" * PAGE + b"odd" + bytes(PAGE - 3)
        assert source.read(data, data.present) == pages
        assert source.read(data, data.present[::-1])[:PAGE] == pages[2 * PAGE :]


def test_offsets_counted_in_bytes_are_understood(tmp_path: Path) -> None:
    path = tmp_path / "core"
    path.write_bytes(build_core([TEXT], unit=1))
    with open_core(path) as source:
        assert source.image.areas[0].offset == 8192


def test_holes_of_a_sparse_core_do_not_travel(tmp_path: Path) -> None:
    path = tmp_path / "core"
    path.write_bytes(build_core([Segment(BASE, 6, 64 * PAGE, bytes(64 * PAGE))]))
    size = path.stat().st_size
    begin = size - 64 * PAGE
    os.truncate(path, begin)
    with path.open("r+b") as file:
        file.seek(begin + 40 * PAGE)
        file.write(b"z" * PAGE)
    os.truncate(path, size)
    with path.open("rb") as file:
        if os.lseek(file.fileno(), begin, os.SEEK_DATA) == begin:
            pytest.skip("this file system has no holes")
    with open_core(path) as source:
        area = source.image.areas[0]
        assert offsets(area) == [40]
        assert source.read(area, area.present) == b"z" * PAGE


def test_a_core_cut_off_names_the_segment_and_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "core"
    path.write_bytes(build_core([TEXT, DATA, TAIL])[:-1000])
    assert "segment 2 (at 0x7f0000020000) lacks the last 1000 of 4096 bytes" in refusal(path)


def test_files_that_are_no_core_for_us_are_sentences(tmp_path: Path) -> None:
    path = tmp_path / "core"
    whole = build_core([TEXT])
    for contents, sentence in [
        (random.Random(1).randbytes(10000), "is not an ELF file"),
        (b"", "is not an ELF file"),
        (whole[:40], "ends inside its ELF header"),
        (whole[:100], "lacks the last 76 bytes of its program headers"),
        (whole[:4] + b"\1" + whole[5:], "is not of a 64-bit little-endian machine"),
        (whole[:5] + b"\2" + whole[6:], "is not of a 64-bit little-endian machine"),
        (build_core([TEXT], elf_type=3), "is an ELF file but not a core (ET_DYN)"),
        (build_core([TEXT], page_size=65536), "of a machine with pages of 65536 bytes"),
        (build_core([TEXT], unit=16384), "of a machine with pages of 16384 bytes"),
        (build_core([Segment(0x400800, 5, PAGE, b"")]), "does not begin at a page of 4096"),
        (build_core([Segment(BASE, 5, 9, b"0123456789")]), "has 10 bytes stored of 9"),
        (build_core([DATA, Segment(BASE + PAGE, 5, PAGE, b"")]), "begins inside another"),
    ]:
        path.write_bytes(contents)
        assert sentence in refusal(path) and str(path) in refusal(path)
    assert "is not a regular file" in refusal(tmp_path)
    assert "cannot be opened (No such file or directory)" in refusal(tmp_path / "none")


def test_a_core_that_shrinks_while_read_is_a_sentence(core: Path) -> None:
    with open_core(core) as source:
        tail = source.image.areas[3]
        os.truncate(core, PAGE)
        with pytest.raises(ImageError, match="was cut off while read"):
            source.read(tail, tail.present)


def test_a_damaged_core_is_read_or_refused_and_nothing_else(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    path = tmp_path / "core"
    whole = build_core([TEXT, DATA, EMPTY])
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(dice.choice((1, 1, 2, 8))):
            damaged[dice.randrange(PAGE)] = dice.choice((0, 1, 0x7F, 0xFF, dice.randrange(256)))
        path.write_bytes(damaged[: dice.choice((len(whole), dice.randrange(len(whole))))])
        try:
            with open_core(path) as source:
                for area in source.image.areas:
                    assert len(source.read(area, area.present)) == len(area.present) * PAGE
        except ImageError as error:
            assert str(path) in str(error)


@pytest.mark.slow
def test_a_core_made_by_gcore_agrees_with_the_process(tmp_path: Path) -> None:
    gcore = shutil.which("gcore")
    if gcore is None:
        pytest.skip("gcore (gdb) is not installed")
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b"ready\n")
        process.stdin.flush()
        process.stdout.readline()
        path = tmp_path / "core"
        # Held still, so that gcore sees the very moment that is compared.
        with open_process(process.pid) as live:
            made = subprocess.run([gcore, "-o", path, str(process.pid)], timeout=15)
            if made.returncode:
                process.kill()
                pytest.skip("gcore may not trace here (kernel.yama.ptrace_scope)")
            with open_core(f"{path}.{process.pid}") as dead:
                assert (dead.image.pid, dead.image.comm) == (process.pid, "cat")
                assert len(dead.image.areas) > 5
                areas = {area.start: area for area in live.image.areas}
                for area in dead.image.areas:
                    same = areas[area.start]
                    assert (area.end, area.prot, area.offset) == (same.end, same.prot, same.offset)
                    assert not np.setdiff1d(same.present, area.present).size
                    assert live.read(same, same.present) == dead.read(area, same.present)
        process.kill()
