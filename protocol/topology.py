"""The machine: nodes, sizes, cpus, distances; TOML in, a validated value out.

    page_size = 4096
    distances = [[10, 20],
                 [20, 10]]

    [[node]]
    id = 0
    memory = "256M"
    cpus = "0-1"

    [[node]]
    id = 1
    memory = "256M"
    cpus = ""

Every mistake is one sentence in a ConfigurationError: what is wrong, at which node, what may stand
there.  ``page_size`` may be left out (4096), and so may ``distances`` (10 local, 20 remote).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from protocol.core import ConfigurationError
from protocol.nodemask import NodeListError, format_nodes, parse_list

PAGE_SIZE = 4096
PAGE_SIZE_MIN, PAGE_SIZE_MAX = 64, 1 << 21
NID_MAX = 254
NODES_MAX = NID_MAX
CPU_MAX = 8191
FRAMES_MAX = (1 << 32) - 1
LOCAL_DISTANCE, REMOTE_DISTANCE = 10, 20
DISTANCE_MAX = 254

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\d{1,18})([KMGT]?)", re.IGNORECASE)
_MACHINE_KEYS = ("page_size", "distances", "node")
_NODE_KEYS = ("id", "memory", "cpus")


def parse_size(size: str | int) -> int:
    """Bytes: ``"256M"`` is 256 * 2**20, ``"4096"`` and 4096 are bytes; K, M, G, T as in the kernel.

    Raises ConfigurationError.
    """
    match = _SIZE.fullmatch(str(size).strip())
    if match is None:
        raise ConfigurationError(
            f"'{size}' is not a size: write bytes, or a whole number with K, M, G or T, as in 256M."
        )
    return int(match[1]) * _UNITS[match[2].upper()]


def format_size(size: int) -> str:
    """Bytes as ``parse_size`` reads them, in the largest unit that needs no fraction."""
    suffix = max((s for s in _UNITS if size % _UNITS[s] == 0), key=lambda s: _UNITS[s])
    return f"{size // _UNITS[suffix]}{suffix}" if size else "0"


@dataclass(frozen=True)
class TopologyNode:
    """One node: its id, its memory in page frames, and the cpus that are local to it."""

    nid: int
    frames: int
    cpus: tuple[int, ...]


@dataclass(frozen=True)
class Topology:
    """The machine.  ``nodes`` ascend by nid (gaps are allowed); ``distances`` is a row for each
    node, in the order of ``nodes``.  Raises ConfigurationError if that is no machine."""

    nodes: tuple[TopologyNode, ...]
    distances: tuple[tuple[int, ...], ...]
    page_size: int = PAGE_SIZE

    def __post_init__(self) -> None:
        _check_page_size(self.page_size)
        _check_nodes(self.nodes)
        _check_cpus(self.nodes)
        _check_distances(self.nids, self.distances)

    @classmethod
    def uniform(
        cls,
        nodes: int = 4,
        memory: str | int = "256M",
        cpus_per_node: int = 1,
        local: int = LOCAL_DISTANCE,
        remote: int = REMOTE_DISTANCE,
        page_size: int = PAGE_SIZE,
    ) -> Topology:
        """A machine of equal nodes; ``memory`` is bytes for each node.

        Raises ConfigurationError.
        """
        _check_page_size(page_size)
        # Before anything is built that grows with the square of their number.
        if not 1 <= nodes <= NODES_MAX:
            raise ConfigurationError(
                f"A machine of {nodes} nodes cannot be: it has from 1 to {NODES_MAX}."
            )
        frames = _frames(memory, page_size, "each node")
        return cls(
            tuple(
                TopologyNode(
                    nid,
                    frames,
                    tuple(range(nid * cpus_per_node, (nid + 1) * cpus_per_node)),
                )
                for nid in range(nodes)
            ),
            uniform_distances(nodes, local, remote),
            page_size,
        )

    @cached_property
    def nids(self) -> tuple[int, ...]:
        """The node ids, ascending."""
        return tuple(node.nid for node in self.nodes)

    @cached_property
    def _position(self) -> dict[int, int]:
        return {nid: position for position, nid in enumerate(self.nids)}

    @cached_property
    def _node_of_cpu(self) -> dict[int, int]:
        return {cpu: node.nid for node in self.nodes for cpu in node.cpus}

    @cached_property
    def _zonelists(self) -> dict[int, tuple[int, ...]]:
        return _build_zonelists(self)

    def node(self, nid: int) -> TopologyNode:
        """Raises KeyError for a node that is not there."""
        return self.nodes[self._position[nid]]

    def distance(self, source: int, target: int) -> int:
        """node_distance().  Raises KeyError for a node that is not there."""
        return self.distances[self._position[source]][self._position[target]]

    @property
    def cpus(self) -> tuple[int, ...]:
        """All cpus, ascending."""
        return tuple(sorted(self._node_of_cpu))

    def node_of_cpu(self, cpu: int) -> int:
        """cpu_to_node().  Raises KeyError for a cpu that is not there."""
        return self._node_of_cpu[cpu]

    def zonelist(self, nid: int) -> tuple[int, ...]:
        """All nodes in the order in which an allocation for ``nid`` tries them (K 5.10).

        Raises KeyError for a node that is not there.
        """
        return self._zonelists[nid]


def uniform_distances(
    nodes: int, local: int = LOCAL_DISTANCE, remote: int = REMOTE_DISTANCE
) -> tuple[tuple[int, ...], ...]:
    """The distance matrix of ``nodes`` nodes that are all equally far from each other."""
    return tuple(tuple(local if a == b else remote for b in range(nodes)) for a in range(nodes))


def _build_zonelists(topology: Topology) -> dict[int, tuple[int, ...]]:
    """build_zonelists() for every node in ascending order.

    The load that a node gains lasts into the next lists: that is what rotates neighbours of equal
    distance between the lists, so that not all of them lean on the same node first.
    """
    load = dict.fromkeys(topology.nids, 0)
    lists: dict[int, tuple[int, ...]] = {}
    for local in topology.nids:
        others = (nid for nid in topology.nids if nid != local)
        order = [local, *sorted(others, key=lambda nid: _rank(topology, load, local, nid))]
        for position, (before, nid) in enumerate(pairwise(order), start=1):
            if topology.distance(local, nid) != topology.distance(local, before):
                load[nid] += len(order) - position
        lists[local] = tuple(order)
    return lists


def _rank(
    topology: Topology, load: Mapping[int, int], local: int, nid: int
) -> tuple[int, int, int]:
    """find_next_best_node(): near nodes first, rather the next node than one below, rather one
    without cpus, which is hardly used; among equals the least loaded."""
    nearness = topology.distance(local, nid) + (nid < local) + bool(topology.node(nid).cpus)
    return nearness, load[nid], nid


# ---- what may stand there ------------------------------------------------------------------


def _check_page_size(page_size: int) -> None:
    if not PAGE_SIZE_MIN <= page_size <= PAGE_SIZE_MAX or page_size & (page_size - 1):
        raise ConfigurationError(
            f"page_size is {page_size}: it must be a power of two from {PAGE_SIZE_MIN} to "
            f"{PAGE_SIZE_MAX}."
        )


def _frames(memory: str | int, page_size: int, where: str) -> int:
    try:
        size = parse_size(memory)
    except ConfigurationError as error:
        raise ConfigurationError(f"memory of {where}: {error}") from None
    if size % page_size or not 0 < size <= FRAMES_MAX * page_size:
        raise ConfigurationError(
            f"memory of {where} is {memory}: it must be a multiple of the page size, {page_size} "
            f"bytes, from one page to {FRAMES_MAX} pages."
        )
    return size // page_size


def _check_nodes(nodes: Sequence[TopologyNode]) -> None:
    if not nodes:
        raise ConfigurationError("The machine has no node: describe at least one.")
    last = -1
    for node in nodes:
        if not 0 <= node.nid <= NID_MAX:
            raise ConfigurationError(
                f"id of a node is {node.nid}: node ids are whole numbers from 0 to {NID_MAX}."
            )
        if node.nid == last:
            raise ConfigurationError(f"Node {node.nid} is there twice: give each node its own id.")
        if node.nid < last:
            raise ConfigurationError(
                f"Node {node.nid} stands after node {last}: list the nodes in ascending order."
            )
        if not 0 < node.frames <= FRAMES_MAX:
            raise ConfigurationError(
                f"Node {node.nid} has {node.frames} frames: it must have 1 to {FRAMES_MAX}."
            )
        last = node.nid


def _check_cpus(nodes: Sequence[TopologyNode]) -> None:
    owner: dict[int, int] = {}
    for node in nodes:
        for cpu in node.cpus:
            if not 0 <= cpu <= CPU_MAX:
                raise ConfigurationError(
                    f"cpus of node {node.nid} has cpu {cpu}: a cpu is a number from 0 to {CPU_MAX}."
                )
            if cpu in owner:
                raise ConfigurationError(
                    f"Cpu {cpu} is at node {owner[cpu]} and again at node {node.nid}: a cpu is "
                    "local to one node."
                )
            owner[cpu] = node.nid
    if not owner:
        raise ConfigurationError("No node has a cpu: give at least one node a cpu to run tasks on.")


def _check_distances(nids: Sequence[int], distances: Sequence[Sequence[int]]) -> None:
    if len(distances) != len(nids):
        raise ConfigurationError(
            f"distances has {len(distances)} rows and the machine has {len(nids)} nodes: write a "
            "row for each node."
        )
    for nid, row in zip(nids, distances, strict=True):
        if len(row) != len(nids):
            raise ConfigurationError(
                f"distances of node {nid} has {len(row)} numbers and the machine has {len(nids)} "
                "nodes: write one for each node, its own included."
            )
        own = row[nids.index(nid)]
        for other, distance in zip(nids, row, strict=True):
            if not LOCAL_DISTANCE <= distance <= DISTANCE_MAX:
                raise ConfigurationError(
                    f"The distance from node {nid} to node {other} is {distance}: distances are "
                    f"whole numbers from {LOCAL_DISTANCE} to {DISTANCE_MAX}."
                )
            if distance < own:
                raise ConfigurationError(
                    f"The distance from node {nid} to node {other} is {distance}, less than to "
                    f"itself, {own}: no node is nearer than the node itself."
                )


# ---- text ----------------------------------------------------------------------------------


def parse_topology(text: str) -> Topology:
    """The machine that the TOML ``text`` describes.  Raises ConfigurationError."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"The topology is not TOML: {error}.") from None
    _check_keys(table, _MACHINE_KEYS, ("node",), "the topology")
    page_size = _integer(table, "page_size", "the topology") if "page_size" in table else PAGE_SIZE
    _check_page_size(page_size)
    tables = table["node"]
    if not isinstance(tables, list) or not all(isinstance(item, dict) for item in tables):
        raise ConfigurationError("node is not a list of tables: begin each node with [[node]].")
    nodes = tuple(_parse_node(item, n, page_size) for n, item in enumerate(tables, start=1))
    if "distances" in table:
        distances = _parse_distances(table["distances"])
    else:
        distances = uniform_distances(len(nodes))
    return Topology(nodes, distances, page_size)


