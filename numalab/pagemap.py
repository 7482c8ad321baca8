"""Which pages of a process are present: pagemap, PAGEMAP_SCAN and kpageflags.

Documentation/admin-guide/mm/pagemap.rst of the kernel describes all three.
"""

from __future__ import annotations

import fcntl
import os

import numpy as np
import numpy.typing as npt

from numalab.address_space import PAGE_SHIFT, Pages, runs

# Bits of an entry; bits 0-54 are the page frame number, 0 without CAP_SYS_ADMIN.
_PRESENT = np.uint64(1 << 63)
_SWAPPED = np.uint64(1 << 62)
FILE_PAGE = np.uint64(1 << 61)
_GUARD = np.uint64(1 << 58)
_EXCLUSIVE = np.uint64(1 << 56)
_FRAME = np.uint64((1 << 55) - 1)
_KPF_ZERO_PAGE = np.uint64(1 << 24)
_CHUNK = 1 << 17

# PAGEMAP_SCAN (Linux 6.7) finds the few pages of a large area that is mostly untouched: pagemap
# takes a second to read for each TiB of nothing, and sanitizers and runtimes reserve many.
_SPARSE = 1 << 20
_SCAN = 0xC0606610
_SCAN_PRESENT_OR_SWAPPED = 1 << 3 | 1 << 4
_SCAN_REGIONS = 1 << 14


def read_pagemap(pagemap: int, first: int, last: int) -> tuple[Pages, Pages]:
    """Present pages of [first, last), ascending, and their pagemap entries.

    Swapped pages and those under migration count: reading them brings them back.
    Raises ProcessLookupError if the process is gone.
    """
    spans = [(first, last)]
    if last - first > _SPARSE:
        spans = scan_pagemap(pagemap, first, last)
    numbers: list[Pages] = [np.empty(0, np.uint64)]
    found: list[Pages] = [np.empty(0, np.uint64)]
    for begin, end in spans:
        for page in range(begin, end, _CHUNK):
            entries = np.empty(min(_CHUNK, end - page), np.uint64)
            if os.preadv(pagemap, [entries.data], page * 8) != entries.nbytes:
                raise ProcessLookupError
            # A guard region looks swapped out, and has no contents.
            there = (entries & _PRESENT != 0) | (entries & (_SWAPPED | _GUARD) == _SWAPPED)
            index = np.flatnonzero(there)
            numbers.append(index.astype(np.uint64) + np.uint64(page))
            found.append(entries[index])
    return np.concatenate(numbers), np.concatenate(found)


def scan_pagemap(pagemap: int, first: int, last: int) -> list[tuple[int, int]]:
    """Spans [first, last) of pages outside of which no page is present (PAGEMAP_SCAN)."""
    regions = np.zeros((_SCAN_REGIONS, 3), np.uint64)
    argument = np.zeros(12, np.uint64)
    argument[0], argument[5], argument[6] = argument.nbytes, regions.ctypes.data, len(regions)
    argument[10] = argument[11] = _SCAN_PRESENT_OR_SWAPPED
    at, end = first << PAGE_SHIFT, last << PAGE_SHIFT
    bounds = [np.empty((0, 2), np.uint64)]
    while at < end:
        argument[2], argument[3] = at, end
        try:
            count = fcntl.ioctl(pagemap, _SCAN, argument.data)
        except OSError:
            return [(first, last)]  # an older kernel
        bounds.append(regions[:count, :2] >> np.uint64(PAGE_SHIFT))
        at = int(argument[4])
    starts, ends = np.concatenate(bounds).T
    if not starts.size:
        return []
    # One read of pagemap over a small gap is cheaper than two reads.
    cuts = np.flatnonzero(starts[1:] - ends[:-1] > _CHUNK)
    first_of = np.concatenate((starts[:1], starts[cuts + 1])).tolist()
    last_of = np.concatenate((ends[cuts], ends[-1:])).tolist()
    return list(zip(first_of, last_of, strict=True))


def maps_zero_page(kpageflags: int, entries: Pages) -> npt.NDArray[np.bool_]:
    """Which of these pagemap entries map the zero page, small or huge."""
    frames = np.where(entries & (_PRESENT | _EXCLUSIVE) == _PRESENT, entries & _FRAME, 0)
    zero_frames: list[Pages] = [np.empty(0, np.uint64)]
    candidates = np.unique(frames[frames != 0])
    for _, frame, count in runs(candidates) if candidates.size else ():
        flags = np.zeros(count, np.uint64)
        os.preadv(kpageflags, [flags.data], frame * 8)
        zero_frames.append(np.flatnonzero(flags & _KPF_ZERO_PAGE).astype(np.uint64) + frame)
    return np.isin(frames, np.concatenate(zero_frames))
