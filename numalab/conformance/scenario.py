"""The language of scenarios: steps as plain data, which every machine carries out alike.

A scenario is a name and a list of steps; a step is a dictionary that JSON can hold.  ``op`` says
what is done and ``by`` which task does it (``t``, root on cpu 0, is there from the start).  Places
are symbolic, ``[area, page]`` or ``[area, page, byte]``; where areas lie is decided here, so that
all machines use the same addresses.  This file also runs in the guest: standard library only.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Step = dict[str, Any]
Place = list[Any]

PAGE = 4096
NODES = 4
#: Areas are mapped here; what else a process has lies elsewhere.  Not a multiple of the nodes.
WINDOW = 0x10_0000_5000
WINDOW_START, WINDOW_END = 0x08_0000_0000, 0x18_0000_0000
#: Pages between two areas that are not said to touch.
GAP = 7
#: An address at which nothing is ever mapped.
UNREADABLE = 0x8000

FIRST = "t"
#: What a status array holds before the call.
PREFILL = -99
#: Pages that one read reads at most.
READ_MAX = 64
#: Distances between the nodes: two pairs, and a longer way from 0 to 3 and 1 to 2.
DISTANCES = ((10, 12, 20, 22), (12, 10, 22, 20), (20, 22, 10, 12), (22, 20, 12, 10))


@dataclass(frozen=True, slots=True)
class Scenario:
    """A name and what is done, in order."""

    name: str
    steps: list[Step]

    def plain(self) -> dict[str, Any]:
        return {"name": self.name, "steps": self.steps}


class Layout:
    """Where the areas of a scenario lie: bytes, decided by the order of its mmap steps."""

    def __init__(self, steps: list[Step]) -> None:
        self.pages: dict[str, int] = {}
        self._start: dict[str, int] = {}
        free = WINDOW
        for step in steps:
            if step["op"] != "mmap" or step["area"] in self.pages:
                continue
            name = step["area"]
            place = step.get("at")
            self._start[name] = free if place is None else self.address(place)
            self.pages[name] = step["pages"]
            free = max(free, self._start[name] + (step["pages"] + GAP) * PAGE)

    def address(self, place: Place) -> int:
        """Of [area, page] or [area, page, byte]; the page may lie outside of the area."""
        area, page, *byte = place
        return int(self._start[area] + page * PAGE + sum(byte))

    def name(self, address: int) -> str:
        """``area+page``, of the area that begins last at or below the address."""
        below = [(start, name) for name, start in self._start.items() if start <= address]
        if not below:
            return f"{address:#x}"
        start, name = max(below)
        return f"{name}+{(address - start) // PAGE}"

    def covers(self, address: int) -> bool:
        return WINDOW_START <= address < WINDOW_END

    def areas(self) -> Iterator[tuple[str, int, int]]:
        """Name, address and pages of each."""
        for name, pages in self.pages.items():
            yield name, self._start[name], pages


@dataclass(frozen=True, slots=True)
class RawMask:
    """A node mask as a system call takes it: data None is a NULL pointer; bad: unreadable."""

    maxnode: int
    data: bytes | None
    bad: bool = False


def raw_mask(step: Step, key: str) -> RawMask:
    """The mask of a step: a list of nodes, None, or {"maxnode", "bytes" (hex or None), "bad"}."""
    mask = step.get(key)
    if mask is None:
        return RawMask(0, None)
    if isinstance(mask, list):
        bits = sum(1 << node for node in set(mask))
        return RawMask(64 + 1, bits.to_bytes(8, "little"))
    told = mask.get("bytes")
    data = None if told is None else bytes.fromhex(told)
    return RawMask(mask["maxnode"], data, bool(mask.get("bad")))


def nodes_of(data: bytes) -> list[int]:
    """The nodes of a mask in the kernel's form."""
    bits = int.from_bytes(data, "little")
    return [node for node in range(bits.bit_length()) if bits >> node & 1]


def error_name(number: int) -> str:
    """EINVAL for 22 or -22."""
    return errno.errorcode.get(abs(number), f"errno {abs(number)}")


def status_name(status: int) -> int | str:
    """A node as it is, -errno by its name."""
    return status if status >= 0 else error_name(status)


def prot(step: Step) -> int:
    """PROT_READ, PROT_WRITE and PROT_EXEC for the letters r, w and x."""
    return sum({"r": 1, "w": 2, "x": 4}[letter] for letter in step.get("prot", "rw"))


def result(value: int) -> dict[str, Any]:
    """The answer of a call: a number, or the name of an errno."""
    return {"value": value} if value >= 0 else {"errno": error_name(value)}