def format_topology(topology: Topology) -> str:
    """The TOML text that ``parse_topology`` makes the same machine of."""
    rows = ",\n             ".join(str(list(row)) for row in topology.distances)
    parts = [f"page_size = {topology.page_size}\ndistances = [{rows}]\n"]
    parts += [
        f"\n[[node]]\nid = {node.nid}\n"
        f'memory = "{format_size(node.frames * topology.page_size)}"\n'
        f'cpus = "{format_nodes(node.cpus)}"\n'
        for node in topology.nodes
    ]
    return "".join(parts)


def _parse_node(table: Mapping[str, Any], number: int, page_size: int) -> TopologyNode:
    where = f"[[node]] number {number}"
    _check_keys(table, _NODE_KEYS, ("id", "memory"), where)
    nid = _integer(table, "id", where)
    where = f"node {nid}"
    memory = table["memory"]
    if isinstance(memory, bool) or not isinstance(memory, str | int):
        raise ConfigurationError(
            f"memory of {where} is {memory!r}: write bytes, or text as in '256M'."
        )
    cpus = table.get("cpus", "")
    if not isinstance(cpus, str):
        raise ConfigurationError(f"cpus of {where} is {cpus!r}: write text, as in '0-1,4', or ''.")
    try:
        parsed = parse_list(cpus) if cpus.strip() else ()
    except NodeListError as error:
        raise ConfigurationError(f"cpus of {where}: {error}") from None
    return TopologyNode(nid, _frames(memory, page_size, where), parsed)


def _parse_distances(value: object) -> tuple[tuple[int, ...], ...]:
    if not isinstance(value, list) or not all(isinstance(row, list) for row in value):
        raise ConfigurationError("distances is not a list of rows: write [[10, 20], [20, 10]].")
    for row in value:
        for distance in row:
            if isinstance(distance, bool) or not isinstance(distance, int):
                raise ConfigurationError(
                    f"distances has {distance!r} in it: distances are whole numbers."
                )
    return tuple(tuple(row) for row in value)


def _check_keys(
    table: Mapping[str, Any], allowed: Sequence[str], needed: Sequence[str], where: str
) -> None:
    for key in table:
        if key not in allowed:
            raise ConfigurationError(
                f"{where} has the key '{key}', which is unknown: there may be {', '.join(allowed)}."
            )
    for key in needed:
        if key not in table:
            raise ConfigurationError(f"{where} has no {key}: add it.")


def _integer(table: Mapping[str, Any], key: str, where: str) -> int:
    value = table[key]
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigurationError(f"{key} of {where} is {value!r}: it must be a whole number.")
    return value
