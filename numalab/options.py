"""What the commands of the console program have in common: their options, and how they are read.

Only click is loaded here: what a command needs is loaded when it runs, so that --help is quick.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

Command = Callable[..., int]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_NUMBER = re.compile("[0-9]+")
#: Those of the largest pid_t have 10, and a machine has fewer tasks.
_PID_DIGITS = 9
#: Of what a message has room for.
_JOB_DIGITS = 18
_NEGATIVE = re.compile(r"-\d")


# ---- kinds of values -----------------------------------------------------------------------


def task(text: str) -> int:
    """A pid; whether a task of the machine has it is for the machine to say."""
    return _pid(
        text, "There is no task {} in this machine: 'numalab ps' lists those that there are."
    )


def process(text: str) -> int:
    """The pid of a process of this host."""
    return _pid(text, "There is no process {}: look for its number with ps.")


def job(text: str) -> int:
    """The number of a migration job."""
    if not _NUMBER.fullmatch(text) or len(text) > _JOB_DIGITS:
        raise click.BadParameter(f"'{text}' is no job: write a number, as 'numalab jobs' prints it")
    return int(text)


def rate(text: str) -> int:
    """Bytes a second."""
    from numalab.rate import parse_rate
    from protocol.core import ConfigurationError

    try:
        return parse_rate(text)
    except ConfigurationError as error:
        raise click.BadParameter(str(error).rstrip(".")) from None


def _pid(text: str, nobody: str) -> int:
    """nobody: what is wrong with a number that is larger than any pid."""
    if not _NUMBER.fullmatch(text):
        raise click.BadParameter(f"'{text}' is no pid: write a whole number, as ps prints it")
    if len(text.lstrip("0")) > _PID_DIGITS:
        raise click.ClickException(nobody.format(text))
    return int(text)


def image(text: str) -> str:
    """What can be imported: the pid of a process of this host, or the path of a core file."""
    if _NUMBER.fullmatch(text):
        return str(process(text))
    if not text or not Path(text).exists():
        raise click.BadParameter(
            f"'{text}' is neither a pid nor a file: write the pid of a process, or the path of a "
            "core file"
        )
    return text


def memory(text: str) -> str:
    """The memory of each node, as ``Topology.uniform`` takes it."""
    from protocol.core import ConfigurationError
    from protocol.topology import Topology

    try:
        Topology.uniform(1, text)
    except ConfigurationError as error:
        raise click.BadParameter(str(error).rstrip(".")) from None
    return text


def seconds(text: str) -> float:
    """A finite time, 0 or more."""
    try:
        time = float(text)
    except ValueError:
        time = math.nan
    if not math.isfinite(time) or time < 0:
        raise click.BadParameter(f"'{text}' is no time: write seconds, 0 or more")
    return time


#: protocol.distance.PACE_MAX, which is not worth loading for --help.
PACE_MAX = 1e9


def pace(text: str) -> float:
    """How many times as long as emulated a time lasts on the clock; 0: it does not pass there."""
    try:
        factor = float(text)
    except ValueError:
        factor = math.nan
    if not 0 <= factor <= PACE_MAX:
        raise click.BadParameter(
            f"'{text}' is no pace: write a number like 1000, {PACE_MAX:g} at most, or 0 for none"
        )
    return factor


def positive_seconds(text: str) -> float:
    """A finite time, more than 0."""
    time = seconds(text)
    if not time:
        raise click.BadParameter("no time is no use: write seconds, more than 0")
    return time


def address(text: str) -> int:
    """A virtual address in hexadecimal digits, as numa-maps prints it."""
    try:
        number = int(text, 16)
    except ValueError:
        number = -1
    if not 0 <= number < 1 << 64:
        raise click.BadParameter(
            f"{text} is no address: write a hexadecimal number of at most 64 bits"
        )
    return number


def behaviour(text: str) -> tuple[str, bool]:
    """A row of the profile, and whether it is on."""
    from protocol.core import ConfigurationError
    from protocol.profile import MODERN, adjusted

    name, _, value = text.partition("=")
    if value not in ("on", "off"):
        raise click.BadParameter(f"'{text}' sets nothing: write NAME=on or NAME=off")
    try:
        adjusted(MODERN, {name: value == "on"})
    except ConfigurationError as error:
        raise click.BadParameter(str(error).rstrip(".")) from None
    return name, value == "on"


class AboutTasks(click.Command):
    """A command with pids and node lists: a negative one of those is not an unknown option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if not _NEGATIVE.match(error.option_name):
                raise
            word = next(word for word in given if word.startswith(error.option_name[:2]))
            raise click.UsageError(
                f"'{word}' is neither a pid nor a list of nodes: those are never negative", ctx
            ) from None


# ---- options of many commands --------------------------------------------------------------


