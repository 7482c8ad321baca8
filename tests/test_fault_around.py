"""Fault-around: what a fault brings of the pages around it, and that nothing hangs on those."""

from __future__ import annotations

import errno

import numpy as np
import pytest

from coordinator.mm import PROT_READ, Pte
from numalab.client import Client, Fill, Load, LoadMany, Store
from numalab.orders import Order
from protocol.core import ConfigurationError
from protocol.messages import CopyPages, Done, LoadBytes, NewPages, PutbackLruPages, StoreBytes
from protocol.notes import FaultServed
from protocol.syscalls import Fault, Mmap, Mprotect, Munmap, Translations
from tests import peers
from tests.calls import migration
from tests.computer import PROGRAM, Computer
from tests.crashes import CrashLab
from tests.filing import create, map_file
from tests.lab import KEY, PAGE, READ, RW, WRITE, Lab, pages_from

MAP_FIXED_PRIVATE_ANONYMOUS = 0x32
#: Pages of a window, if nobody says other.
WINDOW = 16


@pytest.fixture
def computer() -> Computer:
    return Computer()


# ---- one question for a window ---------------------------------------------------------------


# A window of 5 pages does not begin where the memory does.
@pytest.mark.parametrize(("window", "faults"), [(16, 4), (64, 1), (5, 14), (1, 64), (0, 64)])
def test_page_after_page_one_fault_for_each_window(window: int, faults: int) -> None:
    lab = Computer(window)
    pid, start = lab.written(64)
    lab.count_anew()
    assert [lab.load_word(pid, start + page) for page in range(64)] == list(range(50, 114))
    assert (lab.asked(Fault), lab.asked(LoadBytes)) == (faults, 64)
    lab.validate()


def test_a_store_brings_what_the_next_stores_need(computer: Computer) -> None:
    pid, start = computer.written(32)
    computer.count_anew()
    for page in range(32):
        computer.store_word(pid, start + page, 7 * page)
    assert (computer.asked(Fault), computer.asked(StoreBytes)) == (2, 32)
    assert [computer.read(pid, start + page) for page in range(32)] == list(range(0, 224, 7))


def test_a_fault_is_counted_by_the_pages_that_were_wanted(computer: Computer) -> None:
    pid, start = computer.written(WINDOW)
    computer.notes.clear()
    computer.load_word(pid, start)
    assert [note.pages for note in computer.noted(FaultServed)] == [1]


def asked_for(world: peers.World) -> list[tuple[list[int], list[int]]]:
    """What the client wanted and wished for with each fault."""
    faults = [m for m in world.peers["coordinator"].asked if isinstance(m, Fault)]
    pages = [(fault.page.tolist(), fault.page.size - fault.wished) for fault in faults]
    return [(page[:wanted], page[wanted:]) for page, wanted in pages]


def test_wishes_are_what_is_not_known_yet_of_the_windows_of_the_pages_that_are_wanted() -> None:
    world = peers.World()
    # 1. Two pages of two windows; of one more nothing is told.
    world.untouched = {20}
    places = np.array([17, 70, 17], np.uint64) * np.uint64(PAGE)
    world.result(LoadMany(1, 7, 0, places, 8))
    # 2. That one is asked for again, and brings nothing new.
    world.result(Load(2, 7, 0, 20 * PAGE, 8))
    # 3. What is known for loads is not known for stores.
    world.result(Store(3, 7, 0, 64 * PAGE, b"8 bytes."))
    world.result(Store(4, 7, 0, 65 * PAGE, b"8 bytes."))
    # 4. Another task knows nothing.
    world.result(Load(5, 8, 0, 64 * PAGE, 8))
    first, second = [*range(16, 32)], [*range(64, 80)]
    around = [page for page in first + second if page not in (17, 70)]
    assert asked_for(world) == [
        ([17, 70], around),
        ([20], []),
        ([64], second[1:]),
        ([64], second[1:]),
    ]


