"""Expressions of PromQL taken apart: the selectors in them, and the functions around each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import promql_parser

from grafana.asking import without_macros

#: What Grafana puts in for its macros, as a test may want it.
MACROS = {"$__rate_interval": "20s", "$__interval": "5s", "$__range": "15m"}


class Selector(NamedTuple):
    """A metric that an expression reads.  ``matchers``: (label, operator, value).

    ``functions``: those around it, the innermost first.  ``window``: whether it has one.
    """

    name: str
    matchers: frozenset[tuple[str, str, str]]
    functions: tuple[str, ...]
    window: bool


def selectors(expr: str) -> list[Selector]:
    """Raises ValueError for what is no PromQL."""
    return list(_walk(promql_parser.parse(without_macros(expr, MACROS)), ()))


def _walk(node: Any, functions: tuple[str, ...]) -> Iterator[Selector]:
    if isinstance(node, promql_parser.MatrixSelector):
        yield _selector(node.vector_selector, functions, window=True)
    elif isinstance(node, promql_parser.VectorSelector):
        yield _selector(node, functions, window=False)
    elif isinstance(node, promql_parser.Call):
        for argument in node.args:
            yield from _walk(argument, (node.func.name, *functions))
    elif isinstance(node, promql_parser.BinaryExpr):
        yield from _walk(node.lhs, functions)
        yield from _walk(node.rhs, functions)
    elif hasattr(node, "expr"):
        yield from _walk(node.expr, functions)


def _selector(node: Any, functions: tuple[str, ...], *, window: bool) -> Selector:
    matchers = frozenset(
        (m.name, str(m.op).rpartition(".")[2], m.value) for m in node.matchers.matchers
    )
    return Selector(node.name, matchers, functions, window)
