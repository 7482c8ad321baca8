"""The table of profiles is whole, and so is its page in the documentation."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from numalab.documents import profiles_table
from protocol.behaviours import BEHAVIOURS
from protocol.profile import MODERN, SEED, Profile

ROOT = Path(__file__).parent.parent


def test_every_behaviour_has_a_row_with_its_fact() -> None:
    named = [field.name for field in fields(Profile) if field.name != "name"]
    assert sorted(row.field for row in BEHAVIOURS) == sorted(named)
    sources = ("K ", "madvise(2)", "mlock(2)", "commit ")
    assert all(row.fact.startswith(sources) and row.meaning for row in BEHAVIOURS)


def test_a_row_is_there_because_the_profiles_differ_or_it_is_a_switch() -> None:
    names = [row.field for row in BEHAVIOURS]
    same = [name for name in names if getattr(SEED, name) == getattr(MODERN, name)]
    assert same == [
        "mbind_blocks_faults",
        "weighted_interleave",
        "last_vma_skipped",
        "unisolated_are_counted",
    ]


def test_the_page_in_the_documentation_is_the_table() -> None:
    page = (ROOT / "docs/profiles.md").read_text()
    assert page == profiles_table(), "say 'make docs'"
