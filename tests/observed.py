"""A machine at work with a fault or two, and a real Prometheus that watches it every second."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import numpy as np
import pytest
import trio
import yaml

from numalab import cluster, processes, revival
from numalab.cluster import local_cluster
from numalab.constants import MPOL_MF_MOVE_ALL
from numalab.faults import parse_schedule
from numalab.locate import read_machine
from numalab.machine import Machine
from numalab.stress_harm import write_faults
from numalab.task import Task

ROOT = Path(__file__).parent.parent
PAGE = 4096
PAGES = 6000
PINNED = 8
START_SECONDS = 30.0
STEP = 1.0
#: Before, between and after the two kills.
QUIET_SECONDS = 5.0
#: Killed for longer than the coordinator is patient.
VICTIM, DOWN_SECONDS = "node3", 5.0
FAULTS = """\
duplicate * -> * at=2 until=18 chance=0.05 seconds=0.2
loss coordinator -> node* at=2 until=18 chance=0.02
damage node* -> coordinator at=2 until=18 chance=0.01
"""


class Prometheus:
    """Its HTTP API; ``start`` is when it began to look."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.start = time.time()

    def get(self, path: str, **words: str) -> Any:
        """The data of an answer.  Raises AssertionError with what Prometheus said."""
        url = f"{self.address}/api/v1/{path}?{urlencode(words)}"
        try:
            with urlopen(url, timeout=20) as answer:
                return json.load(answer)["data"]
        except HTTPError as error:
            raise AssertionError(f"{words}: {error.read().decode()}") from None

    def values(self, expr: str, end: float, *, instant: bool = False) -> list[Any]:
        """The series of an expression: now, or second by second since the start."""
        if instant:
            found = self.get("query", query=expr, time=str(end))["result"]
        else:
            times = {"start": str(self.start), "end": str(end), "step": str(STEP)}
            found = self.get("query_range", query=expr, **times)["result"]
        return list(found)

    def label_values(self, label: str, match: str = "") -> list[str]:
        words = {"match[]": match} if match else {}
        return list(self.get(f"label/{label}/values", **words))


@contextmanager
def prometheus(directory: Path, machine: Path) -> Iterator[Prometheus]:
    """Prometheus with our rules at a machine that is up; ended with the block."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed (Debian: apt-get install prometheus)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    configuration = directory / "prometheus.yml"
    configuration.write_text(yaml.safe_dump(_configuration(machine)))
    arguments = [
        program,
        f"--config.file={configuration}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(arguments, stdout=log, stderr=log)
    try:
        address = f"http://127.0.0.1:{port}"
        _await_ready(address, process, directory / "prometheus.log")
        yield Prometheus(address)
    finally:
        process.terminate()
        process.wait(20)


def _configuration(machine: Path) -> dict[str, Any]:
    """As deploy/prometheus has it, but for the targets and the interval."""
    deployed = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    targets = [
        {"targets": [row.metrics.split("/")[2]], "labels": {"instance": row.name}}
        for row in read_machine(machine).processes
    ]
    (job,) = [row["job_name"] for row in deployed["scrape_configs"]]
    return {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ROOT / "deploy/prometheus" / path) for path in deployed["rule_files"]],
        "scrape_configs": [{"job_name": job, "static_configs": targets}],
    }


def _await_ready(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(URLError, ConnectionError), urlopen(f"{address}/-/ready", timeout=2):
            return
        time.sleep(0.05)
    raise AssertionError(f"prometheus did not start: {log.read_text()[-2000:]}")


# ---- the machine ---------------------------------------------------------------------------


@asynccontextmanager
async def machine_with_faults(directory: Path) -> AsyncIterator[tuple[Machine, Path]]:
    """Four nodes whose messages suffer FAULTS; and its run directory."""
    faults = write_faults(directory, parse_schedule(FAULTS), seed=7)
    run = directory / "machine"
    async with local_cluster(
        4, "48M", run_directory=run, faults=str(faults), lease=60.0
    ) as machine:
        yield machine, run


async def work(machine: Machine, run: Path, say: Callable[[str], None]) -> None:
    """Migrations, writers and pins, while a node and the coordinator are killed."""
    task = await machine.spawn(cpu=0)
    base = await task.mmap(PAGES * PAGE)
    places = base + PAGE * np.arange(PAGES, dtype=np.uint64)
    await task.store_many(places, 8, bytes(8 * PAGES))
    far = await machine.attach(task.pid, cpu=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_write, far, places)
        nursery.start_soon(_go_round, task)
        nursery.start_soon(_spread, machine)
        nursery.start_soon(_migrate_pinned, machine)
        await trio.sleep(QUIET_SECONDS)
        await _killed(run, VICTIM, DOWN_SECONDS)
        say(f"{VICTIM} was killed and is back")
        await trio.sleep(QUIET_SECONDS)
        await _killed(run, "coordinator", 0.0)
        say("the coordinator was killed and is back")
        await trio.sleep(QUIET_SECONDS)
        nursery.cancel_scope.cancel()
    with suppress(OSError):
        await task.exit()


async def _write(task: Task, places: np.ndarray[Any, np.dtype[np.uint64]]) -> None:
    """A few pages at a time, here and there, with a cpu that is mostly far away."""
    draw = np.random.default_rng(7)
    while True:
        with suppress(OSError):
            chosen = draw.choice(places, 16, replace=False)
            await task.store_many(chosen, 8, bytes(8 * 16))
            await task.load_many(chosen, 8)
        await trio.sleep(0.002)


async def _go_round(task: Task) -> None:
    while True:
        for source, target in ((0, 1), (1, 2), (2, 0)):
            with suppress(OSError):
                await task.migrate_pages(task.pid, [source], [target])
            await trio.sleep(0.1)


async def _spread(machine: Machine) -> None:
    """Another task lies on all nodes, and gives its pages to the next one now and then."""
    task = await machine.spawn(cpu=2)
    base = await task.mmap(64 * PAGE)
    places = base + PAGE * np.arange(64, dtype=np.uint64)
    await task.store_many(places, 8, bytes(8 * 64))
    turn = 0
    while True:
        turn += 1
        nodes = ((np.arange(64) + turn) % 4).tolist()
        with suppress(OSError):
            await task.move_pages(task.pid, places, nodes, MPOL_MF_MOVE_ALL)
        await trio.sleep(0.5)


async def _migrate_pinned(machine: Machine) -> None:
    """Pages that another user holds stay, and a task that is not there is ESRCH."""
    task = await machine.spawn(cpu=0)
    base = await task.mmap(64 * PAGE)
    places = [base + PAGE * at for at in range(64)]
    await task.store_many(np.array(places, np.uint64), 8, bytes(8 * 64))
    while True:
        with suppress(OSError):
            await task.pin(*places[:PINNED])
            await task.migrate_pages(task.pid, [0], [1])
            await task.unpin(*places[:PINNED])
            await task.migrate_pages(task.pid, [1], [0])
        with suppress(OSError):
            await task.migrate_pages(999_999, [0], [1])
        await trio.sleep(0.5)


async def _killed(run: Path, name: str, seconds: float) -> None:
    process = cluster.running(run)[name]
    process.signal(signal.SIGKILL)
    await processes.ended(process)
    await trio.sleep(seconds)
    await revival.restart_dead(run, [name])
