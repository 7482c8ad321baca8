"""A panel, its queries, and the classic JSON of both (Grafana 10 to 13 read it).

In an expression ``@`` stands for the matchers that every query has, so ``numalab_epoch{@}`` reads
``numalab_epoch{job=~"$job",instance=~"$instance"}``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

Json = dict[str, Any]

DATASOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}
MATCHERS = 'job=~"$job",instance=~"$instance"'
#: Of the coordinator's series about one node, on a page whose instances are nodes.
OF_NODE = 'job=~"$job",numa_node=~"$numa_node"'

GREEN, YELLOW, RED, BLUE = "green", "yellow", "red", "blue"
COLUMNS = 24


@dataclass(frozen=True)
class Query:
    """``instant``: the value now instead of a series of them.  format: that of the answer."""

    expr: str
    legend: str = ""
    instant: bool = False
    format: str = "time_series"
    ref: str = ""

    def json(self, ref: str) -> Json:
        return {
            "refId": self.ref or ref,
            "datasource": DATASOURCE,
            "editorMode": "code",
            "expr": self.expr.replace("@", MATCHERS),
            "legendFormat": self.legend or "__auto",
            "format": self.format,
            "instant": self.instant,
            "range": not self.instant,
        }


@dataclass(frozen=True)
class Panel:
    """``unit`` as Grafana names it; width and height in columns (of 24) and rows of the grid."""

    kind: str
    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    width: int = 8
    height: int = 8
    defaults: Json = field(default_factory=dict)
    options: Json = field(default_factory=dict)
    transformations: tuple[Json, ...] = ()
    overrides: tuple[Json, ...] = ()

    def sized(self, width: int, height: int = 8) -> Panel:
        return replace(self, width=width, height=height)

    def json(self, number: int, x: int, y: int) -> Json:
        panel: Json = {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": DATASOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "fieldConfig": {
                "defaults": {"unit": self.unit, **self.defaults},
                "overrides": list(self.overrides),
            },
            "options": self.options,
            "targets": [query.json(chr(ord("A") + at)) for at, query in enumerate(self.queries)],
        }
        if self.transformations:
            panel["transformations"] = list(self.transformations)
        return panel


def steps(*values: tuple[float | None, str]) -> Json:
    """Thresholds: from each value on, its colour; the first value is None."""
    return {
        "mode": "absolute",
        "steps": [{"value": value, "color": color} for value, color in values],
    }


def texts(words: Mapping[str, tuple[str, str]]) -> list[Json]:
    """Instead of a value, a word in a colour."""
    options = {
        value: {"text": text, "color": color, "index": at}
        for at, (value, (text, color)) in enumerate(words.items())
    }
    return [{"type": "value", "options": options}]


# ---- kinds ---------------------------------------------------------------------------------


def series(
    title: str, description: str, unit: str, *queries: Query, stacked: bool = False
) -> Panel:
    """Lines over time, or areas on top of each other."""
    custom: Json = {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 30 if stacked else 8}
    custom |= {"showPoints": "never", "spanNulls": False}
    if stacked:
        custom["stacking"] = {"mode": "normal", "group": "A"}
    options = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    defaults: Json = {"custom": custom, "min": 0}
    return Panel("timeseries", title, description, unit, queries, 8, 8, defaults, options)


def stat(
    title: str,
    description: str,
    unit: str,
    query: Query,
    thresholds: Json | None = None,
    words: Sequence[Json] = (),
) -> Panel:
    """One number, in the colour of its threshold."""
    defaults: Json = {
        "color": {"mode": "thresholds"},
        "thresholds": thresholds or steps((None, BLUE)),
        "mappings": list(words),
    }
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "background" if thresholds else "value",
        "graphMode": "none" if words else "area",
        "textMode": "value",
    }
    return Panel("stat", title, description, unit, (query,), 4, 4, defaults, options)


def bars(title: str, description: str, unit: str, *queries: Query) -> Panel:
    """A bar for each series, as long as its value now."""
    options = {
        "displayMode": "gradient",
        "orientation": "horizontal",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "showUnfilled": True,
    }
    defaults: Json = {"min": 0, "color": {"mode": "continuous-BlPu"}}
    return Panel("bargauge", title, description, unit, queries, 8, 8, defaults, options)


def heatmap(title: str, description: str, unit: str, expr: str) -> Panel:
    """How many observations fell into each bucket of a histogram; ``unit`` is that of its axis."""
    options = {
        "calculate": False,
        "cellGap": 1,
        "color": {"mode": "scheme", "scheme": "Spectral", "reverse": True, "steps": 64},
        "filterValues": {"le": 1e-9},
        "rowsFrame": {"layout": "auto"},
        "yAxis": {"axisPlacement": "left", "unit": unit},
        "tooltip": {"mode": "single", "yHistogram": True},
        "legend": {"show": True},
    }
    query = Query(expr, "{{le}}", format="heatmap")
    return Panel("heatmap", title, description, unit, (query,), 12, 8, {}, options)


def timeline(title: str, description: str, words: Sequence[Json], *queries: Query) -> Panel:
    """A band for each series, in the colour of its state."""
    defaults: Json = {
        "color": {"mode": "thresholds"},
        "thresholds": steps((None, BLUE)),
        "mappings": list(words),
        "custom": {"fillOpacity": 80, "lineWidth": 0},
    }
    options = {
        "showValue": "auto",
        "mergeValues": True,
        "rowHeight": 0.85,
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False},
    }
    return Panel("state-timeline", title, description, "none", queries, 12, 8, defaults, options)


def graph(title: str, description: str, unit: str, expr: str) -> Panel:
    """A graph of edges: ``expr`` has the labels ``id``, ``source`` and ``target``.

    With edges alone Grafana makes the nodes, so that none can be missing.
    """
    query = Query(expr, instant=True, format="table", ref="edges")
    rename = {"id": "organize", "options": {"renameByName": {"Value": "mainstat"}}}
    options = {"edges": {"mainStatUnit": unit}, "nodes": {}}
    return Panel("nodeGraph", title, description, unit, (query,), 8, 8, {}, options, (rename,))


def matrix(title: str, description: str, unit: str, expr: str) -> Panel:
    """A table with a row for each ``source`` and a column for each ``target``."""
    query = Query(expr, instant=True, format="table")
    fields = {"rowField": "source", "columnField": "target", "valueField": "Value"}
    pivot = {"id": "groupingToMatrix", "options": {**fields, "emptyValue": "zero"}}
    defaults: Json = {
        "custom": {"cellOptions": {"type": "color-background", "mode": "gradient"}},
        "color": {"mode": "continuous-BlPu"},
        "decimals": 0,
    }
    options = {"showHeader": True, "cellHeight": "sm"}
    return Panel("table", title, description, unit, (query,), 8, 8, defaults, options, (pivot,))
