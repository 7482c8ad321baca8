"""Commands that watch a machine, and keep what has happened."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from numalab import options
from numalab.options import json_option, remote

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


COMMANDS = (top,)
