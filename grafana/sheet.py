"""Paper for matplotlib to draw on, measured in pixels from its upper left corner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch
from PIL import Image

from grafana.layout import WIDTH, Box

DPI = 100
PAPER, PANEL, EDGE = "#f3f4f6", "#ffffff", "#dfe2e7"
INK, FAINT, GRID = "#24292e", "#6b7280", "#e8eaee"


class Sheet:
    def __init__(self, height: int) -> None:
        self.height = height
        self.figure = Figure(figsize=(WIDTH / DPI, height / DPI), dpi=DPI, facecolor=PAPER)
        self._canvas = FigureCanvasAgg(self.figure)

    def width_of(self, text: str, size: float = 8) -> float:
        font = FontProperties(size=size)
        width, _, _ = self._canvas.get_renderer().get_text_width_height_descent(text, font, False)
        return float(width)

    def text(self, x: float, y: float, text: str, size: float = 8, **more: Any) -> None:
        """``y``: the middle of the line, unless ``va`` says otherwise."""
        style = {"color": INK, "va": "center_baseline", **more}
        place = x / WIDTH, 1 - y / self.height
        self.figure.text(*place, text, fontsize=size, parse_math=False, **style)

    def frame(self, box: Box, colour: str = PANEL, edge: str = EDGE) -> None:
        """A rounded rectangle; what is drawn later lies on it."""
        patch = FancyBboxPatch(
            (box.x / WIDTH, 1 - (box.y + box.h) / self.height),
            box.w / WIDTH,
            box.h / self.height,
            boxstyle="round,pad=0,rounding_size=0.0025",
            mutation_aspect=WIDTH / self.height,
            facecolor=colour,
            edgecolor=edge,
            linewidth=0.8,
            zorder=-1,
        )
        self.figure.add_artist(patch)

    def line(self, x: float, y: float, width: float, colour: str) -> None:
        """From left to right: the sample of a line in a legend."""
        xs = [x / WIDTH, (x + width) / WIDTH]
        ys = [1 - y / self.height] * 2
        self.figure.add_artist(Line2D(xs, ys, color=colour, linewidth=2.5))

    def axes(self, box: Box) -> Any:
        """A plot that fills the box; labels of its axes lie outside."""
        place = (
            box.x / WIDTH,
            1 - (box.y + box.h) / self.height,
            box.w / WIDTH,
            box.h / self.height,
        )
        axes = self.figure.add_axes(place)
        axes.patch.set_alpha(0)
        for side in axes.spines.values():
            side.set_visible(False)
        axes.tick_params(length=0, labelsize=8, colors=FAINT, pad=4)
        return axes

    def canvas(self, box: Box) -> Any:
        """As ``axes``, without any, measured in pixels from the upper left corner of the box."""
        axes = self.axes(box)
        axes.set(xlim=(0, box.w), ylim=(box.h, 0), xticks=(), yticks=())
        return axes

    def write(self, path: Path) -> None:
        """With 256 colours: a third of the bytes, and nobody sees it."""
        self._canvas.draw()
        picture = Image.fromarray(np.asarray(self._canvas.buffer_rgba())).convert("RGB")
        picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
