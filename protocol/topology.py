"""The machine: nodes, sizes, cpus, distances, and what they cost.

``topology_text.py`` reads and writes it as TOML.  Every mistake is one sentence in a
ConfigurationError: what is wrong, at which node, what may stand there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import pairwise

from protocol.core import ConfigurationError

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
#: Nanoseconds and GB/s (10**9 bytes a second) that can be meant.
COST_MAX = 1e9
Matrix = tuple[tuple[float, ...], ...]


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


@dataclass(frozen=True, slots=True)
class Costs:
    """What the kernel's own work takes, in emulated time.

    fault_ns: each page that a fault maps.  migrate_call_us, migrate_page_us: each migrate_pages()
    and each page of it.  migrate_gb_per_s: as fast as the kernel copies pages at most.
    """

    fault_ns: float = 500.0
    migrate_call_us: float = 58.7
    migrate_page_us: float = 2.6
    migrate_gb_per_s: float = 3.51


@dataclass(frozen=True)
class TopologyNode:
    """One node: its id, its memory in page frames, and the cpus that are local to it."""

    nid: int
    frames: int
    cpus: tuple[int, ...]


@dataclass(frozen=True)
class Topology:
    """The machine.  ``nodes`` ascend by nid (gaps are allowed); ``distances`` is a row for each
    node, in the order of ``nodes``.  ``latencies`` (ns) and ``bandwidths`` (GB/s) are such too,
    from the node of the cpu to that of the page; None: as the distances say (``distance.py``).
    Raises ConfigurationError if that is no machine."""

    nodes: tuple[TopologyNode, ...]
    distances: tuple[tuple[int, ...], ...]
    page_size: int = PAGE_SIZE
    latencies: Matrix | None = None
    bandwidths: Matrix | None = None
    costs: Costs = Costs()

    def __post_init__(self) -> None:
        check_page_size(self.page_size)
        _check_nodes(self.nodes)
        _check_cpus(self.nodes)
        _check_distances(self.nids, self.distances)
        for what, matrix in (("latencies", self.latencies), ("bandwidths", self.bandwidths)):
            if matrix is not None:
                _check_costs(what, self.nids, matrix)
        for field in fields(Costs):
            _check_cost(f"{field.name} of costs", getattr(self.costs, field.name))

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
        check_page_size(page_size)
        # Before anything is built that grows with the square of their number.
        if not 1 <= nodes <= NODES_MAX:
            raise ConfigurationError(
                f"A machine of {nodes} nodes cannot be: it has from 1 to {NODES_MAX}."
            )
        frames = frames_of(memory, page_size, "each node")
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
    def _zonelists(self) -> dict[bool, dict[int, tuple[int, ...]]]:
        return {by_rank: _build_zonelists(self, by_rank) for by_rank in (False, True)}

    def node(self, nid: int) -> TopologyNode:
        """Raises KeyError for a node that is not there."""
        return self.nodes[self._position[nid]]

    def distance(self, source: int, target: int) -> int:
        """node_distance().  Raises KeyError for a node that is not there."""
        return self.distances[self._position[source]][self._position[target]]

    @cached_property
    def cpus(self) -> tuple[int, ...]:
        """All cpus, ascending."""
        return tuple(sorted(self._node_of_cpu))

    def node_of_cpu(self, cpu: int) -> int:
        """cpu_to_node().  Raises KeyError for a cpu that is not there."""
        return self._node_of_cpu[cpu]

    def zonelist(self, nid: int, *, load_by_rank: bool = True) -> tuple[int, ...]:
        """All nodes in the order in which an allocation for ``nid`` tries them (K 5.10).

        load_by_rank: the load that a node gains in a list is the larger the earlier it comes.
        Raises KeyError for a node that is not there.
        """
        return self._zonelists[load_by_rank][nid]


def uniform_distances(
    nodes: int, local: int = LOCAL_DISTANCE, remote: int = REMOTE_DISTANCE
) -> tuple[tuple[int, ...], ...]:
    """The distance matrix of ``nodes`` nodes that are all equally far from each other."""
    return tuple(tuple(local if a == b else remote for b in range(nodes)) for a in range(nodes))


def _build_zonelists(topology: Topology, by_rank: bool) -> dict[int, tuple[int, ...]]:
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
                load[nid] += len(order) - position if by_rank else 1
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


def check_page_size(page_size: int) -> None:
    """Raises ConfigurationError."""
    if not PAGE_SIZE_MIN <= page_size <= PAGE_SIZE_MAX or page_size & (page_size - 1):
        raise ConfigurationError(
            f"page_size is {page_size}: it must be a power of two from {PAGE_SIZE_MIN} to "
            f"{PAGE_SIZE_MAX}."
        )


def frames_of(memory: str | int, page_size: int, where: str) -> int:
    """Page frames of ``memory`` bytes; ``where``: whose, for the ConfigurationError."""
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


def _check_square(what: str, nids: Sequence[int], matrix: Sequence[Sequence[float]]) -> None:
    if len(matrix) != len(nids):
        raise ConfigurationError(
            f"{what} has {len(matrix)} rows and the machine has {len(nids)} nodes: write a "
            "row for each node."
        )
    for nid, row in zip(nids, matrix, strict=True):
        if len(row) != len(nids):
            raise ConfigurationError(
                f"{what} of node {nid} has {len(row)} numbers and the machine has {len(nids)} "
                "nodes: write one for each node, its own included."
            )


def _check_costs(what: str, nids: Sequence[int], matrix: Matrix) -> None:
    _check_square(what, nids, matrix)
    for nid, row in zip(nids, matrix, strict=True):
        for other, cost in zip(nids, row, strict=True):
            _check_cost(f"{what} from node {nid} to node {other}", cost)


def _check_cost(where: str, cost: float) -> None:
    # A NaN compares with nothing.
    if not 0 < cost <= COST_MAX:
        raise ConfigurationError(
            f"{where} is {cost:g}: it must be a number above 0, at most {COST_MAX:g}."
        )


def _check_distances(nids: Sequence[int], distances: Sequence[Sequence[int]]) -> None:
    _check_square("distances", nids, distances)
    for nid, row in zip(nids, distances, strict=True):
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
