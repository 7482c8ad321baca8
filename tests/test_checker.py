"""The checker says yes to what a memory may do, and a sentence to everything else."""

from __future__ import annotations

import errno

import numpy as np
import pytest

from nodes.flags import ALLOCATED, ISOLATED, LOCKED, MAPPED
from numalab.checker import (
    Entries,
    Frames,
    Kind,
    Verdict,
    check_conservation,
    check_contents,
    check_leaks,
    check_placement,
    invalid,
    unknown,
    verdict,
)
from numalab.history import History, Operation, Outcome
from numalab.rights import PROT_READ, PROT_WRITE

PAGE = 64
AT = 0x7000
NOBODY_KNOWS = Outcome(errno.EAGAIN, definite=False)


class Machine:
    """A history, told in short words; time goes by with every step."""

    def __init__(self) -> None:
        self.history = History(PAGE)
        self.now = 0.0
        self.history.spawned(1)
        self.map(1)

    def begin(
        self,
        kind: str,
        pid: int,
        address: int = AT,
        *,
        length: int = 0,
        value: int = 0,
        prot: int = 0,
        shared: bool = False,
    ) -> Operation:
        self.now += 1
        operation = Operation(kind, pid, address, length, value, prot, shared)
        return self.history.began(operation, self.now)

    def end(self, operation: Operation, error: int = 0, value: int = 0) -> None:
        self.now += 1
        self.history.ended(operation, Outcome(error, value), self.now)

    def lost(self, operation: Operation) -> None:
        self.now += 1
        self.history.ended(operation, NOBODY_KNOWS, self.now)

    def map(self, pid: int, prot: int = PROT_READ | PROT_WRITE, shared: bool = False) -> None:
        operation = self.begin("map", pid, 0, length=2 * PAGE, prot=prot, shared=shared)
        self.end(operation, value=AT)

    def store(self, pid: int, value: int, error: int = 0) -> None:
        self.end(self.begin("store", pid, value=value), error)

    def load(self, pid: int, value: int, error: int = 0) -> None:
        self.end(self.begin("load", pid), error, value)

    def unmap(self, pid: int) -> None:
        self.end(self.begin("unmap", pid, length=PAGE))

    def fork(self, pid: int, child: int) -> None:
        self.end(self.begin("fork", pid, 0), value=child)

    @property
    def blamed(self) -> str:
        return " ".join(finding.sentence for finding in self.history.findings)


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_a_load_gives_what_was_stored_last(machine: Machine) -> None:
    machine.load(1, 0)
    machine.store(1, 5)
    machine.load(1, 5)
    assert machine.blamed == ""
    machine.load(1, 0)
    assert "gave 0, where it could be 5" in machine.blamed


def test_while_a_store_runs_both_values_may_be_seen_but_not_back_and_forth(
    machine: Machine,
) -> None:
    store = machine.begin("store", 1, value=5)
    machine.load(1, 0)
    machine.load(1, 5)
    assert machine.blamed == ""
    machine.load(1, 0)
    machine.end(store)
    assert machine.blamed != "", "5 was seen, so 0 was gone"


def test_of_two_stores_at_once_one_comes_first_for_everybody(machine: Machine) -> None:
    one, other = machine.begin("store", 1, value=5), machine.begin("store", 1, value=6)
    machine.load(1, 5)
    machine.load(1, 6)
    assert machine.blamed == ""
    machine.load(1, 5)
    assert "gave 5, but 6 was seen before and after that" in machine.blamed
    machine.end(one)
    machine.end(other)


def test_a_store_without_an_answer_may_have_happened_and_once_seen_it_has(
    machine: Machine,
) -> None:
    machine.lost(machine.begin("store", 1, value=5))
    machine.load(1, 0)
    machine.load(1, 5)
    machine.load(1, 5)
    assert machine.blamed == ""
    machine.load(1, 0)
    assert machine.blamed != ""


def test_a_store_that_failed_must_not_be_seen(machine: Machine) -> None:
    machine.store(1, 5, errno.ENOMEM)
    machine.load(1, 5)
    assert "gave 5" in machine.blamed


def test_a_store_that_was_seen_cannot_fail(machine: Machine) -> None:
    store = machine.begin("store", 1, value=5)
    machine.load(1, 5)
    machine.end(store, errno.ENOMEM)
    assert "failed, but 5 was seen" in machine.blamed


def test_after_a_fork_each_side_has_its_own_word(machine: Machine) -> None:
    machine.store(1, 5)
    machine.fork(1, 2)
    machine.store(1, 6)
    machine.store(2, 7)
    machine.load(1, 6)
    machine.load(2, 7)
    assert machine.blamed == ""
    machine.load(2, 6)
    assert "load at 0x7000 of task 2" in machine.blamed and "gave 6" in machine.blamed


