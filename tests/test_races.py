"""Races between calls on one mm, each chosen by holding a message back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from coordinator.mpol import Mode
from protocol.messages import CopyPages, Done, NewPages, PutPages
from protocol.profile import MODERN
from protocol.syscalls import Exit, Fault, Mprotect, Munmap, Translations
from tests.calls import binding, migration
from tests.lab import PAGE, WRITE, Lab

MOVE = 2


def test_a_fault_on_two_vmas_looks_again_after_it_waited_for_the_first() -> None:
    # 1. One fault names a page of each of two vmas; the frame for the first is long in coming.
    lab = Lab()
    pid = lab.spawn()
    first, second = lab.mmap(pid, 1), lab.mmap(pid, 1, prot=1 | 2, name="/file")
    lab.hold_back(NewPages, "node0")
    both = lab.start(Fault(pid, 0, WRITE, np.array([first, second], np.uint64)))
    # 2. Meanwhile another thread touches the page of the second vma.
    touched = lab.fault(pid, second, cpu=1)
    assert list(touched.nid) == [1]
    assert lab.answer_to(both) is None
    # 3. The first fault must find that page there, and not map a second frame.
    lab.let_go(NewPages)
    found = lab.answer_to(both)
    assert isinstance(found, Translations)
    assert list(found.nid) == [0, 1]
    lab.validate()


def test_who_waited_for_an_exit_finds_no_task() -> None:
    lab = Lab()
    pid = lab.spawn()
    start = lab.mapped(pid, 4)
    lab.hold_back(PutPages)
    leaving = lab.start(Exit(pid))
    unmapping = lab.start(Munmap(pid, start * PAGE, PAGE))
    protecting = lab.start(Mprotect(pid, start * PAGE, PAGE, 1))
    assert lab.answer_to(unmapping) is None
    lab.let_go(PutPages)
    assert [
        answer.value
        for answer in map(lab.answer_to, (leaving, unmapping, protecting))
        if isinstance(answer, Done)
    ] == [0, -3, -3]
    lab.validate()


def test_munmap_behind_an_mbind_that_lets_faults_in_waits_for_its_pages_and_ends() -> None:
    # 1. A migration holds mmap_sem for read; an mbind and, behind it, a munmap want to write.
    lab = Lab(profile=replace(MODERN, mbind_blocks_faults=False))
    pid = lab.spawn()
    lab.mapped(pid, 1, cpu=1)
    bound = lab.mapped(pid, 2)
    lab.hold_back(CopyPages)
    migrating = lab.start(migration(0, pid, (1,), (3,)))
    mbinding = lab.start(binding(pid, bound * PAGE, 2 * PAGE, Mode.BIND, (2,), MOVE))
    lab.run()
    unmapping = lab.start(Munmap(pid, bound * PAGE, 2 * PAGE))
    lab.run()
    # 2. mbind holds the pages that it moves, and munmap waits for them: it must not get in between.
    lab.let_go(CopyPages)
    answers = [lab.answer_to(call) for call in (migrating, mbinding, unmapping)]
    assert [getattr(answer, "value", None) for answer in answers] == [0, 0, 0]
    lab.validate()