@pytest.mark.parametrize(
    "order",
    [
        Load(1, 7, 0, 0, 17 * PAGE),
        Fill(1, 7, 0, pages_from(3, 2), False, bytes(2 * PAGE)),
    ],
    ids=["many pages", "an image"],
)
def test_what_leaves_no_translations_behind_wishes_for_none(order: Order) -> None:
    world = peers.World()
    world.result(order)
    assert [wished for _, wished in asked_for(world)] == [[]]


@pytest.mark.parametrize("window", [-1, 513])
def test_no_window_is_larger_than_a_page_table(window: int) -> None:
    with pytest.raises(ConfigurationError, match="0 to 512"):
        Client(PROGRAM, boot_id=1, key=KEY, fault_around=window)


# ---- nobody waits for a wish -----------------------------------------------------------------


def test_a_page_that_is_being_moved_neither_delays_nor_fails_its_neighbour(
    computer: Computer,
) -> None:
    # 1. Two neighbours on two nodes, the second of which is being copied.
    pid = computer.spawn()
    start = computer.mmap(pid, 2)
    computer.fault(pid, start, cpu=3)
    computer.write(pid, start + 1, 51)
    computer.hold_back(CopyPages)
    moving = computer.start(migration(0, pid, (0,), (1,)))
    computer.run()
    assert len(computer.held(CopyPages)) == 1
    # 2. The first is loaded, and told alone.
    assert computer.load_word(pid, start) == 0
    told = computer.around(pid, [start], [start + 1])
    assert told.status.tolist() == [0, -errno.EAGAIN]
    assert computer.answer_to(moving) is None
    # 3. When the second is wanted, it is waited for.
    ticket = computer.start_load(pid, start + 1)
    assert computer.waits(ticket)
    computer.let_go(CopyPages)
    assert computer.words(ticket) == [51]


def test_a_page_that_moved_is_told_when_its_node_serves_it(computer: Computer) -> None:
    pid = computer.spawn()
    start = computer.mmap(pid, 2)
    computer.fault(pid, start, cpu=3)
    computer.fault(pid, start + 1)
    computer.hold_back(PutbackLruPages, "node1")
    computer.start(migration(0, pid, (0,), (1,)))
    computer.run()
    assert computer.vma(pid, start).bits[1] & Pte.PRESENT, "it has moved, and is not served yet"
    assert computer.around(pid, [start], [start + 1]).status.tolist() == [0, -errno.EAGAIN]
    computer.let_go(PutbackLruPages)
    told = computer.around(pid, [start], [start + 1])
    assert (told.status.tolist(), told.nid.tolist()) == ([0, 0], [3, 1])


def test_a_page_that_somebody_touches_first_is_not_waited_for(computer: Computer) -> None:
    pid = computer.spawn()
    start = computer.mmap(pid, 2)
    computer.write(pid, start, 50)
    computer.hold_back(NewPages)
    touching = computer.start(Fault(pid, 1, WRITE, pages_from(start + 1, 1)))
    assert computer.load_word(pid, start) == 50
    assert computer.answer_to(touching) is None
    computer.let_go(NewPages)
    assert computer.answer_to(touching) is not None


def test_a_page_that_is_being_copied_for_a_writer_is_not_waited_for(computer: Computer) -> None:
    parent, start = computer.written(2)
    computer.fork(parent)
    computer.hold_back(CopyPages)
    writing = computer.start(Fault(parent, 1, WRITE, pages_from(start + 1, 1)))
    assert computer.load_word(parent, start) == 50
    told = computer.around(parent, [start], [start + 1])
    assert told.status.tolist() == [0, -errno.EAGAIN]
    computer.let_go(CopyPages)
    assert computer.answer_to(writing) is not None


