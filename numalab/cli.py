"""The console program ``numalab``.

Only click is loaded here: what a command needs is loaded when it runs, so that --help is quick.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from numalab.commands import Place
    from numalab.console import Answer
    from protocol.topology import Topology

INTERRUPTED = 130

_EPILOG = """Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done in part (some pages stayed),
4 no machine answers, 130 interrupted.  Node lists are those of numactl: 0-2,4 or all or !3."""


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_EPILOG,
)
@click.version_option(package_name="numalab")
def cli() -> None:
    """A NUMA machine made of processes, which migrates pages as Linux does."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point: gives the exit code, and never a traceback for a user's mistake."""
    try:
        code = cli.main(arguments, prog_name="numalab", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = error.exit_code
    except click.ClickException as error:
        where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else ""
        message = error.format_message().rstrip(".")
        click.echo(f"{message}: see '{where or 'numalab'} --help'.", err=True)
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except BrokenPipeError:
        # The reader of our stdout has had enough; nothing is left to be flushed to it.
        sys.stdout = None
        code = 1
    sys.exit(code)


# ---- what many commands have in common -----------------------------------------------------

_Command = Callable[..., int]


def _local(command: _Command) -> _Command:
    """Options that say where a machine's files are: gives ``run_directory``."""

    @click.option("--name", default="default", envvar="NUMALAB_NAME", help="Name of the machine.")
    @click.option(
        "--run-directory",
        type=click.Path(path_type=Path),
        envvar="NUMALAB_RUN_DIRECTORY",
        help="Where its files are.  [default: /tmp/numalab-UID/NAME]",
    )
    @functools.wraps(command)
    def with_directory(name: str, run_directory: Path | None, **options: Any) -> int:
        from numalab.locate import default_run_directory

        directory = run_directory.absolute() if run_directory else default_run_directory(name)
        return command(run_directory=directory, **options)

    return with_directory


def _remote(command: _Command) -> _Command:
    """Options that say where a machine is: gives ``place``."""

    @_local
    @click.option(
        "--address",
        envvar="NUMALAB_ADDRESS",
        help="tcp://host:port of a coordinator elsewhere; its key is read from NUMALAB_KEY.",
    )
    @functools.wraps(command)
    def with_place(run_directory: Path, address: str | None, **options: Any) -> int:
        from numalab.commands import Place

        if address is not None and not address.startswith("tcp://"):
            raise click.BadParameter(
                f"{address} is no address: write tcp://host:port", param_hint="--address"
            )
        return command(place=Place(run_directory, address), **options)

    return with_place


def _json(command: _Command) -> _Command:
    return click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")(
        command
    )


def _run(name: str, as_json: bool, *arguments: Any, **options: Any) -> int:
    """Run a function of numalab/commands.py."""
    from numalab import commands, console

    function = getattr(commands, name)
    return console.execute(functools.partial(function, *arguments, **options), as_json=as_json)


def _run_with_bar(name: str, as_json: bool, *arguments: Any, **options: Any) -> int:
    """The same, for one that tells how far it is."""
    from numalab.console import progress_bar

    with progress_bar() as heed:
        return _run(name, as_json, *arguments, heed=heed, **options)


# ---- a machine comes and goes --------------------------------------------------------------


@cli.command()
@_local
@click.option("--nodes", default=4, show_default=True, help="How many nodes.")
@click.option("--memory", default="256M", show_default=True, help="Memory of each node.")
@click.option("--topology", type=click.Path(path_type=Path), help="A machine described in TOML.")
@click.option("--migration", type=click.Choice(["on", "off"]), default="on", show_default=True)
@click.option("--profile", type=click.Choice(["seed", "modern"]), default="seed", show_default=True)
@click.option(
    "--chunk",
    type=click.IntRange(1),
    default=4096,
    show_default=True,
    help="Pages that are copied together.",
)
@click.option("--port", type=click.IntRange(1, 65535), help="Port of the coordinator.")
@click.option("--metrics/--no-metrics", default=True, help="Serve metrics for Prometheus.")
@click.option("--within", default=30.0, show_default=True, help="Seconds until it has to be up.")
@_json
def up(run_directory: Path, as_json: bool, within: float, **options: Any) -> int:
    """Start a machine; it runs until 'numalab down'."""
    from numalab import commands, console

    async def start() -> Answer:
        return await commands.up(_settings(**options), run_directory, within)

    return console.execute(start, as_json=as_json)


def _settings(
    nodes: int,
    memory: str,
    topology: Path | None,
    migration: str,
    profile: str,
    chunk: int,
    port: int | None,
    metrics: bool,
) -> Any:
    from numalab.cluster import Settings
    from protocol.messages import COORDINATOR

    return Settings(
        _topology(nodes, memory, topology),
        migration=migration == "on",
        profile=profile,
        chunk_pages=chunk,
        ports={} if port is None else {COORDINATOR: port},
        metrics=metrics,
    )


def _topology(nodes: int, memory: str, path: Path | None) -> Topology:
    from protocol.core import ConfigurationError
    from protocol.topology import Topology, parse_topology

    if path is None:
        return Topology.uniform(nodes, memory)
    try:
        return parse_topology(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"The topology {path} cannot be read ({error}): give the path of a TOML file."
        ) from None
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from None


@cli.command()
@_local
@_json
def down(run_directory: Path, as_json: bool) -> int:
    """Stop the machine and remove all that it left."""
    return _run("down", as_json, run_directory)


@cli.command()
@_local
@_json
def status(run_directory: Path, as_json: bool) -> int:
    """The processes of the machine: which are up, and where their metrics are."""
    return _run("status", as_json, run_directory)


# ---- what one reads ------------------------------------------------------------------------


