"""Commands about migration jobs: the list of them, and what can be asked of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from numalab import options
from numalab.options import AboutTasks, json_option, remote, run

if TYPE_CHECKING:
    from numalab.commands import Place


@click.command()
@remote
@json_option
def jobs(place: Place, as_json: bool) -> int:
    """Migrations: those under way, and the last 64 jobs that have ended.

    A job is what 'numalab migratepages' with --background or --rate-limit starts.  Any other
    migration has no number, and cannot be paused.  ETA is at the rate of late.
    """
    from numalab import job_commands

    return run(job_commands.jobs, as_json, place)


@click.command(cls=AboutTasks)
@remote
@click.argument("job", type=options.job, metavar="JOB")
@json_option
def pause(place: Place, job: int, as_json: bool) -> int:
    """Pause a migration job; when this returns, it holds no lock."""
    from numalab import job_commands
    from protocol.jobs import Wish

    return run(job_commands.set_job, as_json, place, job, Wish.PAUSE)


@click.command(cls=AboutTasks)
@remote
@click.argument("job", type=options.job, metavar="JOB")
@json_option
def resume(place: Place, job: int, as_json: bool) -> int:
    """Let a migration job that was paused go on."""
    from numalab import job_commands
    from protocol.jobs import Wish

    return run(job_commands.set_job, as_json, place, job, Wish.RUN)


@click.command(cls=AboutTasks)
@remote
@click.argument("job", type=options.job, metavar="JOB")
@json_option
def cancel(place: Place, job: int, as_json: bool) -> int:
    """End a migration job; what has moved stays moved."""
    from numalab import job_commands
    from protocol.jobs import Wish

    return run(job_commands.set_job, as_json, place, job, Wish.CANCEL)


COMMANDS = (jobs, pause, resume, cancel)
