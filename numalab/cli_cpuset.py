"""Commands about cpusets: which cpus and nodes tasks may use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from numalab import options
from numalab.options import AboutTasks, json_option, remote, run

if TYPE_CHECKING:
    from numalab.commands import Place


@click.group()
def cpuset() -> None:
    """Cpusets: which cpus tasks may run on, and which nodes their memory comes from.

    They are a tree of paths, of which / is the top and has everything.
    """


@cpuset.command("list")
@remote
@json_option
def list_(place: Place, as_json: bool) -> int:
    """Every cpuset, with its cpus, nodes, flags and the number of its tasks."""
    from numalab import cpuset_commands

    return run(cpuset_commands.listing, as_json, place)


@cpuset.command()
@remote
@click.argument("path")
@json_option
def mkdir(place: Place, path: str, as_json: bool) -> int:
    """Make a cpuset; it needs cpus and mems before a task can be in it."""
    from numalab import cpuset_commands

    return run(cpuset_commands.make, as_json, place, path)


@cpuset.command()
@remote
@click.argument("path")
@json_option
def rmdir(place: Place, path: str, as_json: bool) -> int:
    """Remove a cpuset without tasks and children."""
    from numalab import cpuset_commands

    return run(cpuset_commands.remove, as_json, place, path)


@cpuset.command("get")
@remote
@click.argument("path")
@click.argument("file", required=False)
@json_option
def get(place: Place, path: str, file: str | None, as_json: bool) -> int:
    """Read cpus, mems, tasks or a flag of a cpuset, or all of them."""
    from numalab import cpuset_commands

    return run(cpuset_commands.get, as_json, place, path, file)


@cpuset.command("set", cls=AboutTasks)
@remote
@click.argument("path")
@click.argument("file")
@click.argument("text")
@json_option
def set_(place: Place, path: str, file: str, text: str, as_json: bool) -> int:
    """Write cpus, mems, cpu_exclusive, mem_exclusive or memory_migrate of a cpuset.

    New mems move the memory of its tasks if memory_migrate is 1.
    """
    from numalab import cpuset_commands

    return run(cpuset_commands.put, as_json, place, path, file, text)


@cpuset.command(cls=AboutTasks)
@remote
@click.argument("path")
@click.argument("pid", type=options.task, metavar="PID")
@json_option
def attach(place: Place, path: str, pid: int, as_json: bool) -> int:
    """Put a task into a cpuset; its memory follows if that has memory_migrate."""
    from numalab import cpuset_commands

    return run(cpuset_commands.put, as_json, place, path, "tasks", str(pid))


COMMANDS = (cpuset,)
