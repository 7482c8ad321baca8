"""One process of a machine whose processes are started by somebody else: containers, systemd.

A process is given two directories.  ``state`` is its own and must outlive it: a node's zone, the
coordinator's journal, its secret key.  ``machine`` is that of the machine, and all of its processes
and clients have it: the key, which whoever comes first makes, the public keys, and
``machine.json``, by which clients find the coordinator, as in the run directory of a local machine.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import trio

from numalab import processes
from numalab.locate import DESCRIPTION, MachineFile, MachineUnreachable
from numalab.machine import connect
from numalab.orders import IndefiniteError
from protocol.codec import KEY_BYTES
from protocol.core import ConfigurationError
from protocol.hotplug import LeaseNode, NodeLeased
from protocol.live.keys import SECRET_SUFFIX, open_client_keys
from protocol.schema import COORDINATOR, node_name
from protocol.topology import Topology
from protocol.topology_text import format_topology

KEY = "key"
ZONE = "zone"
IDENTITY = "identity"
#: How long one attempt waits for the coordinator.
LEASE_SECONDS = 10.0
JOURNAL = "journal"
PUBLIC = "public"
CLIENT = "client"
#: Stands for the number in the address of a node.
NID = "{nid}"
_KEY = re.compile(f"[0-9a-f]{{{2 * KEY_BYTES}}}")
_ORDINAL = re.compile(r".*?(\d+)$")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a process is told on its command line.

    state, machine: directories.  bind: ``tcp://host:port``, where questions are taken.  node: the
    address of a node, with ``{nid}`` for its number.  advertise: where others reach this process.
    secure: CURVE on every socket.  spare: so many nodes, the last ones, are leased.  metrics:
    ``host:port`` or empty.  health, faults: paths or empty.  coordinator: further fields of its
    configuration.  coordinator_address: where nodes lease their number.
    """

    topology: Topology
    state: Path
    machine: Path
    bind: str
    node: str
    advertise: str
    secure: bool = True
    spare: int = 0
    metrics: str = ""
    health: str = ""
    faults: str = ""
    coordinator: tuple[tuple[str, Any], ...] = ()
    coordinator_address: str = "tcp://coordinator:7000"

    def keys(self, name: str, where: Path | None = None) -> dict[str, str]:
        """The paths of the secret key of ``name`` and of the public ones, empty without CURVE."""
        if not self.secure:
            return {"secret_key": "", "public_keys": ""}
        secret = (where or self.state) / f"{name}{SECRET_SUFFIX}"
        return {"secret_key": str(secret), "public_keys": str(self.machine / PUBLIC)}


def machine_key(machine: Path) -> str:
    """The key of the machine, 32 hexadecimal digits; made by whoever comes first.

    Raises ConfigurationError.
    """
    path = machine / KEY
    draft = machine / f".{KEY}.{secrets.token_hex(8)}"
    try:
        if not path.exists():
            processes.write_private(draft, secrets.token_hex(KEY_BYTES).encode())
            try:
                # Unlike a rename this fails if somebody was faster, and theirs counts.
                os.link(draft, path)
            except FileExistsError:
                pass
            finally:
                draft.unlink()
        key = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigurationError(
            f"The key of the machine in {machine} can be neither read nor made ({why}): mount a "
            "directory that this user may write."
        ) from None
    if not _KEY.fullmatch(key):
        raise ConfigurationError(
            f"{path} holds no key: it has to be {2 * KEY_BYTES} hexadecimal digits; remove it, and "
            "start every process of the machine again."
        )
    return key


def nid_of_host(topology: Topology, host: str | None = None) -> int:
    """The number at the end of the host's name, as an orchestrator gives it to a replica.

    Raises ConfigurationError.
    """
    name = socket.gethostname() if host is None else host
    match = _ORDINAL.fullmatch(name)
    if match is None:
        raise ConfigurationError(
            f"The name of this host, '{name}', does not end with a number: say which node it is "
            "with --nid."
        )
    return known_nid(topology, int(match[1]))


def find_nid(settings: Settings, nid: str) -> int:
    """What --nid says: a number, ``host`` or ``lease``.  Raises ConfigurationError."""
    if nid == "host":
        return nid_of_host(settings.topology)
    if nid == "lease":
        return trio.run(lease_node, settings)
    if not nid.isdecimal():
        raise ConfigurationError(f"'{nid}' is no node: write its number, host or lease.")
    return known_nid(settings.topology, int(nid))


def known_nid(topology: Topology, nid: int) -> int:
    """A node of the machine.  Raises ConfigurationError."""
    if nid not in topology.nids:
        raise ConfigurationError(
            f"The machine has no node {nid}: it has {', '.join(map(str, topology.nids))}."
        )
    return nid


