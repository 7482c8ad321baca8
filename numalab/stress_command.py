"""``numalab stress`` as an answer of the console program."""

from __future__ import annotations

import sys
from pathlib import Path

from numalab.checker import Verdict
from numalab.console import Answer, CommandFailed, Exit
from numalab.faults import Schedule, parse_schedule
from numalab.stress import Options, stress

#: The exit code says the verdict.
CODES = {Verdict.VALID: Exit.DONE, Verdict.INVALID: Exit.FAILED, Verdict.UNKNOWN: Exit.PARTLY}


def read_schedule(text: str | None) -> Schedule | None:
    """What --faults says: ``none``, the path of a schedule, or nothing.  Raises CommandFailed."""
    if text is None:
        return None
    if text == "none":
        return ()
    try:
        return parse_schedule(Path(text).read_text())
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise CommandFailed(
            f"The schedule {text} cannot be read ({why}): give the path of a text file, or none."
        ) from None


async def run(options: Options, faults: str | None, quiet: bool) -> Answer:
    """Run it, with a line a second on stderr unless ``quiet``."""

    def say(line: str) -> None:
        if not quiet:
            sys.stderr.write(f"{line}\n")

    if options.directory.exists() and any(options.directory.iterdir()):
        raise CommandFailed(
            f"{options.directory} has files in it: give another --directory, or remove them."
        )
    schedule = read_schedule(faults)
    if schedule is not None:
        options = Options(
            **{name: getattr(options, name) for name in Options.__dataclass_fields__}
            | {"schedule": schedule}
        )
    say(f"seed {options.seed}, results in {options.directory}")
    outcome = await stress(options, say)
    missed = outcome.document["faults_that_hit_nothing"]
    assert isinstance(missed, list)
    lines = [outcome.sentence, *(f"hit nothing: {line}" for line in missed)]
    text = "".join(f"{line}\n" for line in lines)
    return Answer(text, outcome.document, CODES[outcome.verdict])
