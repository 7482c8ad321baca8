"""The dashboards: committed as generated, and sound by the rules of Grafana's dashboard-linter.

What breaks a rule on purpose is in ``EXCEPTIONS``, with the reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from grafana.dashboard import ANNOTATIONS
from grafana.generate import DASHBOARDS, FOLDER, path_of, text_of
from grafana.panel import OF_NODE
from protocol.metric import Kind
from protocol.metrics import TABLE, TRANSPORT
from tests.promql import Selector, selectors

ROOT = Path(__file__).parent.parent
LOADED: list[dict[str, Any]] = [json.loads(path_of(board).read_text()) for board in DASHBOARDS]
JOB, INSTANCE = ("job", "Re", "$job"), ("instance", "Re", "$instance")
RATED = {"rate", "irate", "increase"}
#: Those of the program, and those that prometheus_client and Prometheus add.
KNOWN = {row.name: row.kind for row in TABLE} | {row.name: Kind.COUNTER for row in TRANSPORT}
KNOWN |= {"process_start_time_seconds": Kind.GAUGE, "process_resident_memory_bytes": Kind.GAUGE}
KNOWN |= {"process_cpu_seconds_total": Kind.COUNTER, "up": Kind.GAUGE}

#: (rule, dashboard, panel or variable) to why it breaks it.
EXCEPTIONS = {
    ("counter rated", "Overview", "Verdict"): "a loss before the time shown still counts",
    ("counter rated", "Faults", "Frames lost"): "a loss before the time shown still counts",
    ("counter rated", "Faults", "Zones replaced"): "as above",
    ("rate interval", "Overview", "Flows between nodes"): "all that moved in the time shown",
    ("rate interval", "Overview", "From node to node"): "all that moved in the time shown",
    ("counter rated", "Faults", "Coordinator recovery"): "it is over before the first scrape",
    ("counter rated", "Faults", "Node recovery"): "that of its start is over before, as above",
    ("instance matcher", "Node", "numastat"): "the coordinator's, chosen by numa_node",
    ("instance matcher", "Node", "Loads and stores, local and remote"): "as above",
    ("instance matcher", "Node", "Emulated time"): "as above",
    ("all value", "Node", "numa_node"): "All means the nodes of the chosen instances",
}


def short(board: dict[str, Any]) -> str:
    return str(board["title"]).rpartition(" ")[2]


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


PANELS = [(short(board), panel) for board in LOADED for panel in panels(board)]
IDS = [f"{board}: {panel['title']}" for board, panel in PANELS]
each_panel = pytest.mark.parametrize(("board", "panel"), PANELS, ids=IDS)
each_board = pytest.mark.parametrize("board", LOADED, ids=map(short, LOADED))


def read(panel: dict[str, Any]) -> Iterator[Selector]:
    for target in panel["targets"]:
        yield from selectors(target["expr"])


def holds(rule: str, board: str, name: str, *, sound: bool) -> bool:
    """The rule holds, or an exception is recorded; an exception that is needless is none."""
    return sound != ((rule, board, name) in EXCEPTIONS)


# ---- generated and provisioned -------------------------------------------------------------


@pytest.mark.parametrize("board", DASHBOARDS, ids=lambda board: board.uid)
def test_the_committed_file_is_what_the_generator_writes(board: Any) -> None:
    assert path_of(board).read_text() == text_of(board), "run: make docs"


def test_no_other_dashboard_is_committed() -> None:
    assert sorted(FOLDER.iterdir()) == sorted(path_of(board) for board in DASHBOARDS)


def test_the_data_source_has_a_fixed_uid_and_the_scrape_interval() -> None:
    path = ROOT / "grafana/provisioning/datasources/prometheus.yaml"
    (source,) = yaml.safe_load(path.read_text())["datasources"]
    scraped = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    assert source["uid"] == "numalab-prometheus" and source["isDefault"]
    assert source["jsonData"]["timeInterval"] == scraped["global"]["scrape_interval"]


def test_dashboards_are_provisioned_from_files_and_not_changed_by_hand() -> None:
    path = ROOT / "grafana/provisioning/dashboards/numalab.yaml"
    (provider,) = yaml.safe_load(path.read_text())["providers"]
    assert provider["type"] == "file" and not provider["allowUiUpdates"]


# ---- a dashboard ---------------------------------------------------------------------------


def test_uids_and_titles_are_unique() -> None:
    for key in ("uid", "title"):
        assert len({board[key] for board in LOADED}) == len(LOADED) == 4


@each_board
def test_a_dashboard_opens_as_it_should(board: dict[str, Any]) -> None:
    assert board["id"] is None and not board["editable"] and board["description"]
    assert board["time"] == {"from": "now-15m", "to": "now"} and board["refresh"] == "5s"


@each_board
def test_ids_are_unique_and_no_panel_lies_on_another(board: dict[str, Any]) -> None:
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert at["x"] + at["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells


@each_board
def test_the_data_source_and_job_and_instance_are_variables(board: dict[str, Any]) -> None:
    source, *others = board["templating"]["list"]
    assert (source["name"], source["label"]) == ("datasource", "Data Source")
    assert (source["type"], source["query"]) == ("datasource", "prometheus")
    assert [row["name"] for row in others][:2] == ["job", "instance"]
    for row in others:
        assert row["type"] == "query" and row["multi"] and row["includeAll"]
        assert row["refresh"] == 2, "refreshed when the time range changes"
        assert row["datasource"]["uid"] == "${datasource}"
        assert row["current"]["value"] == ["$__all"]
        sound = row["allValue"] == ".+"
        assert holds("all value", short(board), row["name"], sound=sound)


@each_board
def test_faults_restarts_and_migrations_are_marked_on_it(board: dict[str, Any]) -> None:
    marked = board["annotations"]["list"]
    assert [row["name"] for row in marked] == ["Faults", "Restarts", "Migrations"]
    for row in marked:
        assert row["enable"] and row["datasource"]["uid"] == "${datasource}"
        assert row["titleFormat"] and row["textFormat"]
        assert all({JOB, INSTANCE} <= found.matchers for found in selectors(row["expr"]))


# ---- a panel -------------------------------------------------------------------------------


@each_panel
def test_a_panel_says_what_it_shows(board: str, panel: dict[str, Any]) -> None:
    assert panel["title"] and panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"]["uid"] == "${datasource}"
    assert panel["targets"]
    refs = [target["refId"] for target in panel["targets"]]
    assert len(set(refs)) == len(refs)


@each_panel
def test_a_query_is_promql_of_metrics_that_there_are(board: str, panel: dict[str, Any]) -> None:
    for found in read(panel):
        histogram = re.sub(r"_(bucket|sum|count)$", "", found.name)
        is_part = KNOWN.get(histogram) == Kind.HISTOGRAM and histogram != found.name
        assert is_part or KNOWN.get(found.name) in (Kind.COUNTER, Kind.GAUGE), found.name


@each_panel
def test_a_query_asks_for_the_chosen_jobs_and_instances(board: str, panel: dict[str, Any]) -> None:
    found = list(read(panel))
    assert all(JOB in selector.matchers for selector in found)
    by_node = ("numa_node", "Re", "$numa_node")
    assert 'numa_node=~"$numa_node"' in OF_NODE
    assert all({INSTANCE, by_node} & selector.matchers for selector in found)
    sound = all(INSTANCE in selector.matchers for selector in found)
    assert holds("instance matcher", board, panel["title"], sound=sound)


@each_panel
def test_a_counter_is_rated_and_nothing_else_is(board: str, panel: dict[str, Any]) -> None:
    sound = True
    for found in read(panel):
        part = re.search(r"_(bucket|sum|count)$", found.name)
        is_counter = KNOWN.get(found.name) == Kind.COUNTER or part is not None
        rated = bool(RATED & set(found.functions[:1]))
        assert is_counter or not rated, f"{found.name} is a gauge"
        sound = sound and (rated or not is_counter)
    assert holds("counter rated", board, panel["title"], sound=sound)


@each_panel
def test_a_rate_is_of_the_interval_that_grafana_gives(board: str, panel: dict[str, Any]) -> None:
    windows = {w for target in panel["targets"] for w in re.findall(r"\[(.*?)\]", target["expr"])}
    sound = windows <= {"$__rate_interval"}
    assert windows <= {"$__rate_interval", "$__range"}
    assert holds("rate interval", board, panel["title"], sound=sound)


# ---- the rules themselves ------------------------------------------------------------------


def test_every_exception_is_of_something_that_there_is() -> None:
    names = {(board, panel["title"]) for board, panel in PANELS}
    names |= {(short(b), row["name"]) for b in LOADED for row in b["templating"]["list"]}
    assert {(board, name) for _, board, name in EXCEPTIONS} <= names


def test_the_kinds_that_were_asked_for_are_there() -> None:
    kinds = {panel["type"] for _, panel in PANELS}
    assert kinds >= {"nodeGraph", "stat", "state-timeline", "heatmap", "bargauge", "table"}
    assert len(ANNOTATIONS) == 3


def test_selectors_are_found_with_the_functions_around_them() -> None:
    (rated, plain) = selectors(
        'sum by (a) (rate(x_total{job=~"$job"}[$__rate_interval])) / (y > 0)'
    )
    assert rated == Selector("x_total", frozenset({JOB}), ("rate",), True)
    assert plain == Selector("y", frozenset(), (), False)
    with pytest.raises(ValueError):
        selectors("sum by (a (x)")
