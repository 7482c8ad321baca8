"""``numalab bench`` on the command line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from numalab.options import json_option, run

#: numalab.bench.figures.TABLE and numalab.bench.peer.PEERS, not worth loading for --help.
FIGURES = range(1, 15)
PEERS = ("redis", "dask", "ray", "mpi")


def _figures(ctx: click.Context, param: click.Parameter, text: str | None) -> list[int] | None:
    """``1,2,7-9``."""
    if text is None:
        return None
    wanted = set[int]()
    for word in text.split(","):
        match = re.fullmatch(r"(\d{1,3})(?:-(\d{1,3}))?", word.strip())
        found = range(int(match[1]), int(match[2] or match[1]) + 1) if match else range(0)
        if not found or not set(found) <= set(FIGURES):
            raise click.BadParameter(
                f"'{word}' names no figure: write numbers from {FIGURES[0]} to {FIGURES[-1]}, as"
                " in 1,2,7-9"
            )
        wanted |= set(found)
    return sorted(wanted)


def _peers(ctx: click.Context, param: click.Parameter, text: str | None) -> list[str]:
    names = [word.strip() for word in text.split(",")] if text is not None else []
    for name in names:
        if name not in PEERS:
            raise click.BadParameter(f"'{name}' is no peer: choose of {', '.join(PEERS)}")
    return list(dict.fromkeys(names))


def _file(suffix: str) -> Any:
    def check(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
        if path is not None and suffix and path.suffix != suffix:
            raise click.BadParameter(f"'{path}' has to end in {suffix}")
        if path is not None and not path.absolute().parent.is_dir():
            raise click.BadParameter(f"there is no directory {path.absolute().parent}")
        return path

    return check


_PATH = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option(
    "--figures",
    callback=_figures,
    metavar="LIST",
    help="Measure these, as in 1,2,7-9.  [default: all]",
)
@click.option("--peers", callback=_peers, metavar="LIST", help=f"Beside these: {','.join(PEERS)}.")
@click.option("--quick", is_flag=True, help="Fewer pages and rounds, one start.")
@click.option("--pages", type=click.IntRange(256, 1 << 24), help="Pages that are moved at once.")
@click.option("--rounds", type=click.IntRange(1, 1000), help="Of everything, in each start.")
@click.option("--starts", type=click.IntRange(1, 100), help="Fresh starts of all processes.")
@click.option(
    "--tools/--no-tools",
    default=None,
    help="The figures that migspeed, migration.c and stress-ng print.  [default: if all are]",
)
@click.option("--profile", is_flag=True, help="Where the time of a batch goes.")
@click.option("--sweep", is_flag=True, help="Over the sizes of chunks, batches and windows.")
@click.option(
    "--output",
    "--json-file",
    type=_PATH,
    callback=_file(""),
    metavar="FILE",
    help="Write the result there as JSON.",
)
@click.option("--plot", type=_PATH, callback=_file(".svg"), metavar="FILE.svg", help="Draw it.")
@click.option(
    "--compare",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="OLD.json",
    help="Name what got worse since then by more than the noise; exit code 1 if something did.",
)
@json_option
def bench(as_json: bool, tools: bool | None, **options: Any) -> int:
    """What moving pages costs here, beside the same bytes through bare sockets and others.

    --profile and --sweep alone measure no figure: name those that are wanted as well.
    """
    from numalab.bench import command

    if options["figures"] is None:
        only = options["profile"] or options["sweep"] or tools
        tools = not only if tools is None else tools
        options["figures"] = [] if only else list(FIGURES)
    options["tools"] = bool(tools)
    return run(command.bench, as_json, command.Options(**options))


COMMANDS = (bench,)
