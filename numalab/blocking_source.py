"""``numalab.blocking`` is written from the classes of the Python API: run ``make docs``.

Each public async method becomes one that waits, with the same arguments and the same docstring; a
test holds the files equal to what this module says.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HERE = ROOT / "numalab/blocking"

#: Results that are classes of the API, and what blocks in their place.
WRAPPED = ("Cpusets", "File", "Jobs", "RawCalls", "Task", "Weights")
#: Methods that wait for nothing and are of use to a caller.
PLAIN = ("file", "nodes")


@dataclass(frozen=True, slots=True)
class Wrapper:
    """attributes: name, annotation and docstring of each that is handed through."""

    module: str
    name: str
    docstring: str
    attributes: tuple[tuple[str, str, str], ...] = ()


_MACHINE = Wrapper(
    "machine",
    "Machine",
    "A machine one is connected to; made by ``connect`` or ``local_cluster``.\n\n"
    "    A context manager; ``close`` ends the connection, and a machine that was made for it.",
    (
        ("page_size", "int", "Bytes."),
        ("nids", "tuple[int, ...]", "Its nodes."),
        ("run_directory", "Path | None", "Of a local machine, else None."),
        ("cpusets", "Cpusets", "Its cpuset file system."),
        ("weights", "Weights", "Of WEIGHTED_INTERLEAVE."),
        ("jobs", "Jobs", "Its migration jobs."),
    ),
)
_TASK = Wrapper(
    "task",
    "Task",
    "A thread of execution, on ``cpu``, in the address space of ``pid``.",
    (
        ("pid", "int", "Of the task in its machine."),
        ("cpu", "int", "Where it runs; a cpuset may change that."),
        ("raw", "RawCalls", "The same calls with the arguments that the kernel takes."),
    ),
)
_PARTS = (
    Wrapper("cpusets", "Cpusets", "The cpuset file system: ``machine.cpusets``."),
    Wrapper(
        "files",
        "File",
        "A file, made by ``Machine.create_file`` or found by ``Machine.file``.  Errors: ENOENT.",
        (("path", "str", "Absolute."),),
    ),
    Wrapper("jobs", "Jobs", "The migration jobs: ``machine.jobs``; ``rows`` lists them."),
    Wrapper("raw", "RawCalls", "The calls of one task: ``task.raw``."),
    Wrapper("weights", "Weights", "Of one machine: ``machine.weights``."),
)

_HEAD = '''\
"""Generated from the classes of the same names in ``numalab`` by ``make docs``."""

from __future__ import annotations

'''


def sources() -> dict[str, str]:
    """The generated files by name."""
    return {
        "machine.py": _file((_MACHINE,), _CONNECTING),
        "parts.py": _file(_PARTS),
        "task.py": _file((_TASK,)),
    }


def write() -> None:
    """Write them anew."""
    for name, text in sources().items():
        (HERE / name).write_text(text)


def _file(wrappers: tuple[Wrapper, ...], after: str = "") -> str:
    text = "\n\n".join(map(_class, wrappers)) + after
    return _formatted(f"{_HEAD}{_imports(wrappers, text)}\n\n{text}")


def _formatted(text: str) -> str:
    """As the house has it."""
    for command in (("check", "--select", "I", "--fix", "--quiet"), ("format", "--quiet")):
        arguments = [sys.executable, "-m", "ruff", *command, "--stdin-filename", "blocking.py", "-"]
        told = subprocess.run(
            arguments, input=text, capture_output=True, text=True, check=True, cwd=ROOT
        )
        text = told.stdout
    return text


# ---- one class -----------------------------------------------------------------------------


def _tree(module: str) -> ast.Module:
    return ast.parse((ROOT / "numalab" / f"{module}.py").read_text())


def _class(wrapper: Wrapper) -> str:
    (found,) = (
        node
        for node in _tree(wrapper.module).body
        if isinstance(node, ast.ClassDef) and node.name == wrapper.name
    )
    inner = f"{wrapper.module}.{wrapper.name}"
    lines = [
        f"class {wrapper.name}:",
        f'    """{wrapper.docstring}{_closing(wrapper.docstring)}',
        "",
        f"    def __init__(self, portal: Portal[Any], inner: {inner}) -> None:",
        "        self._portal, self._inner = portal, inner",
        "",
        "    def __repr__(self) -> str:",
        "        return repr(self._inner)",
    ]
    if wrapper is _MACHINE:
        lines += [_CONTEXT.rstrip()]
    for name, annotation, docstring in wrapper.attributes:
        value = _wrap(annotation, f"self._inner.{name}")
        lines += ["", "    @property", f"    def {name}(self) -> {annotation}:"]
        lines += [f'        """{docstring}"""', f"        return {value}"]
    for method in found.body:
        if isinstance(method, ast.AsyncFunctionDef) and not method.name.startswith("_"):
            lines += ["", *_method(method)]
        elif isinstance(method, ast.FunctionDef) and method.name in PLAIN:
            lines += ["", *_method(method)]
    return "\n".join(lines) + "\n"


