"""The table of messages is consistent, and so is its page in the documentation."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

from numalab.documents import messages_table
from protocol.codec import TABLES
from protocol.schema import ENTRIES, MESSAGES, RETIRED, ROWS, Message, Row, message

ROOT = Path(__file__).parent.parent
EVERY_ROW = [pytest.param(row, id=row.name) for row in MESSAGES.values()]


def test_numbers_are_unique_and_none_is_used_again() -> None:
    sources = [Path(str(half.__file__)).read_text() for half in TABLES]
    numbers = [
        decorator.args[0].value
        for node in (node for source in sources for node in ast.parse(source).body)
        if isinstance(node, ast.ClassDef)
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call) and isinstance(decorator.args[0], ast.Constant)
    ]
    assert [number for number, times in Counter(numbers).items() if times > 1] == []
    assert set(numbers) == set(MESSAGES)
    assert RETIRED.isdisjoint(MESSAGES)


def test_a_number_that_is_taken_cannot_be_entered_again() -> None:
    with pytest.raises(AssertionError, match="opcode 0x1 is taken"):
        message(0x01, "any>any")(type("Twin", (Message,), {"__doc__": "Another Done."}))


def test_both_directions_of_the_table_agree() -> None:
    both = [*MESSAGES.values(), *ENTRIES.values()]
    assert {row.cls: row for row in both} == ROWS
    assert len({row.name for row in MESSAGES.values()}) == len(MESSAGES)


@pytest.mark.parametrize("row", EVERY_ROW)
def test_a_row_is_complete(row: Row) -> None:
    assert row.meaning.endswith((".", "?", ")")), f"{row.name}: no sentence says what it means"
    roles = {"any", "client", "coordinator", "node"}
    assert row.asker in roles and row.answerer in roles, f"{row.name}: who asks whom?"
    names = [name for name, _ in row.scalars + row.arrays] + ([row.data] if row.data else [])
    assert sorted(names) == sorted(row.cls.__annotations__), f"{row.name}: a field has no type"
    if row.data:
        assert list(row.cls.__annotations__)[-1] == row.data, f"{row.name}: contents come last"


@pytest.mark.parametrize("row", EVERY_ROW)
def test_the_answer_of_a_question_is_an_answer(row: Row) -> None:
    if row.answer is None:
        assert not row.idempotent, f"{row.name} is no question"
        return
    (answer,) = [other for other in MESSAGES.values() if other.name == row.answer]
    assert answer.answer is None, f"{row.name} is answered by the question {answer.name}"
    for says, hears in ((answer.asker, row.answerer), (answer.answerer, row.asker)):
        assert "any" in (says, hears) or says == hears, f"{row.name}: {answer.name} by {says}"


def test_the_page_in_the_documentation_is_the_table() -> None:
    committed = (ROOT / "docs" / "messages.md").read_text()
    assert committed == messages_table(), "run: make docs"
