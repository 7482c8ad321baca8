"""``python -m numalab.simulation``: the entry of ``numalab sim``.

--seeds A-B            run these seeds; the exit status is 1 if one of them fails
--seed N               run one seed, and print what a failing seed prints
--seed N --story ADDR  the story of the page at that address
--seed N --diagram     the last messages
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from numalab.simulation.seeds import Result, draw_diagram, run_seeds, tell_page


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the arguments say; the exit status."""
    parser = argparse.ArgumentParser(prog="numalab sim", description=__doc__)
    parser.add_argument("--seeds", default="0-99", metavar="A-B", type=parse_seeds)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--story", type=lambda text: int(text, 0), metavar="ADDR")
    parser.add_argument("--diagram", action="store_true")
    parser.add_argument("--processes", type=int, default=2)
    chosen = parser.parse_args(arguments)
    if chosen.seed is None:
        return many(*chosen.seeds, processes=chosen.processes)
    if chosen.story is not None:
        print(tell_page(chosen.seed, chosen.story))
    if chosen.diagram:
        print(draw_diagram(chosen.seed))
    if chosen.story is None and not chosen.diagram:
        return many(chosen.seed, chosen.seed, processes=1)
    return 0


def parse_seeds(text: str) -> tuple[int, int]:
    """``0-2000`` or ``7``.  ValueError for anything else."""
    first, _, last = text.partition("-")
    return int(first), int(last or first)


def many(first: int, last: int, *, processes: int) -> int:
    """Run the seeds; print the failing ones and a summary; 1 if any failed."""
    failed = events = compared = 0
    for result in run_seeds(first, last, processes=processes):
        events += result.events
        compared += result.compared
        if not result.ok:
            failed += 1
            print(describe(result))
    count = last - first + 1
    print(
        f"{count} seeds, {events} events, {compared} calls compared with the oracle: "
        f"{failed} failed"
    )
    return 1 if failed else 0


def describe(result: Result) -> str:
    """What a failing seed prints."""
    again = f"numalab sim --seed {result.seed}"
    return f"seed {result.seed}: {result.sentence}\n\n{result.report}\n\nreplay: {again}\n"


if __name__ == "__main__":
    sys.exit(main())
