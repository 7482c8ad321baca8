"""Write the JSON of every dashboard: ``python -m grafana.generate``, at the top of a checkout."""

from __future__ import annotations

import json
from pathlib import Path

from grafana.dashboard import Dashboard
from grafana.faults import FAULTS
from grafana.migration import MIGRATION
from grafana.node import NODE
from grafana.overview import OVERVIEW

DASHBOARDS: tuple[Dashboard, ...] = (OVERVIEW, NODE, MIGRATION, FAULTS)
FOLDER = Path(__file__).parent / "dashboards"


def path_of(dashboard: Dashboard) -> Path:
    """The committed file of a dashboard."""
    return FOLDER / f"{dashboard.uid}.json"


def text_of(dashboard: Dashboard) -> str:
    """What is in it."""
    return json.dumps(dashboard.json(), indent=2) + "\n"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for dashboard in DASHBOARDS:
        path_of(dashboard).write_text(text_of(dashboard))


if __name__ == "__main__":
    main()
