"""An image is what a live process holds: areas, present pages, contents, of one moment."""

from __future__ import annotations

import errno
import mmap
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from numalab import image
from numalab.image import Area, ImageError, Source, open_process
from numalab.pagemap import read_pagemap, scan_pagemap

# A process left stopped would never answer.
pytestmark = pytest.mark.timeout(20)

PAGE = 4096
MIB = 1 << 20
PRIVATE_ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE
#: 2,048 pages of which no two are alike.
PATTERN = np.arange(8 * MIB // 8, dtype="<u8").tobytes()

CHILD = """
import ctypes, mmap, sys
import numpy as np

private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS

def area(length, flags=private, prot=mmap.PROT_READ | mmap.PROT_WRITE, fd=-1):
    # A page without rights before each area keeps the kernel from merging two of them.
    fences.append(mmap.mmap(-1, 4096, private, 0))
    return mmap.mmap(fd, length, flags, prot)

def address(area):
    return np.frombuffer(area, np.uint8).ctypes.data

fences = []
pattern = area(8 << 20)
pattern.write(np.arange(1 << 20, dtype="<u8").tobytes())
sparse = area(16 << 30, private | 0x4000)  # MAP_NORESERVE
for page in (0, 1, 7, 1 << 21, (1 << 22) - 1):
    sparse[page << 12] = 1 + page % 251
shared = area(16384, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
shared[:5] = b"hello"
closed = area(8192, private, 0)
read = area(8192)
read[0], read[4096]
file = open(sys.argv[1], "r+b")
mapped = area(8192, mmap.MAP_PRIVATE, mmap.PROT_READ, file.fileno())
mapped[0]
guarded = area(16384)
guarded.write(b"g" * 16384)
try:
    guarded.madvise(102, 4096, 4096)  # MADV_GUARD_INSTALL, Linux 6.13
except OSError:
    guarded = area(4096)
print(*map(address, (pattern, sparse, shared, closed, read, mapped, guarded)), flush=True)
for line in sys.stdin:
    print("alive", flush=True)
"""


@dataclass
class Child:
    """A process that waits for a line, and the addresses of what it has mapped."""

    process: subprocess.Popen[str]
    address: dict[str, int]
    file: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def runs(self) -> bool:
        """Whether it answers: a stopped process never would."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("?\n")
        self.process.stdin.flush()
        return self.process.stdout.readline() == "alive\n"

    def stop(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)

    def area(self, source: Source, name: str) -> Area:
        at = self.address[name]
        return next(area for area in source.image.areas if area.start <= at < area.end)


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    file = tmp_path / "a file"
    file.write_bytes(b"f" * 2 * PAGE)
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", CHILD, str(file)]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        names = ("pattern", "sparse", "shared", "closed", "read", "mapped", "guarded")
        addresses = map(int, process.stdout.readline().split())
        try:
            yield Child(process, dict(zip(names, addresses, strict=True)), file)
        finally:
            process.kill()


def comm_of(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().rstrip("\n")


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def offsets(area: Area) -> list[int]:
    """Numbers of the present pages, counted from the start of the area."""
    return [page - (area.start >> 12) for page in area.present.tolist()]


def test_the_contents_of_a_live_process_are_read_as_it_wrote_them(child: Child) -> None:
    with open_process(child.pid) as source:
        got = source.image
        assert (got.pid, got.comm, got.atomic) == (child.pid, comm_of(child.pid), True)
        assert got.bytes == got.pages * PAGE
        assert got.pages == sum(len(area.present) for area in got.areas) > 2048
        area = child.area(source, "pattern")
        assert (area.prot, area.flags, area.name) == (READ_WRITE, PRIVATE_ANONYMOUS, "")
        assert area.end - area.start == 8 * MIB and len(area.present) == 2048
        assert not area.file_page.any()
        assert source.read(area, area.present) == PATTERN


def test_pages_come_in_the_order_asked_and_a_part_may_be_asked(child: Child) -> None:
    with open_process(child.pid) as source:
        area = child.area(source, "pattern")
        chosen = np.array([5, 6, 7, 3, 2047, 0, 3])
        expected = b"".join(PATTERN[i * PAGE : (i + 1) * PAGE] for i in chosen)
        assert source.read(area, area.present[chosen]) == expected
        assert len(source.read(area, area.present[:0])) == 0


def test_untouched_pages_do_not_travel(child: Child) -> None:
    touched = [0, 1, 7, 1 << 21, (1 << 22) - 1]
    with open_process(child.pid) as source:
        area = child.area(source, "sparse")
        assert offsets(area) == touched
        contents = source.read(area, area.present)
        assert [contents[i * PAGE] for i in range(5)] == [1 + page % 251 for page in touched]


def test_the_quick_look_at_a_sparse_area_leads_to_the_same_pages(child: Child) -> None:
    first = child.address["sparse"] >> 12
    last = first + (16 << 30 >> 12)
    with open(f"/proc/{child.pid}/pagemap", "rb", buffering=0) as pagemap:
        spans = scan_pagemap(pagemap.fileno(), first, last)
        if spans == [(first, last)]:
            pytest.skip("this kernel has no PAGEMAP_SCAN (Linux 6.7)")
        assert sum(end - begin for begin, end in spans) < 100
        step = 1 << 20  # small enough that pagemap itself is read
        slow = [read_pagemap(pagemap.fileno(), at, at + step)[0] for at in range(first, last, step)]
        quick = read_pagemap(pagemap.fileno(), first, last)[0]
    assert np.concatenate(slow).tolist() == quick.tolist()


def test_areas_tell_sharing_rights_and_names(child: Child) -> None:
    with open_process(child.pid) as source:
        shared = child.area(source, "shared")
        assert (shared.flags, shared.name) == (mmap.MAP_SHARED | mmap.MAP_ANONYMOUS, "")
        assert offsets(shared) == [0] and shared.file_page.all()
        assert bytes(source.read(shared, shared.present)[:5]) == b"hello"
        closed = child.area(source, "closed")
        assert (closed.prot, len(closed.present)) == (0, 0)
        mapped = child.area(source, "mapped")
        assert (mapped.prot, mapped.flags) == (mmap.PROT_READ, mmap.MAP_PRIVATE)
        assert mapped.name == str(child.file) and mapped.file_page.all()
        names = {area.name for area in source.image.areas}
        assert {"[heap]", "[stack]"} <= names and "[vvar]" not in names
        assert "left out: " in source.image.note and "[vvar] (" in source.image.note
        assert "others may write to its 1 shared areas" in source.image.note


def test_the_zero_page_does_not_travel_where_the_kernel_tells_it(child: Child) -> None:
    if not os.access("/proc/kpageflags", os.R_OK):
        pytest.skip("/proc/kpageflags may not be read (needs root): zero pages travel")
    with open_process(child.pid) as source:
        assert offsets(child.area(source, "read")) == []


def test_a_guard_region_is_not_taken_for_swapped_pages(child: Child) -> None:
    with open_process(child.pid) as source:
        area = child.area(source, "guarded")
        if area.end - area.start != 4 * PAGE:
            pytest.skip("this kernel has no MADV_GUARD_INSTALL (Linux 6.13)")
        assert offsets(area) == [0, 2, 3]
        assert source.read(area, area.present) == b"g" * 3 * PAGE


def test_the_process_stands_still_while_open_and_runs_afterwards(child: Child) -> None:
    assert child.runs()
    with open_process(child.pid) as source:
        assert source.image.atomic and source.image.note.startswith("atomic: ")
        assert state_of(child.pid) == "T"
    assert child.runs()


def test_the_process_is_continued_also_after_an_error(child: Child) -> None:
    with pytest.raises(KeyError), open_process(child.pid):
        raise KeyError
    assert child.runs()


def test_a_process_that_was_stopped_stays_stopped(child: Child) -> None:
    child.stop()
    with open_process(child.pid) as source:
        assert source.image.atomic
    assert state_of(child.pid) == "T"


def test_a_process_that_is_not_to_be_stopped_is_read_running(child: Child) -> None:
    with open_process(child.pid, stop=False) as source:
        assert child.runs()
        assert not source.image.atomic and source.image.note.startswith("not atomic: ")
        area = child.area(source, "pattern")
        assert source.read(area, area.present) == PATTERN


def test_a_process_that_may_not_be_signalled_is_read_running(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pidfd: int, number: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(signal, "pidfd_send_signal", refuse)
    with open_process(child.pid) as source:
        assert not source.image.atomic and "may not be signalled" in source.image.note
        assert child.runs()


def test_a_process_that_does_not_stop_in_time_is_read_running_and_continued(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image, "STOP_LIMIT", 0.0)
    monkeypatch.setattr(image, "_running", lambda pid: True)
    with open_process(child.pid) as source:
        assert not source.image.atomic and "did not stop within" in source.image.note
    assert child.runs()


def test_a_process_that_dies_while_read_is_a_sentence(child: Child) -> None:
    with open_process(child.pid) as source:
        area = child.area(source, "pattern")
        child.process.kill()
        child.process.wait()
        with pytest.raises(ImageError, match=rf"process {child.pid} \(.*\) changed or ended"):
            source.read(area, area.present)


def test_a_page_that_is_not_of_the_area_is_our_mistake(child: Child) -> None:
    with open_process(child.pid) as source:
        area = child.area(source, "pattern")
        with pytest.raises(AssertionError, match="pages outside"):
            source.read(area, area.present + np.uint64(1))


def test_processes_without_memory_to_read_are_sentences(child: Child) -> None:
    child.process.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie until it is reaped
    with pytest.raises(ImageError, match="has ended and has no memory"), open_process(child.pid):
        pass
    child.process.wait()
    with pytest.raises(ImageError, match=f"no process {child.pid}"), open_process(child.pid):
        pass
    with pytest.raises(ImageError, match="no process -1"), open_process(-1):
        pass


def test_a_kernel_thread_is_a_sentence() -> None:
    if not Path("/proc/2/comm").exists() or comm_of(2) != "kthreadd":
        pytest.skip("no kernel thread to be seen from here")
    with pytest.raises(ImageError, match=r"\(kthreadd\) is a kernel thread"), open_process(2):
        pass


def test_we_never_stop_ourselves() -> None:
    with pytest.raises(ImageError, match="cannot stop itself"), open_process(os.getpid()):
        pass
    with open_process(os.getpid(), stop=False) as source:
        assert source.image.pages > 0 and not source.image.atomic


def test_a_thread_is_not_taken_for_a_process() -> None:
    seen, leave = threading.Event(), threading.Event()
    tids: list[int] = []

    def live() -> None:
        tids.append(threading.get_native_id())
        seen.set()
        leave.wait()

    thread = threading.Thread(target=live)
    thread.start()
    try:
        seen.wait()
        with pytest.raises(ImageError, match="no process"), open_process(tids[0]):
            pass
    finally:
        leave.set()
        thread.join()


def test_a_process_of_another_user_is_a_sentence(child: Child) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user to be refused")
    receive, send = os.pipe()
    reader = os.fork()
    if reader == 0:
        answer = "it was read"
        try:
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            with open_process(child.pid):
                pass
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        finally:
            os.write(send, answer.encode())
            os._exit(0)
    os.close(send)
    with os.fdopen(receive) as pipe:
        answer = pipe.read()
    os.waitpid(reader, 0)
    assert answer.startswith(f"ImageError: process {child.pid} may not be read: run as ")
    assert child.runs()
