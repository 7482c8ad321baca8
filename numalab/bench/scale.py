"""How much is measured, how often; and how large a page may be where memory is short.  Pure but
for a look at the host's memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from numalab.bench.readings import Readings

#: Of the memory that is available, so much may be filled with zones.
MEMORY_SHARE = 0.6
#: Where 4 KiB are too much, what is measured is the work for a page rather than for its bytes.
PAGE_SIZES = (4096, 1024, 512, 256, 128, 64)


@dataclass(frozen=True, slots=True)
class Scale:
    """pages: of a usual migration.  many: of a long one.  ladder: of figure 5, live and simulated.

    rounds: of everything that is quick, for each start.  slow_rounds: of what is not.  frames: of
    figure 14's machine.  seconds: how long what is counted by time is watched.
    """

    pages: int = 65_536
    many: int = 262_144
    rounds: int = 7
    slow_rounds: int = 3
    starts: int = 3
    ladder: tuple[int, ...] = (4_096, 16_384, 65_536, 262_144, 1_048_576)
    simulated: tuple[int, ...] = (65_536, 1_048_576, 10_000_000)
    frames: int = 1_000_000
    seconds: float = 5.0


FULL = Scale()
QUICK = Scale(
    pages=16_384,
    many=32_768,
    rounds=3,
    slow_rounds=1,
    starts=1,
    ladder=(4_096, 16_384, 65_536),
    simulated=(16_384, 65_536, 262_144),
    frames=100_000,
    seconds=2.0,
)


@dataclass(frozen=True, slots=True)
class Start:
    """A fresh start of what is measured: processes are new in each, ``number`` counts from 0."""

    scale: Scale
    number: int
    wanted: frozenset[int]
    peers: tuple[str, ...]
    readings: Readings

    def any_of(self, *numbers: int) -> bool:
        """One of these figures is wanted."""
        return not self.wanted.isdisjoint(numbers)


def page_size_for(frames: int, room: int | None = None) -> int:
    """The largest page size at which so many frames fit into the host's memory.

    room: bytes that are available; None: ask the host.
    """
    room = memory_available() if room is None else room
    return next(
        (size for size in PAGE_SIZES if frames * size <= room * MEMORY_SHARE), PAGE_SIZES[-1]
    )


def memory_available() -> int:
    """Bytes that zones may take: of memory, and of /dev/shm, where they are."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    kib = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    return min([kib * 1024, *_room_in("/dev/shm")])


def _room_in(directory: str) -> Sequence[int]:
    try:
        found = os.statvfs(directory)
    except OSError:
        return ()
    return (found.f_bavail * found.f_frsize,)
