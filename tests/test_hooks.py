"""migrate_vmas: what the methods of vmas are asked, and what their answers do (K 2.1 - 2.7)."""

from __future__ import annotations

import errno
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from coordinator.calls import PARKED, Ask, Reply, ask_all
from coordinator.extensions import Extensions
from coordinator.mm import UNCACHED, VmOperations
from coordinator.vm_operations import new_extensions
from nodes.zone import PAGEVEC_SIZE
from numalab.constants import MPOL_BIND
from protocol.messages import (
    CountZone,
    Done,
    IsolateLruPage,
    NewPages,
    PutPages,
    ZoneCount,
)
from protocol.notes import ExtensionFailed
from protocol.profile import MODERN, SEED
from protocol.schema import node_name
from protocol.topology import Topology
from tests.calls import binding, migration
from tests.lab import PAGE, READ, Lab

NAMES = ["a", "b", "c", "d"]
MOVE = 2


class Script:
    """The hooks of four vmas: they write down that they ran, and answer as told (else 0)."""

    def __init__(self, **answers: int) -> None:
        self.ran: list[str] = []
        self.answers = answers

    def __call__(self, memory: Any, vma: Any, old: Any, new: Any, flags: int) -> int:
        self.ran.append(vma.name)
        return self.answers.get(vma.name, 0)

    def lab(self, **settings: Any) -> Lab:
        return Lab(vm_operations={name: VmOperations(self) for name in NAMES}, **settings)


def task_with_all(lab: Lab) -> tuple[int, list[int]]:
    """A task with a page in each of the four vmas, mapped in no order, and a plain one."""
    pid = lab.spawn()
    at = {name: 0x100 * (n + 1) for n, name in enumerate(NAMES)}
    for name in ("c", "a", "d", "b"):
        lab.mapped(pid, 1, name=name, at=at[name])
    return pid, [*at.values(), lab.mapped(pid, 1, at=0x900)]


def nodes_of(lab: Lab, pid: int, starts: list[int]) -> list[int]:
    return [lab.where(pid, start)[0] for start in starts]


@pytest.mark.parametrize("profile", [SEED, MODERN])
@pytest.mark.parametrize("fails", range(4))
def test_the_first_error_is_the_answer_and_no_page_moves(fails: int, profile: Any) -> None:
    # K 2.2, 2.5.
    hooks = Script(**{NAMES[fails]: -errno.EPERM})
    lab = hooks.lab(profile=profile)
    pid, starts = task_with_all(lab)
    assert lab.migrate(pid, 0, 1) == -errno.EPERM
    assert hooks.ran == NAMES[: fails + 1], "in address order, and none after it"
    assert nodes_of(lab, pid, starts) == [0] * 5 and not lab.asked(IsolateLruPage)
    lab.validate()


def test_a_positive_answer_ends_it_with_zero_and_moves_nothing() -> None:
    # K 2.5.
    hooks = Script(b=7)
    lab = hooks.lab()
    pid, starts = task_with_all(lab)
    assert lab.migrate(pid, 0, 1) == 0
    assert hooks.ran == ["a", "b"] and nodes_of(lab, pid, starts) == [0] * 5


def test_zero_from_all_is_an_ordinary_migration_of_their_vmas_too() -> None:
    # K 2.5, 2.7.
    hooks = Script()
    lab = hooks.lab()
    pid, starts = task_with_all(lab)
    assert lab.migrate(pid, 0, 1) == 0
    assert hooks.ran == NAMES and nodes_of(lab, pid, starts) == [1] * 5


def test_what_hooks_did_before_an_error_stays_done() -> None:
    """K 2.6: uncached memory below has moved; the hook above it fails."""
    hooks = Script(d=-errno.EBUSY)
    lab = hooks.lab()
    pid, _ = task_with_all(lab)
    low = lab.mmap(pid, 16, shared=True, name=UNCACHED, at=0x10)
    lab.write(pid, low, 5)
    assert lab.migrate(pid, 0, 1) == -errno.EBUSY
    assert lab.vma(pid, low).nid[0] == 1 and lab.read(pid, low) == 5


