"""TABLE: machines by name, for those who have none at hand."""

from __future__ import annotations

from collections.abc import Callable

from protocol.topology import Costs, Topology, TopologyNode, parse_size

_SOCKET = "256M"
_CPUS = 4


def _nodes(*sizes: str, sockets: int) -> tuple[TopologyNode, ...]:
    """Nodes of these sizes, of which the first ``sockets`` have cpus."""
    page = 4096
    return tuple(
        TopologyNode(
            nid,
            parse_size(size) // page,
            tuple(range(nid * _CPUS, (nid + 1) * _CPUS)) if nid < sockets else (),
        )
        for nid, size in enumerate(sizes)
    )


def two_sockets() -> Topology:
    """Two sockets, each with memory of its own."""
    return Topology(_nodes(_SOCKET, _SOCKET, sockets=2), ((10, 21), (21, 10)))


def four_sockets() -> Topology:
    """Four sockets, every two of them joined by a link."""
    rows = tuple(tuple(10 if a == b else 21 for b in range(4)) for a in range(4))
    return Topology(_nodes(*[_SOCKET] * 4, sockets=4), rows)


def eight_node_ring() -> Topology:
    """Eight sockets in a ring: four hops to the far side, each of them 6 further."""
    hops = [[min((a - b) % 8, (b - a) % 8) for b in range(8)] for a in range(8)]
    rows = tuple(tuple(10 + 6 * hop for hop in row) for row in hops)
    return Topology(_nodes(*["128M"] * 8, sockets=8), rows)


def dram_cxl() -> Topology:
    """A socket with DRAM, and four times as much memory without cpus behind CXL."""
    return Topology(
        _nodes(_SOCKET, "1G", sockets=1),
        ((10, 24), (24, 10)),
        latencies=((80.0, 250.0), (250.0, 80.0)),
        bandwidths=((40.0, 12.0), (12.0, 40.0)),
        costs=Costs(),
    )


def memory_only() -> Topology:
    """Two sockets, and a third node that has nothing but memory, nearer to the second."""
    rows = ((10, 21, 31), (21, 10, 21), (31, 21, 10))
    return Topology(_nodes(_SOCKET, _SOCKET, "1G", sockets=2), rows)


PRESETS: dict[str, Callable[[], Topology]] = {
    "two-sockets": two_sockets,
    "four-sockets": four_sockets,
    "eight-node-ring": eight_node_ring,
    "dram-cxl": dram_cxl,
    "memory-only": memory_only,
}
