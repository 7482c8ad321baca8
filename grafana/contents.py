"""What is in a panel: its JSON and the answers to its queries, made into what there is to draw.

Nothing here draws; ``grafana/drawing.py`` does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from grafana.panel import Json
from grafana.prometheus import STEP
from grafana.units import text_of

Values = npt.NDArray[np.float64]
#: The series that came for each target of a panel, as Prometheus writes them.
Answers = Sequence[Sequence[Json]]

#: How Grafana's light theme paints the colours that a dashboard names.
COLOURS = {
    "green": "#3f9d4f",
    "yellow": "#d9a404",
    "red": "#d92f3f",
    "orange": "#ef7d1a",
    "blue": "#3874cb",
}
#: A mark is asked for so often: the annotations of the dashboards say 5s.
MARK_STEP = 5.0


class Shown(NamedTuple):
    """The time that is shown, in seconds since 1970."""

    start: float
    end: float

    def times(self) -> Values:
        count = int((self.end - self.start) / STEP) + 1
        return self.start + STEP * np.arange(count, dtype=np.float64)


class Line(NamedTuple):
    """A value for each of the times shown; NaN where there was none."""

    label: str
    values: Values


@dataclass(frozen=True)
class Lines:
    lines: tuple[Line, ...]
    unit: str
    stacked: bool = False

    def __bool__(self) -> bool:
        return bool(self.lines)


@dataclass(frozen=True)
class Number:
    """``filled``: the colour is that of the panel, else that of the text."""

    text: str
    colour: str
    filled: bool
    behind: Values | None = None

    def __bool__(self) -> bool:
        return bool(self.text)


class Bar(NamedTuple):
    label: str
    value: float
    text: str


@dataclass(frozen=True)
class Bars:
    bars: tuple[Bar, ...]

    def __bool__(self) -> bool:
        return bool(self.bars)


class Span(NamedTuple):
    start: float
    end: float
    text: str
    colour: str


@dataclass(frozen=True)
class Bands:
    """The states of each series, one after the other."""

    bands: tuple[tuple[str, tuple[Span, ...]], ...]

    def __bool__(self) -> bool:
        return bool(self.bands)


@dataclass(frozen=True)
class Heat:
    """``counts``: a row for each bucket, whose upper end is in ``tops``; a column for a time."""

    tops: tuple[float, ...]
    counts: Values
    unit: str

    def __bool__(self) -> bool:
        return bool(np.nansum(self.counts))

    def labels(self) -> list[str]:
        return ["+Inf" if math.isinf(top) else text_of(top, self.unit) for top in self.tops]


@dataclass(frozen=True)
class Cells:
    """How much goes from ``sources`` (rows) to ``targets`` (columns): a table, or a graph."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    cells: Values
    texts: tuple[tuple[str, ...], ...]

    def __bool__(self) -> bool:
        return bool(self.cells.size)


Content = Lines | Number | Bars | Bands | Heat | Cells


class Mark(NamedTuple):
    """An annotation: from ``start`` to ``end`` its expression had a series."""

    name: str
    colour: str
    start: float
    end: float


@dataclass(frozen=True)
class Seen:
    """A dashboard with all that was answered."""

    page: Json
    shown: Shown
    answers: dict[int, Answers] = field(default_factory=dict)
    marks: tuple[Mark, ...] = ()

    def panels(self) -> Iterator[tuple[Json, Content]]:
        for panel in self.page["panels"]:
            if panel["type"] != "row":
                yield panel, content_of(panel, self.answers[panel["id"]], self.shown)


# ---- of series -----------------------------------------------------------------------------


def label_of(target: Json, metric: Mapping[str, str]) -> str:
    """``{{label}}`` in the legend is the value of that label."""
    return re.sub(r"{{(\w+)}}", lambda found: metric.get(found[1], ""), target["legendFormat"])


def values_of(series: Json, shown: Shown) -> Values:
    """What came, at its place among the times shown."""
    values = np.full(len(shown.times()), np.nan)
    for at, value in series["values"]:
        values[round((at - shown.start) / STEP)] = float(value)
    return values


def lines_of(panel: Json, answers: Answers, shown: Shown) -> list[Line]:
    found = [
        Line(label_of(target, series["metric"]), values_of(series, shown))
        for target, answer in zip(panel["targets"], answers, strict=True)
        for series in answer
    ]
    return [line for line in found if not np.isnan(line.values).all()]


def now_of(answers: Answers) -> Iterator[tuple[int, Json, float]]:
    """The number of the target, the labels and the value of what was asked for now alone."""
    for number, answer in enumerate(answers):
        for series in answer:
            yield number, series["metric"], float(series["value"][1])


