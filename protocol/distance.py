"""What distance costs: nanoseconds of emulated time for accesses, faults and migrations.

Where a topology has no latencies and bandwidths they follow its distances, which by the ACPI's
definition are relative latencies with 10 for a node's own memory: distance d is d / 10 times the
latency of local memory, and 10 / d of its bandwidth.  One GB/s is one byte a nanosecond.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from protocol.core import ConfigurationError
from protocol.topology import LOCAL_DISTANCE, Topology

LOCAL_LATENCY_NS = 80.0
LOCAL_BANDWIDTH_GB_PER_S = 20.0
#: Seconds that an emulated second may last: a single access takes a minute and a half then.
PACE_MAX = 1e9

Floats = npt.NDArray[np.float64]


def check_pace(pace: float) -> float:
    """Raises ConfigurationError for what is no pace."""
    if not 0 <= pace <= PACE_MAX:
        raise ConfigurationError(
            f"A pace of {pace:g} cannot be kept: give a number from 0 (none) to {PACE_MAX:g}."
        )
    return pace


@dataclass(frozen=True, slots=True)
class Work:
    """What was accessed by a cpu of ``cpu_node``: accesses and bytes, by the node of the pages.

    Columns of one length; several rows may name one pair of nodes.
    """

    cpu_node: npt.NDArray[Any]
    nid: npt.NDArray[Any]
    accesses: npt.NDArray[Any]
    bytes: npt.NDArray[Any]


class Distance:
    """The costs of one machine; node ids are indexes, so nodes that are not there cost nothing."""

    def __init__(self, topology: Topology) -> None:
        nids = np.array(topology.nids)
        size = int(nids.max()) + 1
        relative = np.array(topology.distances, np.float64) / LOCAL_DISTANCE
        latency = LOCAL_LATENCY_NS * relative
        bandwidth = LOCAL_BANDWIDTH_GB_PER_S / relative
        if topology.latencies is not None:
            latency = np.array(topology.latencies, np.float64)
        if topology.bandwidths is not None:
            bandwidth = np.array(topology.bandwidths, np.float64)
        self.latency: Floats = np.zeros((size, size))
        self.bandwidth: Floats = np.full((size, size), np.inf)
        self.latency[np.ix_(nids, nids)] = latency
        self.bandwidth[np.ix_(nids, nids)] = bandwidth
        self.page_size = topology.page_size
        self.costs = topology.costs

    def access_ns(self, work: Work) -> Floats:
        """Loads or stores, row by row: the latency of each, and the time that the bytes take."""
        pair = (work.cpu_node, work.nid)
        ns: Floats = work.accesses * self.latency[pair] + work.bytes / self.bandwidth[pair]
        return ns

    def fault_ns(self, cpu_node: int, nid: int, pages: int) -> float:
        """Pages of ``nid`` that a fault on a cpu of ``cpu_node`` maps, and zeroes or copies."""
        each = self.costs.fault_ns + self.page_size / float(self.bandwidth[cpu_node, nid])
        return pages * each

    def migrate_call_ns(self) -> float:
        """One call of migrate_pages(), however many pages it has."""
        return self.costs.migrate_call_us * 1e3

    def migrate_pages_ns(self, source: int, target: int, pages: int) -> float:
        """Pages that such a call has moved: its work on each, and the copy, at the speed of the
        kernel or of the way between the nodes, whichever is slower."""
        speed = min(self.costs.migrate_gb_per_s, float(self.bandwidth[source, target]))
        return pages * (self.costs.migrate_page_us * 1e3 + self.page_size / speed)
