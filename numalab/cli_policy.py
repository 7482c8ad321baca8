"""Commands about memory policies: where the pages of a task go."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from numalab import options
from numalab.options import AboutTasks, json_option, remote, run

if TYPE_CHECKING:
    from numalab.commands import Place

_MODES = """MODE is default, preferred, bind or interleave; with the profile modern also local and
preferred-many, and flags, as in bind=static."""


@click.command("set-mempolicy", cls=AboutTasks, epilog=_MODES)
@remote
@click.argument("pid", type=options.task, metavar="PID")
@click.argument("mode")
@click.argument("nodes", required=False, default="")
@json_option
def set_mempolicy(place: Place, pid: int, mode: str, nodes: str, as_json: bool) -> int:
    """Say where new pages of a task go, as set_mempolicy(2) does."""
    from numalab import policy_commands

    return run(policy_commands.set_mempolicy, as_json, place, pid, mode, nodes)


@click.command("get-mempolicy", cls=AboutTasks)
@remote
@click.argument("pid", type=options.task, metavar="PID")
@click.argument("start", type=options.address, metavar="[ADDRESS]", required=False)
@json_option
def get_mempolicy(place: Place, pid: int, start: int | None, as_json: bool) -> int:
    """Tell the policy of a task, or of one of its addresses, as get_mempolicy(2) does."""
    from numalab import policy_commands

    return run(policy_commands.get_mempolicy, as_json, place, pid, start)


@click.command(cls=AboutTasks, epilog=_MODES)
@remote
@click.argument("pid", type=options.task, metavar="PID")
@click.argument("start", type=options.address, metavar="ADDRESS")
@click.argument("pages", type=click.IntRange(1), metavar="PAGES")
@click.argument("mode")
@click.argument("nodes", required=False, default="")
@click.option("--move", is_flag=True, help="Pages that are elsewhere follow.")
@click.option("--all", "move_all", is_flag=True, help="So do those that other tasks map.")
@click.option("--strict", is_flag=True, help="Fail if a page is not where it should be.")
@json_option
def mbind(
    place: Place,
    pid: int,
    start: int,
    pages: int,
    mode: str,
    nodes: str,
    move: bool,
    move_all: bool,
    strict: bool,
    as_json: bool,
) -> int:
    """Give PAGES pages of a task from ADDRESS on a policy, as mbind(2) does."""
    from numalab import policy_commands

    flags = policy_commands.mbind_flags(move=move, move_all=move_all, strict=strict)
    return run(policy_commands.mbind, as_json, place, pid, start, pages, mode, nodes, flags)


COMMANDS = (set_mempolicy, get_mempolicy, mbind)
