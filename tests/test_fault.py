"""Page faults: first touch, the zero page, shared objects, copy-on-write, and who must wait."""

from __future__ import annotations

import errno
from collections.abc import Callable

import numpy as np
import pytest

from coordinator.mm import PROT_READ, Pte
from protocol.messages import CopyPages, Done, NewPages, PutbackLruPages
from protocol.notes import FaultServed, PagesAllocated
from protocol.syscalls import Fault, Translations
from tests.calls import migration
from tests.lab import READ, WRITE, Lab, pages_from

MakeLab = Callable[..., Lab]
POPULATE_ANON, POPULATE_FILE = 2, 3


def translations(lab: Lab, ticket: int) -> Translations:
    answer = lab.answer_to(ticket)
    assert isinstance(answer, Translations), f"the fault is answered {answer}"
    return answer


# ---- first touch ---------------------------------------------------------------------------


@pytest.mark.parametrize("cpu", range(4))
def test_a_page_is_born_on_the_node_of_the_cpu_that_touches_it(lab: Lab, cpu: int) -> None:
    # K 5.2.
    pid = lab.spawn(cpu=0)
    answer = lab.fault(pid, lab.mmap(pid, 3), 3, cpu=cpu)
    assert answer.nid.tolist() == [cpu] * 3 and answer.writable.all()
    assert [lab.load(answer, row) for row in range(3)] == [(0, 0)] * 3
    assert lab.noted(PagesAllocated) == [PagesAllocated(cpu, cpu, cpu, 3)]


def test_a_full_node_passes_a_first_touch_on_along_its_zonelist(make_lab: MakeLab) -> None:
    # K 5.10.
    lab = make_lab(nodes=3, frames=4)
    pid = lab.spawn()
    answer = lab.fault(pid, lab.mmap(pid, 6), 6, cpu=2)
    second = lab.topology.zonelist(2)[1]
    assert answer.nid.tolist() == [2] * 4 + [second] * 2
    assert lab.noted(PagesAllocated) == [
        PagesAllocated(2, 2, 2, 4),
        PagesAllocated(second, 2, 2, 2),
    ]


def test_a_full_machine_says_enomem_for_what_found_no_frame(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=2, frames=2)
    pid = lab.spawn()
    lab.mapped(pid, 3)
    answer = lab.fault(pid, lab.mmap(pid, 3), 3)
    assert answer.status.tolist() == [0, -errno.ENOMEM, -errno.ENOMEM]
    lab.exit(pid)
    assert lab.free() == [2, 2]


def test_reading_untouched_memory_maps_nothing(lab: Lab) -> None:
    # K 3.9.
    """K 3.9: the zero page is not counted, not shown, not moved."""
    pid = lab.spawn()
    start = lab.mmap(pid, 2)
    answer = lab.fault(pid, start, 2, access=READ)
    assert answer.status.tolist() == [0, 0] and answer.nid.tolist() == [-1, -1]
    assert lab.free() == [256] * 4
    assert "N0" not in lab.numa_maps(pid)[0]
    assert lab.migrate(pid, 0, 1) == 0
    lab.write(pid, start, 5)
    assert (lab.read(pid, start), lab.fault(pid, start + 1, access=READ).nid[0]) == (5, -1)


