"""Questions with random and extreme field values, as a client of any kind may ask them."""

from __future__ import annotations

import random
import typing
from collections.abc import Callable
from typing import Any

import numpy as np

from coordinator.address_space import KINDS
from coordinator.cpuset_files import FILES
from coordinator.mm import MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, MAP_SHARED, SPECIAL_MAPPINGS
from protocol.files import CreateFile, Unlink
from protocol.schema import MESSAGES, ROWS, ArrayTag, Message
from protocol.syscalls import CpusetWrite, Exit, Fault, Mmap, Munmap
from protocol.user_mask import MASK_BYTES_MAX, MAXNODE, user_mask
from tests.lab import PAGE, Lab

#: Where areas are asked for, so that they meet.
FIRST_PAGE, PAGES = 1 << 16, 48
EDGES = (0, 1, 2, 3, 4, 255, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 47)
LARGEST, LEAST = (1 << 63) - 1, -(1 << 63)
MAPPING = (MAP_PRIVATE, MAP_SHARED, 0x2021, 0x8022, 0x102022) + (
    *(MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, MAP_SHARED | MAP_FIXED, MAP_PRIVATE | MAP_FIXED) * 3,
)
PATHS = (*("/a", "/b", "/a/c") * 8, "/", "", "a", "/a/", "//", "/é\n=\t", "/" + "x" * 300)
NAMES = (*("", "/a", "/b") * 3, "[heap]", "/nowhere", "[uncached]", *SPECIAL_MAPPINGS)
TEXTS = (
    *("0-3", "0", "1", "2-3", "0-1,3") * 3,
    "",
    "\n",
    "1 \0",
    "-1",
    "9" * 5000,
    "0-99999",
    "a",
    "½",
)
#: What most of the others need, and what takes it away.
OFTEN, SELDOM = (Mmap, Fault, CpusetWrite), (Exit, Munmap, Unlink)
QUESTIONS = tuple(row for row in MESSAGES.values() if row.asker == "client" and row.answer)


class Fuzz:
    """Makes messages for a lab; what they name is there more often than not."""

    def __init__(self, lab: Lab, rng: random.Random) -> None:
        self.lab, self.rng = lab, rng

    def question(self, answerer: str) -> Message:
        """Any question that a client may ask ``answerer``."""
        rows = [row for row in QUESTIONS if row.answerer == answerer]
        weights = [5 if row.cls in OFTEN else 0.3 if row.cls in SELDOM else 1 for row in rows]
        return self.message(self.rng.choices(rows, weights)[0].cls)

    def message(self, cls: type[Message]) -> Message:
        """One of this type."""
        row, rows = ROWS[cls], self.rng.choice((0, 1, 1, 2, 8))
        values: dict[str, Any] = {name: self._scalar(cls, name, hint) for name, hint in row.scalars}
        for name, tag in row.arrays:
            values[name] = self._array(name, tag, rows if tag.column else rows + self._seldom(1))
        if row.data is not None:
            values[row.data] = self.rng.randbytes(self.rng.choice((0, 7, 8, 64)))
        return cls(**values)

    def _seldom(self, value: int) -> int:
        return value if self.rng.random() < 0.05 else 0

    def _scalar(self, cls: type[Message], name: str, hint: Any) -> Any:
        if not hasattr(hint, "__metadata__") and type(None) in typing.get_args(hint):
            told = self.rng.random() < 0.9
            return self._scalar(cls, name, typing.get_args(hint)[0]) if told else None
        bounds = getattr(hint, "__metadata__", (None,))[0]
        kind = getattr(hint, "__origin__", hint)
        if kind is int:
            least, most = getattr(bounds, "ge", None), getattr(bounds, "le", None)
            least, most = LEAST if least is None else least, LARGEST if most is None else most
            return min(max(self._number(cls, name), least), most)
        if kind is bytes:
            return self._mask()
        if kind is float:
            return self.rng.choice((0.0, 0.5, -1.0, float("nan"), float("inf"), 1e300))
        assert kind is str, f"{name}: {hint}"
        return self._text(name)

    def _number(self, cls: type[Message], name: str) -> int:
        if self.rng.random() < 0.06:
            if cls in (Mmap, CreateFile) and name in ("length", "pages"):
                # What is between makes page tables that cost gigabytes.
                return self.rng.choice((0, 1, LARGEST // 2, LARGEST))
            return self.rng.choice((*EDGES, *(-edge for edge in EDGES), LARGEST, LEAST))
        usual = self._usual(cls).get(name)
        return self.rng.randrange(8) if usual is None else usual()

    def _usual(self, cls: type[Message]) -> dict[str, Callable[[], int]]:
        pick, below = self.rng.choice, self.rng.randrange
        pids = sorted(self.lab.memory.tasks)
        pids = (pids[:3] * 10 + pids) or [0]
        return {
            "pid": lambda: pick(pids),
            "caller": lambda: pick([*pids, 0]),
            "address": lambda: (FIRST_PAGE + below(PAGES)) * PAGE + self._seldom(1),
            "length": lambda: below(PAGES // 4) * PAGE + self._seldom(1),
            "offset": lambda: below(10) * PAGE,
            "flags": lambda: pick(MAPPING if cls is Mmap else (0, 1, 2, 3, 4, 4, 5)),
            "prot": lambda: pick((1, 3, 3, 3, 0, 7)),
            "mode": lambda: below(8) | pick((0, 0, 0, 1 << 13, 1 << 14, 1 << 15)),
            "maxnode": lambda: pick((MAXNODE, MAXNODE, 0, 1, 2, 64, 65, 8 * MASK_BYTES_MAX + 1)),
            "advice": lambda: pick((4, 4, 0, 22, 23)),
            "pages": lambda: below(32),
            "device": lambda: pick((0, 0, 2, 4, 16)),
            "uid": lambda: pick((0, 0, 1000)),
            "cpu": lambda: below(4),
            "permitted": lambda: pick((0, 1 << 23, (1 << 23) | (1 << 19))),
        }

    def _mask(self) -> bytes:
        rng = self.rng
        if rng.random() < 0.1:
            return rng.randbytes(rng.choice((0, 1, 8, 128, 2 * MASK_BYTES_MAX)))
        return user_mask(rng.sample(range(4), rng.randrange(1, 4)))

    def _text(self, name: str) -> str:
        rng = self.rng
        if name == "file":
            return rng.choice((*FILES, "cpuset.mems", "", "nothing"))
        if name == "kind":
            return rng.choice((*KINDS, "none"))
        if name == "text":
            return rng.choice((*TEXTS, *map(str, self.lab.memory.tasks)))
        if name == "new_page":
            return rng.choice(("", "", "nothing"))
        return rng.choice(NAMES if name == "name" else PATHS)

    def _array(self, name: str, tag: ArrayTag, rows: int) -> Any:
        limits = np.iinfo(tag.dtype)
        if self.rng.random() < 0.1:
            edges = (limits.min, limits.max, 0, 1)
            return np.array([self.rng.choice(edges) for _ in range(rows)], tag.dtype)
        if name == "page":
            first = FIRST_PAGE + self.rng.randrange(PAGES)
            return np.arange(first, first + rows, dtype=tag.dtype)
        if name == "address":
            first = FIRST_PAGE + self.rng.randrange(PAGES)
            return (np.arange(first, first + rows, dtype=np.uint64) * PAGE).astype(tag.dtype)
        return np.array([self.rng.randrange(4) for _ in range(rows)], tag.dtype)
