"""The pictures of the dashboards: every panel can be drawn, and what is drawn is what was answered.

Nothing here needs matplotlib but the last test, which says so when it is not there.
"""

from __future__ import annotations

import json
import math
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grafana import pictures
from grafana.asking import macros_of, without_macros
from grafana.contents import (
    COLOURS,
    KINDS,
    MARK_STEP,
    Answers,
    Bands,
    Bar,
    Bars,
    Cells,
    Content,
    Heat,
    Lines,
    Mark,
    Number,
    Seen,
    Shown,
    content_of,
    marks_of,
)
from grafana.generate import DASHBOARDS, path_of
from grafana.layout import HEADER, ROW, WIDTH, box_of, height_of, wrapped
from grafana.prometheus import Prometheus
from grafana.units import SCALES, text_of, ticks

ROOT = Path(__file__).parent.parent
PAGES: list[dict[str, Any]] = [json.loads(path_of(board).read_text()) for board in DASHBOARDS]
PANELS = [panel for page in PAGES for panel in page["panels"] if panel["type"] != "row"]
SHOWN = Shown(1000.0, 1010.5)
MOST_BYTES = 300_000


def canned(target: dict[str, Any], count: int = 3) -> list[dict[str, Any]]:
    """Some series, as Prometheus would write them, with every label that the target is drawn by."""
    labels = {*re.findall(r"{{(\w+)}}", target["legendFormat"]), "source", "target"}
    found = []
    for number in range(count):
        metric = dict.fromkeys(labels, str(number))
        if target["format"] == "heatmap":
            metric["le"] = ("0.001", "0.1", "+Inf")[number]
        series: dict[str, Any] = {"metric": metric}
        if target["instant"]:
            series["value"] = [SHOWN.end, str(number + 1)]
        else:
            series["values"] = [[at, str(number + 1)] for at in SHOWN.times()]
        found.append(series)
    return found


def answers(panel: dict[str, Any], count: int = 3) -> Answers:
    return [canned(target, count) for target in panel["targets"]]


def panel_of(title: str) -> dict[str, Any]:
    return next(panel for panel in PANELS if panel["title"] == title)


def series(values: dict[float, float], **metric: str) -> dict[str, Any]:
    return {"metric": metric, "values": [[at, str(value)] for at, value in values.items()]}


def drawn(title: str, *found: dict[str, Any]) -> Content:
    return content_of(panel_of(title), [list(found)], SHOWN)


# ---- every panel ---------------------------------------------------------------------------


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_has_content_when_something_is_answered(panel: dict[str, Any]) -> None:
    assert content_of(panel, answers(panel), SHOWN)


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_without_an_answer_is_empty(panel: dict[str, Any]) -> None:
    assert not content_of(panel, [[] for _ in panel["targets"]], SHOWN)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page["uid"])
def test_panels_lie_within_the_picture_and_not_on_each_other(page: dict[str, Any]) -> None:
    boxes = [box_of(panel["gridPos"]) for panel in page["panels"]]
    for number, box in enumerate(boxes):
        assert box.x > 0 and box.x + box.w < WIDTH
        assert box.y >= HEADER and box.y + box.h < height_of(page)
        for other in boxes[:number]:
            beside = box.x >= other.x + other.w or other.x >= box.x + box.w
            assert beside or box.y >= other.y + other.h


def test_a_place_on_the_grid_is_so_many_pixels() -> None:
    box = box_of({"x": 12, "y": 2, "w": 12, "h": 8})
    assert (box.x, box.x + box.w) == (WIDTH / 2 + 4, WIDTH - 8)
    assert (box.y, box.h) == (HEADER + 2 * ROW, 8 * ROW - 8)
    assert box.inner(1, 2, 3, 4) == (box.x + 1, box.y + 2, box.w - 4, box.h - 6)


def test_a_legend_is_broken_where_the_panel_ends() -> None:
    assert wrapped([40, 40, 40, 200, 10], 100) == [(0, 0), (0, 40), (1, 0), (2, 0), (3, 0)]


