"""A dashboard drawn by matplotlib, each panel at its place on Grafana's grid."""

from __future__ import annotations

import time
from pathlib import Path

from grafana.contents import COLOURS, Content, Number, Seen
from grafana.layout import GAP, WIDTH, box_of, height_of
from grafana.painters import PAINTERS
from grafana.panel import Json
from grafana.sheet import FAINT, Sheet

TITLE = 30
DRAWN = "drawn by matplotlib from the answers of a real Prometheus, no screenshot of Grafana"


def write(seen: Seen, path: Path) -> None:
    draw(seen).write(path)


def draw(seen: Seen) -> Sheet:
    sheet = Sheet(height_of(seen.page))
    _head(sheet, seen)
    for row in seen.page["panels"]:
        if row["type"] == "row":
            box = box_of(row["gridPos"])
            sheet.text(box.x + 4, box.y + box.h / 2, f"▾  {row['title']}", 10, weight="bold")
    for panel, content in seen.panels():
        _panel(sheet, panel, content, seen)
    return sheet


def _head(sheet: Sheet, seen: Seen) -> None:
    """Title, time and variables; below them what the colours of annotations mean."""
    sheet.text(GAP + 4, 22, seen.page["title"], 14, weight="bold")
    start, end = (time.strftime("%H:%M:%S", time.gmtime(at)) for at in seen.shown)
    chosen = [
        f"{row['label']}: {', '.join(row['current']['text'])}"
        for row in seen.page["templating"]["list"]
        if row["type"] == "query" and not row["hide"]
    ]
    words = "     ".join([*chosen, f"{start} to {end} UTC"])
    sheet.text(WIDTH - GAP - 4, 22, words, 9, ha="right")
    x = GAP + 4.0
    for annotation in seen.page["annotations"]["list"]:
        sheet.line(x, 48, 16, COLOURS[annotation["iconColor"]])
        sheet.text(x + 22, 48, annotation["name"])
        x += 22 + sheet.width_of(annotation["name"]) + 20
    sheet.text(WIDTH - GAP - 4, 48, DRAWN, 8, ha="right", color=FAINT, style="italic")


def _panel(sheet: Sheet, panel: Json, content: Content, seen: Seen) -> None:
    box = box_of(panel["gridPos"])
    title = box.x + 10, box.y + 16, panel["title"], 9.5
    if content and isinstance(content, Number) and content.filled:
        sheet.frame(box, content.colour, content.colour)
        sheet.text(*title, weight="bold", color="white")
    else:
        sheet.frame(box)
        sheet.text(*title, weight="bold")
    body = box.inner(10, TITLE, 10, 6)
    if content:
        PAINTERS[panel["type"]](sheet, body, content, seen.shown, seen.marks)
    else:
        middle = body.x + body.w / 2, body.y + body.h / 2
        sheet.text(*middle, "No data", 10, ha="center", color=FAINT)
