"""Commands for machines whose processes are started by somebody else, and what is run on them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from numalab import options
from numalab.cli_machine import NODES_MAX, topology_of
from numalab.options import Command, json_option, remote, run

if TYPE_CHECKING:
    from numalab.commands import Place
    from numalab.serve import Settings

_PATH = click.Path(path_type=Path)
_DIRECTORY: dict[str, Any] = {"type": _PATH, "metavar": "DIRECTORY"}


def _option(name: str, default: Any, help: str, **more: Any) -> Callable[[Command], Command]:
    return click.option(name, default=default, show_default=default != "", help=help, **more)


def _metrics(default: str) -> Callable[[Command], Command]:
    help = "Where the metrics page is served; empty: nowhere."
    return _option("--metrics", default, help, metavar="HOST:PORT")


#: Those of every process.
_OPTIONS = (
    _option("--nodes", 4, "How many nodes the machine has.", type=click.IntRange(0, NODES_MAX)),
    _option(
        "--spare",
        0,
        "How many more there may be, of processes that come with --nid lease.",
        type=click.IntRange(0, NODES_MAX),
    ),
    options.node_memory("64M"),
    options.topology,
    _option("--state", "/state", "Of this process alone; it has to outlive it.", **_DIRECTORY),
    _option("--machine", "/machine", "Of all processes and clients of the machine.", **_DIRECTORY),
    _option("--bind", "tcp://*:7000", "Where questions are taken.", metavar="ADDRESS"),
    _option(
        "--node-address",
        "tcp://node{nid}:7000",
        "Where a node is, with {nid} for its number.",
        metavar="ADDRESS",
    ),
    _metrics("0.0.0.0:9100"),
    _option(
        "--secure/--insecure",
        True,
        "CURVE on every socket, with keys that are made on the first start.",
    ),
    _option("--health", "", "Touched while the process serves.", metavar="FILE"),
    _option("--faults", "", "Faults to suffer (docs/faults.md).", metavar="FILE"),
)


def _shared(command: Command) -> Command:
    """Options of every process: gives ``settings``, which makes them."""

    @functools.wraps(command)
    def with_settings(
        nodes: int, spare: int, memory: str, topology: str | None, node_address: str, **rest: Any
    ) -> int:
        names = ("state", "machine", "bind", "secure", "metrics", "health", "faults")
        told = {name: rest.pop(name) for name in names}

        def make(**more: Any) -> Settings:
            from numalab.serve import Settings

            machine = topology_of(nodes + spare, memory, topology)
            return Settings(machine, node=node_address, spare=spare, **told, **more)

        return command(settings=make, **rest)

    made: Command = with_settings
    for option in reversed(_OPTIONS):
        made = option(made)
    return made


@click.group()
def serve() -> None:
    """Be one process of a machine; for containers and the like (docs/deploy.md)."""


@serve.command()
@_shared
@click.option(
    "--nid",
    metavar="N|host|lease",
    default="host",
    show_default=True,
    help="Which node: as the host's name ends, or as the coordinator says.",
)
@click.option(
    "--advertise",
    metavar="ADDRESS",
    help="With --nid lease: where others reach this node.  [default: tcp://HOSTNAME:7000]",
)
@click.option(
    "--coordinator",
    metavar="ADDRESS",
    default="tcp://coordinator:7000",
    show_default=True,
    help="With --nid lease: whom to ask.",
)
def node(settings: Any, nid: str, advertise: str | None, coordinator: str) -> int:
    """Be a node, which owns page frames."""
    import socket

    from numalab.console import Answer, conclude
    from numalab.serve import find_nid, run_node

    def become() -> Answer:
        where = advertise or f"tcp://{socket.gethostname()}:7000"
        wanted = settings(advertise=where, coordinator_address=coordinator)
        run_node(wanted, find_nid(wanted, nid))
        return Answer("")

    return conclude(become)


@serve.command()
@_shared
@click.option(
    "--advertise",
    metavar="ADDRESS",
    default="tcp://coordinator:7000",
    show_default=True,
    help="Where clients find the coordinator.",
)
@options.coordinator
@click.option(
    "--lease",
    type=options.positive_seconds,
    metavar="SECONDS",
    default=10.0,
    show_default=True,
    help="How long the tasks of a silent client live.",
)
def coordinator(settings: Any, advertise: str, fields: dict[str, Any], lease: float) -> int:
    """Be the coordinator, which knows the address spaces."""
    from numalab.console import Answer, conclude
    from numalab.serve import run_coordinator

    told = fields | {"lease": lease}

    def become() -> Answer:
        run_coordinator(settings(advertise=advertise, coordinator=tuple(told.items())))
        return Answer("")

    return conclude(become)


@click.command()
@remote
@click.option(
    "--memory",
    type=options.memory,
    metavar="SIZE",
    default="16M",
    show_default=True,
    help="Of the task whose pages move.",
)
@click.option(
    "--interval",
    type=options.seconds,
    metavar="SECONDS",
    default=2.0,
    show_default=True,
    help="From the end of one migration to the next.",
)
@click.option("--rounds", type=click.IntRange(1), help="Migrations.  [default: until SIGTERM]")
@click.option("--health", type=_PATH, metavar="FILE", help="Touched after each migration.")
@_metrics("")
@json_option
def workload(place: Place, as_json: bool, **wanted: Any) -> int:
    """Keep an address space busy and move it on a schedule; ends with a verdict.

    Exit codes: 0 valid, 1 invalid, 3 unknown.  It waits for a machine that is not there yet.
    """
    from numalab import machine_commands

    return run(machine_commands.workload, as_json, place, quiet=as_json, **wanted)


COMMANDS = (serve, workload)
