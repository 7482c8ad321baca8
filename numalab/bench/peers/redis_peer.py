"""Redis: MIGRATE of 512 keys at a time between two servers, a page each, without compression.

The contents are random, as Redis would have an easy time with others, and the client notes for
each batch where its pages are now, as the owner of a page table has to.
"""

from __future__ import annotations

import importlib
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from numalab.bench.peers.orders import PAGE_SIZE, TOGETHER, obey, pages_wanted

LOCALHOST = "127.0.0.1"
TIMEOUT_MS = 60_000
START_SECONDS = 10.0


@contextmanager
def server(directory: str) -> Iterator[tuple[int, Any]]:
    """A server that keeps nothing on the disk: its port, and a client of it."""
    with socket.socket() as free:
        free.bind((LOCALHOST, 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", LOCALHOST, "--dir", directory]
        + ["--save", "", "--appendonly", "no", "--rdbcompression", "no"],
        stdout=subprocess.DEVNULL,
    )
    try:
        client: Any = importlib.import_module("redis").Redis(LOCALHOST, port)
        _await_answer(client)
        yield port, client
    finally:
        process.terminate()
        process.wait()


def _await_answer(client: Any) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            client.ping()
            return
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


class Migration:
    """The keys, all on one of the two servers."""

    def __init__(self, servers: list[tuple[int, Any]], pages: int) -> None:
        self._servers = servers
        self._keys = [f"page:{page}" for page in range(pages)]
        self._owner = np.zeros(pages, np.uint8)
        draw = np.random.default_rng(1)
        for start in range(0, pages, TOGETHER):
            keys = self._keys[start : start + TOGETHER]
            servers[0][1].mset({key: draw.bytes(PAGE_SIZE) for key in keys})

    def carry(self) -> float:
        """All of them to the other server; seconds."""
        (_, source), (port, _) = self._servers
        started = time.perf_counter()
        for start in range(0, len(self._keys), TOGETHER):
            keys = self._keys[start : start + TOGETHER]
            source.execute_command("MIGRATE", LOCALHOST, port, "", 0, TIMEOUT_MS, "KEYS", *keys)
            self._owner[start : start + TOGETHER] ^= 1
        seconds = time.perf_counter() - started
        self._servers.reverse()
        return seconds


if __name__ == "__main__":
    with ExitStack() as stack:
        directory = stack.enter_context(TemporaryDirectory(prefix="numalab-redis-"))
        servers = [stack.enter_context(server(directory)) for _ in range(2)]
        obey(Migration(servers, pages_wanted()).carry)
