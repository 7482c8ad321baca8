"""Every expression of every panel, variable, annotation and rule, sent to a real Prometheus.

It scrapes a real machine, which moves pages while messages are lost and two processes are killed.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
import trio

from grafana.asking import macros_of, offered, without_macros
from grafana.dashboard import Dashboard
from grafana.generate import DASHBOARDS
from grafana.observed import Course, machine_with_faults, work
from grafana.overview import OVERVIEW
from grafana.prometheus import LACKING, Prometheus, installed, prometheus
from numalab.locate import read_machine
from tests.test_prometheus_rules import RECORDS

COURSE = Course(quiet=5.0, pause=0.1, faults=(2.0, 18.0))


def lacking(seen: Prometheus, end: float) -> Iterator[str]:
    """What got no series, a line each."""
    for board in DASHBOARDS:
        yield from _lacking_of_board(seen, board, end)
    macros = macros_of(seen, OVERVIEW.json(), end)
    for rule in RECORDS:
        for expr in (rule["expr"], rule["record"]):
            if not seen.values(without_macros(expr, macros), end):
                yield f"rule {rule['record']}: {expr}"


def _lacking_of_board(seen: Prometheus, board: Dashboard, end: float) -> Iterator[str]:
    page = board.json()
    macros = macros_of(seen, page, end)
    for panel in page["panels"]:
        for target in panel.get("targets", ()):
            sent = without_macros(target["expr"], macros)
            if not seen.values(sent, end, instant=target["instant"]):
                where = f"{board.title}, panel '{panel['title']}' {target['refId']}"
                yield f"{where}: {target['expr']}"
    for row in page["annotations"]["list"]:
        if not seen.values(without_macros(row["expr"], macros), end):
            yield f"{board.title}, annotation {row['name']}: {row['expr']}"
    for row in page["templating"]["list"][1:]:
        if not offered(seen, row, macros):
            yield f"{board.title}, variable {row['name']}: {row['definition']}"


def check_page(url: str) -> None:
    """promtool has nothing to say about a live page."""
    promtool = shutil.which("promtool")
    assert promtool is not None, "it comes with prometheus"
    with urlopen(url, timeout=20) as answer:
        page = answer.read()
    command = [promtool, "check", "metrics"]
    done = subprocess.run(command, input=page, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, b""), url


@pytest.mark.skipif(not installed(), reason=LACKING)
@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_every_expression_gets_a_series_from_a_machine_at_work(tmp_path: Path) -> None:
    async with machine_with_faults(tmp_path, COURSE) as (machine, run):
        with prometheus(tmp_path, run) as seen:
            await work(machine, run, COURSE, print)
            await trio.sleep(1.5)
            end = time.time()
            missing = list(lacking(seen, end))
            for row in read_machine(run).processes:
                check_page(row.metrics)
    assert not missing, "no series:\n" + "\n".join(missing)
