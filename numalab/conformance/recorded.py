"""The answers of the real kernel in a file, so that they can be compared with where it is not.

Written by ``--record`` and never by hand.  What can be seen after a step is written only where it
differs from what could be seen before.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from numalab.conformance.compare import Answer
from numalab.conformance.scenario import Scenario


def write(
    path: Path, kernel: str, date: str, scenarios: list[Scenario], answers: list[list[Answer]]
) -> None:
    """Make the file of these answers."""
    lines = [
        json.dumps({**scenario.plain(), "answers": _packed(told)})
        for scenario, told in zip(scenarios, answers, strict=True)
    ]
    head = json.dumps({"kernel": kernel, "date": date})
    path.write_text("[\n" + ",\n".join([head, *lines]) + "\n]\n")


def read(path: Path) -> tuple[dict[str, str], list[tuple[Scenario, list[Answer]]]]:
    """Kernel and date, and every scenario with its answers."""
    head, *rows = json.loads(path.read_text())
    found = [(Scenario(row["name"], row["steps"]), _unpacked(row["answers"])) for row in rows]
    return head, found


def _packed(answers: list[Answer]) -> list[Answer]:
    packed: list[Answer] = []
    before: Any = None
    for answer in answers:
        packed.append(answer)
        if "seen" in answer:
            if answer["seen"] == before:
                packed[-1] = {key: value for key, value in answer.items() if key != "seen"}
            before = answer["seen"]
    return packed


def _unpacked(answers: list[Answer]) -> list[Answer]:
    unpacked: list[Answer] = []
    before: Any = {}
    for answer in answers:
        before = answer.get("seen", before)
        unpacked.append({**answer, "seen": before})
    return unpacked
