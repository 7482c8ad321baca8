"""deploy/kubernetes: against the published schemas, and that its files fit each other and numalab.

Nothing here runs on a cluster: docs/kubernetes.md says what that leaves open.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from numalab.cli import cli
from numalab.locate import KEY_FILE_VARIABLE
from numalab.serve import KEY, Settings, coordinator_configuration, nid_of_host, node_configuration
from protocol.topology import Topology
from tests.kustomize import Resource, build

KUBERNETES = Path(__file__).parent.parent / "deploy" / "kubernetes"
SIZES = {"base": 4, "overlays/eight-nodes": 8}
COMPONENT = "components/pod-monitor"
#: The validator has the schemas of these; older ones have no more support.
VERSIONS = ("1.28", "1.34", "1.37")
#: Of an operator, which publishes its schema with itself.
FOREIGN = {"PodMonitor"}
USER = 10001


@pytest.fixture(params=SIZES)
def size(request: pytest.FixtureRequest) -> str:
    """A kustomization that can be applied."""
    name: str = request.param
    return name


@pytest.fixture
def made(size: str) -> list[Resource]:
    return build(KUBERNETES / size)


def of_kind(made: list[Resource], *kinds: str) -> list[Resource]:
    return [one for one in made if one["kind"] in kinds]


def programs(made: list[Resource]) -> list[Resource]:
    return of_kind(made, "StatefulSet", "Deployment")


def named(made: list[Resource], name: str) -> Resource:
    (found,) = (one for one in programs(made) if one["metadata"]["name"] == name)
    return found


def pod(program: Resource) -> dict[str, Any]:
    found: dict[str, Any] = program["spec"]["template"]["spec"]
    return found


def container(program: Resource) -> dict[str, Any]:
    (found,) = pod(program)["containers"]
    return dict(found)


def labels(program: Resource) -> dict[str, str]:
    return dict(program["spec"]["template"]["metadata"]["labels"])


def parsed(arguments: list[str]) -> dict[str, Any]:
    """What the real command line makes of them; nothing is run."""
    command: click.Command = cli
    rest, context = list(arguments), None
    while isinstance(command, click.Group):
        name = rest.pop(0)
        context = click.Context(command, parent=context, info_name=name)
        found = command.get_command(context, name)
        assert found is not None, f"numalab has no command {name}"
        command = found
    return command.make_context(command.name, rest, parent=context).params


def settings(program: Resource) -> Settings:
    told = parsed(container(program)["args"])
    return Settings(
        Topology.uniform(told["nodes"], told["memory"]),
        state=told["state"],
        machine=told["machine"],
        bind=told["bind"],
        node=told["node_address"],
        advertise=told["advertise"] or "",
        metrics=told["metrics"],
        health=told["health"],
    )


# ---- the schemas ---------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_every_resource_is_as_the_published_schema_says(version: str) -> None:
    validator = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate of PyPI has the schemas; pip install it"
    )
    for name in (*SIZES, COMPONENT):
        made = build(KUBERNETES / name)
        assert made
        for one in made:
            if one["kind"] in FOREIGN:
                continue
            validator.validate(one, version, strict=True)


def test_the_schemas_notice_a_mistake() -> None:
    validator = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate of PyPI has the schemas; pip install it"
    )
    wrong = named(build(KUBERNETES / "base"), "numalab-node")
    wrong["spec"]["podManagmentPolicy"] = "Parallel"
    with pytest.raises(validator.ValidationError, match="podManagmentPolicy"):
        validator.validate(wrong, VERSIONS[-1], strict=True)


def test_kustomize_makes_the_same_of_it(tmp_path: Path) -> None:
    """So what the other tests see is what a cluster gets."""
    command = ["kustomize", "build"] if shutil.which("kustomize") else ["kubectl", "kustomize"]
    if shutil.which(command[0]) is None:
        pytest.skip("neither kustomize nor kubectl is on this host, which render for real")
    place = shutil.copytree(KUBERNETES, tmp_path / "kubernetes")
    both = place / "overlays" / "both"
    both.mkdir()
    (both / "kustomization.yaml").write_text(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
        f"resources: [../eight-nodes]\ncomponents: [../../{COMPONENT}]\nnamespace: elsewhere\n"
    )
    for name in (*SIZES, "overlays/both"):
        done = subprocess.run([*command, place / name], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert not done.stderr, done.stderr
        theirs = [one for one in yaml.safe_load_all(done.stdout) if one["kind"] != "Namespace"]
        ours = [one for one in build(place / name) if one["kind"] != "Namespace"]
        assert sorted(theirs, key=_place) == sorted(ours, key=_place)


def _place(resource: Resource) -> tuple[str, str]:
    return resource["kind"], resource["metadata"]["name"]


# ---- they fit each other -------------------------------------------------------------------


def test_every_selector_selects_its_pods(made: list[Resource]) -> None:
    pods = [labels(program) for program in programs(made)]
    for program in programs(made):
        assert program["spec"]["selector"]["matchLabels"] == labels(program)
    for service in of_kind(made, "Service"):
        chosen = [one for one in pods if service["spec"]["selector"].items() <= one.items()]
        assert len(chosen) == 1, service["metadata"]["name"]
    for one in of_kind(made, "PodDisruptionBudget"):
        wanted = one["spec"]["selector"]["matchLabels"]
        assert wanted == labels(named(made, one["metadata"]["name"]))
    for one in of_kind(made, "NetworkPolicy"):
        wanted = one["spec"]["podSelector"]["matchLabels"]
        assert all(wanted.items() <= pod.items() for pod in pods)


def test_every_port_is_one_that_the_process_listens_at(made: list[Resource]) -> None:
    for program in of_kind(made, "StatefulSet"):
        told = settings(program)
        ports = {one["name"]: one["containerPort"] for one in container(program)["ports"]}
        assert ports == {"messages": _port(told.bind), "metrics": _port(told.metrics)}
        scraped = program["spec"]["template"]["metadata"]["annotations"]
        assert scraped["prometheus.io/port"] == str(ports["metrics"])
        (service,) = (
            one
            for one in of_kind(made, "Service")
            if one["metadata"]["name"] == program["spec"]["serviceName"]
        )
        (port,) = service["spec"]["ports"]
        assert (port["targetPort"], port["port"]) == ("messages", ports["messages"])
    for policy in of_kind(made, "NetworkPolicy"):
        inside = {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
        assert inside == {7000, 9100}


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])


def test_every_address_is_that_of_a_service_or_of_a_pod(made: list[Resource]) -> None:
    """And it leads to pods that are not ready: they get ready by being reached."""
    services = {one["metadata"]["name"]: one["spec"] for one in of_kind(made, "Service")}
    assert all(one["publishNotReadyAddresses"] for one in services.values())
    assert all(one["clusterIP"] == "None" for one in services.values())
    nodes, coordinator = named(made, "numalab-node"), named(made, "coordinator")
    service = nodes["spec"]["serviceName"]
    assert service in services
    for program in (nodes, coordinator):
        expected = f"tcp://{nodes['metadata']['name']}-{{nid}}.{service}:7000"
        assert settings(program).node == expected
    where = settings(coordinator).advertise
    assert where == "tcp://coordinator:7000" and "coordinator" in services
    environment = {one["name"]: one["value"] for one in container(named(made, "workload"))["env"]}
    assert environment["NUMALAB_ADDRESS"] == where


def test_there_are_as_many_nodes_as_everybody_is_told(
    size: str, made: list[Resource], tmp_path: Path
) -> None:
    """From the name of a pod to the address at which the coordinator looks for it."""
    nodes, coordinator = named(made, "numalab-node"), named(made, "coordinator")
    assert nodes["spec"]["replicas"] == SIZES[size]
    (tmp_path / KEY).write_text("00" * 16)
    told = [
        Settings(one.topology, tmp_path, tmp_path, one.bind, one.node, one.advertise)
        for one in map(settings, (nodes, coordinator))
    ]
    assert told[0].topology == told[1].topology
    looked_for = coordinator_configuration(told[1])["addresses"]
    assert len(looked_for) == SIZES[size]
    for ordinal in range(SIZES[size]):
        host = f"{nodes['metadata']['name']}-{ordinal}"
        nid = nid_of_host(told[0].topology, host)
        assert node_configuration(told[0], nid)["nid"] == ordinal
        assert looked_for[f"node{ordinal}"] == f"tcp://{host}.{nodes['spec']['serviceName']}:7000"


def test_a_zone_has_room_in_its_volume_and_memory_in_its_limit(made: list[Resource]) -> None:
    nodes = named(made, "numalab-node")
    (claim,) = nodes["spec"]["volumeClaimTemplates"]
    topology = settings(nodes).topology
    memory = topology.nodes[0].frames * topology.page_size
    assert _bytes(claim["spec"]["resources"]["requests"]["storage"]) > memory * 1.25
    assert _bytes(container(nodes)["resources"]["limits"]["memory"]) > 2 * memory


def _bytes(quantity: str) -> int:
    return int(quantity[:-2]) << {"Ki": 10, "Mi": 20, "Gi": 30}[quantity[-2:]]


# ---- what a pod may ------------------------------------------------------------------------


def test_every_pod_may_as_little_as_in_compose(made: list[Resource]) -> None:
    for program in programs(made):
        spec, one = pod(program), container(program)
        assert spec["automountServiceAccountToken"] is False
        assert spec["terminationGracePeriodSeconds"] == 20
        who = spec["securityContext"]
        assert who["runAsNonRoot"] and who["runAsUser"] == who["fsGroup"] == USER
        assert who["seccompProfile"] == {"type": "RuntimeDefault"}
        assert one["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert one["resources"].keys() == {"requests", "limits"}


def test_every_path_of_a_process_is_on_a_volume(made: list[Resource]) -> None:
    """Its own files are read-only: what it writes is mounted, and what it reads is there."""
    for program in programs(made):
        told = parsed(container(program)["args"])
        mounts = {one["mountPath"]: one for one in container(program)["volumeMounts"]}
        claimed = {
            one["metadata"]["name"] for one in program["spec"].get("volumeClaimTemplates", ())
        }
        volumes = {one["name"] for one in pod(program)["volumes"]} | claimed
        assert {one["name"] for one in mounts.values()} == volumes
        assert str(Path(told["health"]).parent) in mounts
        if "state" in told:
            assert mounts[str(told["state"])]["name"] in claimed
    for name, key in _keys(made):
        secret = next(one for one in pod(named(made, name))["volumes"] if one["name"] == "key")
        assert secret["secret"]["secretName"] == "numalab-key"
        mounts = {one["mountPath"]: one for one in container(named(made, name))["volumeMounts"]}
        found = mounts.get(key) or mounts[str(Path(key).parent)]
        assert found["name"] == "key" and found["readOnly"]
        assert found.get("subPath", KEY) == KEY
    written = {
        one["mountPath"]: one for one in container(named(made, "coordinator"))["volumeMounts"]
    }
    machine = written[str(settings(named(made, "coordinator")).machine)]
    assert not machine.get("readOnly"), "the coordinator writes machine.json"


def _keys(made: list[Resource]) -> Iterator[tuple[str, str]]:
    """Each program, and where it looks for the key of the machine."""
    for program in of_kind(made, "StatefulSet"):
        yield program["metadata"]["name"], str(settings(program).machine / KEY)
    for variable in container(named(made, "workload"))["env"]:
        if variable["name"] == KEY_FILE_VARIABLE:
            yield "workload", variable["value"]


def test_no_secret_is_in_the_repository() -> None:
    texts = [path.read_text() for path in KUBERNETES.rglob("*") if path.is_file()]
    assert not any(re.search(r"kind: *Secret\b|[0-9a-f]{32}|secretGenerator", one) for one in texts)


def test_the_health_checks_tell_who_hangs_from_who_waits(tmp_path: Path) -> None:
    """As the shell has it: no file, a fresh one, an old one."""
    made = build(KUBERNETES / "base")
    for name in ("numalab-node", "coordinator"):
        one, serves = container(named(made, name)), tmp_path / f"{name}.serves"
        assert parsed(one["args"])["health"] == "/tmp/serves"

        def well(probe: str, one: dict[str, Any] = one, serves: Path = serves) -> bool:
            shell, option, script = one[probe]["exec"]["command"]
            command = [shell, option, script.replace("/tmp/serves", str(serves))]
            return subprocess.run(command, check=False).returncode == 0

        assert (well("readinessProbe"), well("livenessProbe")) == (False, True)
        serves.touch()
        assert (well("readinessProbe"), well("livenessProbe")) == (True, True)
        subprocess.run(["touch", "--date=-2 minutes", serves], check=True)
        assert (well("readinessProbe"), well("livenessProbe")) == (False, False)


# ---- the component -------------------------------------------------------------------------


def test_the_pod_monitor_finds_the_pods_with_metrics_and_calls_them_by_their_names() -> None:
    """As the rules and dashboards have it."""
    (monitor,) = build(KUBERNETES / COMPONENT)
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    base = build(KUBERNETES / "base")
    wanted = monitor["spec"]["selector"]["matchLabels"]
    for program in of_kind(base, "StatefulSet"):
        assert wanted.items() <= labels(program).items()
        assert endpoint["port"] in {one["name"] for one in container(program)["ports"]}
    called = {
        "numalab-node-11": "node11",
        "coordinator-0": "coordinator",
    }
    for name, expected in called.items():
        instance = [
            re.sub(rf"^{rule['regex']}$", re.sub(r"\$(\d)", r"\\\1", rule["replacement"]), name)
            for rule in endpoint["relabelings"]
            if rule["targetLabel"] == "instance" and re.fullmatch(rule["regex"], name)
        ]
        assert instance == [expected]
