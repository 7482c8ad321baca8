"""The benchmark suite: what it says of samples, how it compares runs, and that it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from numalab import cli_bench
from numalab.bench import (
    command,
    comparing,
    moving,
    peer,
    plot,
    profile,
    ratios,
    report,
    scale,
    suite,
    sweep,
    tools,
)
from numalab.bench.figures import FIGURES, TABLE, Verdict
from numalab.bench.lab import lab_of
from numalab.bench.readings import Readings
from numalab.bench.waiting import waits_between
from numalab.cli import run
from numalab.cluster import Settings
from numalab.console import Answer
from protocol.labels import STEP, Role

# ---- samples -------------------------------------------------------------------------------


def test_a_summary_has_the_median_the_spread_and_the_quartiles() -> None:
    summary = ratios.summarise([5.0, 1.0, 2.0, 4.0, 3.0])
    assert (summary.median, summary.lowest, summary.highest) == (3.0, 1.0, 5.0)
    assert (summary.lower, summary.upper, summary.rounds) == (2.0, 4.0, 5)
    assert ratios.summarise([7.0]).upper == 7.0


def test_a_percentile_lies_between_its_neighbours() -> None:
    assert ratios.percentile([10.0, 0.0], 0.25) == 2.5
    assert ratios.percentile([1.0, 2.0, 3.0], 1.0) == 3.0


@pytest.mark.parametrize("power", (0.5, 1.0, 1.2))
def test_the_exponent_of_a_power_is_its_exponent(power: float) -> None:
    sizes = [4096.0, 65_536.0, 1_048_576.0]
    assert ratios.exponent(sizes, [3 * size**power for size in sizes]) == pytest.approx(power)


def test_waits_are_those_of_the_stores_under_way_in_the_window() -> None:
    stores = [(0.0, 1.0), (1.0, 3.0), (3.0, 4.0), (9.0, 20.0)]
    waits = waits_between(stores, 2.0, 5.0)
    assert (waits.longest, waits.stores) == (2.0, 2)
    assert waits_between(stores, 30.0, 31.0).stores == 0


# ---- the table -----------------------------------------------------------------------------


def test_there_are_fourteen_figures_and_every_one_is_measured() -> None:
    assert [figure.number for figure in TABLE] == list(cli_bench.FIGURES)
    measured = sorted(number for family in suite.FAMILIES for number in family.figures)
    assert measured == list(cli_bench.FIGURES)
    assert tuple(peer.PEERS) == cli_bench.PEERS


@pytest.mark.parametrize(
    ("figure", "median", "verdict"),
    (
        (1, 0.90, Verdict.AIM),
        (1, 0.70, Verdict.MET),
        (1, 0.59, Verdict.SHORT),
        (7, 2.5, Verdict.AIM),
        (7, 4.0, Verdict.MET),
        (7, 4.6, Verdict.SHORT),
        (10, 0.5, Verdict.PRINTED),
        (10, 0.95, Verdict.AIM),
    ),
)
def test_a_median_is_held_against_its_gate(figure: int, median: float, verdict: Verdict) -> None:
    assert FIGURES[figure].parts[0].verdict(median) == verdict


def document(*samples: float, figure: int = 1, part: str = "") -> dict[str, Any]:
    readings = Readings()
    for sample in samples:
        readings.add(figure, sample, part)
    readings.beside(figure, moved=1000.0)
    readings.note(figure, "Something.")
    readings.note(figure, "Something.")
    facts = {"cpu": "some <cpu>", "cpus": 2, "kernel": "6", "python": "3", "libzmq": "4"}
    return {"facts": facts, "scale": {}, "figures": [readings.document(FIGURES[figure])]}


def test_a_figure_is_a_json_object_and_a_row() -> None:
    result = document(0.7, 0.5, 0.9)
    assert json.loads(json.dumps(result)) == result
    head, row, beside, note = report.table(result["figures"])
    assert head.split()[:3] == ["#", "figure", "beside"]
    assert "0.700 x" in row and "[0.500-0.900]" in row and row.endswith("met")
    assert "moved 1,000" in beside and note.endswith("Something.")
    assert "0.700 x [0.500-0.900], 3 rounds" in report.progress_line(result["figures"][0])


def test_a_part_that_was_not_measured_says_so() -> None:
    result = document(2.0, figure=4, part="Dask")
    rows = list(report.table(result["figures"]))
    assert rows[1].endswith("aim") and rows[2].endswith("not measured")
    assert "Ray" not in report.progress_line(result["figures"][0])


def test_numbers_have_three_digits_that_count() -> None:
    said = [report.number(value) for value in (12_345.6, 123.4, 12.34, 0.1234, None)]
    assert said == ["12,346", "123", "12.34", "0.123", "-"]


# ---- two runs ------------------------------------------------------------------------------


def test_a_change_beyond_the_noise_is_named() -> None:
    before = document(0.70, 0.71, 0.72)
    [worse] = comparing.changes(before, document(0.50, 0.51, 0.52))
    [better] = comparing.changes(before, document(0.90, 0.91, 0.92))
    assert worse.worse and not better.worse
    assert worse.describe() == "worse: 1 neighbouring / bare zmq: 0.710 before, 0.510 x now"


def test_less_is_better_for_some_figures() -> None:
    [change] = comparing.changes(document(4.0, figure=7), document(8.0, figure=7))
    assert change.worse


@pytest.mark.parametrize("now", ((0.60, 0.70, 0.80), (0.64, 0.65, 0.90), (0.55,)))
def test_a_change_within_the_noise_is_not(now: tuple[float, ...]) -> None:
    assert not comparing.changes(document(0.55, 0.71, 0.82), document(*now))


def test_what_only_one_run_has_is_not_compared() -> None:
    assert not comparing.changes(document(0.7), document(3.0, figure=7))


def test_runs_of_different_hosts_are_told_apart() -> None:
    one, other = document(0.7), document(0.7)
    other["facts"]["cpu"] = "another"
    assert list(comparing.differences(one, other)) == [
        "The runs differ in cpu: some <cpu> before, another now."
    ]


# ---- the drawing, and the host -------------------------------------------------------------


def test_the_drawing_is_svg_with_a_row_for_each_gate() -> None:
    root = ElementTree.fromstring(plot.draw(document(0.7, 0.5, 0.9)))
    assert len(root.findall("{*}circle")) == 1
    assert not ElementTree.fromstring(plot.draw(document(figure=1))).findall("{*}circle")


@pytest.mark.parametrize(("room", "size"), ((1 << 34, 4096), (1 << 31, 1024), (0, 64)))
def test_pages_are_as_large_as_memory_allows(room: int, size: int) -> None:
    assert scale.page_size_for(1_000_000, room) == size


def test_a_peer_that_is_not_installed_is_left_out_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert peer.missing("redis").startswith("redis is left out, for redis-server")


# ---- the command ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    (
        (["--figures", "0"], "'0' names no figure"),
        (["--figures", "1,x"], "'x' names no figure"),
        (["--figures", "9-7"], "'9-7' names no figure"),
        (["--peers", "redis,memcached"], "'memcached' is no peer"),
        (["--plot", "/tmp/plot.png"], "has to end in .svg"),
        (["--output", "/nowhere/at/all.json"], "there is no directory /nowhere/at"),
        (["--rounds", "0"], "0 is not in the range"),
        (["--compare", "/nowhere.json"], "does not exist"),
        (["--compare", __file__], "cannot be compared with"),
    ),
)
def test_a_wrong_argument_is_a_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", *arguments]) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1


@pytest.mark.slow
async def test_holes_are_all_over_the_target() -> None:
    pages = 1024
    async with lab_of(pages, spare=2 * moving.HOLES - 1) as lab:
        await moving.make_holes(lab, 2 * int(pages * moving.HOLES), np.random.default_rng(1))
        filler = (await lab.machine.inventory(1)).owner[0]
        task, _ = await lab.touched(pages)
        await lab.move(task, 0, pages)
        told = await lab.machine.inventory(1)
        frames = np.sort(told.pfn[told.owner != filler].astype(np.int64))
    assert frames.size == pages
    assert 0.3 < np.mean(np.diff(frames) == 1) < 0.7


@pytest.mark.slow
def test_a_quick_run_measures_draws_and_compares(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, drawn = tmp_path / "run.json", tmp_path / "run.svg"
    arguments = ["bench", "--quick", "--figures", "7", "--rounds", "2"]
    assert run([*arguments, "--output", str(kept), "--plot", str(drawn)]) == 0
    said = capsys.readouterr()
    assert "start 1 of 1:  7 one page" in said.err
    assert "control round trips" in said.out
    result = json.loads(kept.read_text())
    [trips] = result["figures"][0]["parts"]
    assert trips["rounds"] == 2 and trips["median"] > 1
    assert result["facts"]["cpus"] > 0
    assert "<svg" in drawn.read_text()
    assert not comparing.changes(result, result)


def test_the_profile_the_sweep_and_the_tools_are_printed() -> None:
    step = {"phase": profile.PHASES["copying"], "batches": 16.0, "batch_ms": 7.0, "page_us": 1.5}
    measured = {
        "pages": 65_536,
        "chunk_pages": 4096,
        "whole_us": 3.0,
        "steps": [step],
        "copy_at_least_us": {"verify, two sums": 0.3},
        "cpu_us": {"node0, main": 1.25},
    }
    lines = "\n".join(profile.describe_profile(measured))
    assert "65,536 neighbouring pages" in lines and "node0, main" in lines
    assert lines.index("lock, copy") < lines.index("at least: verify")
    row = {"setting": "chunk_pages", "value": 4096, "pages_per_second": 5.0, "median": 0.5}
    row |= {"lowest": 0.4, "highest": 0.6}
    assert "[0.400-0.600]" in list(sweep.describe_sweep([row]))[1]
    assert list(tools.describe_tools({"migspeed": {"Mbyte/s": 141.0}})) == [
        "as migspeed: Mbyte/s 141"
    ]


def test_every_step_of_a_migration_has_a_name_in_the_profile() -> None:
    assert tuple(profile.PHASES) == STEP.values(Role.COORDINATOR, ())


def test_every_setting_of_the_sweep_is_one_of_a_machine() -> None:
    assert set(sweep.SETTINGS) <= set(Settings.__dataclass_fields__)


@pytest.mark.parametrize(
    ("arguments", "figures", "more"),
    (
        ([], list(cli_bench.FIGURES), True),
        (["--figures", "2,7-8"], [2, 7, 8], False),
        (["--no-tools"], list(cli_bench.FIGURES), False),
        (["--tools"], [], True),
        (["--profile"], [], False),
        (["--sweep", "--figures", "1"], [1], False),
    ),
)
def test_what_is_measured_is_what_is_named(
    arguments: list[str], figures: list[int], more: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[command.Options] = []

    async def heed(options: command.Options) -> Answer:
        told.append(options)
        return Answer("")

    monkeypatch.setattr(command, "bench", heed)
    assert run(["bench", *arguments]) == 0
    assert (told[0].figures, told[0].tools) == (figures, more)
