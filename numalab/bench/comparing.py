"""Two runs held against each other: what got worse, or better, by more than the noise.  Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from numalab.bench.report import number

#: Medians that are nearer than this share of the old one say nothing, however small the spread.
FLOOR = 0.03
#: The same where there are too few samples to have a spread.
FEW, FLOOR_OF_FEW = 3, 0.25
#: Facts that have to be the same for a comparison to mean much.
SAME = ("cpu", "cpus", "kernel", "python", "libzmq")


@dataclass(frozen=True, slots=True)
class Change:
    """A part of a figure whose medians are further apart than samples of one run are."""

    figure: int
    name: str
    unit: str
    before: float
    after: float
    worse: bool

    def describe(self) -> str:
        """In one line."""
        how = "worse" if self.worse else "better"
        what = f"{self.figure} {self.name}"
        return f"{how}: {what}: {number(self.before)} before, {number(self.after, self.unit)} now"


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """Of what was measured in both runs, the changes beyond the noise.  Raises ValueError: one of
    them is no result of the suite.
    """
    try:
        before = dict(_parts(old))
        return [
            Change(figure, _name(title, part), part["unit"], was["median"], part["median"], worse)
            for (figure, name), (title, part) in _parts(new)
            if (figure, name) in before
            for was in [before[figure, name][1]]
            if (worse := _changed(was, part)) is not None
        ]
    except (KeyError, TypeError) as error:
        raise ValueError(f"it is no result of 'numalab bench' ({error!r})") from None


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """Why the two runs may not be compared: a sentence for each fact."""
    for key in (*SAME, "pages"):
        was = old.get("facts", {}).get(key, old.get("scale", {}).get(key))
        now = new.get("facts", {}).get(key, new.get("scale", {}).get(key))
        if was != now:
            yield f"The runs differ in {key}: {was} before, {now} now."


def _parts(run: Mapping[str, Any]) -> Iterator[tuple[tuple[int, str], tuple[str, Any]]]:
    for figure in run["figures"]:
        for part in figure["parts"]:
            if part["verdict"] is not None:
                yield (figure["number"], part["name"]), (figure["title"], part)


def _name(title: str, part: Mapping[str, Any]) -> str:
    return ", ".join(filter(None, (title, part["name"])))


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool | None:
    """Whether it got worse; None: not by more than either run's middle half of samples spans."""
    difference = new["median"] - old["median"]
    floor = FLOOR if min(old["rounds"], new["rounds"]) >= FEW else FLOOR_OF_FEW
    spans = [run["upper"] - run["lower"] for run in (old, new)]
    noise = max(*spans, floor * abs(old["median"]))
    if abs(difference) <= noise:
        return None
    return bool((difference < 0) == (new["better"] == "more"))