def test_a_wish_touches_nothing(computer: Computer) -> None:
    """K 3.9: not even the zero page is mapped for it."""
    pid = computer.spawn()
    start = computer.mmap(pid, WINDOW)
    computer.store_word(pid, start, 1)
    computer.load_word(pid, start + 1)
    assert computer.free() == [255, 256, 256, 256]
    bits = computer.vma(pid, start).bits.tolist()
    assert bits[1] == Pte.ACCESSED, "the page that was read is the zero page"
    assert bits[2:] == [0] * (WINDOW - 2)


# ---- no more than a page grants ---------------------------------------------------------------


def test_a_page_to_be_copied_on_write_is_not_told_writable(computer: Computer) -> None:
    parent, start = computer.written(2)
    child = computer.fork(parent)
    told = computer.around(parent, [start], [start + 1], WRITE)
    assert (told.status.tolist(), told.writable.tolist()) == ([0, 0], [1, 0])
    computer.store_word(parent, start, 1)
    computer.store_word(parent, start + 1, 2)
    assert [computer.read(child, start + page) for page in range(2)] == [50, 51]
    assert [computer.load_word(parent, start + page) for page in range(2)] == [1, 2]


def test_a_wish_for_what_may_not_be_loaded_is_not_heard_and_is_no_error(computer: Computer) -> None:
    pid, start = computer.written(8)
    assert computer.call(Mprotect(pid, (start + 4) * PAGE, 2 * PAGE, 0)) == 0
    assert computer.call(Munmap(pid, (start + 6) * PAGE, PAGE)) == 0
    told = computer.around(pid, [start], [*range(start + 1, start + 9)])
    assert told.status.tolist() == [0] * 4 + [-errno.EAGAIN] * 5
    # Nor where the page that is wanted is refused itself.
    told = computer.around(pid, [start + 4, start], [start + 5, start + 1])
    assert told.status.tolist() == [-errno.EACCES, 0, -errno.EAGAIN, 0]
    assert computer.load_word(pid, start) == 50
    assert computer.failure(computer.start_load(pid, start + 4)) == errno.EACCES


def test_a_page_that_may_only_be_loaded_is_told_for_loads(computer: Computer) -> None:
    pid, start = computer.written(3)
    assert computer.call(Mprotect(pid, start * PAGE, 3 * PAGE, PROT_READ)) == 0
    told = computer.around(pid, [start], [start + 1, start + 2], WRITE)
    assert told.status.tolist() == [-errno.EACCES, 0, 0]
    assert told.writable.tolist() == [0, 0, 0]


def test_beyond_the_end_of_a_file_there_is_nothing_to_tell(computer: Computer) -> None:
    create(computer, pages=3)
    pid = computer.spawn()
    start = map_file(computer, pid, 8)
    computer.fault(pid, start, 3)
    assert computer.load_word(pid, start) == 0
    told = computer.around(pid, [start], [*range(start + 1, start + 8)])
    assert told.status.tolist() == [0, 0, 0] + [-errno.EAGAIN] * 5


def test_a_page_whose_contents_are_gone_does_not_take_its_neighbours_with_it() -> None:
    lab = CrashLab()
    pid = lab.spawn()
    start = lab.mmap(pid, 2)
    lab.fault(pid, start, cpu=0)
    lab.fault(pid, start + 1, cpu=1)
    lab.replace_zone(1)
    lab.wait(5.0)
    lab.recover()
    told = lab.ask(Fault(pid, 0, READ, pages_from(start, 2), 1), Translations)
    assert told.status.tolist() == [0, -errno.EAGAIN]
    lab.validate()


@pytest.mark.parametrize(
    ("pages", "wished"),
    [([1, 2], 3), ([1], 4096), ([1, 1], 1)],
    ids=["more", "most", "a page twice"],
)
def test_wishes_that_make_no_sense_are_refused(lab: Lab, pages: list[int], wished: int) -> None:
    asked = Fault(lab.spawn(), 0, READ, np.array(pages, np.uint64), wished)
    assert lab.ask(asked, Done).value == -errno.EINVAL


