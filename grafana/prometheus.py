"""A real Prometheus with our rules, and what it answers: as Grafana would have asked it."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import yaml

from numalab.locate import read_machine

ROOT = Path(__file__).parent.parent
PROGRAM = "prometheus"
LACKING = "prometheus is not installed (Debian: apt-get install prometheus)"
START_SECONDS = 30.0
STEP = 1.0


def installed() -> bool:
    return shutil.which(PROGRAM) is not None


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

    def values(
        self, expr: str, end: float, *, instant: bool = False, step: float = STEP
    ) -> list[Any]:
        """The series of an expression: now, or step by step since the start."""
        if instant:
            found = self.get("query", query=expr, time=str(end))["result"]
        else:
            times = {"start": str(self.start), "end": str(end), "step": str(step)}
            found = self.get("query_range", query=expr, **times)["result"]
        return list(found)

    def label_values(self, label: str, match: str = "") -> list[str]:
        words = {"match[]": match} if match else {}
        return list(self.get(f"label/{label}/values", **words))


@contextmanager
def prometheus(directory: Path, machine: Path) -> Iterator[Prometheus]:
    """Prometheus with our rules at a machine that is up; ended with the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    configuration = directory / "prometheus.yml"
    looked_at = _configuration(machine)
    configuration.write_text(yaml.safe_dump(looked_at))
    arguments = [
        PROGRAM,
        f"--config.file={configuration}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(arguments, stdout=log, stderr=log)
    try:
        address = f"http://127.0.0.1:{port}"
        count = len(looked_at["scrape_configs"][0]["static_configs"])
        _await_scrapes(count, address, process, directory / "prometheus.log")
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


def _await_scrapes(count: int, address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """It serves some seconds before it has looked at all its targets for the first time."""
    every = f"count(up == 1) == {count}"
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(URLError, ConnectionError, AssertionError):
            if Prometheus(address).values(every, time.time(), instant=True):
                return
        time.sleep(0.05)
    raise AssertionError(f"prometheus did not start: {log.read_text()[-2000:]}")
