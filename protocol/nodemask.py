"""Node sets: parse and print ``0-2,4`` as numactl(8) writes them, and map one set onto another.

A node set is an ascending tuple of node ids.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

NodeSet = tuple[int, ...]

#: Of more digits than these Python makes no number.
_RANGE = re.compile(r"(\d{1,4000})(?:-(\d{1,4000}))?")


class NodeListError(ValueError):
    """A list of nodes (or cpus) that a person wrote is wrong; the text is one sentence."""


def parse_list(text: str) -> tuple[int, ...]:
    """The numbers of ``0-2,4``, ascending, each once: the list format of sysfs (K 6.8).

    Raises NodeListError.
    """
    numbers: set[int] = set()
    for item in text.split(","):
        match = _RANGE.fullmatch(item.strip())
        if match is None:
            raise NodeListError(
                f"'{item.strip()}' in the list '{text}' is neither a number nor a range: "
                "write numbers and ranges with commas between, as in 0-2,4."
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise NodeListError(
                f"The range {item.strip()} in the list '{text}' runs backwards: "
                f"write {last}-{first}."
            )
        if last - first > 0xFFFF:
            raise NodeListError(
                f"The range {item.strip()} in the list '{text}' is too long: write a smaller one."
            )
        numbers.update(range(first, last + 1))
    return tuple(sorted(numbers))


def parse_nodes(text: str, existing: Sequence[int]) -> NodeSet:
    """The node set that ``text`` names, on a machine that has the nodes ``existing``.

    As numactl(8) writes it: a list of numbers and ranges, or ``all``; a ``!`` before it means
    every other node.  Raises NodeListError, also for a node that the machine does not have.
    """
    stripped = text.strip()
    inverted = stripped.startswith("!")
    wanted = stripped[1:].strip() if inverted else stripped
    if not wanted:
        raise NodeListError("The node list is empty: write nodes as in 0-2,4, or 'all'.")
    if wanted.startswith("+"):
        raise NodeListError(
            f"The node list '{stripped}' counts nodes from the cpuset, which numalab does not do: "
            "write the numbers of the nodes themselves, without '+'."
        )
    named = tuple(sorted(existing)) if wanted == "all" else parse_list(wanted)
    for nid in named:
        if nid not in existing:
            raise NodeListError(
                f"There is no node {nid}: this machine has node{'s' * (len(existing) != 1)} "
                f"{format_nodes(existing)}."
            )
    return tuple(nid for nid in sorted(existing) if nid not in named) if inverted else named


def format_nodes(nodes: Sequence[int]) -> str:
    """``0-2,4`` for (0, 1, 2, 4), as sysfs and numa_maps print it; empty for no node."""
    runs: list[list[int]] = []
    for nid in sorted(nodes):
        if runs and nid <= runs[-1][1] + 1:
            runs[-1][1] = nid
        else:
            runs.append([nid, nid])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)


def node_remap(nid: int, old: Sequence[int], new: Sequence[int]) -> int:
    """Where ``nid`` goes when the set ``old`` is laid onto ``new``: node_remap() (K 1.7).

    The n-th node of ``old`` goes to the (n mod size)-th node of ``new``; a node that is not in
    ``old``, and every node if ``new`` is empty, stays.
    """
    if nid not in old or not new:
        return nid
    ordered = sorted(new)
    return ordered[sorted(old).index(nid) % len(ordered)]