def test_a_shared_mapping_is_one_word_for_both(machine: Machine) -> None:
    machine.unmap(1)
    machine.history.spawned(1)
    machine.map(1, shared=True)
    machine.fork(1, 2)
    machine.store(1, 6)
    machine.load(2, 6)
    assert machine.blamed == ""
    machine.load(2, 0)
    assert machine.blamed != ""


def test_a_store_that_races_a_fork_is_in_the_child_or_not_but_for_good(machine: Machine) -> None:
    machine.store(1, 5)
    store = machine.begin("store", 1, value=6)
    machine.fork(1, 2)
    machine.end(store)
    machine.load(1, 6)
    machine.load(2, 5)
    assert machine.blamed == ""
    machine.load(2, 6)
    assert machine.blamed != "", "the child was seen with 5, so the fork came before the store"


def test_a_mapping_that_races_a_fork_may_be_in_the_child(machine: Machine) -> None:
    machine.unmap(1)
    mapping = machine.begin("map", 1, 0, length=PAGE, prot=PROT_READ)
    machine.fork(1, 2)
    machine.end(mapping, value=AT)
    machine.load(2, 0)
    assert machine.blamed == ""


def test_after_munmap_nothing_may_be_read_and_during_it_either(machine: Machine) -> None:
    unmap = machine.begin("unmap", 1, length=PAGE)
    machine.load(1, 0)
    machine.load(1, 0, errno.EFAULT)
    machine.end(unmap)
    machine.load(1, 0, errno.EFAULT)
    assert machine.blamed == ""
    machine.load(1, 0)
    assert "no value at all (not mapped)" in machine.blamed
    machine.store(1, 5)
    assert "succeeded where nothing was mapped" in machine.blamed


def test_memory_may_be_used_as_soon_as_mmap_may_have_happened(machine: Machine) -> None:
    machine.unmap(1)
    operation = machine.begin("map", 1, 0, length=PAGE, prot=PROT_READ | PROT_WRITE)
    machine.load(1, 0)
    machine.end(operation, value=AT)
    assert machine.blamed == ""
    machine.unmap(1)
    machine.load(1, 0)
    assert machine.blamed != ""


def test_a_late_store_may_be_in_what_was_mapped_where_it_goes_and_is_known_afterwards(
    machine: Machine,
) -> None:
    # The store outlives the mapping that it was meant for, and ends before mmap has answered.
    late = machine.begin("store", 1, value=5)
    machine.unmap(1)
    mapping = machine.begin("map", 1, 0, length=PAGE, prot=PROT_READ | PROT_WRITE)
    machine.end(late)
    machine.end(mapping, value=AT)
    machine.load(1, 5)
    assert not machine.blamed
    machine.load(1, 0)
    assert "gave 0, where it could be 5" in machine.blamed


def test_a_late_store_may_be_in_the_shared_page_that_it_was_meant_for_or_not(
    machine: Machine,
) -> None:
    machine.map(1, shared=True)
    machine.fork(1, 2)
    late = machine.begin("store", 1, value=5)
    machine.unmap(1)
    mapping = machine.begin("map", 1, 0, length=PAGE, prot=PROT_READ | PROT_WRITE)
    machine.end(late)
    machine.end(mapping, value=AT)
    machine.load(2, 0)
    assert not machine.blamed


def test_memory_that_is_mapped_anew_is_zero(machine: Machine) -> None:
    machine.store(1, 5)
    machine.unmap(1)
    machine.map(1)
    machine.load(1, 0)
    assert machine.blamed == ""
    machine.load(1, 5)
    assert "gave 5" in machine.blamed


def test_protection_is_kept(machine: Machine) -> None:
    machine.end(machine.begin("protect", 1, length=PAGE, prot=PROT_READ))
    machine.store(1, 5, errno.EACCES)
    machine.load(1, 0)
    assert machine.blamed == ""
    machine.store(1, 6)
    assert "succeeded where nothing was mapped for writing" in machine.blamed


def test_mprotect_that_meets_a_hole_may_have_protected_what_comes_before_it(
    machine: Machine,
) -> None:
    protect = machine.begin("protect", 1, length=3 * PAGE, prot=PROT_READ)
    machine.end(protect, errno.ENOMEM)
    machine.store(1, 5, errno.EACCES)
    machine.load(1, 0)
    assert not machine.blamed


def test_errors_need_a_reason(machine: Machine) -> None:
    machine.load(1, 0, errno.EFAULT)
    machine.store(1, 5, errno.EACCES)
    machine.load(1, 0, errno.ESRCH)
    said = [f.sentence.partition(" said ")[2] for f in machine.history.findings]
    assert [sentence[:6].rstrip(",") for sentence in said] == ["EFAULT", "EACCES", "ESRCH"]


def test_a_task_that_has_exited_does_nothing_any_more(machine: Machine) -> None:
    machine.end(machine.begin("exit", 1, 0))
    machine.load(1, 0, errno.ESRCH)
    assert machine.blamed == ""
    machine.load(1, 0)
    assert "after the task had exited" in machine.blamed