def _closing(docstring: str) -> str:
    return '\n    """' if "\n" in docstring else '"""'


def _method(method: ast.AsyncFunctionDef | ast.FunctionDef) -> Iterator[str]:
    returns = ast.unparse(method.returns) if method.returns is not None else "None"
    yield f"    def {method.name}({ast.unparse(method.args)}) -> {returns}:"
    docstring = ast.get_docstring(method, clean=False)
    yield f'        """{docstring}"""'
    call = f"self._inner.{method.name}({_arguments(method.args)})"
    if isinstance(method, ast.AsyncFunctionDef):
        call = f"self._portal.run(lambda: {call})"
    yield f"        return {_wrap(returns, call)}" if returns != "None" else f"        {call}"


def _arguments(arguments: ast.arguments) -> str:
    """As they are handed on."""
    names = [argument.arg for argument in arguments.args if argument.arg != "self"]
    if arguments.vararg is not None:
        names.append(f"*{arguments.vararg.arg}")
    return ", ".join([*names, *(f"{a.arg}={a.arg}" for a in arguments.kwonlyargs)])


def _wrap(annotation: str, value: str) -> str:
    return f"{annotation}(self._portal, {value})" if annotation in WRAPPED else value


# ---- what a file imports -------------------------------------------------------------------

_CONTEXT = '''
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; harmless if it has ended."""
        self._portal.close()
'''

_CONNECTING = '''

def connect(
    address: str | Path | None = None,
    *,
    key: bytes | None = None,
    within: float = 5.0,
    resend_max: float = machine.RESEND_MAX,
    pace: float | None = None,
    faults: str = "",
    keys: Keys | None = None,
    fault_around: int = translations.FAULT_AROUND,
) -> Machine:
    """``numalab.connect``: also without ``with``; then ``close`` it."""
    return _open(
        lambda: machine.connect(
            address,
            key=key,
            within=within,
            resend_max=resend_max,
            pace=pace,
            faults=faults,
            keys=keys,
            fault_around=fault_around,
        )
    )


def local_cluster(
    nodes: int = 4,
    memory: str | int = "256M",
    *,
    topology: Topology | None = None,
    run_directory: str | Path | None = None,
    **settings: Any,
) -> Machine:
    """``numalab.local_cluster``: it ends with ``close``, and at the latest with the program."""
    return _open(
        lambda: cluster.local_cluster(
            nodes, memory, topology=topology, run_directory=run_directory, **settings
        )
    )


def _open(manager: Callable[[], AbstractAsyncContextManager[machine.Machine]]) -> Machine:
    portal = Portal(manager)
    return Machine(portal, portal.inner)
'''

#: Names of generated code that are not imported by the module it is generated from.
_KNOWN = {
    "AbstractAsyncContextManager": "contextlib",
    "Any": "typing",
    "Callable": "collections.abc",
    "Portal": "numalab.blocking.portal",
    "Self": "typing",
    "Topology": "protocol.topology",
    "cluster": "numalab",
    "translations": "numalab",
}
#: What is a class of the API there is the class that blocks here.
_BLOCKING = {
    "Cpusets": "numalab.blocking.parts",
    "File": "numalab.blocking.parts",
    "Jobs": "numalab.blocking.parts",
    "RawCalls": "numalab.blocking.parts",
    "Task": "numalab.blocking.task",
    "Weights": "numalab.blocking.parts",
}


def _imports(wrappers: tuple[Wrapper, ...], text: str) -> str:
    used = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    used -= {wrapper.name for wrapper in wrappers}
    found: dict[str, str] = {}
    for wrapper in wrappers:
        found |= {**_imported(wrapper.module), **_KNOWN, **_BLOCKING, wrapper.module: "numalab"}
    lines = [f"from {found[name]} import {name}" for name in sorted(used & found.keys())]
    lines += ["import numpy as np"] * ("np" in used) + ["import numpy.typing as npt"] * (
        "npt" in used
    )
    return "\n".join(lines)


def _imported(module: str) -> dict[str, str]:
    """Names that a module imports or defines, and the module that each is to be had from."""
    names: dict[str, str] = {}
    tree = _tree(module)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module not in (None, "__future__"):
            names |= {alias.name: str(node.module) for alias in node.names}
        elif isinstance(node, ast.ClassDef):
            names[node.name] = f"numalab.{module}"
    for node in tree.body:
        if isinstance(node, ast.Assign):
            names |= {t.id: f"numalab.{module}" for t in node.targets if isinstance(t, ast.Name)}
    return names
