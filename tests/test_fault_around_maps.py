"""What a read fault maps around its page, as Linux does since 3.15, and what it leaves alone."""

from __future__ import annotations

import errno
from collections.abc import Sequence

import pytest

from protocol.messages import CopyPages, NewPages
from protocol.profile import MODERN, SEED, adjusted
from protocol.syscalls import Fault, Mmap
from tests.calls import migration
from tests.computer import Computer
from tests.filing import assert_journal_tells_all, count, create, map_file
from tests.lab import PAGE, READ, RW, Lab

WRITER, READER = 1, 2
MAP_FIXED_PRIVATE_ANONYMOUS = 0x32


def modern(**options: int) -> Computer:
    """A lab of the profile of 6.1."""
    return Computer(profile=MODERN, **options)


def reader(lab: Computer, cached: Sequence[int], pages: int = 8, *, shared: bool = True) -> int:
    """The first page of a file that READER has mapped; its cache has what WRITER has written."""
    assert create(lab, pages=pages) == 0
    assert (lab.spawn(), lab.spawn()) == (WRITER, READER)
    start = map_file(lab, WRITER, pages)
    for page in cached:
        lab.write(WRITER, start + page, 50 + page)
    return map_file(lab, READER, pages, shared=shared)


def mapped(lab: Lab, start: int, pid: int = READER) -> list[int]:
    """Which pages of the vma from page ``start`` on are present."""
    vma = lab.vma(pid, start)
    assert vma.start == start
    slots: list[int] = vma.present().tolist()
    return slots


# ---- what is mapped ---------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "private"])
def test_a_read_fault_maps_what_the_page_cache_has_around_it(shared: bool) -> None:
    lab = modern()
    start = reader(lab, range(8), shared=shared)
    lab.count_anew()
    assert [lab.load_word(READER, start + page) for page in range(8)] == list(range(50, 58))
    assert lab.asked(Fault) == 1
    assert mapped(lab, start) == list(range(8))
    assert lab.where(READER, start, 8) == [0] * 8
    assert "mapmax=2 active=0 N0=8" in lab.numa_maps(READER)[0]
    assert_journal_tells_all(lab)


def test_memory_that_a_child_shares_is_mapped_around_its_first_load() -> None:
    lab = modern()
    parent, start = lab.written(4, shared=True)
    child = lab.fork(parent)
    assert mapped(lab, start, child) == []
    assert lab.load_word(child, start + 2) == 52
    assert mapped(lab, start, child) == [0, 1, 2, 3]
    assert_journal_tells_all(lab)


def test_the_kernel_of_2006_maps_the_page_that_was_read() -> None:
    lab = Computer(profile=SEED)
    start = reader(lab, range(8))
    assert lab.load_word(READER, start + 3) == 53
    assert mapped(lab, start) == [3]


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "private"])
def test_a_write_fault_maps_the_page_that_was_written_to(shared: bool) -> None:
    lab = modern()
    start = reader(lab, range(8), shared=shared)
    lab.store_word(READER, start + 3, 1)
    assert mapped(lab, start) == [3]


def test_a_page_that_is_mapped_already_is_no_fault_to_a_kernel() -> None:
    lab = modern()
    start = reader(lab, range(8))
    lab.fault(READER, start + 3)
    lab.count_anew()
    assert lab.load_word(READER, start + 3) == 53
    assert lab.asked(Fault) == 1, "the program has not known where it is"
    assert mapped(lab, start) == [3]


# ---- what is not ------------------------------------------------------------------------------


def test_nothing_is_read_in_for_a_wish() -> None:
    lab = modern()
    start = reader(lab, (1, 3, 5))
    asked = lab.asked(NewPages)
    assert lab.load_word(READER, start + 3) == 53
    assert mapped(lab, start) == [1, 3, 5]
    assert (count(lab, "cached"), lab.asked(NewPages)) == (3, asked)
    # What the cache has not brings its neighbours, too: they are mapped before it is read in.
    again = map_file(lab, 2)
    assert lab.load_word(READER, again) == 0
    assert mapped(lab, again) == [0, 1, 3, 5]
    assert count(lab, "cached") == 4


