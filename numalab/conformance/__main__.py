"""``python -m numalab.conformance``: the emulator beside the real kernel, scenario by scenario."""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from pathlib import Path

from rich.console import Console
from rich.table import Table

from numalab.conformance import recorded, sim
from numalab.conformance.compare import RULES, Answer, Tally, compare, tell
from numalab.conformance.fixed import FIXED
from numalab.conformance.random_steps import draw_scenario
from numalab.conformance.real import Guests, guests
from numalab.conformance.scenario import Scenario
from numalab.conformance.shrink import shrink
from protocol.core import ConfigurationError

SHRUNK_MAX = 10


def main(words: list[str]) -> int:
    options = _parser().parse_args(words)
    try:
        with guests(options.guests) as machines:
            return _compare(options, machines)
    except ConfigurationError as error:
        print(f"numalab.conformance: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m numalab.conformance", description=__doc__)
    parser.add_argument("--random", type=int, default=0, help="so many random scenarios")
    parser.add_argument("--seed", type=int, default=None, help="of the first random scenario")
    parser.add_argument("--only", default="", help="fixed scenarios whose names contain this")
    parser.add_argument("--guests", type=int, default=2, help="real kernels at once")
    parser.add_argument("--record", type=Path, help="write the fixed list's real answers here")
    parser.add_argument("--no-shrink", action="store_true", help="print faults as they are")
    return parser


def _compare(options: argparse.Namespace, machines: Guests) -> int:
    first = int(time.time()) % 1_000_000 if options.seed is None else options.seed
    fixed = [scenario for scenario in FIXED if options.only in scenario.name]
    drawn = [draw_scenario(seed) for seed in range(first, first + options.random)]
    print(machines.version)
    print(f"{len(fixed)} fixed scenarios, {len(drawn)} random ones from seed {first}", flush=True)
    tallies = {"fixed": Tally(), "random": Tally()}
    real = _both(machines, fixed, tallies["fixed"])
    if options.record and not options.only:
        recorded.write(options.record, machines.version, str(date.today()), fixed, real)
    _both(machines, drawn, tallies["random"])
    for tally in tallies.values():
        for number, fault in enumerate(tally.faults):
            if number < SHRUNK_MAX and not options.no_shrink:
                fault = shrink(fault, machines.run, sim.run)
                for step in fault.scenario.steps:
                    print(f"  {tell(step)}")
            print(fault.describe("real", "ours"), flush=True)
    _print_table(tallies)
    return 1 if any(tally.faults for tally in tallies.values()) else 0


def _both(machines: Guests, scenarios: list[Scenario], tally: Tally) -> list[list[Answer]]:
    """Both machines at once; what the real one answered."""
    answers = []
    with ProcessPoolExecutor(1) as pool:
        ours = pool.map(sim.run, scenarios, chunksize=4)
        real = machines.run_all(scenarios, lambda: None)
        for scenario, expected, got in zip(scenarios, real, ours, strict=True):
            answers.append(expected)
            compare(tally, scenario, expected, got)
    return answers


def _print_table(tallies: dict[str, Tally]) -> None:
    table = Table("", *tallies, "reason")
    rows = {
        "scenarios": [tally.scenarios for tally in tallies.values()],
        "compared to the end": [tally.whole for tally in tallies.values()],
        "steps compared": [tally.steps for tally in tallies.values()],
        "agreements": [tally.agreements for tally in tallies.values()],
        "faults": [len(tally.faults) for tally in tallies.values()],
    }
    for name, numbers in rows.items():
        table.add_row(name, *map(str, numbers))
    for rule in RULES:
        counts = [str(tally.named[rule.name]) for tally in tallies.values()]
        table.add_row(f"differs: {rule.name}", *counts, rule.reason)
    missing = sorted({name for tally in tallies.values() for name in tally.not_yet})
    for name in missing:
        counts = [str(tally.not_yet[name]) for tally in tallies.values()]
        table.add_row(f"not yet: {name}", *counts)
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
