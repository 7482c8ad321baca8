"""Processes of a local machine that have died are started again, with what they had."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import trio

from numalab import rundirectory
from numalab.cluster import START_SECONDS, ask_until_up, directory_of, restart, running
from numalab.locate import read_machine
from protocol.core import ConfigurationError
from protocol.schema import COORDINATOR


async def restart_dead(
    run_directory: str | Path | None = None,
    names: Sequence[str] = (),
    *,
    within: float = START_SECONDS,
) -> list[str]:
    """Start the processes that have died again (``names``: just these), and wait until all is up.

    Gives who was started.  Raises ConfigurationError, MachineUnreachable.
    """
    directory = directory_of(run_directory)
    machine, alive = read_machine(directory), running(directory)
    dead = [row.name for row in machine.processes if row.name not in alive]
    chosen = list(names) or dead
    for name in chosen:
        restart(directory, name)
    missing = [COORDINATOR]
    with trio.move_on_after(within):
        await ask_until_up(read_machine(directory), within, missing)
    ended = [name for name in chosen if name not in running(directory)]
    for name in [*ended, *missing]:
        log = directory / f"{name}.log"
        raise ConfigurationError(
            f"{name} is not up again; the last line of {log}: {rundirectory.last_line(log)}"
        )
    return chosen
