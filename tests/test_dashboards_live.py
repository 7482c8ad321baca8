"""Every expression of every panel, variable, annotation and rule, sent to a real Prometheus.

It scrapes a real machine, which moves pages while messages are lost and two processes are killed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import trio

from grafana.dashboard import Dashboard
from grafana.generate import DASHBOARDS
from numalab.locate import read_machine
from tests.observed import Prometheus, machine_with_faults, prometheus, work
from tests.promql import without_macros
from tests.test_prometheus_rules import RECORDS

CHOSEN = {"$job": "numalab", "$instance": ".+", "$numa_node": "(0|1|2|3)"}
LABEL_VALUES = re.compile(r"label_values\((.+), (\w+)\)")


def sent(expr: str, whole: float) -> str:
    """As Grafana would send it with everything chosen; ``whole``: seconds that are shown."""
    macros = {"$__range": f"{int(whole)}s", "$__rate_interval": "5s", **CHOSEN}
    return without_macros(expr, macros)


def lacking(seen: Prometheus, end: float) -> Iterator[str]:
    """What got no series, a line each."""
    whole = end - seen.start
    for board in DASHBOARDS:
        yield from _lacking_of_board(seen, board, end)
    for rule in RECORDS:
        for expr in (rule["expr"], rule["record"]):
            if not seen.values(sent(expr, whole), end):
                yield f"rule {rule['record']}: {expr}"


def _lacking_of_board(seen: Prometheus, board: Dashboard, end: float) -> Iterator[str]:
    whole, page = end - seen.start, board.json()
    for panel in page["panels"]:
        for target in panel.get("targets", ()):
            if not seen.values(sent(target["expr"], whole), end, instant=target["instant"]):
                where = f"{board.title}, panel '{panel['title']}' {target['refId']}"
                yield f"{where}: {target['expr']}"
    for row in page["annotations"]["list"]:
        if not seen.values(sent(row["expr"], whole), end):
            yield f"{board.title}, annotation {row['name']}: {row['expr']}"
    for row in page["templating"]["list"][1:]:
        if not _offered(seen, row):
            yield f"{board.title}, variable {row['name']}: {row['definition']}"


def _offered(seen: Prometheus, variable: dict[str, Any]) -> list[str]:
    """What one may choose: the values of a label, as far as the regex of the variable has them."""
    query = LABEL_VALUES.fullmatch(variable["definition"])
    assert query is not None
    found = seen.label_values(query[2], sent(query[1], 60))
    regex = variable["regex"].strip("/")
    return [value for value in found if re.search(regex, value)]


def check_page(url: str) -> None:
    """promtool has nothing to say about a live page."""
    promtool = shutil.which("promtool")
    assert promtool is not None, "it comes with prometheus"
    with urlopen(url, timeout=20) as answer:
        page = answer.read()
    command = [promtool, "check", "metrics"]
    done = subprocess.run(command, input=page, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, b""), url


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_every_expression_gets_a_series_from_a_machine_at_work(tmp_path: Path) -> None:
    async with machine_with_faults(tmp_path) as (machine, run):
        with prometheus(tmp_path, run) as seen:
            await work(machine, run, print)
            await trio.sleep(1.5)
            end = time.time()
            missing = list(lacking(seen, end))
            for row in read_machine(run).processes:
                check_page(row.metrics)
    assert not missing, "no series:\n" + "\n".join(missing)
