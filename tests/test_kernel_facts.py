"""Every fact that can be seen from outside has a test that names it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.kernel_facts import FACTS, NOT_SEEN, facts_named, naming_tests, page

PAGE = Path(__file__).resolve().parent.parent / "docs/kernel-facts.md"


def test_a_name_and_a_comment_name_facts() -> None:
    assert facts_named("def test_k_4_22_order") == {"4.22"}
    assert facts_named("K 1.5 to 1.7, and (K 4.1, 4.3)") == {"1.5", "1.6", "1.7", "4.1", "4.3"}
    assert facts_named("K 1.9 - 1.10; OK 2.5") == {"1.9", "1.10"}


@pytest.mark.parametrize("number", FACTS)
def test_the_fact_has_a_test(number: str) -> None:
    assert [test.name for test in naming_tests() if number in test.facts], FACTS[number]


def test_no_test_names_a_fact_that_there_is_not() -> None:
    known = FACTS.keys() | NOT_SEEN.keys()
    for test in naming_tests():
        strange = {fact for fact in test.facts if fact[0] in "012345"} - known
        assert not strange, f"{test.file}: {test.name} names {sorted(strange)}"


def test_the_page_in_the_documentation_is_the_table() -> None:
    if os.environ.get("NUMALAB_REWRITE"):
        PAGE.write_text(page())
    assert PAGE.read_text() == page(), "say NUMALAB_REWRITE=1 pytest tests/test_kernel_facts.py"
