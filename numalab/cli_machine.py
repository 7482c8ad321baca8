"""Commands about a machine as a whole: it comes, is shown, and goes."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from numalab import options
from numalab.options import json_option, local, remote, run

if TYPE_CHECKING:
    from numalab.cluster import Settings
    from numalab.commands import Place
    from numalab.console import Answer
    from protocol.topology import Topology

#: protocol.topology.NODES_MAX, which is not worth loading for --help.
NODES_MAX = 254


@click.command()
@local
@click.option(
    "--nodes",
    type=click.IntRange(1, NODES_MAX),
    default=4,
    show_default=True,
    help="How many nodes.",
)
@options.node_memory("256M")
@options.topology
@options.coordinator
@click.option(
    "--behaviour",
    "behaviours",
    type=options.behaviour,
    multiple=True,
    metavar="NAME=on|off",
    help="Set one row of the profile by hand (docs/profiles.md).",
)
@click.option(
    "--pace",
    type=options.pace,
    metavar="FACTOR",
    default=0.0,
    help="Let emulated time pass on the clock, so many times as long.  [default: it does not]",
)
@click.option("--port", type=click.IntRange(1, 65535), help="Port of the coordinator.")
@click.option(
    "--load",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="A Python file that adds methods to the machine; can be repeated.",
)
@click.option("--metrics/--no-metrics", default=True, help="Serve metrics for Prometheus.")
@click.option("--secure", is_flag=True, help="Encrypt, and let in who has a key (CURVE).")
@click.option(
    "--wire",
    type=click.Choice(["local", "tcp"]),
    default="local",
    show_default=True,
    help="Local: unix sockets and pipes within this host, unless --secure; tcp: all by TCP, as"
    " between hosts.",
)
@click.option(
    "--within",
    type=options.positive_seconds,
    metavar="SECONDS",
    default=30.0,
    show_default=True,
    help="Seconds until it has to be up.",
)
@json_option
def up(run_directory: Path, as_json: bool, within: float, **settings: Any) -> int:
    """Start a machine; it runs until 'numalab down'."""
    from numalab import machine_commands

    if settings["topology"] is not None:
        _refuse_size(settings["topology"])

    async def start() -> Answer:
        return await machine_commands.up(_settings(**settings), run_directory, within)

    return run(start, as_json)


def _refuse_size(topology: str) -> None:
    """What else --nodes and --memory would say is in the topology."""
    context = click.get_current_context()
    for name in ("nodes", "memory"):
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise click.UsageError(
                f"--topology {topology} says which nodes there are and how much memory they have: "
                f"leave out --{name}, or --topology"
            )


def _settings(
    nodes: int,
    memory: str,
    topology: str | None,
    fields: dict[str, Any],
    behaviours: tuple[tuple[str, bool], ...],
    pace: float,
    port: int | None,
    load: tuple[Path, ...],
    metrics: bool,
    secure: bool,
    wire: str,
) -> Settings:
    from numalab.cluster import Settings
    from protocol.schema import COORDINATOR

    return Settings(
        topology_of(nodes, memory, topology),
        **fields,
        behaviours=dict(behaviours),
        pace=pace,
        ports={} if port is None else {COORDINATOR: port},
        metrics=metrics,
        load=load,
        secure=secure,
        local=wire == "local",
    )


def topology_of(nodes: int, memory: str, named: str | None) -> Topology:
    from numalab.topology_import import find_topology
    from protocol.topology import Topology

    return Topology.uniform(nodes, memory) if named is None else find_topology(named)


@click.command()
@click.argument("named", metavar="[NAME|FILE]", required=False)
@click.option(
    "--sysfs", metavar="DIRECTORY", help="Of this /sys/devices/system/node, or of a copy of it."
)
@click.option("--lstopo", metavar="FILE", help="Of what 'lstopo --of xml' wrote, or that as JSON.")
def topology(named: str | None, sysfs: str | None, lstopo: str | None) -> int:
    """Print a topology in TOML: of a machine that is known by name, of a file, of a host."""
    from numalab import console, topology_import
    from protocol.presets import PRESETS
    from protocol.topology_text import format_topology

    given = [source for source in (named, sysfs, lstopo) if source is not None]
    if len(given) != 1:
        names = ", ".join(PRESETS)
        raise click.UsageError(f"give one of NAME, FILE, --sysfs and --lstopo; names are {names}")

    def describe() -> console.Answer:
        if sysfs is not None:
            found = topology_import.from_sysfs(Path(sysfs))
        elif lstopo is not None:
            found = topology_import.from_lstopo(Path(lstopo))
        else:
            found = topology_import.find_topology(given[0])
        return console.Answer(format_topology(found))

    return console.conclude(describe)


@click.command()
@local
@json_option
def down(run_directory: Path, as_json: bool) -> int:
    """Stop the machine and remove all that it left."""
    from numalab import machine_commands

    return run(machine_commands.down, as_json, run_directory)


@click.command()
@local
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option(
    "--within",
    type=options.seconds,
    metavar="SECONDS",
    default=30.0,
    show_default=True,
    help="Wait for so long until all is up.",
)
@json_option
def restart(run_directory: Path, names: tuple[str, ...], within: float, as_json: bool) -> int:
    """Start processes of the machine again that have died: all of them, or NAME (node0)."""
    from numalab import machine_commands

    return run(machine_commands.restart, as_json, run_directory, names, within)


@click.command()
@local
@json_option
def status(run_directory: Path, as_json: bool) -> int:
    """The processes of the machine: which are up, and where their metrics are."""
    from numalab import machine_commands

    return run(machine_commands.status, as_json, run_directory)


@click.command()
@local
@click.option(
    "--last", type=click.IntRange(0), metavar="N", help="Only the last N.  [default: all]"
)
@click.option("--pid", type=options.task, metavar="PID", help="Only what names this task.")
@json_option
def journal(run_directory: Path, last: int | None, pid: int | None, as_json: bool) -> int:
    """The coordinator's journal: a line for each entry since the last snapshot."""
    from numalab import console, observing_commands

    return console.conclude(
        lambda: observing_commands.journal(run_directory, last, pid, as_json=as_json),
        as_json=as_json,
    )


