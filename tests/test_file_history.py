"""What the checker lets mappings of files, threads and dropped pages give."""

from __future__ import annotations

import errno

import pytest

from numalab.history import History, Operation, Outcome
from numalab.rights import PROT_READ, PROT_WRITE

PAGE = 64
FILE = "/data"
#: Where the tasks map the file shared, and where privately.
SHARED, PRIVATE = 0x7000, 0x9000
RW = PROT_READ | PROT_WRITE


class Machine:
    """A history in which task 1 has page 3 of a file shared, and privately; time goes by."""

    def __init__(self) -> None:
        self.history = History(PAGE)
        self.now = 0.0
        self.history.spawned(1)
        self.map(1, SHARED, shared=True)
        self.map(1, PRIVATE, shared=False)

    def map(self, pid: int, address: int, *, shared: bool) -> None:
        asked = Operation("map", pid, 0, PAGE, prot=RW, shared=shared, file=FILE, pgoff=3)
        self.end(self.begin(asked), value=address)

    def begin(self, operation: Operation) -> Operation:
        self.now += 1
        return self.history.began(operation, self.now)

    def end(self, operation: Operation, error: int = 0, value: int = 0) -> None:
        self.now += 1
        self.history.ended(operation, Outcome(error, value), self.now)

    def store(self, address: int, value: int, pid: int = 1) -> None:
        self.end(self.begin(Operation("store", pid, address, 8, value)))

    def discard(self, address: int, error: int = 0) -> None:
        self.end(self.begin(Operation("discard", 1, address, PAGE)), error)

    def fork(self) -> None:
        self.end(self.begin(Operation("fork", 1)), value=2)

    def may_load(self, address: int, value: int, pid: int = 1) -> bool:
        before = len(self.history.findings)
        self.end(self.begin(Operation("load", pid, address)), value=value)
        return len(self.history.findings) == before

    def words(self) -> dict[tuple[int, int], frozenset[int]]:
        self.now += 1
        return {(pid, address): values for pid, address, values in self.history.words(self.now)}


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_all_who_map_a_page_of_a_file_shared_have_one_word(machine: Machine) -> None:
    machine.history.spawned(2)
    machine.map(2, 0x5000, shared=True)
    machine.store(0x5000, 7, pid=2)
    assert machine.may_load(SHARED, 7) and not machine.may_load(SHARED, 0)


def test_a_private_mapping_sees_the_file_until_the_first_write_to_its_page(
    machine: Machine,
) -> None:
    machine.store(SHARED, 5)
    assert machine.may_load(PRIVATE, 5) and not machine.may_load(PRIVATE, 0)
    machine.store(PRIVATE + 8, 1)
    machine.store(SHARED, 6)
    assert machine.may_load(PRIVATE, 5), "the other words were copied with it"
    assert not machine.may_load(PRIVATE, 6)


def test_what_is_written_privately_is_never_in_the_file(machine: Machine) -> None:
    machine.store(PRIVATE, 5)
    assert machine.may_load(PRIVATE, 5) and not machine.may_load(PRIVATE, 0)
    assert machine.may_load(SHARED, 0) and not machine.may_load(SHARED, 5)


def test_a_copy_is_of_some_moment_of_the_first_write(machine: Machine) -> None:
    write = machine.begin(Operation("store", 1, PRIVATE + 8, 8, 1))
    machine.store(SHARED, 5)
    machine.store(SHARED, 6)
    machine.end(write)
    machine.store(SHARED, 7)
    assert all(machine.may_load(PRIVATE, value) for value in (0, 5, 6))
    assert not machine.may_load(PRIVATE, 7)


def test_a_copy_long_ago_is_not_forgotten(machine: Machine) -> None:
    machine.store(SHARED, 5)
    machine.store(PRIVATE + 8, 1)
    for value in range(100, 200):
        machine.store(SHARED, value)
    assert machine.may_load(PRIVATE, 5) and not machine.may_load(PRIVATE, 150)


def test_a_write_that_nobody_answered_may_have_copied_the_page(machine: Machine) -> None:
    write = machine.begin(Operation("store", 1, PRIVATE + 8, 8, 1))
    machine.history.ended(write, Outcome(errno.EAGAIN, definite=False), machine.now)
    machine.store(SHARED, 5)
    assert machine.may_load(PRIVATE, 0) and machine.may_load(PRIVATE, 5)


def test_a_child_has_the_copy_of_its_parent_or_the_file(machine: Machine) -> None:
    machine.fork()
    machine.store(SHARED, 5)
    assert machine.may_load(PRIVATE, 5, pid=2), "nobody had written before the fork"
    machine.store(PRIVATE, 6, pid=2)
    assert machine.may_load(PRIVATE, 5) and not machine.may_load(PRIVATE, 6)


def test_a_child_of_a_writer_does_not_see_the_file_any_more(machine: Machine) -> None:
    machine.store(PRIVATE, 4)
    machine.fork()
    machine.store(SHARED + 8, 5)
    assert machine.may_load(PRIVATE, 4, pid=2)
    assert machine.may_load(PRIVATE + 8, 0, pid=2)
    assert not machine.may_load(PRIVATE + 8, 5, pid=2)


def test_dropping_a_private_page_shows_the_file_again(machine: Machine) -> None:
    machine.store(SHARED, 5)
    machine.store(PRIVATE, 6)
    machine.discard(PRIVATE)
    assert machine.may_load(PRIVATE, 5) and not machine.may_load(PRIVATE, 6)
    machine.discard(SHARED)
    assert machine.may_load(SHARED, 5), "the file keeps what it has"


def test_dropping_that_failed_half_way_leaves_both(machine: Machine) -> None:
    machine.store(PRIVATE, 6)
    machine.discard(PRIVATE, errno.EINVAL)
    assert machine.may_load(PRIVATE, 6) and machine.may_load(PRIVATE, 0)


def test_mlock_may_copy_a_private_page(machine: Machine) -> None:
    machine.end(machine.begin(Operation("lock", 1, PRIVATE, PAGE)))
    machine.store(SHARED, 5)
    assert machine.may_load(PRIVATE, 0)


def test_a_thread_has_the_memory_of_its_process(machine: Machine) -> None:
    machine.history.cloned(1, 9)
    machine.store(PRIVATE, 6, pid=9)
    assert machine.may_load(PRIVATE, 6) and not machine.may_load(PRIVATE, 0)
    machine.end(machine.begin(Operation("exit", 9)))
    assert machine.may_load(PRIVATE, 6), "the others go on"


def test_at_the_end_every_word_of_file_and_copy_is_known(machine: Machine) -> None:
    machine.store(SHARED, 5)
    assert machine.words()[1, PRIVATE] == {5}
    machine.store(PRIVATE + 8, 6)
    machine.store(SHARED, 7)
    words = machine.words()
    assert words[1, SHARED] == {7} and words[1, PRIVATE] == {5} and words[1, PRIVATE + 8] == {6}