def test_old_writes_are_forgotten_and_the_answer_stays_the_same(machine: Machine) -> None:
    for value in range(1, 200):
        machine.store(1, value)
    machine.load(1, 199)
    assert machine.blamed == ""
    values = {address: v for _, address, v in machine.history.words(machine.now)}
    assert values == {AT: frozenset({199})}
    machine.load(1, 198)
    assert machine.blamed != ""


# ---- tables and zones ----------------------------------------------------------------------


def entries(*rows: tuple[int, int, int, int, int, int]) -> Entries:
    """Rows of (kind, page, nid, pfn, generation, index) of task 1 and object 3."""
    kind, page, nid, pfn, generation, index = np.array(rows, np.int64).reshape(-1, 6).T
    ones = np.ones(kind.size, np.int64)
    return Entries(kind, ones, page, nid, pfn, generation, 3 * ones, index)


def frames(*rows: tuple[int, int, int, int], free: int = 6, nid: int = 0) -> Frames:
    """A zone of 8 frames; rows of (pfn, flags, generation, index) of object 3."""
    pfn, flags, generation, index = np.array(rows, np.int64).reshape(-1, 4).T
    owner = np.full(pfn.size, 3, np.int64)

    def contents(frame: int) -> bytes:
        return frame.to_bytes(8, "little") * 8

    return Frames(nid, PAGE, 8, free, pfn, flags, generation, owner, index, contents)


USED = ALLOCATED | MAPPED
GOOD = entries((Kind.PRESENT, 7, 0, 2, 9, 0), (Kind.PRESENT, 8, 0, 4, 9, 1))


def findings(flags: int = USED, generation: int = 9, index: int = 0, pfn: int = 2) -> str:
    zone = frames((pfn, flags, generation, index), (4, USED, 9, 1))
    return " ".join(f.sentence for f in check_placement(GOOD, [zone], settled=True))


def test_every_entry_has_its_frame() -> None:
    assert findings() == ""
    where = f"page {7 * PAGE:#x} of task 1 names frame 2 of node 0, "
    assert findings(pfn=3) == where + "which is free."
    assert findings(generation=8) == where + "which has an older generation."
    assert findings(generation=10) == where + "which has a newer generation."
    assert findings(index=5) == where + "which belongs to another page."
    assert findings(flags=ALLOCATED) == where + "which its node does not serve."


def test_while_something_is_under_way_less_is_certain() -> None:
    zone = frames((2, ALLOCATED, 10, 0), (4, USED | LOCKED, 9, 1))
    moving = entries((Kind.PRESENT, 7, 0, 2, 9, 0), (Kind.MIGRATION, 8, 0, 4, 9, 1))
    assert check_placement(moving, [zone], settled=False) == []
    settled = check_placement(moving, [zone], settled=True)
    assert any("migration entry that nobody will end" in f.sentence for f in settled)


def test_an_entry_for_a_node_that_is_not_there() -> None:
    assert check_placement(GOOD, [frames(nid=1)], settled=True)


def test_a_frame_that_nobody_names_is_a_leak() -> None:
    zone = frames((2, USED, 9, 0), (4, USED, 9, 1), (5, ALLOCATED, 9, 1))
    assert [f.sentence for f in check_leaks(GOOD, [zone])] == [
        "frame 5 of node 0 is in use by nobody."
    ]


def test_frames_are_neither_made_nor_lost() -> None:
    zone = frames((2, USED, 9, 0), (4, USED | ISOLATED, 9, 1))
    assert check_conservation([zone], settled=False) == []
    assert [f.sentence for f in check_conservation([zone], settled=True)] == [
        "frame 4 of node 0 is still isolated or locked."
    ]
    one_more = frames((2, USED, 9, 0), free=6)
    assert [f.sentence for f in check_conservation([one_more], settled=False)] == [
        "node 0 says that 6 frames are free, but 1 of 8 are in use."
    ]


def test_words_are_in_their_frames() -> None:
    zone = frames((2, USED, 9, 0), (4, USED, 9, 1))
    place = {7: (0, 2), 8: (0, 4)}

    def lost(*words: tuple[int, int, frozenset[int]]) -> list[str]:
        found = check_contents(words, lambda pid, page: place.get(page), [zone])
        return [f.sentence for f in found]

    assert lost((1, 7 * PAGE + 8, frozenset({2})), (1, 9 * PAGE, frozenset({0}))) == []
    assert lost((1, 8 * PAGE, frozenset({2, 3}))) == [
        f"{8 * PAGE:#x} of task 1 is 4 (frame 4 of node 0), but must be 2, 3."
    ]
    assert lost((1, 9 * PAGE, frozenset({5})))[0].endswith("is 0 (no frame), but must be 5.")


def test_the_verdict_is_the_worst_of_the_findings() -> None:
    assert verdict([]) == Verdict.VALID
    assert verdict([unknown("who knows")]) == Verdict.UNKNOWN
    assert verdict([unknown("who knows"), invalid("wrong")]) == Verdict.INVALID
