"""The configuration of Prometheus and Alertmanager: their tools accept it; every rule is tested."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PROMETHEUS = ROOT / "deploy/prometheus"
RULES = sorted((PROMETHEUS / "rules").glob("*.yml"))
TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))
NAME = re.compile(r"[a-z_]+:numalab_[a-z_]+:[a-z0-9_]+")


def rules_of(kind: str) -> list[dict[str, Any]]:
    return [
        rule
        for path in RULES
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
        if kind in rule
    ]


ALERTS, RECORDS = rules_of("alert"), rules_of("record")


def cases_of(kind: str) -> list[dict[str, Any]]:
    documents = [yaml.safe_load(path.read_text()) for path in TESTS]
    return [row for file in documents for test in file["tests"] for row in test.get(kind, ())]


def told(program: str, package: str, *words: str) -> subprocess.CompletedProcess[str]:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed (Debian: apt-get install {package})")
    return subprocess.run([found, *words], capture_output=True, text=True, timeout=60, check=False)


promtool = partial(told, "promtool", "prometheus")


def anchors(page: str) -> set[str]:
    """Of the headings of a Markdown page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_promtool_accepts_configuration_and_rules() -> None:
    done = promtool("check", "config", str(PROMETHEUS / "prometheus.yml"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("rules found") == len(RULES) == 2


def test_amtool_accepts_the_configuration_of_alertmanager() -> None:
    file = str(PROMETHEUS / "alertmanager.yml")
    done = told("amtool", "prometheus-alertmanager", "check-config", file)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_do_what_their_tests_say() -> None:
    done = promtool("test", "rules", *map(str, TESTS))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_says_what_is_wrong_and_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("critical", "warning", "none")
    assert "for" in alert
    said = alert["annotations"]
    assert set(said) == {"summary", "description", "runbook_url"}
    assert said["summary"].endswith(".") and said["description"].endswith(".")
    page, _, anchor = said["runbook_url"].partition("#")
    text = (ROOT / page).read_text()
    assert anchor in anchors(text)
    assert alert["alert"].removeprefix("Numalab").lower() == anchor.replace("-", "")


def test_every_section_of_the_runbook_is_of_an_alert_and_complete() -> None:
    head, *sections = re.split(r"^## ", (ROOT / "docs/runbook.md").read_text(), flags=re.MULTILINE)
    assert len(sections) == len(ALERTS)
    for section in sections:
        words = ("**What it means.**", "**What to look at.**", "**What to do.**")
        assert all(word in section for word in words), section.splitlines()[0]


def test_every_alert_is_made_to_fire() -> None:
    fired = {row["alertname"] for row in cases_of("alert_rule_test") if row["exp_alerts"]}
    assert fired == {alert["alert"] for alert in ALERTS}


def test_every_alert_but_the_one_that_always_fires_is_seen_silent() -> None:
    silent = {row["alertname"] for row in cases_of("alert_rule_test") if not row["exp_alerts"]}
    assert silent == {alert["alert"] for alert in ALERTS} - {"NumalabDeadMansSwitch"}


def test_every_recorded_series_is_named_by_level_and_has_a_value_in_a_test() -> None:
    names = {rule["record"] for rule in RECORDS}
    assert all(NAME.fullmatch(name) and "_total" not in name for name in names)
    valued = {row["expr"] for row in cases_of("promql_expr_test") if row["exp_samples"]}
    assert valued == names
