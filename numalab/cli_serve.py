"""Commands for machines whose processes are started by somebody else, and what is run on them."""

from __future__ import annotations

import functools
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


def _shared(command: Command) -> Command:
    """Options of every process: gives ``settings``."""

    @click.option(
        "--nodes",
        type=click.IntRange(1, NODES_MAX),
        default=4,
        show_default=True,
        help="How many nodes the machine has.",
    )
    @click.option(
        "--memory",
        type=options.memory,
        metavar="SIZE",
        default="64M",
        show_default=True,
        help="Memory of each node.",
    )
    @click.option("--topology", metavar="NAME|FILE", help="See 'numalab topology'.")
    @click.option(
        "--state",
        type=_PATH,
        metavar="DIRECTORY",
        default="/state",
        show_default=True,
        help="Of this process alone; it has to outlive it.",
    )
    @click.option(
        "--machine",
        type=_PATH,
        metavar="DIRECTORY",
        default="/machine",
        show_default=True,
        help="Of all processes and clients of the machine.",
    )
    @click.option(
        "--bind",
        metavar="ADDRESS",
        default="tcp://*:7000",
        show_default=True,
        help="Where questions are taken.",
    )
    @click.option(
        "--node-address",
        metavar="ADDRESS",
        default="tcp://node{nid}:7000",
        show_default=True,
        help="Where a node is, with {nid} for its number.",
    )
    @click.option(
        "--metrics",
        metavar="HOST:PORT",
        default="0.0.0.0:9100",
        show_default=True,
        help="Where the metrics page is served; empty: nowhere.",
    )
    @click.option("--health", metavar="FILE", default="", help="Touched while the process serves.")
    @click.option("--faults", metavar="FILE", default="", help="Faults to suffer (docs/faults.md).")
    @functools.wraps(command)
    def with_settings(
        nodes: int, memory: str, topology: str | None, node_address: str, **rest: Any
    ) -> int:
        names = ("state", "machine", "bind", "metrics", "health", "faults")
        told = {name: rest.pop(name) for name in names}

        def make(**more: Any) -> Settings:
            from numalab.serve import Settings

            return Settings(topology_of(nodes, memory, topology), node=node_address, **told, **more)

        return command(settings=make, **rest)

    return with_settings


@click.group()
def serve() -> None:
    """Be one process of a machine; for containers and the like (docs/deploy.md)."""


@serve.command()
@_shared
@click.option("--nid", metavar="N", help="Which node.  [default: as the host's name ends]")
def node(settings: Any, nid: str | None) -> int:
    """Be a node, which owns page frames."""
    from numalab.console import Answer, conclude
    from numalab.serve import known_nid, nid_of_host, run_node

    if nid is not None and not nid.isdecimal():
        raise click.BadParameter(f"'{nid}' is no node: write its number", param_hint="--nid")

    def become() -> Answer:
        wanted = settings(advertise="")
        topology = wanted.topology
        run_node(wanted, nid_of_host(topology) if nid is None else known_nid(topology, int(nid)))
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
@click.option("--migration", type=click.Choice(["on", "off"]), default="on", show_default=True)
@click.option("--profile", type=click.Choice(["seed", "modern"]), default="seed", show_default=True)
@click.option(
    "--chunk",
    type=click.IntRange(1),
    default=4096,
    show_default=True,
    help="Pages that are copied together.",
)
@click.option(
    "--lease",
    type=options.positive_seconds,
    metavar="SECONDS",
    default=10.0,
    show_default=True,
    help="How long the tasks of a silent client live.",
)
def coordinator(
    settings: Any, advertise: str, migration: str, profile: str, chunk: int, lease: float
) -> int:
    """Be the coordinator, which knows the address spaces."""
    from numalab.console import Answer, conclude
    from numalab.serve import run_coordinator

    more = {"migration": migration == "on", "profile": profile}
    more |= {"chunk_pages": chunk, "lease": lease}

    def become() -> Answer:
        run_coordinator(settings(advertise=advertise, coordinator=tuple(more.items())))
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
@json_option
def workload(place: Place, as_json: bool, **wanted: Any) -> int:
    """Keep an address space busy and move it on a schedule; ends with a verdict.

    Exit codes: 0 valid, 1 invalid, 3 unknown.  It waits for a machine that is not there yet.
    """
    from numalab import machine_commands

    return run(machine_commands.workload, as_json, place, quiet=as_json, **wanted)


COMMANDS = (serve, workload)
