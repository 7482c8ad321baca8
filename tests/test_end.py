"""How a process ends: an interpreter that is taken down under its threads may crash."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import pytest

from numalab.serve import Settings, coordinator_configuration, node_configuration
from protocol.labels import Role
from protocol.live.exposition import Asker, Exposition
from protocol.live.statistics import Statistics
from protocol.topology import Topology

ROOT = Path(__file__).parent.parent
SECONDS = 20.0
#: What every interpreter runs first: when it is taken down it says which threads it has.
CUSTOM = """
import atexit, os, threading
atexit.register(lambda: os.write(2, repr(threading.enumerate()).encode()))
"""


def serving() -> set[threading.Thread]:
    """The thread that waits for who asks, and those of who is served."""
    kinds = ("serve metrics", "process_request_thread")
    return {
        thread for thread in threading.enumerate() if any(kind in thread.name for kind in kinds)
    }


def test_who_is_being_served_is_waited_for_and_no_thread_is_left() -> None:
    asked, go_on = threading.Event(), threading.Event()

    def statistics() -> Statistics:
        asked.set()
        assert go_on.wait(SECONDS)
        return Statistics(10, MappingProxyType({}), 30, 4, MappingProxyType({}))

    before, pages = serving(), []
    page = Exposition(Role.NODE, (0,), statistics=statistics)
    port = page.serve("127.0.0.1", 0)

    def ask() -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=SECONDS) as answer:
            pages.append(answer.read())

    asking, closing = threading.Thread(target=ask), threading.Thread(target=page.close)
    asking.start()
    assert asked.wait(SECONDS)
    closing.start()
    closing.join(0.1)
    assert closing.is_alive(), "it did not wait"
    go_on.set()
    asking.join(SECONDS)
    closing.join(SECONDS)
    assert b"numalab_transport_sent_total 10.0" in pages[0]
    assert serving() == before


@pytest.mark.parametrize("said", [b"", b"GET /metr"])
def test_who_does_not_finish_asking_holds_nobody_up(
    said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However long it might take.
    monkeypatch.setattr(Asker, "timeout", None)
    before = serving()
    page = Exposition(Role.NODE, (0,))
    port = page.serve("127.0.0.1", 0)
    with socket.create_connection(("127.0.0.1", port)) as asking:
        asking.sendall(said)
        # So that the connection has been taken up, the next one is served.
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=SECONDS) as answer:
            assert answer.status == 200
        page.close()
    assert serving() == before


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def connected(port: int) -> socket.socket:
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port))
        except OSError:
            assert time.monotonic() < deadline, "the page is not served"
            time.sleep(0.02)


PROCESSES: dict[str, Callable[[Settings], dict[str, Any]]] = {
    "nodes": lambda settings: node_configuration(settings, 0),
    "coordinator": coordinator_configuration,
}


@pytest.mark.parametrize("module", PROCESSES)
def test_a_process_ends_without_a_thread_for_its_page(tmp_path: Path, module: str) -> None:
    port, here = free_port(), "tcp://127.0.0.1:*"
    settings = Settings(
        Topology.uniform(1, "1M"),
        tmp_path,
        tmp_path,
        here,
        "tcp://127.0.0.1:1",
        here,
        secure=False,
        metrics=f"127.0.0.1:{port}",
    )
    (tmp_path / "told.json").write_bytes(msgspec.json.encode(PROCESSES[module](settings)))
    (tmp_path / "sitecustomize.py").write_text(CUSTOM)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    with subprocess.Popen(
        [sys.executable, "-m", module, str(tmp_path / "told.json")],
        env=os.environ | {"PYTHONPATH": path},
        cwd=tmp_path,
        stderr=subprocess.PIPE,
    ) as process:
        # Somebody who never asks is there all the while.
        with connected(port):
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, said
    assert b"MainThread" in said
    assert b"serve" not in said and b"request" not in said
