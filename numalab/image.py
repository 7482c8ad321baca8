"""Read a live process (/proc/PID) or an ELF core file into an address space.

``open_process`` and ``open_core`` give a ``Source``: what the address space looks like (``image``)
and its contents (``read``).  Only present pages travel.  A page is present if the process has a
page-table entry for it: in memory, or swapped out (reading swaps it in).  Pages that were never
touched do not travel, nor do those that map the zero page where /proc/kpageflags tells which they
are (root); elsewhere a zero page travels as a page of zeros.
Formats: proc_pid_maps(5), proc_pid_stat(5), proc_pid_mem(5).
"""

from __future__ import annotations

import errno
import io
import mmap
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from numalab.address_space import (
    PAGE_SHIFT,
    PAGE_SIZE,
    Area,
    Extent,
    Image,
    ImageError,
    Source,
    describe_skipped,
)
from numalab.corefile import open_core
from numalab.pagemap import FILE_PAGE, maps_zero_page, read_pagemap

__all__ = ["Area", "Image", "ImageError", "Source", "open_core", "open_process"]

#: How long a process may take to stop before it is read running (seconds).
STOP_LIMIT = 2.0

# Their pages belong to the kernel, and another kernel has others.
_KERNEL_AREAS = frozenset({"[vvar]", "[vvar_vclock]", "[vsyscall]"})


@contextmanager
def open_process(pid: int, *, stop: bool = True) -> Iterator[Source]:
    """Open process ``pid``; with ``stop`` it is stopped (SIGSTOP) until the ``with`` ends.

    It is continued afterwards, also on errors, unless it was stopped before; its parent sees it
    stop and continue, as from a shell.  A process that may not be signalled, or does not stop
    within STOP_LIMIT, is read running: ``image.atomic`` is then False.
    Raises ImageError.
    """
    if os.sysconf("SC_PAGE_SIZE") != PAGE_SIZE:
        raise ImageError(f"this machine's pages are not of {PAGE_SIZE} bytes: use another machine")
    if stop and pid == os.getpid():
        raise ImageError(
            f"process {pid} is this program, which cannot stop itself: use stop=False or another"
        )
    with ExitStack() as stack:
        with _sentences(pid):
            pidfd = _open_pidfd(pid)
            stack.callback(os.close, pidfd)
            comm = _require_memory(pid)
            moving = stack.enter_context(_stopped(pid, pidfd, stop))
            mem, pagemap, maps = (
                stack.enter_context(_open_proc(pid, name)) for name in ("mem", "pagemap", "maps")
            )
            areas, skipped = _read_areas(mem.fileno(), pagemap.fileno(), maps.readall())
        image = Image(pid, comm, areas, not moving, _describe_process(areas, moving, skipped))
        extents = {area.start: Extent(area.start, area.end) for area in areas}
        yield Source(image, mem, extents, f"process {pid} ({comm}) changed or ended while read")


def _open_proc(pid: int, name: str) -> io.FileIO:
    return open(f"/proc/{pid}/{name}", "rb", buffering=0)


def _open_pidfd(pid: int) -> int:
    """A handle on the process, so that a signal never reaches another one of the same number."""
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno not in (errno.ESRCH, errno.EINVAL, errno.ENOENT):
            raise
        raise ImageError(
            f"there is no process {pid}: look for its number with ps (a thread's will not do)"
        ) from None


@contextmanager
def _sentences(pid: int) -> Iterator[None]:
    """Say what an error of the kernel means for who wants to read process ``pid``."""
    try:
        yield
    except PermissionError:
        raise ImageError(
            f"process {pid} may not be read: run as its owner or as root, "
            "and see kernel.yama.ptrace_scope"
        ) from None
    except OSError as error:
        if isinstance(error, ProcessLookupError) or not os.path.exists(f"/proc/{pid}"):
            raise ImageError(f"process {pid} ended while it was read: choose another") from None
        raise ImageError(
            f"process {pid} cannot be read ({error}): check that /proc is whole"
        ) from None


def _state(path: str) -> tuple[str, str, int]:
    """comm, state letter and flags (PF_*) out of a stat file of /proc (proc_pid_stat(5))."""
    with open(path, "rb") as file:
        head, _, tail = file.read().rpartition(b")")
    comm = head.partition(b"(")[2].decode("utf-8", "backslashreplace")
    words = tail.split()
    return comm, words[0].decode(), int(words[6])


def _require_memory(pid: int) -> str:
    """The process's comm.  Raises ImageError if it has no memory of its own."""
    kernel_thread = 0x00200000
    comm, state, flags = _state(f"/proc/{pid}/stat")
    if flags & kernel_thread:
        raise ImageError(
            f"process {pid} ({comm}) is a kernel thread without memory: choose a user's process"
        )
    if state in "ZX":
        raise ImageError(f"process {pid} ({comm}) has ended and has no memory: choose another")
    return comm


