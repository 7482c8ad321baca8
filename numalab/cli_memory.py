"""Commands about memory: what one reads, and how pages come and move."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import click

from numalab import options
from numalab.options import AboutTasks, json_option, remote, run, run_with_bar

if TYPE_CHECKING:
    from numalab.commands import Place


@click.command()
@remote
@json_option
def hardware(place: Place, as_json: bool) -> int:
    """Nodes, cpus, memory and distances, as 'numactl --hardware' shows them."""
    from numalab import commands

    return run(commands.hardware, as_json, place)


@click.command()
@remote
@click.option("-p", "pid", type=options.task, metavar="PID", help="Memory of this task, in MB.")
@json_option
def numastat(place: Place, pid: int | None, as_json: bool) -> int:
    """Allocations of each node, as numastat shows them."""
    from numalab import commands

    return run(commands.numastat, as_json, place, pid)


@click.command()
@remote
@json_option
def ps(place: Place, as_json: bool) -> int:
    """The tasks of the machine; PRESENT and MAPPED are pages."""
    from numalab import commands

    return run(commands.ps, as_json, place)


@click.command()
@remote
@json_option
def vmstat(place: Place, as_json: bool) -> int:
    """Counters of allocations and migrations since the machine began, as in /proc/vmstat."""
    from numalab import observing_commands

    return run(observing_commands.vmstat, as_json, place)


@click.command()
@remote
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes, until interrupted.")
@click.option(
    "--last", type=click.IntRange(0), metavar="N", help="Only the last N.  [default: all]"
)
def trace(place: Place, follow: bool, last: int | None) -> int:
    """What mm_migrate_pages traced: a line for each migration, the last 1024 of them."""
    from numalab import observing_commands

    return run(observing_commands.trace, False, place, last, follow=follow)


@click.command()
@remote
@json_option
def emulated(place: Place, as_json: bool) -> int:
    """What accesses, faults and migrations would have taken at the machine's distances, in ms."""
    from numalab import observing_commands

    return run(observing_commands.emulated, as_json, place)


@click.command("numa-maps", cls=AboutTasks)
@remote
@click.argument("pid", type=options.task, metavar="PID")
@json_option
def numa_maps(place: Place, pid: int, as_json: bool) -> int:
    """Where the pages of a task are, as in /proc/PID/numa_maps."""
    from numalab import commands

    return run(commands.numa_maps, as_json, place, pid)


@click.command("import", cls=AboutTasks)
@remote
@click.argument("image", type=options.image, metavar="PID|CORE")
@click.option("--node", help="Where its pages go first.  [default: the first node with a cpu]")
@json_option
def import_(place: Place, image: str, node: str | None, as_json: bool) -> int:
    """Bring a snapshot of a process of this host, or a core file, into the machine.

    The process is stopped while it is read, and then goes on undisturbed.  Prints the pid that the
    snapshot has in the machine.
    """
    from numalab import commands

    return run_with_bar(commands.import_, as_json, place, image, node)


@click.command(cls=AboutTasks)
@remote
@click.argument("pid", type=options.task, metavar="PID")
@json_option
def verify(place: Place, pid: int, as_json: bool) -> int:
    """Read all pages of a task back, and compare them with what was imported."""
    from numalab import commands

    return run(commands.verify, as_json, place, pid)


@click.command(cls=AboutTasks)
@remote
@click.argument("pid", type=options.task, metavar="PID")
@click.argument("from_nodes", metavar="FROM-NODES")
@click.argument("to_nodes", metavar="TO-NODES")
@click.option("--time", "timed", is_flag=True, help="Say what it took, on stderr.")
@click.option("--new-page", default="", metavar="NAME", help="Who chooses: a loaded new_page.")
@click.option(
    "--rate-limit",
    type=options.rate,
    metavar="RATE",
    default=None,
    help="At most so much a second, like 100MB/s: as a job, in slices.",
)
@click.option("--background", is_flag=True, help="As a job; prints its number and returns.")
@click.option("--dry-run", is_flag=True, help="Only print what would move, and what cannot.")
@json_option
def migratepages(
    place: Place,
    pid: int,
    from_nodes: str,
    to_nodes: str,
    timed: bool,
    new_page: str,
    rate_limit: int | None,
    background: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Move all pages of a task from some nodes to others, as migratepages(8) does.

    A job can be paused and cancelled (numalab jobs); Ctrl-C cancels one in the foreground.
    """
    from numalab import commands, job_commands

    if background and (dry_run or timed):
        other = "--dry-run" if dry_run else "--time"
        raise click.UsageError(f"--background and {other} contradict each other: give one of them")
    what = place, pid, from_nodes, to_nodes
    limit = rate_limit or 0
    if dry_run or background:
        begin = job_commands.plan if dry_run else job_commands.start
        return run(begin, as_json, *what, rate_limit=limit, new_page=new_page)
    if limit:
        job = partial(job_commands.migrate, rate_limit=limit, timed=timed, new_page=new_page)
        return run_with_bar(job, as_json, *what)
    command = partial(commands.migratepages, timed=timed, new_page=new_page)
    return run_with_bar(command, as_json, *what)


@click.command("move-pages", cls=AboutTasks)
@remote
@click.argument("pid", type=options.task, metavar="PID")
@click.argument("addresses", type=options.address, metavar="ADDRESS...", nargs=-1, required=True)
@click.option("--to", help="The node to move them to.  [default: only say where they are]")
@click.option("--all", "move_all", is_flag=True, help="Also pages that other tasks map.")
@json_option
def move_pages(
    place: Place,
    pid: int,
    addresses: tuple[int, ...],
    to: str | None,
    move_all: bool,
    as_json: bool,
) -> int:
    """Move single pages of a task as move_pages(2) does, or say where they are.

    Addresses are hexadecimal, as numa-maps prints them.  Prints the status of each page: its node,
    or an error.
    """
    from numalab import commands

    return run(commands.move_pages, as_json, place, pid, addresses, to, move_all=move_all)


COMMANDS = (
    hardware,
    numastat,
    vmstat,
    trace,
    emulated,
    ps,
    numa_maps,
    import_,
    verify,
    migratepages,
    move_pages,
)
