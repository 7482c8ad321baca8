"""The command ``numalab bench``: the suite, and what becomes of its result."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numalab.bench.comparing import Change, changes, differences
from numalab.bench.facts import describe_facts
from numalab.bench.plot import draw
from numalab.bench.profile import describe_profile, measure_profile
from numalab.bench.report import table
from numalab.bench.scale import FULL, QUICK, Scale
from numalab.bench.suite import measure
from numalab.bench.sweep import describe_sweep, measure_sweep
from numalab.bench.tools import describe_tools, measure_tools
from numalab.console import SCHEMA, Answer, CommandFailed, Exit

#: What else a result may have, and how it is printed.
DESCRIBED: dict[str, Callable[[Any], Iterator[str]]] = {
    "tools": describe_tools,
    "profile": describe_profile,
    "sweep": describe_sweep,
}


@dataclass(frozen=True, slots=True)
class Options:
    """What ``numalab bench`` was told; None: as the scale says."""

    figures: list[int]
    peers: list[str]
    quick: bool
    pages: int | None
    rounds: int | None
    starts: int | None
    tools: bool
    profile: bool
    sweep: bool
    output: Path | None
    plot: Path | None
    compare: Path | None

    @property
    def scale(self) -> Scale:
        """How much is measured."""
        scale = QUICK if self.quick else FULL
        if self.pages is not None:
            scale = replace(scale, pages=self.pages)
        if self.rounds is not None:
            scale = replace(scale, rounds=self.rounds, slow_rounds=self.rounds)
        return scale if self.starts is None else replace(scale, starts=self.starts)


async def bench(options: Options) -> Answer:
    """Measure, say, keep, draw and compare.  Raises CommandFailed."""
    old = None if options.compare is None else _read(options.compare)
    result = await measure(options.scale, options.figures, options.peers, _tell)
    if options.tools:
        result["tools"] = await measure_tools(options.scale)
    if options.profile:
        result["profile"] = await measure_profile(options.scale)
    if options.sweep:
        result["sweep"] = await measure_sweep(options.scale, _tell)
    found: list[Change] = []
    if old is not None:
        found = changes(old, result)
        result["changes"] = [change.describe() for change in found]
        result["differences"] = list(differences(old, result))
    if options.output is not None:
        _write(options.output, json.dumps({"schema": SCHEMA, **result}, indent=1) + "\n")
    if options.plot is not None:
        _write(options.plot, draw(result))
    text = "".join(f"{line}\n" for line in _lines(result))
    worse = sum(change.worse for change in found)
    if not worse:
        return Answer(text, result)
    said = f"{worse} figures are worse than in {options.compare} by more than the noise."
    return Answer(text, result, Exit.FAILED, said)


def _lines(result: Mapping[str, Any]) -> Iterator[str]:
    yield describe_facts(result["facts"])
    if result["figures"]:
        yield from table(result["figures"])
    for name, describe in DESCRIBED.items():
        if name in result:
            yield from describe(result[name])
    if "changes" in result:
        yield from result["differences"]
        yield from result["changes"] or ["Nothing changed by more than the noise."]


def _read(path: Path) -> Mapping[str, Any]:
    """An earlier result.  Raises CommandFailed."""
    try:
        old: Mapping[str, Any] = json.loads(path.read_text())
        # Found now rather than at the end of a long run.
        changes(old, old)
    except OSError as error:
        raise CommandFailed(f"{path} cannot be read: {error.strerror}.", Exit.USAGE) from None
    except ValueError as error:
        raise CommandFailed(f"{path} cannot be compared with: {error}.", Exit.USAGE) from None
    return old


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise CommandFailed(f"{path} cannot be written: {error.strerror}.") from None


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
