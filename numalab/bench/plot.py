"""The figures that have a gate as a drawing: how far each is from it, with its spread.  Pure.

Everything is on one logarithmic scale of "times the gate", where more is better, so that ratios,
bytes and seconds can stand in one picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from numalab.bench.report import number

LEFT, WIDTH, RIGHT = 330, 420, 150
ROW, TOP, BOTTOM = 26, 60, 40
#: The scale reaches at least from a half of the gate to twice the gate.
LEAST = 2.0
COLOURS = {"aim": "#1a7f37", "met": "#3b7dd8", "short": "#c93c37"}


def draw(result: Mapping[str, Any]) -> str:
    """An SVG document."""
    rows = [
        (figure, part)
        for figure in result["figures"]
        for part in figure["parts"]
        if part["verdict"] in COLOURS and part["no_worse_than"]
    ]
    reach = LEAST
    for _, part in rows:
        for key in ("lowest", "highest", "aim"):
            share = _share(part, part[key])
            reach = max(reach, share, 1 / share)
    height = TOP + ROW * len(rows) + BOTTOM
    body = [*_scale(reach, height), *_rows(rows, reach)]
    facts = result["facts"]
    where = f"{facts['cpu']}, {facts['cpus']} cpus, Linux {facts['kernel']}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + RIGHT}"'
            f' height="{height}" font-family="sans-serif" font-size="13">',
            '<rect width="100%" height="100%" fill="white"/>',
            f'<text x="12" y="24" font-size="16">numalab bench: {escape(where)}</text>',
            *body,
            "</svg>\n",
        ]
    )


def _share(part: Mapping[str, Any], value: float) -> float:
    """How many times the gate, where more is better."""
    gate = float(part["no_worse_than"])
    share = value / gate if part["better"] == "more" else gate / max(value, 1e-9)
    return min(max(share, 1e-3), 1e3)


def _across(share: float, reach: float) -> float:
    return LEFT + WIDTH / 2 * (1 + math.log(share) / math.log(reach))


def _scale(reach: float, height: int) -> Iterator[str]:
    marks = [share for share in (0.01, 0.1, 0.25, 0.5, 1, 2, 4, 10, 100) if 1 / reach <= share]
    for share in (mark for mark in marks if mark <= reach):
        x = _across(share, reach)
        colour = "#333" if share == 1 else "#ddd"
        yield f'<line x1="{x:.1f}" y1="40" x2="{x:.1f}" y2="{height - 30}" stroke="{colour}"/>'
        yield (
            f'<text x="{x:.1f}" y="{height - 12}" text-anchor="middle" fill="#555">{share:g} x'
            "</text>"
        )
    yield f'<text x="{LEFT}" y="{52}" fill="#555">worse</text>'
    yield (
        f'<text x="{LEFT + WIDTH}" y="52" text-anchor="end" fill="#555">better than the gate</text>'
    )


def _rows(rows: Sequence[tuple[Any, Any]], reach: float) -> Iterator[str]:
    for row, (figure, part) in enumerate(rows):
        y = TOP + ROW * row + ROW / 2
        title = ", ".join(filter(None, (figure["title"], part["name"])))
        colour = COLOURS[part["verdict"]]
        low, high = sorted(_across(_share(part, part[key]), reach) for key in ("lowest", "highest"))
        middle = _across(_share(part, part["median"]), reach)
        aim = _across(_share(part, part["aim"]), reach)
        yield (
            f'<text x="{LEFT - 12}" y="{y + 4:.1f}" text-anchor="end">'
            f"{figure['number']} {escape(title)}</text>"
        )
        yield (
            f'<line x1="{low:.1f}" y1="{y:.1f}" x2="{high:.1f}" y2="{y:.1f}" stroke="{colour}"'
            ' stroke-width="3" stroke-opacity="0.4"/>'
        )
        yield f'<circle cx="{middle:.1f}" cy="{y:.1f}" r="5" fill="{colour}"/>'
        yield (
            f'<path d="M{aim - 4:.1f} {y - 8:.1f} h8 l-4 7 z" fill="#1a7f37"><title>aim</title>'
            "</path>"
        )
        yield (
            f'<text x="{LEFT + WIDTH + 12}" y="{y + 4:.1f}">'
            f"{number(part['median'], part['unit'])}</text>"
        )
