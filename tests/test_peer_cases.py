"""Every case of the table is tested in both profiles, or it has a reason."""

from __future__ import annotations

import ast
import os
from pathlib import Path

from tests.peer_cases import CASES, REASONS

HERE = Path(__file__)
FILES = sorted(path for path in HERE.parent.glob("test_peer_*.py") if path != HERE)
PAGE = HERE.parent.parent / "docs" / "peer-cases.md"

_HEAD = """\
# Cases of other programs' tests

Other programs have tested page migration for years: Linux's own selftests, the Linux Test Project,
numactl, stress-ng and others. These are their cases, run against this machine in both profiles:
`modern` must give what the test expects on Linux today, `seed` what the kernel of June 2006 gave.
Where the two differ, the column *2006* says how. Run them with
`python -m pytest tests/test_peer_*.py`, and those that race for as long as the programs do with
`NUMALAB_PEER_SECONDS=20`.

This page is generated from `tests/peer_cases.py` and the tests (`NUMALAB_REWRITE=1`).

"""


def names_by_case() -> dict[str, list[str]]:
    """The tests marked with ``@case("ID")``, which runs them in both profiles, by that id."""
    found: dict[str, list[str]] = {}
    for path in FILES:
        for test in ast.parse(path.read_text()).body:
            if isinstance(test, ast.FunctionDef | ast.AsyncFunctionDef):
                for mark in test.decorator_list:
                    if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "case":
                        found.setdefault(ast.literal_eval(mark.args[0]), []).append(test.name)
    return found


def cases_table() -> str:
    """docs/peer-cases.md: a line for each case."""
    tested = names_by_case()
    run = sum(case.id in tested for case in CASES)
    lines = [f"{run} of {len(CASES)} cases run.\n\n", "| case | from | what | 2006 | run as |\n"]
    lines.append("|---|---|---|---|---|\n")
    for case in CASES:
        names = "<br>".join(f"`{name}`" for name in tested.get(case.id, ()))
        how = names or f"not run: {REASONS[case.id]}"
        note = f"; {case.note}" if case.note else ""
        lines.append(
            f"| {case.id} | {case.source} | {case.title}{note} | {case.seed or 'the same'} "
            f"| {how} |\n"
        )
    return _HEAD + "".join(lines)


def test_every_case_has_a_test_in_both_profiles_or_a_reason() -> None:
    ids = [case.id for case in CASES]
    assert len(set(ids)) == len(ids) == 100
    tested = names_by_case()
    assert not set(tested) & set(REASONS)
    assert set(tested) | set(REASONS) == set(ids)
    assert len(tested) >= 95


def test_the_page_is_generated_from_the_table() -> None:
    if os.environ.get("NUMALAB_REWRITE"):
        PAGE.write_text(cases_table())
    assert PAGE.read_text() == cases_table()
