"""Dask: replicate of objects of 512 pages from one local worker to the other.

It does less than a migration: the contents land in fresh objects and the source keeps its own.
"""

from __future__ import annotations

import importlib
import logging
import time
from typing import Any

import numpy as np

from numalab.bench.peers.orders import PAGE_SIZE, TOGETHER, obey, pages_wanted


class Replication:
    """Two workers, and what is scattered to the first of them."""

    def __init__(self, client: Any, pages: int) -> None:
        self._client = client
        self._workers = sorted(client.scheduler_info(n_workers=-1)["workers"])
        draw = np.random.default_rng(1)
        sizes = [min(TOGETHER, pages - start) for start in range(0, pages, TOGETHER)]
        self._pieces = [draw.bytes(size * PAGE_SIZE) for size in sizes]

    def carry(self) -> float:
        """All of them to the second worker as well; seconds."""
        distributed: Any = importlib.import_module("distributed")
        futures = self._client.scatter(self._pieces, workers=self._workers[:1], hash=False)
        distributed.wait(futures)
        started = time.perf_counter()
        self._client.replicate(futures, workers=self._workers[1:])
        seconds = time.perf_counter() - started
        held = self._client.who_has(futures)
        assert all(len(workers) == 2 for workers in held.values()), "an object was not replicated"
        self._client.cancel(futures)
        return seconds


def main() -> None:
    distributed: Any = importlib.import_module("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            dashboard_address=None,
            memory_limit=0,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        obey(Replication(client, pages_wanted()).carry)


if __name__ == "__main__":
    main()
