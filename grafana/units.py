"""Values as Grafana writes them, by the name that it has for their unit."""

from __future__ import annotations

import math

_COUNTS = ((1e9, " Bil"), (1e6, " Mil"), (1e3, " K"), (1.0, ""))
_TIMES = ((3600.0, " h"), (60.0, " min"), (1.0, " s"), (1e-3, " ms"), (1e-6, " µs"), (1e-9, " ns"))
_BYTES = ((2.0**30, " GiB"), (2.0**20, " MiB"), (2.0**10, " KiB"), (1.0, " B"))
_RATES = ((1e9, " GB/s"), (1e6, " MB/s"), (1e3, " kB/s"), (1.0, " B/s"))

#: From the largest scale to the smallest; 0 is written in that of 1.
SCALES: dict[str, tuple[tuple[float, str], ...]] = {
    "none": ((1.0, ""),),
    "short": _COUNTS,
    "ops": tuple((scale, f"{suffix} ops/s") for scale, suffix in _COUNTS),
    "s": _TIMES,
    "bytes": _BYTES,
    "Bps": _RATES,
}
DIGITS = 3


def text_of(value: float, unit: str, decimals: int | None = None) -> str:
    """Without ``decimals``: three digits that count, and none behind the point that are 0."""
    scales = SCALES[unit]
    fits = (row for row in scales if abs(value) >= row[0])
    scale, suffix = next(fits, scales[-1]) if value else next(r for r in scales if r[0] == 1)
    number = _digits(value / scale) if decimals is None else f"{value / scale:.{decimals}f}"
    return number + suffix


def _digits(value: float) -> str:
    if not value:
        return "0"
    behind = max(0, DIGITS - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:.{behind}f}"
    return text.rstrip("0").rstrip(".") if behind else text


def ticks(top: float, unit: str, most: int) -> list[float]:
    """From 0 to ``top`` or the next one above it: round in the unit that ``top`` is written in."""
    scale = next((scale for scale, _ in SCALES[unit] if top >= scale), SCALES[unit][-1][0])
    least = top / scale / most
    power = 10.0 ** math.floor(math.log10(least))
    step = next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= least * (1 - 1e-9))
    return [number * step * scale for number in range(math.ceil(top / scale / step - 1e-9) + 1)]