def colour_of(value: float, defaults: Json) -> str:
    """That of the last threshold which is not above the value."""
    steps = defaults["thresholds"]["steps"]
    names = [row["color"] for row in steps if row["value"] is None or row["value"] <= value]
    return COLOURS[names[-1]]


def worded(value: float, defaults: Json) -> tuple[str, str]:
    """The text of a value and its colour: those of a mapping, or of the unit and the threshold."""
    for mapping in defaults["mappings"]:
        word = mapping["options"].get(f"{value:g}")
        if word is not None:
            return word["text"], COLOURS[word["color"]]
    return text_of(value, defaults["unit"]), colour_of(value, defaults)


# ---- of panels -----------------------------------------------------------------------------


def _timeseries(panel: Json, answers: Answers, shown: Shown) -> Lines:
    defaults = panel["fieldConfig"]["defaults"]
    lines = lines_of(panel, answers, shown)
    return Lines(tuple(lines), defaults["unit"], "stacking" in defaults["custom"])


def _stat(panel: Json, answers: Answers, shown: Shown) -> Number:
    """The last value that there was; a stat has one series."""
    defaults, options = panel["fieldConfig"]["defaults"], panel["options"]
    filled = options["colorMode"] == "background"
    lines = lines_of(panel, answers, shown)
    if not lines:
        return Number("", COLOURS["blue"], filled)
    values = lines[0].values
    text, colour = worded(float(values[~np.isnan(values)][-1]), defaults)
    return Number(text, colour, filled, values if options["graphMode"] == "area" else None)


def _bargauge(panel: Json, answers: Answers, shown: Shown) -> Bars:
    unit, targets = panel["fieldConfig"]["defaults"]["unit"], panel["targets"]
    return Bars(
        tuple(
            Bar(label_of(targets[number], metric), value, text_of(value, unit))
            for number, metric, value in now_of(answers)
        )
    )


def _state_timeline(panel: Json, answers: Answers, shown: Shown) -> Bands:
    defaults, times = panel["fieldConfig"]["defaults"], shown.times()

    def spans(values: Values) -> Iterator[Span]:
        # NaN is not even itself, so a place without a value begins a run of its own.
        for value, run in groupby(range(len(values)), key=lambda at: float(values[at])):
            places = list(run)
            if not math.isnan(value):
                yield Span(times[places[0]], times[places[-1]] + STEP, *worded(value, defaults))

    lines = lines_of(panel, answers, shown)
    return Bands(tuple((line.label, tuple(spans(line.values))) for line in lines))


def _heatmap(panel: Json, answers: Answers, shown: Shown) -> Heat:
    """Buckets of a histogram count all below their upper end: what each adds is drawn."""
    by_top = {
        float(series["metric"]["le"]): values_of(series, shown)
        for answer in answers
        for series in answer
    }
    tops = sorted(by_top)
    below = np.array([by_top[top] for top in tops]).reshape(len(tops), len(shown.times()))
    counts = np.diff(below, axis=0, prepend=0.0)
    least = panel["options"]["filterValues"]["le"]
    return Heat(
        tuple(tops), np.where(counts > least, counts, 0.0), panel["options"]["yAxis"]["unit"]
    )


def _cells(panel: Json, answers: Answers, shown: Shown) -> Cells:
    found = {(row["source"], row["target"]): value for _, row, value in now_of(answers)}
    sources = sorted({source for source, _ in found})
    targets = sorted({target for _, target in found})
    cells = [[found.get((source, target), 0.0) for target in targets] for source in sources]
    defaults = panel["fieldConfig"]["defaults"]
    unit, decimals = defaults["unit"], defaults.get("decimals")
    texts = tuple(tuple(text_of(cell, unit, decimals) for cell in row) for row in cells)
    return Cells(tuple(sources), tuple(targets), np.array(cells), texts)


KINDS: dict[str, Callable[[Json, Answers, Shown], Content]] = {
    "timeseries": _timeseries,
    "stat": _stat,
    "bargauge": _bargauge,
    "state-timeline": _state_timeline,
    "heatmap": _heatmap,
    "nodeGraph": _cells,
    "table": _cells,
}


def content_of(panel: Json, answers: Answers, shown: Shown) -> Content:
    return KINDS[panel["type"]](panel, answers, shown)


def marks_of(annotation: Json, answer: Iterable[Json]) -> list[Mark]:
    """One mark for each run of values; one for all series that begin and end together."""
    found = set()
    for series in answer:
        times = np.array([at for at, _ in series["values"]])
        ends = np.flatnonzero(np.diff(times, append=math.inf) > 1.5 * MARK_STEP)
        starts = [0, *(ends[:-1] + 1)]
        found |= set(zip(times[starts].tolist(), times[ends].tolist(), strict=True))
    colour = COLOURS[annotation["iconColor"]]
    return [Mark(annotation["name"], colour, start, end) for start, end in sorted(found)]