def test_two_faults_on_one_page_get_one_frame(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mmap(pid, 2)
    lab.hold_back(NewPages)
    first = lab.start(Fault(pid, 0, WRITE, pages_from(start, 2)))
    second = lab.start(Fault(pid, 1, WRITE, pages_from(start, 1)))
    assert lab.answer_to(second) is None
    lab.let_go(NewPages)
    assert translations(lab, first).pfn[0] == translations(lab, second).pfn[0]
    assert lab.asked(NewPages) == 1 and lab.free() == [254, 256, 256, 256]


# ---- what is refused -----------------------------------------------------------------------


def test_each_page_has_its_own_error(lab: Lab) -> None:
    pid = lab.spawn()
    readonly = lab.mmap(pid, 1, prot=PROT_READ)
    writable = lab.mmap(pid, 1)
    none = lab.mmap(pid, 1, prot=0)
    page = np.array([none, writable, 3, readonly], np.uint64)
    wrote = lab.ask(Fault(pid, 0, WRITE, page), Translations)
    assert wrote.status.tolist() == [-errno.EACCES, 0, -errno.EFAULT, -errno.EACCES]
    read = lab.ask(Fault(pid, 0, READ, page), Translations)
    assert read.status.tolist() == [-errno.EACCES, 0, -errno.EFAULT, 0]


@pytest.mark.parametrize(
    ("cpu", "pages", "error"),
    [(99, [1], errno.EINVAL), (0, [1, 1], errno.EINVAL)],
    ids=["no such cpu", "a page twice"],
)
def test_a_fault_that_makes_no_sense_is_refused(
    lab: Lab, cpu: int, pages: list[int], error: int
) -> None:
    asked = Fault(lab.spawn(), cpu, READ, np.array(pages, np.uint64))
    assert lab.ask(asked, Done).value == -error


def test_a_task_that_is_gone_does_not_fault(lab: Lab) -> None:
    assert lab.ask(Fault(7, 0, READ, pages_from(1, 1)), Done).value == -errno.ESRCH


def test_a_fault_on_no_page_is_answered_with_none(lab: Lab) -> None:
    assert lab.fault(lab.spawn(), 0, 0).status.size == 0


# ---- populating (an image is filled in) ----------------------------------------------------


def test_populating_ignores_the_protection_and_grants_no_more_than_it(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mmap(pid, 2, prot=PROT_READ, name="/bin/true")
    anon = lab.fault(pid, start, 1, access=POPULATE_ANON)
    file = lab.fault(pid, start + 1, 1, access=POPULATE_FILE)
    assert anon.status.tolist() + file.status.tolist() == [0, 0]
    assert anon.writable.tolist() + file.writable.tolist() == [0, 0]
    first, second = lab.vma(pid, start).bits.tolist()
    assert not first & Pte.WRITTEN and first & Pte.DIRTY and not second & Pte.ANON
    assert lab.fault(pid, start, 1).status.tolist() == [-errno.EACCES]


# ---- shared mappings -----------------------------------------------------------------------


def test_a_shared_mapping_has_one_frame_for_all(lab: Lab) -> None:
    parent = lab.spawn()
    start = lab.mmap(parent, 2, shared=True)
    child = lab.fork(parent)
    lab.write(child, start, 7)
    assert lab.read(parent, start) == 7
    lab.write(parent, start, 8)
    assert lab.read(child, start) == 8
    assert sum(lab.free()) == 4 * 256 - 1


def test_two_first_touches_of_a_shared_page_get_one_frame(lab: Lab) -> None:
    parent = lab.spawn()
    start = lab.mmap(parent, 1, shared=True)
    child = lab.fork(parent)
    lab.hold_back(NewPages)
    first = lab.start(Fault(parent, 0, WRITE, pages_from(start, 1)))
    second = lab.start(Fault(child, 1, WRITE, pages_from(start, 1)))
    assert lab.answer_to(second) is None
    lab.let_go(NewPages)
    mine, theirs = translations(lab, first), translations(lab, second)
    assert (mine.nid[0], mine.pfn[0]) == (theirs.nid[0], theirs.pfn[0])
    assert lab.memory.mem_map[0].mapcount[mine.pfn[0]] == 2


def test_a_shared_page_that_moved_is_found_where_it_is(lab: Lab) -> None:
    # K 1.49.
    """A sharer that had no entry for the page faults after the move (K 1.49)."""
    parent = lab.spawn()
    start = lab.mapped(parent, 1, shared=True)
    child = lab.fork(parent)
    lab.write(parent, start, 3)
    assert lab.migrate(parent, 0, 2) == 0
    assert lab.fault(child, start, access=READ).nid.tolist() == [2]
    assert lab.read(child, start) == 3


# ---- copy-on-write -------------------------------------------------------------------------


def test_after_a_fork_neither_sees_what_the_other_writes(lab: Lab) -> None:
    # K 3.4.
    parent = lab.spawn()
    start = lab.mapped(parent, 2)
    lab.write(parent, start, 1)
    lab.write(parent, start + 1, 2)
    child = lab.fork(parent)
    lab.write(child, start, 10)
    lab.write(parent, start + 1, 20)
    assert [lab.read(parent, start), lab.read(parent, start + 1)] == [1, 20]
    assert [lab.read(child, start), lab.read(child, start + 1)] == [10, 2]
    assert sum(lab.free()) == 4 * 256 - 4


def test_a_copy_is_made_on_the_node_of_the_writer(lab: Lab) -> None:
    parent = lab.spawn()
    start = lab.mapped(parent, 1)
    child = lab.fork(parent)
    assert lab.fault(child, start, cpu=3).nid.tolist() == [3]
    assert lab.where(parent, start) == [0]


def test_the_last_who_maps_a_page_writes_to_it_without_a_copy(lab: Lab) -> None:
    parent = lab.spawn()
    start = lab.mapped(parent, 1)
    child = lab.fork(parent)
    lab.fault(child, start)
    before = lab.asked(CopyPages)
    answer = lab.fault(parent, start)
    assert answer.writable.all() and lab.asked(CopyPages) == before


def test_a_read_shares_the_page_and_a_write_ends_that(lab: Lab) -> None:
    parent = lab.spawn()
    start = lab.mapped(parent, 1)
    child = lab.fork(parent)
    mine, theirs = (lab.fault(pid, start, access=READ) for pid in (parent, child))
    assert mine.pfn[0] == theirs.pfn[0] and not (mine.writable[0] or theirs.writable[0])
    lab.write(child, start, 1)
    assert lab.load(theirs, 0)[0] == -errno.ESTALE, "the child's other threads must not read it"


def test_two_that_write_at_once_get_a_frame_each(lab: Lab) -> None:
    parent = lab.spawn()
    start = lab.mapped(parent, 1)
    lab.write(parent, start, 9)
    child = lab.fork(parent)
    lab.hold_back(CopyPages)
    tickets = [lab.start(Fault(pid, 0, WRITE, pages_from(start, 1))) for pid in (parent, child)]
    lab.run()
    lab.let_go(CopyPages)
    mine, theirs = (translations(lab, ticket) for ticket in tickets)
    assert mine.pfn[0] != theirs.pfn[0] and mine.writable[0] and theirs.writable[0]
    assert lab.read(parent, start) == lab.read(child, start) == 9


def test_a_copy_and_a_migration_of_one_page_do_not_cross(lab: Lab) -> None:
    # K 1.45.
    """While the page is copied it is left where it is, and not counted (K 1.15)."""
    parent = lab.spawn()
    start = lab.mapped(parent, 1)
    lab.write(parent, start, 6)
    child = lab.fork(parent)
    lab.hold_back(CopyPages)
    writing = lab.start(Fault(child, 2, WRITE, pages_from(start, 1)))
    lab.run()
    assert lab.migrate(parent, 0, 1) == 0
    assert lab.where(parent, start) == [0]
    lab.let_go(CopyPages)
    assert translations(lab, writing).nid.tolist() == [2]
    assert (lab.read(parent, start), lab.read(child, start)) == (6, 6)


def test_a_write_to_a_page_under_migration_waits_and_then_copies(lab: Lab) -> None:
    # K 1.45.
    parent = lab.spawn()
    start = lab.mapped(parent, 1)
    lab.write(parent, start, 4)
    child = lab.fork(parent)
    lab.hold_back(PutbackLruPages, "node1")
    lab.start(migration(0, parent, (0,), (1,)))
    lab.run()
    writing = lab.start(Fault(child, 3, WRITE, pages_from(start, 1)))
    assert lab.answer_to(writing) is None
    lab.let_go(PutbackLruPages)
    assert translations(lab, writing).nid.tolist() == [3]
    assert (lab.where(parent, start), lab.read(parent, start)) == ([1], 4)


def test_no_frame_for_a_copy_is_enomem_and_the_page_can_still_be_read(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=1, frames=2)
    parent = lab.spawn()
    start = lab.mapped(parent, 2)
    lab.write(parent, start, 3)
    child = lab.fork(parent)
    assert lab.fault(child, start).status.tolist() == [-errno.ENOMEM]
    assert lab.read(child, start) == lab.read(parent, start) == 3


# ---- parking -------------------------------------------------------------------------------


def test_the_time_that_a_fault_was_parked_is_reported(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mapped(pid, 1)
    lab.hold_back(CopyPages)
    lab.start(migration(0, pid, (0,), (1,)))
    lab.run()
    lab.start(Fault(pid, 0, WRITE, pages_from(start, 1)))
    lab.run()
    lab.now += 0.125
    lab.let_go(CopyPages)
    assert lab.noted(FaultServed)[-1] == FaultServed(1, 0.125)


def test_a_parked_fault_of_many_pages_is_answered_once_and_whole(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mapped(pid, 2)
    lab.mmap(pid, 2, at=start + 2)
    lab.hold_back(CopyPages)
    lab.start(migration(0, pid, (0,), (1,)))
    lab.run()
    waiting = lab.start(Fault(pid, 2, WRITE, pages_from(start, 4)))
    assert lab.answer_to(waiting) is None
    lab.let_go(CopyPages)
    answer = translations(lab, waiting)
    assert answer.nid.tolist() == [1, 1, 2, 2] and not answer.status.any()
