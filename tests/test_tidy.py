"""Rules about the code, read off its syntax trees: which line broke which, what to use instead.

A rule takes one source file and yields a complaint for each line that breaks it.  Every rule has a
test that feeds it a bad snippet, so that a rule that sees nothing is noticed.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = ("protocol", "nodes", "coordinator", "numalab")
#: Shells: they start a process around a Core and are bound by no rule about pure files.
SHELLS = ("nodes/__main__.py", "coordinator/__main__.py")

FUNCTION_LINES = 60
FILE_LINES = 400
COLUMNS = 100
VAGUE_NAMES = ("utils", "common", "base", "helpers", "manager")
UNFINISHED = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b")
#: A line may run over for these alone, as the tools that read them want them on the line.
PRAGMA = re.compile(r"  # (type: ignore|noqa|pragma:).*$")

IMPURE = {
    "trio": "leave waiting to protocol/live/driver.py",
    "zmq": "return a Send effect",
    "prometheus_client": "return a Report effect and add a row to protocol/metrics.py",
    "sqlite3": "return a Record effect",
    "time": "use the 'now' that handle() is given",
    "datetime": "use the 'now' that handle() is given",
    "random": "take what must be random as an argument",
    "os": "take what comes from the system as an argument",
    "logging": "return a Report effect",
    "threading": "leave threads to protocol/live",
}
#: Only these files may see the library.
OWNERS = {
    "msgpack": ("protocol/codec.py",),
    "zmq": ("protocol/live/", "numalab/bench/raw.py"),
    "sqlite3": ("protocol/live/",),
    "prometheus_client": ("protocol/live/",),
}
#: What each part of the project may import of the project.
MAY_SEE = {
    "pure protocol": ("protocol",),
    "live": ("protocol", "protocol.live"),
    "nodes": ("protocol", "nodes"),
    "coordinator": ("protocol", "coordinator"),
    "nodes shell": ("protocol", "protocol.live", "nodes"),
    "coordinator shell": ("protocol", "protocol.live", "coordinator"),
}


@dataclass(frozen=True)
class Source:
    """One file of the project; ``path`` is relative to its root."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @property
    def part(self) -> str:
        top = PurePosixPath(self.path).parts[0]
        if self.path.startswith("protocol/live/"):
            return "live"
        if self.path in SHELLS:
            return f"{top} shell"
        return "pure protocol" if top == "protocol" else top

    @property
    def pure(self) -> bool:
        return self.part in ("pure protocol", "nodes", "coordinator")

    def imports(self) -> Iterator[tuple[int, str]]:
        """Line and dotted name of everything imported; ``from a import b`` gives ``a.b``."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                parents = PurePosixPath(self.path).parts[: -node.level] if node.level else ()
                module = ".".join([*parents, *([node.module] if node.module else [])])
                yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


Complaint = tuple[int, str]
Rule = Callable[[Source], Iterator[Complaint]]


def is_of(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


# ---- rules ---------------------------------------------------------------------------------


def pure_files_import_nothing_impure(source: Source) -> Iterator[Complaint]:
    if source.pure:
        for line, name in source.imports():
            instead = IMPURE.get(name.partition(".")[0])
            if instead:
                yield line, f"a pure file imports {name}: {instead}"


def libraries_stay_with_their_owners(source: Source) -> Iterator[Complaint]:
    if source.part != "tests":
        for line, name in source.imports():
            owners = OWNERS.get(name.partition(".")[0])
            if owners and not source.path.startswith(owners):
                yield line, f"imports {name}: only {' and '.join(owners)} may"


def packages_see_only_what_they_may(source: Source) -> Iterator[Complaint]:
    may_see = MAY_SEE.get(source.part)
    if may_see is None:
        return
    for line, name in source.imports():
        package = "protocol.live" if is_of(name, "protocol.live") else name.partition(".")[0]
        if package in (*PROJECT, "tests", "protocol.live") and package not in may_see:
            yield (
                line,
                (
                    f"{source.part} imports {name}: it may see {', '.join(may_see)}; "
                    "move what both need to protocol/"
                ),
            )


def pure_files_do_not_wait(source: Source) -> Iterator[Complaint]:
    if source.pure:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.AsyncFunctionDef):
                yield node.lineno, f"async def {node.name}: a Core never waits; return effects"


def pure_files_do_not_print(source: Source) -> Iterator[Complaint]:
    if source.pure:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Call) and is_name(node.func, "print"):
                yield node.lineno, "print(): return a Report effect"


def pure_files_do_not_iterate_over_a_set(source: Source) -> Iterator[Complaint]:
    if source.pure:
        for node in ast.walk(source.tree):
            if any(is_set(expression) for expression in iterated(node)):
                assert isinstance(node, ast.expr | ast.stmt | ast.comprehension)
                line = node.iter.lineno if isinstance(node, ast.comprehension) else node.lineno
                yield line, "iterates over a set, whose order is nobody's: use sorted(...)"


def is_name(node: ast.AST, *names: str) -> bool:
    return isinstance(node, ast.Name) and node.id in names


def is_set(node: ast.expr) -> bool:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr | ast.BitAnd | ast.Sub):
        return is_set(node.left) or is_set(node.right)
    called = isinstance(node, ast.Call) and is_name(node.func, "set", "frozenset")
    return called or isinstance(node, ast.Set | ast.SetComp)


def iterated(node: ast.AST) -> list[ast.expr]:
    """The expressions whose order ``node`` lets through."""
    if isinstance(node, ast.For | ast.comprehension):
        return [node.iter]
    if isinstance(node, ast.Starred):
        return [node.value]
    if isinstance(node, ast.Call) and is_name(node.func, "list", "tuple", "enumerate", "iter"):
        return node.args
    return []


def functions_are_short(source: Source) -> Iterator[Complaint]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines >= FUNCTION_LINES:
                yield (
                    node.lineno,
                    f"{node.name} has {lines} lines, fewer than {FUNCTION_LINES} may be: "
                    "give a part of it a name of its own",
                )


def files_are_short(source: Source) -> Iterator[Complaint]:
    lines = len(source.text.splitlines())
    if lines >= FILE_LINES:
        yield (
            lines,
            f"the file has {lines} lines, fewer than {FILE_LINES} may be: "
            "find the second subject and give it a file",
        )


def lines_are_short(source: Source) -> Iterator[Complaint]:
    for number, line in enumerate(source.text.splitlines(), start=1):
        columns = len(PRAGMA.sub("", line))
        if columns > COLUMNS:
            yield number, f"{columns} columns, {COLUMNS} may be: break the line"


def names_of_files_say_something(source: Source) -> Iterator[Complaint]:
    for part in PurePosixPath(source.path).with_suffix("").parts:
        if part.removeprefix("test_") in VAGUE_NAMES:
            yield 1, f"a file or folder is called {part}: name it after its subject"


def nothing_is_left_for_later(source: Source) -> Iterator[Complaint]:
    for number, line in enumerate(source.text.splitlines(), start=1):
        match = UNFINISHED.search(line)
        if match:
            yield number, f"{match[1]}: finish it, or say in the changelog that it is not there"


RULES: tuple[Rule, ...] = (
    pure_files_import_nothing_impure,
    libraries_stay_with_their_owners,
    packages_see_only_what_they_may,
    pure_files_do_not_wait,
    pure_files_do_not_print,
    pure_files_do_not_iterate_over_a_set,
    functions_are_short,
    files_are_short,
    lines_are_short,
    names_of_files_say_something,
    nothing_is_left_for_later,
)


# ---- the project keeps them ----------------------------------------------------------------


def sources() -> list[Source]:
    return [
        Source(path.relative_to(ROOT).as_posix(), path.read_text())
        for folder in (*PROJECT, "grafana", "tests")
        for path in sorted((ROOT / folder).rglob("*.py"))
    ]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_project_keeps_the_rule(rule: Rule) -> None:
    found = [f"{s.path}:{line}: {text}" for s in sources() for line, text in rule(s)]
    assert not found, "\n" + "\n".join(found)


def test_the_project_was_found() -> None:
    paths = {source.path for source in sources()}
    assert {"protocol/core.py", "protocol/codec.py", "tests/test_tidy.py"} <= paths


# ---- every rule sees what it is there for --------------------------------------------------

BAD: list[tuple[Rule, str, str, int]] = [
    (pure_files_import_nothing_impure, "nodes/zone.py", "import os.path", 1),
    (
        pure_files_import_nothing_impure,
        "protocol/bulk.py",
        "import numpy\nfrom time import time",
        2,
    ),
    (pure_files_import_nothing_impure, "coordinator/mm.py", "def f():\n    import random", 2),
    (libraries_stay_with_their_owners, "protocol/session.py", "import msgpack", 1),
    (libraries_stay_with_their_owners, "protocol/live/driver.py", "from msgpack import packb", 1),
    (libraries_stay_with_their_owners, "numalab/cli.py", "import zmq", 1),
    (libraries_stay_with_their_owners, "nodes/__main__.py", "import sqlite3", 1),
    (packages_see_only_what_they_may, "nodes/node.py", "from coordinator.mm import Mm", 1),
    (packages_see_only_what_they_may, "coordinator/mm.py", "import nodes.zone", 1),
    (packages_see_only_what_they_may, "protocol/core.py", "from protocol.live import driver", 1),
    (packages_see_only_what_they_may, "protocol/core.py", "from .live.driver import Driver", 1),
    (packages_see_only_what_they_may, "protocol/live/driver.py", "import numalab.cli", 1),
    (packages_see_only_what_they_may, "nodes/__main__.py", "import coordinator.coordinator", 1),
    (packages_see_only_what_they_may, "coordinator/mm.py", "from tests import story", 1),
    (pure_files_do_not_wait, "nodes/node.py", "class C:\n    async def f(self): ...", 2),
    (pure_files_do_not_print, "coordinator/mm.py", "x = 1\nprint(x)", 2),
    (pure_files_do_not_iterate_over_a_set, "protocol/a.py", "for x in {1, 2}:\n    pass", 1),
    (pure_files_do_not_iterate_over_a_set, "protocol/a.py", "y = [x for x in set(z)]", 1),
    (pure_files_do_not_iterate_over_a_set, "protocol/a.py", "y = list({x for x in z})", 1),
    (pure_files_do_not_iterate_over_a_set, "protocol/a.py", "y = (*frozenset(z),)", 1),
    (pure_files_do_not_iterate_over_a_set, "protocol/a.py", "for x in set(a) - b:\n    pass", 1),
    (functions_are_short, "numalab/a.py", "def f():\n" + "    x = 1\n" * 59, 1),
    (files_are_short, "tests/test_a.py", "x = 1\n" * 400, 400),
    (lines_are_short, "protocol/a.py", "\n# " + "x" * 99, 2),
    (names_of_files_say_something, "numalab/utils.py", "", 1),
    (names_of_files_say_something, "nodes/common/zone.py", "", 1),
    (names_of_files_say_something, "tests/test_helpers.py", "", 1),
    (nothing_is_left_for_later, "tests/test_a.py", "x = 1  # TO" + "DO: more", 1),
    (nothing_is_left_for_later, "numalab/a.py", '"""FIX' + 'ME"""', 1),
]


@pytest.mark.parametrize(("rule", "path", "text", "line"), BAD)
def test_a_bad_line_is_caught(rule: Rule, path: str, text: str, line: int) -> None:
    complaints = list(rule(Source(path, text)))
    assert [number for number, _ in complaints] == [line]


GOOD: list[tuple[Rule, str, str]] = [
    (pure_files_import_nothing_impure, "nodes/__main__.py", "import os"),
    (pure_files_import_nothing_impure, "protocol/live/driver.py", "import trio"),
    (pure_files_import_nothing_impure, "nodes/zone.py", "import timeit_like"),
    (libraries_stay_with_their_owners, "protocol/codec.py", "import msgpack"),
    (libraries_stay_with_their_owners, "numalab/bench/raw.py", "import zmq"),
    (packages_see_only_what_they_may, "nodes/node.py", "from protocol.core import Send"),
    (packages_see_only_what_they_may, "nodes/__main__.py", "from protocol.live import driver"),
    (packages_see_only_what_they_may, "numalab/simulation/world.py", "import nodes, coordinator"),
    (pure_files_do_not_wait, "numalab/machine.py", "async def f(): ..."),
    (pure_files_do_not_iterate_over_a_set, "protocol/a.py", "for x in sorted({1, 2}): pass"),
    (pure_files_do_not_iterate_over_a_set, "protocol/a.py", "y = 1 in {1, 2}"),
    (functions_are_short, "numalab/a.py", "def f():\n" + "    x = 1\n" * 58),
    (files_are_short, "tests/test_a.py", "x = 1\n" * 399),
    (lines_are_short, "protocol/a.py", "x" * 99 + "  # type: ignore[misc]"),
    (names_of_files_say_something, "numalab/basement.py", ""),
]


@pytest.mark.parametrize(("rule", "path", "text"), GOOD)
def test_a_good_line_is_let_through(rule: Rule, path: str, text: str) -> None:
    assert list(rule(Source(path, text))) == []


def test_every_rule_has_a_bad_example() -> None:
    assert {rule for rule, *_ in BAD} == set(RULES)
