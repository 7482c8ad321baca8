"""TABLE: how entries of the journal are said to a person and to a program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from enum import IntFlag
from typing import Any

import numpy as np
import numpy.typing as npt

from coordinator import hotplug_records, job_records, records, saved
from coordinator.inode import PageTag
from coordinator.mm import PROT_EXEC, PROT_READ, PROT_WRITE, Pte
from coordinator.mpol import Mempolicy, Mode
from coordinator.policy import policy_text
from protocol.nodemask import format_nodes
from protocol.profile import MODERN
from protocol.schema import Message

#: They enter their entries in the table that entries are decoded with when they are imported.
ENTRY_MODULES = (hotplug_records, records, saved, job_records)
#: Runs of neighbours that a line names; of more it says how many there are.
RUNS_MAX = 4
_PIDS = ("pid", "child", "tid")

Column = npt.NDArray[Any]


def is_about(entry: Message, pid: int) -> bool:
    """Whether the entry names this task, or its mm."""
    return any(getattr(entry, name, None) == pid for name in _PIDS)


def describe(entry: Message) -> str:
    """``PagesCommitted node 0 -> 1, 4096 pages, frames 12-4107 -> 40-4135, generation 3``."""
    values = _values(entry)
    words = []
    for names, phrase in _PHRASES:
        if all(name in values for name in names):
            words.append(phrase(*(values.pop(name) for name in names)))
            if names in (_MOVE, _NODE):
                words.append(_count(values))
    words += [_generic(name, value) for name, value in values.items()]
    return f"{type(entry).__name__} {', '.join(filter(None, words))}".rstrip()


def document(seq: int, entry: Message) -> dict[str, Any]:
    """The same for --json; a column is a list of its runs, [first, last]."""
    told = {
        name: runs(value) if isinstance(value, np.ndarray) else value
        for name, value in _values(entry).items()
    }
    return {"seq": seq, "entry": type(entry).__name__, "fields": told}


def runs(column: Column) -> list[list[int]]:
    """[first, last] of each run of elements of which each is one more than that before it."""
    if not column.size:
        return []
    cuts = np.flatnonzero(np.diff(column.astype(np.int64)) != 1) + 1
    edges = np.concatenate([[0], cuts, [column.size]])
    pairs = zip(edges[:-1].tolist(), (edges[1:] - 1).tolist(), strict=True)
    return [[int(column[first]), int(column[last])] for first, last in pairs]


def _values(entry: Message) -> dict[str, Any]:
    return {field.name: getattr(entry, field.name) for field in fields(entry)}  # type: ignore[arg-type]


# ---- phrases -------------------------------------------------------------------------------


def _count(values: dict[str, Any]) -> str:
    for name in ("pfn", "index"):
        if name in values:
            size = values[name].size
            return f"{size} page" if size == 1 else f"{size} pages"
    return ""


def _runs(column: Column, form: str = "d") -> str:
    found = runs(column)
    words = [
        f"{first:{form}}" if first == last else f"{first:{form}}-{last:{form}}"
        for first, last in found[:RUNS_MAX]
    ]
    if len(found) > RUNS_MAX:
        words.append(f"... in {len(found)} runs")
    return " ".join(words)


def _node(nid: int | Column) -> str:
    if isinstance(nid, int):
        return f"node {nid}"
    nodes = np.unique(nid).tolist()
    return f"node{'s' * (len(nodes) > 1)} {format_nodes(nodes)}"


def _generation(column: Column) -> str:
    if not column.size:
        return ""
    least, most = int(column.min()), int(column.max())
    return f"generation {least}" if least == most else f"generations {least}-{most}"


def _flags(kind: type[IntFlag]) -> Callable[[Column], str]:
    def phrase(column: Column) -> str:
        """What all of them have; ``some``: what not all have."""
        if not column.size:
            return ""
        every, some = (int(how.reduce(column)) for how in (np.bitwise_and, np.bitwise_or))
        words = [_names(kind, every), _names(kind, some & ~every)]
        return " ".join(filter(None, (words[0], words[1] and f"some {words[1]}")))

    return phrase


def _names(kind: type[IntFlag], bits: int) -> str:
    return "|".join(str(flag.name).lower() for flag in kind if bits & flag)


def _prot(prot: int) -> str:
    letters = zip("rwx", (PROT_READ, PROT_WRITE, PROT_EXEC), strict=True)
    return "".join(letter if prot & bit else "-" for letter, bit in letters)


def _policy(
    mode: int,
    nodes: tuple[int, ...],
    flags: int,
    user_nodes: tuple[int, ...],
    mems_allowed: tuple[int, ...],
    home_node: int,
) -> str:
    if not mode:
        return "policy default"
    policy = Mempolicy(Mode(mode), nodes, flags, user_nodes, mems_allowed, home_node)
    home = f" home {home_node}" if home_node >= 0 else ""
    return f"policy {policy_text(policy, MODERN)}{home}"


def _generic(name: str, value: Any) -> str:
    """An empty text or list says nothing."""
    if isinstance(value, np.ndarray):
        return f"{name} {' '.join(map(str, value.tolist()))}"
    if isinstance(value, tuple):
        if name in ("nodes", "mems", "cpus"):
            return f"{name} {format_nodes(value)}" if value else ""
        return f"{len(value)} {name}" if value else ""
    if isinstance(value, str):
        return f"{name} {value}" if value else ""
    return f"{name} {value}"


_MOVE, _NODE = ("source", "target"), ("nid",)
#: Fields that are said together, in the order of saying; the rest follows as it is declared.
_PHRASES: tuple[tuple[tuple[str, ...], Callable[..., str]], ...] = (
    (("pid",), lambda pid: f"pid {pid}"),
    (("child",), lambda pid: f"child {pid}"),
    (("tid",), lambda pid: f"thread {pid}"),
    (("mapping",), lambda number: f"object {number}"),
    (("start", "end"), lambda start, end: f"pages {start:#x}-{end:#x}"),
    (("start",), lambda start: f"at {start:#x}"),
    (_MOVE, lambda source, target: f"node {source} -> {target}"),
    (_NODE, _node),
    (("page",), lambda page: f"at {_runs(np.atleast_1d(page), '#x')}"),
    (("index",), lambda column: f"index {_runs(column)}"),
    (("pfn", "target_pfn"), lambda old, new: f"frames {_runs(old)} -> {_runs(new)}"),
    (("pfn",), lambda column: f"frames {_runs(column)}"),
    (("target_generation",), _generation),
    (("generation",), _generation),
    (("bits",), _flags(Pte)),
    (("tags",), _flags(PageTag)),
    (("prot",), _prot),
    (("mode", "nodes", "flags", "user_nodes", "mems_allowed", "home_node"), _policy),
)
