"""What a local machine will be, with everything decided, and the files that tell its processes."""

from __future__ import annotations

import secrets
import socket
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from nodes.zone import Zone
from numalab import processes, rundirectory
from protocol.codec import KEY_BYTES
from protocol.live.keys import SECRET_SUFFIX
from protocol.schema import COORDINATOR, node_name
from protocol.topology_text import format_topology

if TYPE_CHECKING:
    from numalab.cluster import Settings

LOCALHOST = "127.0.0.1"
#: The name of the key that all clients of a local machine share.
CLIENT = "client"
#: Below those that the host gives to outgoing connections, so that none of them comes in between.
_PORTS = range(10_000, 32_768)


@dataclass(frozen=True, slots=True)
class Plan:
    """Settings with all that was free in them decided."""

    settings: Settings
    run_directory: Path
    zones: Path
    key: str
    ports: dict[str, int]
    metrics_ports: dict[str, int]
    parent: int

    def address(self, name: str) -> str:
        return f"tcp://{LOCALHOST}:{self.ports[name]}"

    def metrics(self, name: str) -> str:
        """Where the metrics page of this process is, or nothing."""
        return f"{LOCALHOST}:{self.metrics_ports[name]}" if self.settings.metrics else ""

    def file(self, name: str, kind: str) -> Path:
        return self.run_directory / f"{name}.{kind}"

    def zone(self, name: str) -> str:
        return "" if name == COORDINATOR else str(self.zones / name)

    def keys(self, name: str) -> dict[str, str]:
        """The paths of its secret key and of the directory of public keys, empty without CURVE."""
        if not self.settings.secure:
            return {"secret_key": "", "public_keys": ""}
        keys = self.run_directory / rundirectory.KEYS
        return {
            "secret_key": str(keys / f"{name}{SECRET_SUFFIX}"),
            "public_keys": str(keys / rundirectory.PUBLIC),
        }


def make_plan(settings: Settings, directory: Path, parent: int) -> Plan:
    """Decide what is free in the settings.  Raises ConfigurationError: they need too much."""
    topology = settings.topology
    needed = sum(Zone.size_of(node.frames, topology.page_size) for node in topology.nodes)
    names = settings.names
    free = _free_ports(2 * len(names))
    return Plan(
        settings,
        directory,
        rundirectory.zone_directory(directory, needed, len(names)),
        secrets.token_hex(KEY_BYTES),
        dict(zip(names, free[::2], strict=True)) | dict(settings.ports),
        dict(zip(names, free[1::2], strict=True)) | dict(settings.metrics_ports),
        parent,
    )


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens at; all are held at once, so that no two are the same."""
    ports: list[int] = []
    with ExitStack() as stack:
        while len(ports) < count:
            port = _PORTS[secrets.randbelow(len(_PORTS))]
            candidate = stack.enter_context(socket.socket())
            with suppress(OSError):
                candidate.bind((LOCALHOST, port))
                ports.append(port)
    return ports


def write_configurations(plan: Plan) -> None:
    """One file for each process (protocol/live/process.py); mode 0600, for the key is in it."""
    settings, topology = plan.settings, plan.settings.topology
    addresses = {node_name(nid): plan.address(node_name(nid)) for nid in topology.nids}
    for name in settings.names:
        configuration: dict[str, Any] = {
            "bind": plan.address(name),
            "peers": {peer: address for peer, address in addresses.items() if peer != name},
            "key": plan.key,
            "nids": topology.nids,
            "metrics": plan.metrics(name),
            "parent": plan.parent,
            "faults": settings.faults,
            "local": settings.local,
            **plan.keys(name),
        }
        if name == COORDINATOR:
            configuration |= {
                "topology": format_topology(topology),
                "journal": str(plan.run_directory / rundirectory.JOURNAL),
                "addresses": addresses,
                "migration": settings.migration,
                "profile": settings.profile,
                "behaviours": dict(settings.behaviours),
                "chunk_pages": settings.chunk_pages,
                "strict_order": settings.strict_order,
                "lease": settings.lease,
                "pace": settings.pace,
                "synchronous": settings.synchronous,
                "load": [str(Path(path).absolute()) for path in settings.load],
            }
        else:
            node = next(node for node in topology.nodes if node_name(node.nid) == name)
            configuration |= {
                "nid": node.nid,
                "zone": plan.zone(name),
                "page_size": topology.page_size,
                "frames": node.frames,
                "batch_pages": settings.batch_pages,
                "credit": settings.credit,
            }
        processes.write_private(plan.file(name, "json"), msgspec.json.encode(configuration))