@click.command()
@remote
@click.argument("node", type=click.IntRange(0, 254), metavar="NODE")
@click.option(
    "--within",
    type=options.seconds,
    metavar="SECONDS",
    default=60.0,
    show_default=True,
    help="Try for so long; then the node is online again.",
)
@json_option
def offline(place: Place, node: int, within: float, as_json: bool) -> int:
    """Move everything off a node and use it no more, as memory hot-remove does."""
    from numalab import hotplug_commands

    return run(hotplug_commands.offline, as_json, place, node, within)


@click.command()
@remote
@click.argument("node", type=click.IntRange(0, 254), metavar="NODE")
@json_option
def online(place: Place, node: int, as_json: bool) -> int:
    """Use a node again that was taken offline."""
    from numalab import hotplug_commands

    return run(hotplug_commands.online, as_json, place, node)


@click.command()
@remote
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--watch", is_flag=True, help="Write it anew every second, until interrupted.")
@json_option
def sysfs(place: Place, directory: Path, watch: bool, as_json: bool) -> int:
    """Write the machine as files of /sys and /proc, as lstopo -i DIRECTORY --if fsroot reads."""
    from numalab import machine_commands

    return run(machine_commands.write_sysfs, as_json, place, directory.absolute(), watch=watch)


@click.command(context_settings={"allow_interspersed_args": False})
@remote
@click.option("--proc", is_flag=True, help="/proc shows its tasks, for numastat -p PID.")
@click.argument("command", nargs=-1)
def shell(place: Place, command: tuple[str, ...], proc: bool) -> int:
    """Run COMMAND, or a shell, that sees this machine: numactl -H, numastat -m, lstopo."""
    from numalab import machine_commands

    arguments = command or (os.environ.get("SHELL", "sh"),)
    return run(functools.partial(machine_commands.run_shell, place, arguments, proc=proc), False)


COMMANDS = (up, down, restart, status, journal, offline, online, topology, sysfs, shell)
