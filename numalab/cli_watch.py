"""Commands that watch a machine, and keep what has happened."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from numalab import options
from numalab.options import json_option, local, remote

if TYPE_CHECKING:
    from numalab.commands import Place


@click.command()
@remote
@click.option(
    "--interval",
    type=options.positive_seconds,
    metavar="SECONDS",
    default=1.0,
    show_default="1",
    help="Time between two frames.",
)
@click.option(
    "--once", is_flag=True, help="One frame as plain text; so it is where stdout is no terminal."
)
@json_option
def top(place: Place, interval: float, once: bool, as_json: bool) -> int:
    """Watch the machine: nodes, flows between them, migrations, waits; q quits.

    With --json a document for each interval, one a line.
    """
    from functools import partial

    from numalab import console
    from numalab import top as watching

    command = partial(watching.top, place, interval, once=once, as_json=as_json)
    return console.execute(command, as_json=as_json)


@click.command()
@local
@click.option(
    "--stress",
    type=click.Path(path_type=Path),
    metavar="DIRECTORY",
    help="Of these results of 'numalab stress' instead of a machine.",
)
@click.option(
    "--csv",
    "tables",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIRECTORY",
    help="Write tables there.",
)
@click.option(
    "--trace",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write a trace there, for ui.perfetto.dev.",
)
@json_option
def export(
    run_directory: Path,
    stress: Path | None,
    tables: Path | None,
    trace: Path | None,
    as_json: bool,
) -> int:
    """What has happened, as CSV and as a trace; for a seed see 'numalab sim --trace'.

    Of a machine: its journal, which has no times, and its last 1024 trace lines.
    """
    from numalab import console
    from numalab import export as exporting

    if tables is None and trace is None:
        raise click.UsageError("nothing is to be written: give --csv, --trace or both")
    if stress is not None:
        return console.conclude(
            lambda: exporting.export_stress(stress, tables, trace), as_json=as_json
        )
    return options.run(exporting.export_machine, as_json, run_directory, tables, trace)


COMMANDS = (top, export)