def test_wishes_alone_want_nothing(computer: Computer) -> None:
    pid, start = computer.written(2)
    told = computer.around(pid, [], [start, start + 1])
    assert told.status.tolist() == [-errno.EAGAIN] * 2


def test_whoever_has_a_translation_counts_as_having_used_it(computer: Computer) -> None:
    pid, start = computer.written(2)
    assert computer.migrate(pid, 0, 1) == 0
    assert not computer.vma(pid, start).bits[1] & Pte.ACCESSED
    computer.load_word(pid, start)
    assert computer.vma(pid, start).bits[1] & Pte.ACCESSED


# ---- what has become stale --------------------------------------------------------------------


def known(pages: int = 2) -> tuple[Computer, int, int]:
    """The program has stored to the first page, and knows the others by its wish."""
    lab = Computer()
    pid, start = lab.written(pages)
    lab.store_word(pid, start, 1)
    lab.count_anew()
    return lab, pid, start


def test_a_page_that_has_moved_since_costs_one_refusal() -> None:
    lab, pid, start = known()
    assert lab.migrate(pid, 0, 1) == 0
    assert lab.load_word(pid, start + 1) == 51
    assert (lab.asked(LoadBytes, "node0"), lab.asked(LoadBytes, "node1")) == (1, 1)
    assert lab.asked(Fault) == 1
    lab.validate()


def test_a_window_that_has_moved_since_costs_one_refusal() -> None:
    lab, pid, start = known(WINDOW)
    assert lab.migrate(pid, 0, 1) == 0
    assert [lab.load_word(pid, start + page) for page in range(1, WINDOW)] == list(range(51, 66))
    assert (lab.asked(LoadBytes, "node0"), lab.asked(LoadBytes, "node1")) == (1, WINDOW - 1)
    assert lab.asked(Fault) == 1


def test_a_store_does_not_reach_the_page_that_was_there_before_a_migration() -> None:
    lab, pid, start = known()
    assert lab.migrate(pid, 0, 1) == 0
    lab.store_word(pid, start + 1, 8)
    assert (lab.asked(StoreBytes, "node0"), lab.asked(StoreBytes, "node1")) == (1, 1)
    assert lab.read(pid, start + 1) == 8


def test_other_memory_at_the_same_address_is_other_memory() -> None:
    lab, pid, start = known()
    # Not by way of the program, which would forget what it knows.
    assert lab.call(Munmap(pid, start * PAGE, 2 * PAGE)) == 0
    again = Mmap(pid, start * PAGE, 2 * PAGE, RW, MAP_FIXED_PRIVATE_ANONYMOUS, "", 0)
    assert lab.call(again) == start * PAGE
    assert lab.load_word(pid, start + 1) == 0
    lab.store_word(pid, start + 1, 9)
    assert lab.read(pid, start + 1) == 9


def test_what_is_not_mapped_any_more_is_not_loaded() -> None:
    lab, pid, start = known()
    assert lab.call(Munmap(pid, (start + 1) * PAGE, PAGE)) == 0
    assert lab.failure(lab.start_load(pid, start + 1)) == errno.EFAULT


def test_a_child_does_not_see_what_its_parent_stores_by_a_translation_of_before_the_fork() -> None:
    lab, parent, start = known()
    child = lab.fork(parent)
    lab.store_word(parent, start + 1, 8)
    assert (lab.read(child, start + 1), lab.read(parent, start + 1)) == (51, 8)
    assert lab.asked(StoreBytes) == 2, "one was refused"


def test_a_right_that_was_taken_away_is_not_used() -> None:
    lab, pid, start = known()
    assert lab.call(Mprotect(pid, start * PAGE, 2 * PAGE, PROT_READ)) == 0
    assert lab.failure(lab.start_store(pid, start + 1, 1)) == errno.EACCES
    assert lab.load_word(pid, start + 1) == 51
