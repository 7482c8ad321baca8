"""A dashboard: rows of panels, the variables that choose what they show, the annotations on all.

Annotations are the dashboard's, so Grafana draws them on every panel that has a time axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from grafana.panel import COLUMNS, DATASOURCE, MATCHERS, Json, Panel

#: Read by Grafana 10 and later, which convert it when they load it.
SCHEMA_VERSION = 39
TAG = "numalab"


class Row(NamedTuple):
    """Panels beneath a title, from left to right."""

    title: str
    panels: tuple[Panel, ...]


class Annotation(NamedTuple):
    """Marks where ``expr`` has a series; ``title`` and ``text`` may name its labels."""

    name: str
    expr: str
    color: str
    title: str
    text: str

    def json(self) -> Json:
        return {
            "name": self.name,
            "datasource": DATASOURCE,
            "enable": True,
            "hide": False,
            "iconColor": self.color,
            "expr": self.expr.replace("@", MATCHERS),
            "step": "5s",
            "titleFormat": self.title,
            "textFormat": self.text,
            "tagKeys": "instance",
        }


#: Windows of three scrapes: what happened is marked for so long, and once.
ANNOTATIONS = (
    Annotation(
        "Faults",
        "sum by (instance, fault) (changes(numalab_faults_injected_total{@}[15s])) > 0",
        "red",
        "Fault",
        "{{fault}} at {{instance}}",
    ),
    Annotation(
        "Restarts",
        "time() - process_start_time_seconds{@} < 15",
        "orange",
        "Start",
        "{{instance}} has started",
    ),
    Annotation(
        "Migrations",
        "numalab_migrations_under_way{@} > 0 or "
        "sum by (instance) (changes(numalab_migration_duration_seconds_count{@}[15s])) > 0",
        "blue",
        "Migration",
        "migrate_pages()",
    ),
)


def _variable(name: str, label: str, query: str, **more: Any) -> Json:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"qryType": 1, "query": query, "refId": f"Variable-{name}"},
        "multi": True,
        "includeAll": True,
        "allValue": ".+",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "hide": 0,
        # 2: whenever the time range changes, so that who has joined since is offered.
        "refresh": 2,
        "sort": 1,
        "regex": "",
        **more,
    }


def _data_source() -> Json:
    return {
        "name": "datasource",
        "label": "Data Source",
        "type": "datasource",
        "query": "prometheus",
        "current": {},
        "hide": 0,
        "includeAll": False,
        "multi": False,
        "refresh": 1,
        "regex": "",
    }


@dataclass(frozen=True)
class Dashboard:
    """``instances``: a metric that the processes have among which one may choose.

    ``by_node``: whether some panels show what the coordinator says of the nodes chosen.
    """

    uid: str
    title: str
    description: str
    rows: tuple[Row, ...]
    instances: str = "process_start_time_seconds"
    by_node: bool = False

    def panels(self) -> list[Panel]:
        return [panel for row in self.rows for panel in row.panels]

    def variables(self) -> list[Json]:
        of_job = f'{self.instances}{{job=~"$job"}}'
        found = [
            _data_source(),
            _variable("job", "Job", "label_values(numalab_questions_asked_total, job)"),
            _variable("instance", "Instance", f"label_values({of_job}, instance)"),
        ]
        if self.by_node:
            query = f"label_values({self.instances}{{{MATCHERS}}}, instance)"
            # Without allValue, All means the nodes of the instances that are chosen.
            found.append(
                _variable("numa_node", "Node", query, regex="/(\\d+)$/", hide=2, allValue=None)
            )
        return found

    def json(self) -> Json:
        return {
            "uid": self.uid,
            "id": None,
            "title": self.title,
            "description": self.description,
            "tags": [TAG],
            "schemaVersion": SCHEMA_VERSION,
            "version": 1,
            "editable": False,
            "graphTooltip": 1,
            "fiscalYearStartMonth": 0,
            "timezone": "browser",
            "time": {"from": "now-15m", "to": "now"},
            "refresh": "5s",
            "timepicker": {"refresh_intervals": ["5s", "10s", "30s", "1m", "5m"]},
            "links": [_links()],
            "annotations": {"list": [annotation.json() for annotation in ANNOTATIONS]},
            "templating": {"list": self.variables()},
            "panels": self._laid_out(),
        }

    def _laid_out(self) -> list[Json]:
        """Rows and panels, each at its place; ids count from 1."""
        found: list[Json] = []
        y = 0
        for row in self.rows:
            place = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
            head: Json = {"id": len(found) + 1, "type": "row", "title": row.title, "gridPos": place}
            found.append({**head, "collapsed": False, "panels": []})
            y += 1
            x = height = 0
            for panel in row.panels:
                if x + panel.width > COLUMNS:
                    x, y, height = 0, y + height, 0
                found.append(panel.json(len(found) + 1, x, y))
                x, height = x + panel.width, max(height, panel.height)
            y += height
        return found


def _links() -> Json:
    """The other dashboards, with the same time and variables."""
    link: Json = {"type": "dashboards", "tags": [TAG], "title": "numalab", "asDropdown": False}
    return {**link, "includeVars": True, "keepTime": True, "targetBlank": False, "icon": ""}
