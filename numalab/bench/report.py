"""What is printed: a line for each figure while it goes, and the table at the end.  Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

#: What a verdict is called in the table.
WORDS = {
    "aim": "aim",
    "met": "met",
    "short": "SHORT",
    "printed": "-",
    None: "not measured",
}
HEAD = ("#", "figure", "beside", "median", "spread", "rounds", "no worse", "aim", "verdict")
_RIGHT = (0, 3, 5, 6, 7)


def number(value: float | None, unit: str = "") -> str:
    """Three digits that count, thousands with commas."""
    if value is None:
        return "-"
    if abs(value) >= 1000:
        text = f"{value:,.0f}"
    elif abs(value) >= 100:
        text = f"{value:.0f}"
    else:
        text = f"{value:.2f}" if abs(value) >= 1 or not value else f"{value:.3f}"
    return f"{text} {unit}" if unit else text


def spread(part: Mapping[str, Any]) -> str:
    """[lowest-highest]."""
    return f"[{number(part['lowest'])}-{number(part['highest'])}]"


def progress_line(figure: Mapping[str, Any]) -> str:
    """What is known of a figure so far."""
    parts = [
        f"{part['name']} {number(part['median'], part['unit'])} {spread(part)}".strip()
        for part in figure["parts"]
        if part["verdict"] is not None
    ]
    rounds = max((part.get("rounds", 0) for part in figure["parts"]), default=0)
    said = ", ".join(parts) or "not measured"
    return f"{figure['number']:>2} {figure['title']}: {said}, {rounds} rounds"


def table(figures: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """All figures, a row for each part; beneath, what the ratios were made of, and the notes."""
    rows = [HEAD, *(row for figure in figures for row in _rows(figure))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    for row in rows:
        cells = [
            cell.rjust(width) if column in _RIGHT else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
    for figure in figures:
        beside = [f"{name} {number(rate['median'])}" for name, rate in figure["beside"].items()]
        if beside:
            yield f"{figure['number']:>2}: medians: {', '.join(beside)}"
        for note in figure["notes"]:
            yield f"{figure['number']:>2}: {note}"


def _rows(figure: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for part in figure["parts"]:
        title = ", ".join(filter(None, (figure["title"], part["name"])))
        measured = part["verdict"] is not None
        yield (
            str(figure["number"]),
            title,
            figure["against"],
            number(part["median"], part["unit"]) if measured else "-",
            spread(part) if measured else "",
            str(part["rounds"]) if measured else "",
            number(part["no_worse_than"]),
            number(part["aim"]),
            WORDS[part["verdict"]],
        )