def test_mbind_and_move_pages_ask_no_hook() -> None:
    # K 2.1.
    hooks = Script(a=-errno.EPERM)
    lab = hooks.lab()
    pid, starts = task_with_all(lab)
    assert lab.move(pid, starts[:1], [2]).status.tolist() == [2]
    assert lab.call(binding(pid, 0x200 * PAGE, PAGE, MPOL_BIND, (3,), MOVE)) == 0
    assert nodes_of(lab, pid, starts) == [2, 3, 0, 0, 0] and not hooks.ran


def test_the_last_vma_is_never_asked_where_that_is_played() -> None:
    # K 2.4.
    hooks = Script(d=-errno.EPERM)
    lab = hooks.lab(profile=replace(SEED, name="quirk", last_vma_skipped=True))
    pid = lab.spawn()
    lab.mapped(pid, 1, name="d", at=0x100)
    assert lab.migrate(pid, 0, 1) == 0 and not hooks.ran
    lab.mapped(pid, 1, at=0x200)
    assert lab.migrate(pid, 1, 0) == -errno.EPERM and hooks.ran == ["d"]


def test_uncached_memory_that_is_the_last_vma_stays_where_that_is_played() -> None:
    lab = Lab(profile=replace(SEED, name="quirk", last_vma_skipped=True))
    pid = lab.spawn()
    start = lab.mmap(pid, 16, shared=True, name=UNCACHED)
    lab.write(pid, start, 5)
    assert lab.migrate(pid, 0, 1) == 0 and lab.vma(pid, start).nid[0] == 0


def test_a_hook_that_waits_for_a_node_holds_mmap_sem_and_faults_go_on() -> None:
    def asks(memory: Any, vma: Any, old: Any, new: Any, flags: int) -> Generator[Any, Any, Any]:
        [count] = yield from ask_all([Ask(node_name(1), CountZone())])
        assert isinstance(count, ZoneCount)
        return -errno.ENOMEM if count.free < 256 else 0

    lab = Lab(vm_operations={"a": VmOperations(asks)})
    pid = lab.spawn()
    start = lab.mapped(pid, 2, name="a")
    lab.hold_back(CountZone)
    call = lab.start(migration(0, pid, (0,), (1,)))
    lab.run()
    assert lab.read(pid, start) == 0 and lab.answer_to(call) is None
    assert lab.memory.tasks[pid].mm.mmap_sem.readers == 1
    lab.let_go(CountZone)
    assert answer(lab, call) == 0 and lab.where(pid, start, 2) == [1, 1]
    lab.mapped(lab.spawn(cpu=2), 1, cpu=1)
    lab.migrate(pid, 1, 0)
    assert lab.migrate(pid, 0, 1) == -errno.ENOMEM


# ---- methods of users' files that are wrong ------------------------------------------------


def lab_with(load: Callable[[Extensions], None]) -> Lab:
    """A machine into which a file with this ``register`` was loaded."""
    topology = Topology.uniform(4, 256 * PAGE, page_size=PAGE)
    extensions = new_extensions(topology)
    load(extensions)
    return Lab(topology=topology, extensions=extensions)


def answer(lab: Lab, call: int) -> int:
    done = lab.answer_to(call)
    assert isinstance(done, Done)
    return done.value


def raises(*_: Any) -> Any:
    return 1 // 0


def gives(value: Any) -> Callable[..., Any]:
    return lambda memory, vma, old, new, flags: value


def steps(*, asks: Any = (), ends: Any = None) -> Callable[..., Any]:
    def hook(memory: Any, vma: Any, old: Any, new: Any, flags: int) -> Generator[Any, Any, Any]:
        yield asks
        return ends() if ends else 0

    return hook