def node_configuration(settings: Settings, nid: int) -> dict[str, Any]:
    """That of ``python -m nodes``."""
    topology = settings.topology
    frames = next(node.frames for node in topology.nodes if node.nid == nid)
    return _common(settings, node_name(nid)) | {
        "nid": nid,
        "zone": str(settings.state / ZONE),
        "page_size": topology.page_size,
        "frames": frames,
    }


def coordinator_configuration(settings: Settings) -> dict[str, Any]:
    """That of ``python -m coordinator``; from nodes that are leased it hears where they are."""
    return (
        _common(settings, COORDINATOR)
        | {
            "topology": format_topology(settings.topology),
            "journal": str(settings.state / JOURNAL),
            "addresses": _addresses(settings),
            "leased": settings.spare > 0,
        }
        | dict(settings.coordinator)
    )


async def lease_node(settings: Settings) -> int:
    """Ask the coordinator which node this process is; waits until there is one.

    It is the same as before if the state directory has been here before.
    Raises ConfigurationError.
    """
    # The socket of the lease must not be the one that the node will take questions at.
    identity = _identity(settings.state)
    message = LeaseNode(identity, settings.advertise)
    # It has no number yet, so it asks as a client, with a key of its own.
    mine = settings.keys(f"replica-{identity}")
    keys = open_client_keys(**mine) if settings.secure else None
    key = bytes.fromhex(machine_key(settings.machine))
    while True:
        try:
            where = settings.coordinator_address
            async with connect(where, key=key, within=LEASE_SECONDS, keys=keys) as it:
                told = await it.expect(message, NodeLeased)
        except (MachineUnreachable, IndefiniteError):
            sys.stderr.write(f"no coordinator answers at {settings.coordinator_address} yet\n")
            continue
        except OSError as error:
            raise ConfigurationError(_why_no_lease(settings, error)) from None
        return told.nid


def _why_no_lease(settings: Settings, error: OSError) -> str:
    match error.errno:
        case errno.EPERM:
            return (
                "The coordinator leases no nodes: start it with --spare, or say which node this "
                "is with --nid."
            )
        case errno.ENOSPC:
            return (
                "All nodes of the machine are taken: start the coordinator with a larger --spare, "
                "or take one away by 'numalab offline'."
            )
    return f"The coordinator refuses the lease of a node ({error.strerror})."


def _identity(state: Path) -> str:
    """Of this process and its zone, made when it is first asked for.  Raises ConfigurationError."""
    path = state / IDENTITY
    try:
        if not path.exists():
            processes.write_private(path, secrets.token_hex(16).encode())
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigurationError(
            f"{path} can be neither read nor written ({why}): mount a directory that this user "
            "may write."
        ) from None


def run_node(settings: Settings, nid: int) -> None:
    """Become the process of node ``nid``.  Raises ConfigurationError."""
    _become("nodes", settings, node_name(nid), node_configuration(settings, nid))


def run_coordinator(settings: Settings) -> None:
    """Become the process of the coordinator.  Raises ConfigurationError."""
    configuration = coordinator_configuration(settings)
    # The clients' key is made by the first of them.
    keys = settings.keys(CLIENT, settings.machine)
    described = MachineFile(1, settings.advertise, configuration["key"], (), **keys)
    _write(settings.machine / DESCRIPTION, msgspec.json.encode(described))
    _become("coordinator", settings, COORDINATOR, configuration)


def _common(settings: Settings, name: str) -> dict[str, Any]:
    return {
        "bind": settings.bind,
        "peers": {peer: where for peer, where in _addresses(settings).items() if peer != name},
        "key": machine_key(settings.machine),
        "nids": settings.topology.nids,
        "metrics": settings.metrics,
        "health": settings.health,
        **settings.keys(name),
        "faults": settings.faults,
    }


def _addresses(settings: Settings) -> dict[str, str]:
    """Of the nodes that are not leased."""
    nids = settings.topology.nids
    fixed = nids[: len(nids) - settings.spare]
    return {node_name(nid): settings.node.replace(NID, str(nid)) for nid in fixed}


def _become(module: str, settings: Settings, name: str, configuration: dict[str, Any]) -> None:
    """The same process goes on with its configuration, so that signals reach it as they are."""
    if settings.health:
        # /tmp of a pod outlives its containers: an old file would say that this process hangs.
        with suppress(OSError):
            Path(settings.health).unlink()
    path = settings.state / f"{name}.json"
    _write(path, msgspec.json.encode(configuration))
    sys.stderr.write(f"{name} listens at {settings.bind}\n")
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", module, str(path)])


def _write(path: Path, data: bytes) -> None:
    try:
        processes.write_private(path, data)
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be written ({error.strerror}): mount a directory that this user may "
            "write."
        ) from None
