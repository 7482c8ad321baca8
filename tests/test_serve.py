"""Processes that somebody else starts, as containers do: by ``numalab serve``, on TCP ports."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from numalab import cli
from numalab.processes import write_private
from numalab.serve import machine_key, nid_of_host
from protocol.core import ConfigurationError
from protocol.topology import Topology

NUMALAB = str(Path(sys.executable).with_name("numalab"))
NODES = 2
SECONDS = 30.0

pytestmark = pytest.mark.slow


class Site:
    """A place where processes are started one by one; they end with the test."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.machine = directory / "machine"
        self.machine.mkdir(mode=0o700)
        self.ports = dict(zip(("coordinator", "a", "b"), _ports(3), strict=True))
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def address(self, name: str) -> str:
        return f"tcp://127.0.0.1:{self.ports[name]}"

    def health(self, name: str) -> Path:
        return self.directory / f"{name}.serves"

    def run(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        """``numalab serve``; what it says goes to a log."""
        state = self.directory / name
        state.mkdir(exist_ok=True)
        log: IO[bytes] = (self.directory / f"{name}.log").open("ab")
        common = ("--nodes", "0", "--spare", str(NODES), "--memory", "4M", "--metrics", "")
        where = ("--state", str(state), "--machine", str(self.machine), "--bind")
        health = ("--health", str(self.health(name)))
        command = (NUMALAB, "serve", *arguments, *common, *where)
        process = subprocess.Popen((*command, self.address(name), *health), stderr=log)
        self.running[name] = process
        return process

    def coordinator(self) -> None:
        self.run("coordinator", "coordinator", "--advertise", self.address("coordinator"))

    def node(self, name: str) -> None:
        mine, coordinator = self.address(name), self.address("coordinator")
        whom = ("--advertise", mine, "--coordinator", coordinator)
        self.run(name, "node", "--nid", "lease", *whom)

    def until(self, happened: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + SECONDS
        while not happened():
            assert time.monotonic() < deadline, f"{what} did not happen: {self.logs()}"
            time.sleep(0.05)

    def serves(self, name: str) -> None:
        self.until(lambda: self.health(name).exists(), f"'{name} serves'")

    def stop(self, name: str, number: int = signal.SIGTERM) -> int:
        process = self.running.pop(name)
        process.send_signal(number)
        return process.wait(timeout=SECONDS)

    def logs(self) -> str:
        return "\n".join(log.read_text() for log in sorted(self.directory.glob("*.log")))


def _ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    place = Site(tmp_path)
    yield place
    for process in place.running.values():
        process.kill()
        process.wait()


def hardware(site: Site, capfd: pytest.CaptureFixture[str]) -> list[int]:
    """The nodes that the machine has."""
    capfd.readouterr()
    assert cli.run(["hardware", "--run-directory", str(site.machine), "--json"]) == 0
    nodes = json.loads(capfd.readouterr().out)["nodes"]
    return [node["id"] for node in nodes]


def counted(port: int, series: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        page = answer.read().decode()
    return next(float(line.split()[1]) for line in page.splitlines() if line.startswith(series))


def test_a_machine_grows_loses_a_node_and_ends_with_a_verdict(
    site: Site, capfd: pytest.CaptureFixture[str]
) -> None:
    site.coordinator()
    site.node("a")
    site.serves("coordinator")
    assert hardware(site, capfd) == [0]
    work = ("--rounds", "8", "--interval", "0.2", "--memory", "1M")
    command = (NUMALAB, "workload", "--run-directory", str(site.machine))
    with subprocess.Popen((*command, *work), stdout=subprocess.PIPE, text=True) as workload:
        assert workload.stdout is not None
        assert "256 pages on 1 nodes" in workload.stdout.readline()
        site.node("b")
        site.until(lambda: hardware(site, capfd) == [0, 1], "'a second node'")
        assert site.stop("b", signal.SIGKILL) == -signal.SIGKILL
        site.node("b")
        said, _ = workload.communicate(timeout=90)
        assert workload.returncode == 0, said
    assert said.endswith("verdict: valid\n")
    site.serves("b")
    assert hardware(site, capfd) == [0, 1]
    # The coordinator last: who stops first must not wait for who is gone.
    assert [site.stop(name) for name in ("a", "b", "coordinator")] == [0, 0, 0]
    assert not site.health("a").exists()


def test_a_workload_that_is_stopped_reads_everything_back_first(site: Site) -> None:
    site.coordinator()
    site.node("a")
    (port,) = _ports(1)
    command = (NUMALAB, "workload", "--run-directory", str(site.machine), "--memory", "1M")
    page = ("--metrics", f"127.0.0.1:{port}")
    site.serves("coordinator")
    with subprocess.Popen((*command, *page), stdout=subprocess.PIPE, text=True) as busy:
        assert busy.stdout is not None
        assert "writers" in busy.stdout.readline()
        assert "round 1" in busy.stdout.readline()
        for name in ("workload_round_seconds_count", "workload_stores_total", "operations_total"):
            site.until(lambda name=name: counted(port, f"numalab_{name}") > 0, name)  # type: ignore[misc]
        assert counted(port, "numalab_workload_rounds_failed_total") == 0
        busy.send_signal(signal.SIGTERM)
        said, _ = busy.communicate(timeout=SECONDS)
    assert busy.returncode == 0 and said.endswith("verdict: valid\n"), said


def test_every_node_taken_is_a_sentence(site: Site) -> None:
    site.coordinator()
    for name in ("a", "b"):
        site.node(name)
    for name in ("a", "b"):
        site.serves(name)
    site.ports["c"] = _ports(1)[0]
    site.node("c")
    assert site.running.pop("c").wait(timeout=SECONDS) == 1
    assert "All nodes of the machine are taken" in site.logs()


def test_whoever_comes_first_makes_the_key(tmp_path: Path) -> None:
    first = machine_key(tmp_path)
    assert machine_key(tmp_path) == first
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
    assert os.stat(tmp_path / "key").st_mode & 0o777 == 0o600


@pytest.mark.parametrize("damage", [b"short", b"\xff" * 32, b"z" * 32])
def test_a_damaged_key_is_a_sentence_and_is_left_alone(tmp_path: Path, damage: bytes) -> None:
    write_private(tmp_path / "key", damage)
    with pytest.raises(ConfigurationError, match="key"):
        machine_key(tmp_path)
    assert (tmp_path / "key").read_bytes() == damage


def test_a_replica_is_the_node_that_its_host_is_named_after() -> None:
    topology = Topology.uniform(4, "1M")
    assert nid_of_host(topology, "numalab-node-3") == 3
    with pytest.raises(ConfigurationError, match="does not end with a number"):
        nid_of_host(topology, "database")
    with pytest.raises(ConfigurationError, match="no node 7"):
        nid_of_host(topology, "numalab-node-7")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["node", "--nid", "x"], "'x' is no node"),
        (["node", "--nid", "9"], "The machine has no node 9"),
        (["node", "--nid", "1", "--machine", "/nowhere"], "mount a directory"),
        (["coordinator", "--machine", "/nowhere"], "mount a directory"),
    ],
)
def test_a_wrong_argument_is_a_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["serve", *arguments]) == 1
    assert sentence in capsys.readouterr().err