def asks_and_raises(*_: Any) -> Generator[Any, Any, Any]:
    reply = yield [Ask(node_name(nid), CountZone()) for nid in (0, 1, 2)]
    assert isinstance(reply, Reply)
    raise KeyError("in the middle")


def exits(*_: Any) -> Any:
    raise SystemExit(3)


WRONG: dict[str, tuple[Callable[..., Any], str]] = {
    "raises": (raises, "ZeroDivisionError"),
    "exits": (exits, "SystemExit"),
    "gives nothing": (gives(None), "TypeError"),
    "gives a text": (gives("0"), "TypeError"),
    "gives no errno": (gives(-70000), "ValueError"),
    "yields nonsense": (steps(asks="what?"), "TypeError"),
    "yields a number": (steps(asks=5), "TypeError"),
    "waits for nothing": (steps(asks=()), "RuntimeError"),
    "asks nobody": (steps(asks=[Ask("node9", CountZone())]), "ValueError"),
    "asks a node for what it does not answer": (
        steps(asks=[Ask(node_name(0), migration(0, 1, (), ()))]),
        "ValueError",
    ),
    "leaves before the answers": (
        steps(asks=[Ask(node_name(nid), CountZone()) for nid in (0, 1)]),
        "RuntimeError",
    ),
    "raises before the answers": (asks_and_raises, "KeyError"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_hook_that_is_wrong_fails_its_call_alone(name: str) -> None:
    hook, error = WRONG[name]
    lab = lab_with(lambda machine: machine.vm_ops("[mine]", migrate=hook))
    pid, other = lab.spawn(), lab.spawn()
    start, plain = lab.mapped(pid, 1, name="[mine]"), lab.mapped(other, 1)
    assert lab.migrate(pid, 0, 1) == -errno.EIO
    assert lab.where(pid, start) == [0]
    [note] = lab.noted(ExtensionFailed)
    assert note.method == "vm_ops->migrate of '[mine]'" and note.error.startswith(error)
    assert __file__ in note.where
    assert lab.migrate(other, 0, 1) == 0 and lab.where(other, plain) == [1]
    lab.validate()


def test_the_note_names_the_line_that_raised() -> None:
    lab = lab_with(lambda machine: machine.vm_ops("[mine]", migrate=raises))
    pid = lab.spawn()
    lab.mmap(pid, 1, name="[mine]")
    lab.migrate(pid, 0, 1)
    line = raises.__code__.co_firstlineno + 1
    assert lab.noted(ExtensionFailed)[0].where == f"{__file__}, line {line}"


def test_a_hook_may_park() -> None:
    looked: list[bool] = []

    def waits(memory: Any, vma: Any, old: Any, new: Any, flags: int) -> Generator[Any, Any, Any]:
        while len(memory.tasks) < 2:
            looked.append(True)
            yield PARKED
        return 0

    lab = lab_with(lambda machine: machine.vm_ops("[mine]", migrate=waits))
    pid = lab.spawn()
    lab.mmap(pid, 1, name="[mine]")
    call = lab.start(migration(0, pid, (0,), (1,)))
    assert lab.answer_to(call) is None and looked
    lab.mapped(lab.spawn(), 1)
    assert answer(lab, call) == 0


@pytest.mark.parametrize(
    "method",
    [
        raises,
        lambda mapping, pages: None,
        lambda mapping, pages: 0,
        lambda mapping, pages: np.zeros(pages + 1, np.int32),
        lambda mapping, pages: np.zeros(pages),
        lambda mapping, pages: np.full(pages, -errno.ENOMEM),
        lambda mapping, pages: np.full(pages, -errno.ENODEV),
        lambda mapping, pages: np.full(pages, 1),
        lambda mapping, pages: np.full(pages, 1 << 40),
    ],
)
def test_a_migratepage_that_is_wrong_fails_its_pages_with_eio(method: Callable[..., Any]) -> None:
    lab = lab_with(lambda machine: machine.a_ops("[mine]", migratepage=method))
    pid = lab.spawn()
    start, plain = lab.mapped(pid, 2, name="[mine]"), lab.mapped(pid, 3)
    assert lab.migrate(pid, 0, 1) == 2
    assert lab.where(pid, start, 2) == [0, 0] and lab.where(pid, plain, 3) == [1] * 3
    assert lab.move(pid, [start], [1]).status.tolist() == [-errno.EIO]
    assert lab.noted(ExtensionFailed)[0].method == "a_ops->migratepage of '[mine]'"
    lab.validate()


def test_migratepage_answers_page_by_page_and_again_is_another_pass() -> None:
    times: list[int] = []

    def second_try(mapping: Any, pages: int) -> list[int]:
        times.append(pages)
        return [-errno.EAGAIN if len(times) == 1 else 0] * pages

    lab = lab_with(lambda machine: machine.a_ops("[mine]", migratepage=second_try))
    pid = lab.spawn()
    start = lab.mapped(pid, 3, name="[mine]")
    assert lab.migrate(pid, 0, 1) == 0 and lab.where(pid, start, 3) == [1] * 3
    assert times == [3, 3]


# ---- new_page_t by name --------------------------------------------------------------------


def migrate_by(lab: Lab, pid: int, name: str) -> int:
    return lab.call(migration(0, pid, (0,), (1,), name))


def test_a_loaded_new_page_chooses_the_node_of_each_page() -> None:
    def ring(pagelist: Any, rows: Any, private: Any) -> Any:
        assert private == 1 and (pagelist.source[rows] == 0).all()
        return pagelist.page[rows] % 4

    lab = lab_with(lambda machine: machine.new_page("ring", ring))
    pid = lab.spawn()
    start = lab.mapped(pid, PAGEVEC_SIZE, at=0x100)
    assert migrate_by(lab, pid, "ring") == 0
    assert lab.where(pid, start, 8) == [0, 1, 2, 3] * 2
    lab.migrate(pid, (0, 1, 2, 3), 0)
    assert lab.migrate(pid, 0, 1) == 0 and lab.where(pid, start, 3) == [1] * 3
    lab.validate()


def test_minus_one_is_no_page_and_ends_with_enomem() -> None:
    def none(pagelist: Any, rows: Any, private: Any) -> Any:
        return np.full(rows.size, -1)

    lab = lab_with(lambda machine: machine.new_page("none", none))
    pid = lab.spawn()
    start = lab.mapped(pid, 3)
    assert migrate_by(lab, pid, "none") == -errno.ENOMEM and lab.where(pid, start) == [0]
    assert not lab.noted(ExtensionFailed)


def test_a_name_that_was_not_loaded_is_einval() -> None:
    lab = Lab()
    pid = lab.spawn()
    lab.mapped(pid, 1)
    assert migrate_by(lab, pid, "ring") == -errno.EINVAL
    assert not lab.asked(NewPages, "node1") and not lab.asked(PutPages)


@pytest.mark.parametrize(
    "function",
    [
        raises,
        lambda pagelist, rows, private: None,
        lambda pagelist, rows, private: private,
        lambda pagelist, rows, private: [0.5] * rows.size,
        lambda pagelist, rows, private: [9] * rows.size,
        lambda pagelist, rows, private: [-2] * rows.size,
    ],
)
def test_a_new_page_that_is_wrong_fails_its_call_with_eio(function: Callable[..., Any]) -> None:
    lab = lab_with(lambda machine: machine.new_page("mine", function))
    pid = lab.spawn()
    start = lab.mapped(pid, 3)
    lab.write(pid, start, 5)
    assert migrate_by(lab, pid, "mine") == -errno.EIO
    assert lab.noted(ExtensionFailed)[0].method == "new_page 'mine'"
    assert lab.where(pid, start, 3) == [0] * 3 and lab.read(pid, start) == 5
    assert lab.migrate(pid, 0, 1) == 0
    assert not lab.fault(pid, start, access=READ).status.any()
    lab.validate()
