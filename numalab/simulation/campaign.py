"""Many seeds, or one looked at closely, as answers of the console program."""

from __future__ import annotations

from collections import Counter
from typing import Any

from numalab.console import Answer, Exit, say
from numalab.simulation.quiet import CALLS
from numalab.simulation.seeds import Result, draw_diagram, run_seeds, tell_page


def run(first: int, last: int, *, processes: int, quiet: bool = False) -> Answer:
    """Run the seeds; say the failing ones as they fail, unless ``quiet``, and then a summary."""
    events = 0
    tally: Counter[str] = Counter()
    failed: list[dict[str, Any]] = []
    for result in run_seeds(first, last, processes=processes):
        events += result.events
        tally.update(result.tally)
        if not result.ok:
            failed.append({"seed": result.seed, "sentence": result.sentence})
            if not quiet:
                say(f"{describe(result)}\n")
    count = last - first + 1
    compared = sum(tally[name] for name in CALLS.values())
    of_each = ", ".join(f"{name} {tally[name]}" for name in sorted(tally))
    text = (
        f"{count} seeds, {events} events, {compared} calls compared with the oracle: "
        f"{len(failed)} failed\nof which: {of_each}\n"
    )
    document = {
        "seeds": count,
        "events": events,
        "compared": compared,
        "of_which": dict(sorted(tally.items())),
        "failed": failed,
    }
    return Answer(text, document, Exit.FAILED if failed else Exit.DONE)


def describe(result: Result) -> str:
    """What a failing seed prints."""
    again = f"numalab sim --seed {result.seed}"
    return f"seed {result.seed}: {result.sentence}\n\n{result.report}\n\nreplay: {again}\n"


def tell(seed: int, address: int | None, *, diagram: bool) -> Answer:
    """The story of the page at ``address`` (bytes), and the last messages, if asked for."""
    document: dict[str, Any] = {"seed": seed}
    if address is not None:
        document["story"] = tell_page(seed, address)
    if diagram:
        document["diagram"] = draw_diagram(seed)
    text = "".join(f"{document[part]}\n" for part in ("story", "diagram") if part in document)
    return Answer(text, document)
