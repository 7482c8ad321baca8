"""The command that is rough with a machine, and says whether it was right all the same."""

from __future__ import annotations

from pathlib import Path

import click

from numalab import options
from numalab.options import json_option, run

KINDS = ("kills", "coordinator-kills", "pauses", "messages", "partitions", "strains")


def _kinds(ctx: click.Context, param: click.Parameter, text: str) -> tuple[str, ...]:
    kinds = tuple(filter(None, text.split(",")))
    for kind in kinds:
        if kind not in KINDS:
            raise click.BadParameter(f"'{kind}' is no kind of fault: choose of {', '.join(KINDS)}")
    return kinds


@click.command()
@click.option(
    "--duration",
    type=options.positive_seconds,
    metavar="SECONDS",
    default=60.0,
    show_default="60",
    help="How long load and faults last.",
)
@click.option("--seed", type=click.IntRange(0), help="Of load and faults.  [default: drawn]")
@click.option("--nodes", type=click.IntRange(2, 64), default=4, show_default=True)
@options.node_memory("32M")
@options.profile
@click.option("--clients", type=click.IntRange(1, 64), default=3, show_default=True)
@click.option(
    "--faults",
    metavar="FILE",
    help="A schedule (docs/faults.md), or none.  [default: drawn from the seed]",
)
@click.option(
    "--kinds",
    callback=_kinds,
    default=",".join(KINDS),
    metavar="KIND,...",
    help=f"Of faults that are drawn, of {', '.join(KINDS)}.  [default: all]",
)
@click.option(
    "--directory",
    type=click.Path(path_type=Path),
    help="Where the results go.  [default: /tmp/numalab-UID/stress-SEED-PID]",
)
@click.option(
    "--existing",
    type=click.Path(path_type=Path),
    metavar="RUN_DIRECTORY",
    help="Use the machine that runs there; of messages only those of clients have faults then.",
)
@click.option("--secure", is_flag=True, help="On a machine with CURVE (docs/security.md).")
@json_option
def stress(
    duration: float,
    seed: int | None,
    nodes: int,
    memory: str,
    profile: str,
    clients: int,
    faults: str | None,
    kinds: tuple[str, ...],
    directory: Path | None,
    existing: Path | None,
    secure: bool,
    as_json: bool,
) -> int:
    """Load, migrations and faults on a machine of real processes, and a verdict.

    Exit codes: 0 valid, 1 invalid, 3 unknown.  The seed decides load and faults, but not which
    comes first on a live machine.
    """
    import os
    import secrets

    from numalab import stress_command
    from numalab.locate import default_run_directory
    from numalab.stress import Options

    seed = secrets.randbelow(1 << 32) if seed is None else seed
    where = directory or default_run_directory(f"stress-{seed}-{os.getpid()}")
    wanted = Options(
        where.absolute(),
        seed,
        duration,
        nodes,
        memory,
        profile,
        kinds=kinds,
        existing=existing and existing.absolute(),
        clients=clients,
        secure=secure,
    )
    return run(stress_command.run, as_json, wanted, faults, as_json)


COMMANDS = (stress,)
