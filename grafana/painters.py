"""One function for each kind of content: it fills the box of a panel below its title."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.patches import Circle, FancyArrowPatch, Rectangle

from grafana.contents import (
    COLOURS,
    Bands,
    Bars,
    Cells,
    Heat,
    Lines,
    Mark,
    Number,
    Shown,
    Values,
)
from grafana.layout import Box, wrapped
from grafana.prometheus import STEP
from grafana.sheet import FAINT, GRID, INK, PANEL, Sheet
from grafana.units import text_of, ticks

#: Of lines, in their order: near to Grafana's classic palette, dark enough for white paper.
PALETTE = (
    *("#56a64b", "#e0b400", "#3274d9", "#ff780a", "#e02f44", "#8f3bb8"),
    *("#37b5b6", "#c15c17", "#7a9a01", "#7eb26d", "#5195ce", "#ba43a9"),
)
LEGEND_LINE, LEGEND_LINES, SAMPLE = 17, 4, 24
#: Below a plot: the bars of annotations, and the times.
FOOT = 32
SCALE = colormaps["BuPu"]
HEAT = colormaps["Spectral_r"]


def shade(part: float) -> str:
    """Of the scale from blue to purple, without its end that cannot be seen on white."""
    return str(to_hex(SCALE(0.25 + 0.6 * part)))


# ---- with a time axis ----------------------------------------------------------------------


def timed(sheet: Sheet, box: Box, shown: Shown, marks: Sequence[Mark]) -> Any:
    """A plot over time, with a dashed line where an annotation begins, and below a bar of each."""
    axes = sheet.axes(box)
    whole = shown.end - shown.start
    step = next(step for step in (5, 10, 15, 30, 60, 120, 300) if step / whole * box.w > 64)
    # A label is centred: near the right edge it would stick out of the panel.
    last = shown.end - 22 / box.w * whole
    places = np.arange(math.ceil(shown.start / step) * step, last, step)
    axes.set_xticks(places, [time.strftime("%H:%M:%S", time.gmtime(at)) for at in places])
    axes.tick_params(axis="x", pad=11)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlim(*shown)
    for mark in marks:
        axes.axvline(mark.start, color=mark.colour, linestyle=(0, (4, 3)), linewidth=1, alpha=0.6)
    names = list(dict.fromkeys(mark.name for mark in marks))
    # A line for each annotation, so that none hides another.
    strip = sheet.axes(Box(box.x, box.y + box.h + 1, box.w, 10))
    strip.set(xlim=shown, ylim=(len(names) - 0.5, -0.5), xticks=(), yticks=())
    for mark in marks:
        row = [names.index(mark.name)] * 2
        strip.plot([mark.start, mark.end], row, color=mark.colour, linewidth=2)
    return axes


def lines(sheet: Sheet, box: Box, content: Lines, shown: Shown, marks: Sequence[Mark]) -> None:
    """Below them the legend, as many lines of it as have room."""
    labels = [line.label for line in content.lines]
    below = legend(sheet, box, labels)
    values = np.array([line.values for line in content.lines])
    tops = np.nancumsum(values, axis=0) if content.stacked else values
    most = float(np.nanmax(tops))
    heights = ticks(most * 1.02 or 1.0, content.unit, max(2, int(box.h / 45)))
    texts = [text_of(height, content.unit) for height in heights]
    left = max(map(sheet.width_of, texts)) + 8
    axes = timed(sheet, box.inner(left, 4, 8, below + FOOT), shown, marks)
    axes.set_yticks(heights, texts)
    axes.set_ylim(0, max(heights[-1], most * 1.02))
    bottoms = np.vstack([np.zeros(len(tops[0])), tops[:-1]]) if content.stacked else 0 * tops
    for number, (top, bottom) in enumerate(zip(tops, bottoms, strict=True)):
        present = ~np.isnan(values[number])
        colour, alpha = PALETTE[number % len(PALETTE)], 0.35 if content.stacked else 0.07
        axes.fill_between(
            shown.times(), bottom, top, where=present, color=colour, alpha=alpha, linewidth=0
        )
        axes.plot(shown.times(), np.where(present, top, np.nan), color=colour, linewidth=1.3)


def legend(sheet: Sheet, box: Box, labels: Sequence[str]) -> float:
    """Drawn at the lower end of the box; its height.  What Grafana would scroll to is counted."""
    widths = [SAMPLE + sheet.width_of(label) + 14 for label in labels]
    places = wrapped(widths, box.w)
    kept = [place for place in places if place[0] < LEGEND_LINES]
    height = LEGEND_LINE * (kept[-1][0] + 1)
    top = box.y + box.h - height
    for number, (line, x) in enumerate(kept):
        y = top + LEGEND_LINE * (line + 0.5)
        last = number == len(kept) - 1 < len(places) - 1
        text = f"and {len(places) - number} more" if last else labels[number]
        if not last:
            sheet.line(box.x + x + 2, y, SAMPLE - 12, PALETTE[number % len(PALETTE)])
        sheet.text(box.x + x + (2 if last else SAMPLE - 5), y, text)
    return height


def bands(sheet: Sheet, box: Box, content: Bands, shown: Shown, marks: Sequence[Mark]) -> None:
    names = [name for name, _ in content.bands]
    left = max(map(sheet.width_of, names)) + 8
    plot = box.inner(left, 4, 8, FOOT)
    axes = timed(sheet, plot, shown, marks)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(False)
    for row, (_, spans) in enumerate(content.bands):
        for span in spans:
            length = span.end - span.start
            axes.barh(row, length, 0.85, span.start, color=span.colour, alpha=0.8, zorder=0.5)
            if length / (shown.end - shown.start) * plot.w > sheet.width_of(span.text) + 8:
                middle = span.start + length / 2
                axes.text(middle, row, span.text, ha="center", va="center", size=8, color="white")


def heat(sheet: Sheet, box: Box, content: Heat, shown: Shown, marks: Sequence[Mark]) -> None:
    """A row for each bucket; what is empty stays white."""
    labels = content.labels()
    left = max(map(sheet.width_of, labels)) + 8
    axes = timed(sheet, box.inner(left, 4, 8, FOOT + 30), shown, marks)
    every = math.ceil(len(labels) / 8)
    axes.set_yticks(np.arange(0.5, len(labels))[::every], labels[::every])
    edges = np.append(shown.times(), shown.times()[-1] + STEP)
    counts = np.ma.masked_equal(np.nan_to_num(content.counts), 0)
    mesh = axes.pcolormesh(
        edges, np.arange(len(labels) + 1), counts, cmap=HEAT, edgecolors=PANEL, linewidth=0.4
    )
    axes.set_xlim(*shown)
    scale = sheet.axes(Box(box.x + left, box.y + box.h - 24, 180, 8))
    sheet.figure.colorbar(mesh, cax=scale, orientation="horizontal").outline.set_visible(False)
    scale.tick_params(labelsize=8, length=0, colors=FAINT, pad=3)


# ---- without -------------------------------------------------------------------------------


def number(sheet: Sheet, box: Box, content: Number, shown: Shown, marks: Sequence[Mark]) -> None:
    """As large as it fits."""
    if content.behind is not None:
        axes = sheet.axes(Box(box.x - 4, box.y + box.h * 0.66, box.w + 8, box.h * 0.34))
        axes.set(xticks=(), yticks=(), xlim=shown)
        present = ~np.isnan(content.behind)
        color = {"color": "white" if content.filled else content.colour}
        axes.fill_between(shown.times(), content.behind, where=present, alpha=0.15, **color)
        axes.plot(shown.times(), content.behind, linewidth=1, alpha=0.7, **color)
        axes.set_ylim(0, float(np.nanmax(content.behind)) * 1.1 or 1.0)
    most = min(34.0, box.h * 0.4)
    size = min(most, most * (box.w - 16) / sheet.width_of(content.text, most))
    colour = "white" if content.filled else content.colour
    middle = box.x + box.w / 2, box.y + box.h * (0.42 if content.behind is None else 0.33)
    sheet.text(*middle, content.text, size, ha="center", color=colour, weight="bold")


def bars(sheet: Sheet, box: Box, content: Bars, shown: Shown, marks: Sequence[Mark]) -> None:
    left = max(sheet.width_of(bar.label) for bar in content.bars) + 10
    right = max(sheet.width_of(bar.text, 9) for bar in content.bars) + 14
    axes = sheet.canvas(box.inner(0, 2, 0, 4))
    whole, high = box.w - left - right, (box.h - 6) / len(content.bars)
    most = max(bar.value for bar in content.bars) or 1.0
    for at, bar in enumerate(content.bars):
        middle, part, thick = (at + 0.5) * high, bar.value / most, min(high * 0.75, 34)
        place = left, middle - thick / 2
        axes.add_patch(Rectangle(place, whole, thick, color=GRID))
        axes.add_patch(Rectangle(place, whole * part, thick, color=shade(part)))
        style: dict[str, Any] = {"va": "center_baseline", "color": INK}
        axes.text(left - 8, middle, bar.label, ha="right", size=8, **style)
        axes.text(left + whole + 8, middle, bar.text, ha="left", size=9, **style)


def table(sheet: Sheet, box: Box, content: Cells, shown: Shown, marks: Sequence[Mark]) -> None:
    """Cells in the colour of their value."""
    axes = sheet.canvas(box.inner(0, 2, 0, 4))
    corner = "source\\target"
    first, high = sheet.width_of(corner) + 28, 34
    wide = (box.w - first) / len(content.targets)
    rows = [(corner, *content.targets)]
    rows += [(row, *texts) for row, texts in zip(content.sources, content.texts, strict=True)]
    most = float(content.cells.max()) or 1.0
    for y, row in enumerate(rows):
        for x, text in enumerate(row):
            colour, ink = PANEL, INK
            if x and y:
                part = float(content.cells[y - 1, x - 1]) / most
                colour, ink = shade(part), INK if part < 0.4 else "white"
            place = first + (x - 1) * wide if x else 0, y * high
            width = wide if x else first
            axes.add_patch(Rectangle(place, width, high, facecolor=colour, edgecolor=GRID))
            weight = "normal" if x and y else "bold"
            style: dict[str, Any] = {"size": 8, "va": "center_baseline", "weight": weight}
            axes.text(place[0] + 8, place[1] + high / 2, text, color=ink, **style)


def graph(sheet: Sheet, box: Box, content: Cells, shown: Shown, marks: Sequence[Mark]) -> None:
    """Nodes on a circle; an arrow is the thicker the more goes along it."""
    axes = sheet.canvas(box)
    names = sorted({*content.sources, *content.targets})
    turns = 2 * np.pi * (np.arange(len(names)) + 0.5) / len(names)
    circle = np.array([-np.cos(turns), -np.sin(turns)])
    middle = np.array([box.w, box.h]) / 2
    # As far out as there is room to each side.
    spread = circle / np.abs(circle).max(axis=1, keepdims=True)
    places = dict(zip(names, middle + (middle - 32) * spread.T, strict=True))
    most = float(content.cells.max())
    for y, source in enumerate(content.sources):
        for x, target in enumerate(content.targets):
            if content.cells[y, x]:
                width = 0.8 + 3 * math.sqrt(content.cells[y, x] / most)
                _arrow(axes, places[source], places[target], width, content.texts[y][x])
    for name, place in places.items():
        style: dict[str, Any] = {"facecolor": PANEL, "edgecolor": COLOURS["blue"], "linewidth": 2}
        axes.add_patch(Circle(place, 19, zorder=3, **style))
        axes.text(*place, name, ha="center", va="center", size=10, weight="bold", zorder=4)


def _arrow(axes: Any, start: Values, end: Values, width: float, text: str) -> None:
    """Bent to the side, so that the arrow back lies on the other; its text nearer to its end."""
    arrow = FancyArrowPatch(
        start,
        end,
        connectionstyle="arc3,rad=0.13",
        arrowstyle="-|>,head_length=5,head_width=3",
        shrinkA=15,
        shrinkB=15,
        linewidth=width,
        color="#8a93a3",
        zorder=1,
    )
    axes.add_patch(arrow)
    along = end - start
    side = np.array([-along[1], along[0]])
    axes.text(
        *(start + 0.64 * along + 0.06 * side),
        text,
        size=8,
        ha="center",
        va="center",
        color=INK,
        bbox={"facecolor": PANEL, "edgecolor": "none", "pad": 0.8, "alpha": 0.85},
        zorder=2,
    )


Painter = Callable[[Sheet, Box, Any, Shown, Sequence[Mark]], None]
PAINTERS: dict[str, Painter] = {
    "timeseries": lines,
    "stat": number,
    "bargauge": bars,
    "state-timeline": bands,
    "heatmap": heat,
    "nodeGraph": graph,
    "table": table,
}