@contextmanager
def _stopped(pid: int, pidfd: int, stop: bool) -> Iterator[str]:
    """Hold the process still; yields why it is not held, or nothing."""
    if not stop:
        yield "it was not to be stopped"
        return
    if not _running(pid):
        yield ""
        return
    try:
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
            moving = _await_stop(pid)
        except PermissionError:
            moving = "it may not be signalled"
        yield moving
    finally:
        with suppress(ProcessLookupError, PermissionError):
            signal.pidfd_send_signal(pidfd, signal.SIGCONT)


def _running(pid: int) -> bool:
    """Whether any thread of the process is neither stopped, traced nor dead."""
    for tid in os.listdir(f"/proc/{pid}/task"):
        with suppress(FileNotFoundError, ProcessLookupError):
            if _state(f"/proc/{pid}/task/{tid}/stat")[1] not in "TtZX":
                return True
    return False


def _await_stop(pid: int) -> str:
    """Wait until no thread runs; a thread inside the kernel may take its time."""
    limit = time.monotonic() + STOP_LIMIT
    while _running(pid):
        if time.monotonic() > limit:
            return f"it did not stop within {STOP_LIMIT:g} seconds"
        time.sleep(0.0005)
    _require_memory(pid)
    return ""


def _read_areas(mem: int, pagemap: int, maps: bytes) -> tuple[tuple[Area, ...], Counter[str]]:
    """The areas, and for each name how many pages of address space were left out."""
    areas: list[Area] = []
    skipped: Counter[str] = Counter()
    with ExitStack() as stack:
        kpageflags = None
        with suppress(OSError):
            kpageflags = stack.enter_context(open("/proc/kpageflags", "rb", buffering=0)).fileno()
        for line in maps.decode("utf-8", "backslashreplace").split("\n")[:-1]:
            start, end, prot, flags, name, offset = _parse_line(line)
            if name in _KERNEL_AREAS:
                skipped[name] += (end - start) >> PAGE_SHIFT
                continue
            pages, entries = read_pagemap(pagemap, start >> PAGE_SHIFT, end >> PAGE_SHIFT)
            if pages.size and not _readable(mem, int(pages[0]) << PAGE_SHIFT):
                skipped[name or "anonymous memory"] += (end - start) >> PAGE_SHIFT
                continue
            if kpageflags is not None and flags == mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS:
                kept = ~maps_zero_page(kpageflags, entries)
                pages, entries = pages[kept], entries[kept]
            file_page = (entries & FILE_PAGE) != 0
            areas.append(Area(start, end, prot, flags, name, offset, pages, file_page))
    return tuple(areas), skipped


def _parse_line(line: str) -> tuple[int, int, int, int, str, int]:
    """start, end, prot, flags, name and offset out of a line of /proc/PID/maps."""
    fields = line.split(maxsplit=5)
    start, _, end = fields[0].partition("-")
    rights, offset, inode = fields[1], int(fields[2], 16), int(fields[4])
    name = fields[5] if len(fields) == 6 else ""
    prot = sum(
        bit
        for letter, bit in zip(
            rights[:3], (mmap.PROT_READ, mmap.PROT_WRITE, mmap.PROT_EXEC), strict=True
        )
        if letter != "-"
    )
    flags = mmap.MAP_SHARED if rights[3] == "s" else mmap.MAP_PRIVATE
    # Shared anonymous memory is a deleted file to the kernel; prctl(2) can name either kind.
    shared_anonymous = name == "/dev/zero (deleted)" or name.startswith("[anon_shmem:")
    if inode == 0 or shared_anonymous:
        flags |= mmap.MAP_ANONYMOUS
    if shared_anonymous or name.startswith("[anon:"):
        name = ""
    return int(start, 16), int(end, 16), prot, flags, name, offset


def _readable(mem: int, address: int) -> bool:
    """Whether the kernel hands out this page; those of devices it does not."""
    try:
        data = os.pread(mem, 1, address)
    except OSError as error:
        if error.errno == errno.EIO:
            return False
        raise
    if not data:
        raise ProcessLookupError
    return True


def _describe_process(areas: tuple[Area, ...], moving: str, skipped: Counter[str]) -> str:
    if moving:
        note = f"not atomic: {moving}, so pages may be of different moments"
    else:
        note = "atomic: it stood still while it was read"
        writable = mmap.PROT_WRITE
        shared = sum(a.flags & mmap.MAP_SHARED != 0 and a.prot & writable != 0 for a in areas)
        if shared:
            note += f", but others may write to its {shared} shared areas"
    return note + describe_skipped(skipped)