@cli.command()
@_remote
@_json
def hardware(place: Place, as_json: bool) -> int:
    """Nodes, cpus, memory and distances, as 'numactl --hardware' shows them."""
    return _run("hardware", as_json, place)


@cli.command()
@_remote
@click.option("-p", "pid", type=int, metavar="PID", help="Memory of this task, in MB.")
@_json
def numastat(place: Place, pid: int | None, as_json: bool) -> int:
    """Allocations of each node, as numastat shows them."""
    return _run("numastat", as_json, place, pid)


@cli.command()
@_remote
@_json
def ps(place: Place, as_json: bool) -> int:
    """The tasks of the machine; PRESENT and MAPPED are pages."""
    return _run("ps", as_json, place)


@cli.command("numa-maps")
@_remote
@click.argument("pid", type=int)
@_json
def numa_maps(place: Place, pid: int, as_json: bool) -> int:
    """Where the pages of a task are, as in /proc/PID/numa_maps."""
    return _run("numa_maps", as_json, place, pid)


@cli.command()
@_remote
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--watch", is_flag=True, help="Write it anew every second, until interrupted.")
@_json
def sysfs(place: Place, directory: Path, watch: bool, as_json: bool) -> int:
    """Write the machine as files of /sys and /proc, as lstopo -i DIRECTORY --if fsroot reads."""
    return _run("write_sysfs", as_json, place, directory.absolute(), watch=watch)


@cli.command(context_settings={"allow_interspersed_args": False})
@_remote
@click.argument("command", nargs=-1)
def shell(place: Place, command: tuple[str, ...]) -> int:
    """Run COMMAND, or a shell, that sees this machine: numactl -H, numastat -m, lstopo."""
    return _run("run_shell", False, place, command or (os.environ.get("SHELL", "sh"),))


# ---- pages come and move -------------------------------------------------------------------


@cli.command("import")
@_remote
@click.argument("image", metavar="PID|CORE")
@click.option("--node", help="Where its pages go first.  [default: the first node with a cpu]")
@_json
def import_(place: Place, image: str, node: str | None, as_json: bool) -> int:
    """Bring a snapshot of a process of this host, or a core file, into the machine.

    The process is stopped while it is read, and then goes on undisturbed.  Prints the pid that the
    snapshot has in the machine.
    """
    return _run_with_bar("import_", as_json, place, image, node)


@cli.command()
@_remote
@click.argument("pid", type=int)
@_json
def verify(place: Place, pid: int, as_json: bool) -> int:
    """Read all pages of a task back, and compare them with what was imported."""
    return _run("verify", as_json, place, pid)


@cli.command()
@_remote
@click.argument("pid", type=int)
@click.argument("from_nodes", metavar="FROM-NODES")
@click.argument("to_nodes", metavar="TO-NODES")
@_json
def migratepages(place: Place, pid: int, from_nodes: str, to_nodes: str, as_json: bool) -> int:
    """Move all pages of a task from some nodes to others, as migratepages(8) does."""
    return _run_with_bar("migratepages", as_json, place, pid, from_nodes, to_nodes)


@cli.command("move-pages")
@_remote
@click.argument("pid", type=int)
@click.argument("addresses", metavar="ADDRESS...", nargs=-1, required=True)
@click.option("--to", help="The node to move them to.  [default: only say where they are]")
@click.option("--all", "move_all", is_flag=True, help="Also pages that other tasks map.")
@_json
def move_pages(
    place: Place,
    pid: int,
    addresses: tuple[str, ...],
    to: str | None,
    move_all: bool,
    as_json: bool,
) -> int:
    """Move single pages of a task as move_pages(2) does, or say where they are.

    Addresses are hexadecimal, as numa-maps prints them.  Prints the status of each page: its node,
    or an error.
    """
    numbers = [_address(text) for text in addresses]
    return _run("move_pages", as_json, place, pid, numbers, to, move_all=move_all)


def _address(text: str) -> int:
    try:
        address = int(text, 16)
    except ValueError:
        address = -1
    if not 0 <= address < 1 << 64:
        raise click.BadParameter(
            f"{text} is no address: write a hexadecimal number of at most 64 bits",
            param_hint="ADDRESS",
        )
    return address


# ---- what starts a machine of its own ------------------------------------------------------


@cli.command()
@click.option("--pid", type=int, help="Import this process instead of one that is started for it.")
@click.option("--memory", default="256M", show_default=True, help="Memory of each node.")
@click.option("--seconds", default=0.0, help="Go on moving for so long.  [default: one round]")
@click.option("--seed", type=int, help="Of the data of the program.  [default: drawn, and printed]")
@_json
def demo(pid: int | None, memory: str, seconds: float, seed: int | None, as_json: bool) -> int:
    """Move a real program's memory between nodes while two processes write to it.

    Ends with a verdict: every imported byte and every acknowledged store is compared.
    """
    import secrets

    from numalab import commands, console
    from numalab.demo import Options

    options = Options(memory, pid, seconds, secrets.randbelow(1 << 32) if seed is None else seed)
    with console.progress_bar() as heed:
        return console.execute(
            functools.partial(commands.demo, options, heed, quiet=as_json), as_json=as_json
        )


_PASSED_ON = {"ignore_unknown_options": True, "help_option_names": []}


@cli.command(context_settings=_PASSED_ON)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def sim(arguments: tuple[str, ...]) -> int:
    """Run the same program on virtual time, with faults (see 'numalab sim --help')."""
    from numalab.simulation.__main__ import main as simulate

    return simulate(arguments)


@cli.command(context_settings=_PASSED_ON)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(arguments: tuple[str, ...]) -> int:
    """How fast pages move (see 'numalab bench --help')."""
    from numalab.bench import main as measure

    return measure(arguments)


if __name__ == "__main__":
    main()