# ---- values --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "none", "0"),
        (1234, "none", "1234"),
        (6018, "short", "6.02 K"),
        (2_500_000, "short", "2.5 Mil"),
        (21_240, "ops", "21.2 K ops/s"),
        (0.5, "ops", "0.5 ops/s"),
        (0, "s", "0 s"),
        (0.00005, "s", "50 µs"),
        (0.283, "s", "283 ms"),
        (90, "s", "1.5 min"),
        (7200, "s", "2 h"),
        (48 * 2**20, "bytes", "48 MiB"),
        (0, "bytes", "0 B"),
        (18_700_000, "Bps", "18.7 MB/s"),
        (-3, "short", "-3"),
    ],
)
def test_a_value_is_written_in_its_unit(value: float, unit: str, text: str) -> None:
    assert text_of(value, unit) == text


def test_a_value_has_as_many_decimals_as_the_panel_says() -> None:
    assert text_of(16.2, "short", 0) == "16" and text_of(1658, "short", 0) == "2 K"


def test_every_unit_is_known() -> None:
    used = {panel["fieldConfig"]["defaults"]["unit"] for panel in PANELS}
    used |= {panel["options"]["yAxis"]["unit"] for panel in PANELS if panel["type"] == "heatmap"}
    assert used == set(SCALES)


@pytest.mark.parametrize(
    ("top", "unit", "found"),
    [
        (9, "none", [0, 2.5, 5, 7.5, 10]),
        (1.0, "short", [0, 0.25, 0.5, 0.75, 1]),
        (3 * 2**20, "bytes", [0, 2**20, 2 * 2**20, 3 * 2**20]),
        (0.4, "s", [0, 0.1, 0.2, 0.3, 0.4]),
    ],
)
def test_ticks_are_round_in_the_unit_and_reach_the_top(
    top: float, unit: str, found: list[float]
) -> None:
    assert ticks(top, unit, 4) == pytest.approx(found)


# ---- contents ------------------------------------------------------------------------------


def test_a_line_has_its_legend_and_a_hole_where_nothing_was_answered() -> None:
    hole = {1000.0: 1.0, 1001.0: 2.0, 1004.0: 5.0}
    content = drawn("Age of processes", series(hole, instance="node0"))
    assert isinstance(content, Lines) and content.unit == "s" and not content.stacked
    (line,) = content.lines
    assert line.label == "node0"
    np.testing.assert_equal(line.values, [1, 2, math.nan, math.nan, 5, *[math.nan] * 6])


def test_a_series_of_nothing_but_nan_is_no_line() -> None:
    assert not drawn("Age of processes", series({1000.0: math.nan}, instance="node0"))


def test_a_stat_is_its_last_value_with_the_word_or_the_colour_of_it() -> None:
    sound = drawn("Verdict", series({1000.0: 3.0, 1001.0: 0.0, 1002.0: math.nan}))
    assert sound == Number("sound", COLOURS["green"], filled=True)
    lost = drawn("Verdict", series({1000.0: 3.0}))
    assert lost == Number("3", COLOURS["red"], filled=True)
    moved = drawn("Pages moved", series({1000.0: 1500.0}))
    assert isinstance(moved, Number) and moved.behind is not None
    assert (moved.text, moved.filled) == ("1.5 K ops/s", False)


def test_bars_are_of_now() -> None:
    value = {"metric": {"instance": "node1"}, "value": [1010.0, "6000"]}
    content = drawn("Pages by node", value)
    assert content == Bars((Bar("node1", 6000.0, "6 K"),))


def test_states_are_merged_and_end_where_nothing_was_answered() -> None:
    values = {1000.0: 1.0, 1001.0: 1.0, 1002.0: 0.0, 1004.0: 0.0, 1005.0: 1.0}
    content = drawn("Health of nodes", series(values, numa_node="2"))
    assert isinstance(content, Bands)
    ((name, spans),) = content.bands
    assert name == "node 2"
    assert [(span.start, span.end, span.text) for span in spans] == [
        (1000, 1002, "up"),
        (1002, 1003, "down"),
        (1004, 1005, "down"),
        (1005, 1006, "up"),
    ]
    assert [span.colour for span in spans[:2]] == [COLOURS["green"], COLOURS["red"]]


