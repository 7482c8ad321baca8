"""Commands that need no machine: they make machines of their own."""

from __future__ import annotations

import re
from pathlib import Path

import click

from numalab import options
from numalab.options import json_option, run_with_bar


@click.command()
@click.option(
    "--pid",
    type=options.process,
    metavar="PID",
    help="Import this process instead of one that is started for it.",
)
@options.node_memory("256M")
@click.option(
    "--seconds",
    type=options.seconds,
    metavar="SECONDS",
    default=0.0,
    help="Go on moving for so long.  [default: one round]",
)
@click.option("--seed", type=int, help="Of the data of the program.  [default: drawn, and printed]")
@json_option
def demo(pid: int | None, memory: str, seconds: float, seed: int | None, as_json: bool) -> int:
    """Move a real program's memory between nodes while two processes write to it.

    Ends with a verdict: every imported byte and every acknowledged store is compared.
    """
    import secrets

    from numalab import machine_commands
    from numalab.demo import Options

    wanted = Options(memory, pid, seconds, secrets.randbelow(1 << 32) if seed is None else seed)
    return run_with_bar(machine_commands.demo, as_json, wanted, quiet=as_json)


def _seeds(ctx: click.Context, param: click.Parameter, text: str) -> tuple[int, int]:
    """``0-2000`` or ``7``."""
    match = re.fullmatch(r"(\d{1,18})(?:-(\d{1,18}))?", text)
    if match is None:
        raise click.BadParameter(f"'{text}' is no range of seeds: write one as in 0-99 or 7")
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first:
        raise click.BadParameter(f"'{text}' runs backwards: write {last}-{first}")
    return first, last


@click.command()
@click.option(
    "--seeds", default="0-99", callback=_seeds, metavar="A-B", help="Run these.  [default: 0-99]"
)
@click.option(
    "--seed", type=click.IntRange(0), help="Run this one, and print what a failing one prints."
)
@click.option(
    "--story",
    type=options.address,
    metavar="ADDRESS",
    help="Of --seed: what became of the page there.",
)
@click.option("--diagram", is_flag=True, help="Of --seed: its last messages.")
@click.option(
    "--trace",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Of --seed: all of it, for ui.perfetto.dev.",
)
@click.option(
    "--csv",
    "tables",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIRECTORY",
    help="Of --seed: notes, messages, migrations and faults as tables.",
)
@click.option("--crashes", is_flag=True, help="Processes die as well, and come back.")
@click.option(
    "--matrix",
    is_flag=True,
    help="Every fault before and after every step of a migration, as a table.",
)
@click.option(
    "--processes",
    type=click.IntRange(1, 256),
    default=2,
    show_default=True,
    help="How many processes share the seeds.",
)
@json_option
def sim(
    seeds: tuple[int, int],
    seed: int | None,
    story: int | None,
    diagram: bool,
    trace: Path | None,
    tables: Path | None,
    crashes: bool,
    matrix: bool,
    processes: int,
    as_json: bool,
) -> int:
    """Run the same program on virtual time, with faults; 1 if something wrong was seen."""
    from numalab import console
    from numalab.simulation import campaign

    if seed is None and (story is not None or diagram):
        raise click.UsageError("--story and --diagram are about one seed: name it with --seed")
    told = [name for name, given in (("--trace", trace), ("--csv", tables)) if given is not None]
    if told and (seed is None or matrix or story is not None or diagram):
        raise click.UsageError(f"{told[0]} is about one seed, and goes with --seed and --crashes")
    if matrix and (story is not None or diagram or crashes):
        raise click.UsageError("--matrix goes with --seed alone: each of its cells has one fault")

    def simulate() -> console.Answer:
        if seed is not None and told:
            from numalab.simulation.exporting import export_seed

            return export_seed(seed, tables, trace, crashes=crashes)
        if matrix:
            return campaign.matrix(seed or 0, processes=processes, quiet=as_json)
        if seed is not None and (story is not None or diagram):
            return campaign.tell(seed, story, diagram=diagram, crashes=crashes)
        first, last = seeds if seed is None else (seed, seed)
        return campaign.run(first, last, processes=processes, crashes=crashes, quiet=as_json)

    return console.conclude(simulate, as_json=as_json)


COMMANDS = (demo, sim)