def local(command: Command) -> Command:
    """Options that say where a machine's files are: gives ``run_directory``."""

    @click.option("--name", default="default", envvar="NUMALAB_NAME", help="Name of the machine.")
    @click.option(
        "--run-directory",
        envvar="NUMALAB_RUN_DIRECTORY",
        help="Where its files are.  [default: /tmp/numalab-UID/NAME]",
    )
    @functools.wraps(command)
    def with_directory(name: str, run_directory: str | None, **options: Any) -> int:
        return command(run_directory=_directory(name, run_directory), **options)

    return with_directory


def _directory(name: str, run_directory: str | None) -> Path:
    """What is said on the command line counts before the environment."""
    from numalab.locate import default_run_directory

    if not _NAME.fullmatch(name):
        raise click.BadParameter(
            f"'{name}' is no name: write letters, digits, '.', '_' and '-'", param_hint="--name"
        )
    if run_directory == "":
        raise click.BadParameter("it is empty: write a path", param_hint="--run-directory")
    if run_directory is None or (_is_given("name") and not _is_given("run_directory")):
        return default_run_directory(name)
    if _is_given("name") and _is_given("run_directory"):
        raise click.UsageError("--name and --run-directory say the same: give one of them")
    return Path(run_directory).absolute()


def _is_given(option: str) -> bool:
    """It stands on the command line."""
    source = click.get_current_context().get_parameter_source(option)
    return source == ParameterSource.COMMANDLINE


def remote(command: Command) -> Command:
    """Options that say where a machine is: gives ``place``."""

    @local
    @click.option(
        "--address",
        envvar="NUMALAB_ADDRESS",
        help="tcp://host:port of a coordinator elsewhere; its key is in the variable NUMALAB_KEY, "
        "or in the file that NUMALAB_KEY_FILE names.",
    )
    @functools.wraps(command)
    def with_place(run_directory: Path, address: str | None, **options: Any) -> int:
        from numalab.commands import Place

        if (_is_given("name") or _is_given("run_directory")) and not _is_given("address"):
            address = None
        if address is not None and not address.startswith("tcp://"):
            raise click.BadParameter(
                f"{address} is no address: write tcp://host:port", param_hint="--address"
            )
        return command(place=Place(run_directory, address), **options)

    return with_place


def json_option(command: Command) -> Command:
    """--json: gives ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")(
        command
    )


# ---- options of machines -------------------------------------------------------------------

topology = click.option("--topology", metavar="NAME|FILE", help="See 'numalab topology'.")
profile = click.option(
    "--profile", type=click.Choice(["seed", "modern"]), default="seed", show_default=True
)


def node_memory(default: str) -> Callable[[Command], Command]:
    """--memory of a command that makes nodes: gives ``memory``."""
    return click.option(
        "--memory",
        type=memory,
        metavar="SIZE",
        default=default,
        show_default=True,
        help="Memory of each node.",
    )


def coordinator(command: Command) -> Command:
    """What a coordinator is told, wherever it is started: fields of its configuration."""

    @click.option(
        "--migration",
        type=click.Choice(["on", "off"]),
        default="on",
        show_default=True,
        callback=lambda context, option, value: value == "on",
    )
    @profile
    @click.option(
        "--chunk",
        "chunk_pages",
        type=click.IntRange(1),
        default=4096,
        show_default=True,
        help="Pages that are copied together.",
    )
    @click.option(
        "--strict-order",
        is_flag=True,
        help="Node pairs of a migration go one after the other, as in a kernel, also those "
        "that have nothing to do with each other.",
    )
    @click.option(
        "--synchronous",
        type=click.Choice(["normal", "full"]),
        default="normal",
        show_default=True,
        help="Full: each commit of the journal waits for the disk; normal: it is synced behind.",
    )
    @functools.wraps(command)
    def with_fields(
        migration: bool,
        profile: str,
        chunk_pages: int,
        strict_order: bool,
        synchronous: str,
        **options: Any,
    ) -> int:
        from protocol.live.journal_file import Synchronous

        fields = {"migration": migration, "profile": profile, "chunk_pages": chunk_pages}
        fields |= {"strict_order": strict_order, "synchronous": Synchronous(synchronous)}
        return command(fields=fields, **options)

    return with_fields


# ---- how a command runs --------------------------------------------------------------------


def run(function: Callable[..., Any], as_json: bool, *arguments: Any, **options: Any) -> int:
    """Run an async function that gives an Answer; the exit code."""
    from numalab import console

    return console.execute(functools.partial(function, *arguments, **options), as_json=as_json)


def run_with_bar(
    function: Callable[..., Any], as_json: bool, *arguments: Any, **options: Any
) -> int:
    """The same, for one that tells how far it is."""
    from numalab.console import progress_bar

    with progress_bar() as heed:
        return run(function, as_json, *arguments, heed=heed, **options)
