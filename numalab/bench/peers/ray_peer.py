"""Ray: get of objects of 512 pages on one local node from the store of another.

It does less than a migration: the contents land in fresh objects and the source keeps its own.
"""

from __future__ import annotations

import importlib
import logging
import time
from typing import Any

import numpy as np

from numalab.bench.peers.orders import PAGE_SIZE, TOGETHER, obey, pages_wanted


class Source:
    """On the first node: puts objects into its store."""

    def put(self, pages: int) -> list[Any]:
        """References to objects of so many pages in all."""
        ray: Any = importlib.import_module("ray")
        sizes = [min(TOGETHER, pages - start) for start in range(0, pages, TOGETHER)]
        draw = np.random.default_rng(1)
        return [ray.put(np.frombuffer(draw.bytes(size * PAGE_SIZE), np.uint8)) for size in sizes]


class Target:
    """On the second node: gets them."""

    def get(self, references: list[Any]) -> float:
        """Seconds until all of them are here."""
        ray: Any = importlib.import_module("ray")
        started = time.perf_counter()
        values = ray.get(references)
        seconds = time.perf_counter() - started
        assert len(values) == len(references), "an object was not got"
        return seconds


def main() -> None:
    ray: Any = importlib.import_module("ray")
    testing: Any = importlib.import_module("ray.cluster_utils")
    pages = pages_wanted()
    store = max(2 * pages * PAGE_SIZE, 256 << 20)
    node = {"num_cpus": 1, "object_store_memory": store, "include_dashboard": False}
    cluster = testing.Cluster(
        initialize_head=True, head_node_args={**node, "resources": {"source": 1}}
    )
    cluster.add_node(num_cpus=1, object_store_memory=store, resources={"target": 1})
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.CRITICAL)
    source = ray.remote(resources={"source": 1}, num_cpus=0)(Source).remote()
    target = ray.remote(resources={"target": 1}, num_cpus=0)(Target).remote()

    def carry() -> float:
        references = ray.get(source.put.remote(pages))
        seconds: float = ray.get(target.get.remote(references))
        return seconds

    try:
        obey(carry)
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
