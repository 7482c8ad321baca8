"""The composition of deploy/compose.yaml in a real engine: it starts, moves pages, is broken, ends.

The images are those of deploy/images; where there is no engine, or no image, this is skipped.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
COMPOSE = ROOT / "deploy/compose.yaml"
NUMALAB, PROMETHEUS = "numalab:local", "numalab-prometheus:local"
#: Those that can be had offline; Grafana's image has to be pulled.
SERVICES = ("prometheus", "alertmanager")
NODES = ("node0", "node1", "node2", "node3")
SECONDS = 180.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


class Composition:
    """A project of its own, so that nothing else on the engine is touched."""

    def __init__(self) -> None:
        self.project = f"numalab-test-{secrets.token_hex(4)}"
        self.environment = os.environ | {
            "PROMETHEUS_IMAGE": PROMETHEUS,
            "ALERTMANAGER_IMAGE": PROMETHEUS,
            # Any free port of the loopback.
            "PROMETHEUS_PORT": "0",
            "STRESS_SECONDS": "5",
        }

    def run(self, *arguments: str) -> str:
        command = ("docker-compose", "--project-name", self.project, "--file", str(COMPOSE))
        done = subprocess.run(
            (*command, *arguments), env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def ask(self, service: str, *command: str) -> str:
        return self.run("exec", "-T", service, *command)

    def containers(self, service: str) -> list[str]:
        return self.run("ps", "--quiet", service).split()

    def container(self, service: str) -> str:
        (name,) = self.containers(service)
        return name

    def healthy(self, service: str) -> bool:
        names = self.containers(service)
        return bool(names) and all(
            _inspect(name, "{{.State.Health.Status}}") == "healthy" for name in names
        )

    def prometheus(self, page: str) -> Any:
        """What Prometheus says at this page of its API, asked from within the network."""
        address = f"http://prometheus:9090/api/v1/{page}"
        question = f"import urllib.request as r; print(r.urlopen({address!r}).read().decode())"
        return json.loads(self.ask("coordinator", "/opt/numalab/bin/python", "-c", question))[
            "data"
        ]

    def targets(self) -> dict[str, str]:
        """Whom Prometheus scrapes, by instance: up, down or unknown."""
        targets = self.prometheus("targets")["activeTargets"]
        return {target["labels"]["instance"]: target["health"] for target in targets}

    def alerts(self) -> set[str]:
        return {alert["labels"]["alertname"] for alert in self.prometheus("alerts")["alerts"]}

    def rounds(self) -> int:
        """Migrations of the workload so far."""
        return self.run("logs", "--no-color", "workload").count("pages stayed")


def _docker(*arguments: str) -> str:
    return subprocess.run(
        ("docker", *arguments), capture_output=True, text=True, check=True
    ).stdout.strip()


def _inspect(container: str, what: str) -> str:
    return _docker("inspect", "--format", what, container)


def _said(container: str) -> str:
    """The end of its log, of both streams."""
    command = ("docker", "logs", "--tail", "40", container)
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
    )
    return done.stdout


def _until(happened: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < deadline, f"{what} did not happen in {SECONDS:g} s"
        time.sleep(0.5)


@pytest.fixture(scope="module")
def composition() -> Iterator[Composition]:
    if not os.environ.get("NUMALAB_COMPOSE"):
        pytest.skip("containers are tested by 'make compose'")
    for program in ("docker", "docker-compose"):
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program} here, so no container can be started")
    if subprocess.run(("docker", "info"), capture_output=True).returncode:
        pytest.skip("docker's engine does not answer here, so no container can be started")
    for image in (NUMALAB, PROMETHEUS):
        if subprocess.run(("docker", "image", "inspect", image), capture_output=True).returncode:
            pytest.skip(f"there is no image {image} here: deploy/images makes it")
    made = Composition()
    try:
        made.run("up", "--detach")
        # The nodes and the workload have begun before whoever watches them does.
        made.run("--profile", "observability", "up", "--detach", *SERVICES)
        yield made
    finally:
        profiles = ("--profile", "observability", "--profile", "scale", "--profile", "stress")
        made.run(*profiles, "down", "--volumes")
        left = ("--filter", f"label=com.docker.compose.project={made.project}", "--quiet")
        for kind in (("ps", "--all"), ("network", "ls"), ("volume", "ls")):
            assert _docker(*kind, *left) == "", f"docker {' '.join(kind)}: something is left"


def test_all_become_healthy_and_pages_move(composition: Composition) -> None:
    for service in ("coordinator", *NODES, "workload"):
        _until(lambda service=service: composition.healthy(service), f"a healthy {service}")  # type: ignore[misc]
    _until(lambda: composition.rounds() >= 3, "a third migration")
    hardware = json.loads(composition.ask("coordinator", "numalab", "hardware", "--json"))
    assert [node["id"] for node in hardware["nodes"]] == [0, 1, 2, 3]


def test_prometheus_scrapes_every_process(composition: Composition) -> None:
    scraped = dict.fromkeys(("coordinator", *NODES, "workload"), "up")
    _until(lambda: composition.targets() == scraped, "six targets up")
    # Longer than any alert waits for a node that is missing: none of the spare ones is.
    time.sleep(20)
    assert composition.alerts() == {"NumalabDeadMansSwitch"}


def test_a_short_stress_has_a_valid_verdict(composition: Composition) -> None:
    said = composition.run("--profile", "stress", "run", "--rm", "-T", "stress")
    assert said.startswith("valid: ")


def test_a_node_that_is_killed_in_a_migration_costs_no_page(composition: Composition) -> None:
    before = composition.rounds()
    victim = composition.container("node1")
    _docker("kill", victim)
    _docker("start", victim)
    _until(lambda: composition.healthy("node1"), "node1 serves again")
    _until(lambda: composition.rounds() >= before + 2, "two more migrations")


def test_more_nodes_join_while_all_goes_on(composition: Composition) -> None:
    composition.run("--profile", "scale", "up", "--detach", "--no-recreate", "--scale", "node=12")
    _until(
        lambda: '"id": 15' in composition.ask("coordinator", "numalab", "hardware", "--json"),
        "sixteen nodes",
    )
    before = composition.rounds()
    _until(lambda: composition.rounds() >= before + 2, "two migrations among sixteen nodes")

    def scraped() -> int:
        targets = composition.targets()
        return sum(targets[name] == "up" for name in targets if name.startswith("node-"))

    _until(lambda: scraped() == 12, "twelve replicas scraped")


def test_who_is_stopped_ends_in_time_and_with_a_verdict(composition: Composition) -> None:
    name = composition.container("workload")
    # One whose node is gone still ends: the coordinator waits for nobody.
    for service in (
        "workload",
        "node2",
        "coordinator",
        "node0",
        "node1",
        "node3",
        "node",
        *SERVICES,
    ):
        containers, began = composition.containers(service), time.monotonic()
        composition.run("--profile", "observability", "--profile", "scale", "stop", service)
        assert time.monotonic() - began < 20, f"{service} was killed"
        for container in containers:
            code = _inspect(container, "{{.State.ExitCode}}")
            assert code == "0", f"{service} ended with {code}: {_said(container)}"
    assert "verdict: valid" in _docker("logs", "--tail", "3", name)