def test_a_bucket_is_drawn_without_those_below_it() -> None:
    content = drawn(
        "Wait of writers",
        series({1000.0: 9.0, 1001.0: 4.0}, le="+Inf"),
        series({1000.0: 2.0, 1001.0: 4.0}, le="0.001"),
        series({1000.0: 5.0, 1001.0: 4.0}, le="0.5"),
    )
    assert isinstance(content, Heat)
    assert content.labels() == ["1 ms", "500 ms", "+Inf"]
    assert content.counts[:, :2].tolist() == [[2, 4], [3, 0], [4, 0]]


def test_flows_are_a_matrix_with_zeros_where_nothing_went() -> None:
    def flow(source: str, target: str, value: str) -> dict[str, Any]:
        return {"metric": {"source": source, "target": target}, "value": [1010.0, value]}

    for title in ("Flows between nodes", "From node to node"):
        content = drawn(title, flow("1", "2", "16.2"), flow("0", "1", "1658"))
        assert isinstance(content, Cells)
        assert (content.sources, content.targets) == (("0", "1"), ("1", "2"))
        assert content.cells.tolist() == [[1658, 0], [0, 16.2]]
    assert isinstance(content, Cells) and content.texts == (("2 K", "0"), ("0", "16"))


def test_an_annotation_is_marked_from_its_first_to_its_last_value_in_a_row() -> None:
    (faults, *_) = PAGES[0]["annotations"]["list"]
    assert faults["step"] == f"{MARK_STEP:.0f}s"
    twice = {1000.0: 1.0, 1005.0: 1.0, 1020.0: 1.0}
    found = marks_of(faults, [series(twice, fault="loss"), series(twice, fault="damage")])
    red = COLOURS["red"]
    assert found == [Mark("Faults", red, 1000, 1005), Mark("Faults", red, 1020, 1020)]


# ---- asking --------------------------------------------------------------------------------


def test_macros_and_variables_are_filled_in() -> None:
    class Canned(Prometheus):
        def label_values(self, label: str, match: str = "") -> list[str]:
            assert match == 'numalab_nr_free_pages{job=~".+",instance=~".+"}'
            return ["coordinator", "node0", "node12"]

    seen = Canned("")
    macros = macros_of(seen, PAGES[1], seen.start + 70.5)
    expr = 'increase(x{job=~"$job",a=~"$numa_node"}[$__range]) + rate(y[$__rate_interval])'
    assert without_macros(expr, macros) == ('increase(x{job=~".+",a=~"(0|12)"}[70s]) + rate(y[5s])')


@pytest.mark.parametrize("lacking", ["matplotlib", "prometheus"])
def test_what_is_not_installed_is_said_in_a_sentence(
    lacking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "find_spec", lambda name: None if name == lacking else name)
    monkeypatch.setattr(pictures, "installed", lambda: lacking != "prometheus")
    with pytest.raises(SystemExit, match=rf"^{lacking} is not installed[^\n]*\.$"):
        pictures.main()


# ---- the pictures --------------------------------------------------------------------------


def check_png(path: Path, page: dict[str, Any]) -> None:
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n") and len(data) < MOST_BYTES
    assert struct.unpack(">II", data[16:24]) == (WIDTH, height_of(page)), "run: make pictures"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page["uid"])
def test_a_picture_is_committed_and_shown(page: dict[str, Any]) -> None:
    path = pictures.picture_of(page)
    check_png(path, page)
    assert f"](pictures/{path.name})" in (ROOT / "docs/dashboards.md").read_text()


@pytest.mark.parametrize("count", [0, 1, 3], ids="{} series".format)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page["uid"])
def test_every_dashboard_is_drawn(page: dict[str, Any], count: int, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install matplotlib")
    from grafana import drawing, painters

    assert set(painters.PAINTERS) == set(KINDS)
    found = {
        panel["id"]: answers(panel, count) for panel in page["panels"] if panel["type"] != "row"
    }
    marks = (Mark("Faults", COLOURS["red"], 1002, 1005),)
    drawing.write(Seen(page, SHOWN, found, marks), tmp_path / "page.png")
    check_png(tmp_path / "page.png", page)
