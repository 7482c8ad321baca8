"""Samples and what is said of them: medians, spreads, ratios of pairs, exponents.  Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Summary:
    """Samples in six numbers; ``lower`` and ``upper`` are the quartiles."""

    median: float
    lowest: float
    highest: float
    lower: float
    upper: float
    rounds: int


def summarise(values: Sequence[float]) -> Summary:
    """Of one value or more."""
    ordered = sorted(values)
    return Summary(
        statistics.median(ordered),
        ordered[0],
        ordered[-1],
        percentile(ordered, 0.25),
        percentile(ordered, 0.75),
        len(ordered),
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` (0 to 1) of them lie, between neighbours on a line."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def paired(mine: Sequence[float], others: Sequence[float]) -> list[float]:
    """The ratio of each round: both of a pair were measured within moments of each other."""
    return [one / other for one, other in zip(mine, others, strict=True)]


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """b of the curve a * size**b that lies nearest, on logarithmic scales."""
    across = [math.log(size) for size in sizes]
    up = [math.log(time) for time in seconds]
    slope, _ = statistics.linear_regression(across, up)
    return slope
