"""What was measured so far, and the document that is made of it.  Pure."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from numalab.bench.figures import FIGURES, Figure, Part
from numalab.bench.ratios import Summary, summarise


class Readings:
    """Samples of the parts of figures, of the rates beside them, and sentences about them."""

    def __init__(self) -> None:
        self._values: dict[tuple[int, str], list[float]] = {}
        self._beside: dict[int, dict[str, list[float]]] = {}
        self._notes: dict[int, list[str]] = {}

    def add(self, number: int, value: float, part: str = "") -> None:
        """A round of a part of figure ``number``."""
        assert part in [row.name for row in FIGURES[number].parts], f"figure {number} has no {part}"
        self._values.setdefault((number, part), []).append(value)

    def beside(self, number: int, **rates: float) -> None:
        """What the ratio was made of: not judged, and worth nothing in another run."""
        for name, rate in rates.items():
            self._beside.setdefault(number, {}).setdefault(name, []).append(rate)

    def note(self, number: int, sentence: str) -> None:
        """Something that a reader of the figure has to know; said once."""
        said = self._notes.setdefault(number, [])
        if sentence not in said:
            said.append(sentence)

    def summary(self, number: int, part: str) -> Summary | None:
        """None: it was not measured."""
        values = self._values.get((number, part))
        return summarise(values) if values else None

    def document(self, figure: Figure) -> dict[str, Any]:
        """The figure as a JSON object."""
        return {
            "number": figure.number,
            "title": figure.title,
            "against": figure.against,
            "parts": [self._part(figure, part) for part in figure.parts],
            "beside": {
                name: asdict(summarise(rates))
                for name, rates in self._beside.get(figure.number, {}).items()
            },
            "notes": self._notes.get(figure.number, []),
        }

    def _part(self, figure: Figure, part: Part) -> dict[str, Any]:
        summary = self.summary(figure.number, part.name)
        described: dict[str, Any] = {
            "name": part.name,
            "unit": part.unit,
            "better": "more" if part.more else "less",
            "no_worse_than": part.no_worse,
            "aim": part.aim,
        }
        if summary is None:
            return described | {"verdict": None}
        samples = self._values[figure.number, part.name]
        verdict = part.verdict(summary.median)
        return described | asdict(summary) | {"verdict": str(verdict), "samples": samples}
