"""Whatever a user's method raises is the failure of its own call, and the machine goes on."""

from __future__ import annotations

import errno
from collections.abc import Callable, Generator
from typing import Any

import pytest

from coordinator.calls import Ask
from coordinator.extensions import Extensions, GuardedMigrate
from coordinator.vm_operations import new_extensions
from protocol.messages import CountZone
from protocol.notes import ExtensionFailed
from protocol.schema import node_name
from protocol.topology import Topology
from tests.calls import migration
from tests.lab import PAGE, Lab


class Rude(BaseException):
    """What no `except Exception` catches, and what raises when it is asked what it says."""

    def __str__(self) -> str:
        raise KeyboardInterrupt


#: What is raised, and what the note says of it.
RAISED = {
    "interrupt": (KeyboardInterrupt("enough"), "KeyboardInterrupt: enough"),
    "exit": (SystemExit(3), "SystemExit: 3"),
    "generator exit": (GeneratorExit(), "GeneratorExit:"),
    "rude": (Rude(), "Rude: <KeyboardInterrupt in its __str__>"),
}
each = pytest.mark.parametrize("name", RAISED)


def raising(error: BaseException) -> Callable[..., Any]:
    def function(*_: Any) -> Any:
        raise error

    return function


def asking(error: BaseException | None = None) -> Callable[..., Any]:
    def hook(*_: Any) -> Generator[Any, Any, int]:
        yield [Ask(node_name(nid), CountZone()) for nid in (0, 1)]
        if error is not None:
            raise error
        return 0

    return hook


def raises_when_closed(*_: Any) -> Generator[Any, Any, Any]:
    try:
        yield "nonsense"
    finally:
        raise KeyboardInterrupt


def lab_with(load: Callable[[Extensions], None]) -> Lab:
    topology = Topology.uniform(2, 256 * PAGE, page_size=PAGE)
    extensions = new_extensions(topology)
    load(extensions)
    return Lab(topology=topology, extensions=extensions)


def failing_alone(lab: Lab, said: str, new_page: str = "") -> None:
    """A migration of [mine] fails with EIO and a note; another task's memory moves."""
    pid, other = lab.spawn(), lab.spawn()
    start, plain = lab.mapped(pid, 2, name="[mine]"), lab.mapped(other, 1)
    assert lab.call(migration(pid, pid, (0,), (1,), new_page)) == -errno.EIO
    assert lab.where(pid, start, 2) == [0, 0]
    [note] = lab.noted(ExtensionFailed)
    assert note.error.startswith(said) and __file__ in note.where
    assert lab.migrate(other, 0, 1) == 0 and lab.where(other, plain) == [1]
    lab.validate()


@each
def test_a_vma_method_that_raises(name: str) -> None:
    error, said = RAISED[name]
    failing_alone(lab_with(lambda m: m.vm_ops("[mine]", migrate=raising(error))), said)


@each
def test_a_vma_method_that_raises_before_its_questions_are_answered(name: str) -> None:
    error, said = RAISED[name]
    failing_alone(lab_with(lambda m: m.vm_ops("[mine]", migrate=asking(error))), said)


def test_a_vma_method_that_raises_when_it_is_closed() -> None:
    lab = lab_with(lambda m: m.vm_ops("[mine]", migrate=raises_when_closed))
    failing_alone(lab, "KeyboardInterrupt:")


@each
def test_a_new_page_that_raises(name: str) -> None:
    error, said = RAISED[name]
    failing_alone(lab_with(lambda m: m.new_page("mine", raising(error))), said, "mine")


@each
def test_a_migratepage_that_raises_fails_its_pages(name: str) -> None:
    error, said = RAISED[name]
    lab = lab_with(lambda m: m.a_ops("[mine]", migratepage=raising(error)))
    pid = lab.spawn()
    start, plain = lab.mapped(pid, 2, name="[mine]"), lab.mapped(pid, 3)
    assert lab.migrate(pid, 0, 1) == 2
    assert lab.where(pid, start, 2) == [0, 0] and lab.where(pid, plain, 3) == [1] * 3
    assert lab.noted(ExtensionFailed)[0].error.startswith(said)
    lab.validate()


def test_a_call_that_is_dropped_while_its_method_waits_is_no_failure_of_the_method() -> None:
    """As when the process ends: the generators are closed, and nothing may be told or asked."""
    lab = Lab(nodes=2)
    pid = lab.spawn()
    vma = lab.vma(pid, lab.mmap(pid, 1))
    method = GuardedMigrate("mine", lab.memory, asking())
    call = method(lab.memory, vma, frozenset(), frozenset(), 0)
    assert isinstance(next(call), list)
    call.close()
    assert not lab.memory.notes