def test_the_window_ends_with_the_mapping_and_where_it_is_aligned() -> None:
    lab = modern(fault_around=4)
    start = reader(lab, range(12), 12)
    assert start % 4 == 0
    below, above = map_file(lab, 2, 2), map_file(lab, 2, 4, offset=3)
    assert (below, above) == (start + 12, start + 14)
    lab.load_word(READER, start + 5)
    assert mapped(lab, start) == [4, 5, 6, 7]
    # The window from page 12 on is of two mappings.
    lab.load_word(READER, above)
    assert (mapped(lab, below), mapped(lab, above)) == ([], [0, 1])


def test_a_file_ends_within_the_window() -> None:
    lab = modern()
    reader(lab, range(3), 3)
    start, beyond = map_file(lab, READER, 8), map_file(lab, READER, 8, offset=4)
    assert lab.load_word(READER, start + 1) == 51
    assert mapped(lab, start) == [0, 1, 2]
    assert lab.failure(lab.start_load(READER, beyond)) == errno.EFAULT
    assert mapped(lab, beyond) == []


def moving_page(lab: Computer, page: int) -> int:
    """The migration of a page of node 0, which WRITER has mapped, while it is being copied."""
    assert lab.move(READER, [page], [3], flags=4).status.tolist() == [3]
    lab.hold_back(CopyPages)
    moving = lab.start(migration(0, WRITER, (3,), (1,)))
    lab.run()
    assert len(lab.held(CopyPages)) == 1
    return moving


def test_a_page_that_a_migration_has_taken_is_not_mapped_around() -> None:
    lab = modern()
    start, other = reader(lab, (0, 1)), map_file(lab, READER)
    lab.fault(READER, start, access=READ)
    moving = moving_page(lab, start)
    assert lab.load_word(READER, other + 1) == 51
    assert mapped(lab, other) == [1]
    lab.let_go(CopyPages)
    assert lab.answer_to(moving) is not None
    assert lab.load_word(READER, other) == 50
    assert_journal_tells_all(lab)


@pytest.mark.parametrize("name", ["[io]", "[reserved]"])
def test_what_a_driver_maps_has_no_map_pages(name: str) -> None:
    lab = modern()
    parent = lab.spawn()
    start = lab.mapped(parent, 4, shared=True, name=name)
    child = lab.fork(parent)
    lab.load_word(child, start)
    assert mapped(lab, start, child) == [0]


def test_the_behaviour_is_a_row_of_the_profile() -> None:
    lab = Computer(profile=adjusted(MODERN, {"fault_around_maps": False}))
    start = reader(lab, range(8))
    assert lab.load_word(READER, start + 3) == 53
    assert mapped(lab, start) == [3]


def test_memory_that_was_a_file_while_its_fault_waited_maps_nothing_of_it() -> None:
    # 1. A load of a page of a file, and of one that is being moved, for which it waits.
    lab = modern()
    start, other = reader(lab, (0, 1)), map_file(lab, READER)
    lab.fault(READER, other + 1, access=READ)
    moving = moving_page(lab, other + 1)
    ticket = lab.start_load(READER, start, other + 1)
    assert lab.waits(ticket)
    assert mapped(lab, start) == [0]
    # 2. Meanwhile there is other memory in the place of the file.
    again = Mmap(READER, start * PAGE, 8 * PAGE, RW, MAP_FIXED_PRIVATE_ANONYMOUS, "", 0)
    assert lab.call(again) == start * PAGE
    lab.let_go(CopyPages)
    assert lab.answer_to(moving) is not None
    assert lab.words(ticket) == [0, 51]
    assert mapped(lab, start) == []
