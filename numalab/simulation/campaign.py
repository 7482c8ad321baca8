"""Many seeds, or one looked at closely, as answers of the console program."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from numalab.console import Answer, Exit, say
from numalab.simulation.matrix import draw_matrix, run_matrix
from numalab.simulation.quiet import CALLS
from numalab.simulation.seeds import (
    Result,
    draw_diagram,
    plan_of,
    run_plan,
    run_seeds,
    tell_page,
)
from numalab.simulation.shrink import shrink


def run(
    first: int, last: int, *, processes: int, crashes: bool = False, quiet: bool = False
) -> Answer:
    """Run the seeds; say the failing ones as they fail, unless ``quiet``, and then a summary."""
    started, seconds, events = time.monotonic(), 0.0, 0
    unmet: list[int] = []
    tally: Counter[str] = Counter()
    failed: list[dict[str, Any]] = []
    for result in run_seeds(first, last, processes=processes, crashes=crashes):
        events += result.events
        seconds += result.seconds
        if not result.hits:
            unmet.append(result.seed)
        tally.update(result.tally)
        if not result.ok:
            failed.append({"seed": result.seed, "sentence": result.sentence})
            if not quiet:
                say(f"{describe(result, crashes=crashes)}\n")
    count = last - first + 1
    rate = seconds / (time.monotonic() - started)
    passed = f"{seconds:.0f} virtual seconds, {rate:.0f} for each on the clock\n"
    if crashes:
        met = count - len(unmet)
        text = (
            f"{count} seeds, {events} events, {met} with a crash in the middle of a migration: "
            f"{len(failed)} failed\n{passed}"
        )
        if unmet:
            text += f"without one: {', '.join(map(str, unmet))}\n"
        document = {"seeds": count, "events": events, "met": met, "failed": failed}
        document["unmet"] = unmet
        document |= {"virtual_seconds": seconds, "virtual_over_wall": rate}
        return Answer(text, document, Exit.FAILED if failed else Exit.DONE)
    compared = sum(tally[name] for name in CALLS.values())
    of_each = ", ".join(f"{name} {tally[name]}" for name in sorted(tally))
    text = (
        f"{count} seeds, {events} events, {compared} calls compared with the oracle: "
        f"{len(failed)} failed\nof which: {of_each}\n{passed}"
    )
    document = {
        "seeds": count,
        "events": events,
        "compared": compared,
        "of_which": dict(sorted(tally.items())),
        "failed": failed,
        "virtual_seconds": seconds,
        "virtual_over_wall": rate,
    }
    return Answer(text, document, Exit.FAILED if failed else Exit.DONE)


def matrix(first_seed: int, *, processes: int, quiet: bool = False) -> Answer:
    """Every state of the life table, before and after, by every fault; loads from a seed on."""
    cells = list(run_matrix(first_seed, processes=processes))
    verdicts = Counter(cell.verdict for cell in cells)
    for cell in cells:
        if not cell.result.ok and not quiet:
            say(f"{cell.fault.describe()}: {describe(cell.result)}\n")
    counted = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
    document = {
        "cells": [
            {
                "state": cell.fault.state.name,
                "before": cell.fault.before,
                "fault": str(cell.fault.what),
                "verdict": cell.verdict,
                "seed": cell.result.seed,
                "sentence": cell.result.sentence,
            }
            for cell in cells
        ]
    }
    text = f"{draw_matrix(cells)}\n{len(cells)} cells: {counted}\n"
    return Answer(text, document, Exit.DONE if set(verdicts) == {"valid"} else Exit.FAILED)


def describe(result: Result, *, crashes: bool = False) -> str:
    """What a failing seed prints, and with how few faults it fails as well."""
    again = f"numalab sim --seed {result.seed}{' --crashes' if crashes else ''}"
    fewest = shrink(plan_of(result.seed, crashes=crashes), lambda plan: not run_plan(plan).ok)
    needed = [fault.describe() for fault in fewest] or ["none at all"]
    again = "\n  ".join(["it fails with these faults alone:", *needed]) + f"\nreplay: {again}"
    return f"seed {result.seed}: {result.sentence}\n\n{result.report}\n\n{again}\n"


def tell(seed: int, address: int | None, *, diagram: bool, crashes: bool = False) -> Answer:
    """The story of the page at ``address`` (bytes), and the last messages, if asked for."""
    document: dict[str, Any] = {"seed": seed}
    if address is not None:
        document["story"] = tell_page(seed, address, crashes=crashes)
    if diagram:
        document["diagram"] = draw_diagram(seed, crashes=crashes)
    text = "".join(f"{document[part]}\n" for part in ("story", "diagram") if part in document)
    return Answer(text, document)
