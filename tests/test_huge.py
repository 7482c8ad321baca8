"""Huge mappings: they cost what is touched of them, and nobody waits for all of one."""

from __future__ import annotations

import errno
import random
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import trio

from coordinator import reads
from coordinator.madvise import Advice
from coordinator.mm import MAP_ANONYMOUS, MAP_POPULATE, MAP_PRIVATE, PROT_READ
from coordinator.touched import BLOCK, Touched
from numalab.machine import Machine
from numalab.present import read_address_space
from protocol.profile import MODERN
from protocol.syscalls import AddressSpace, DescribeMm, Mmap, Mprotect, Munmap, Renew
from protocol.task_calls import Madvise, Mlock
from tests.lab import PAGE, RW, Lab

HUGE = 1 << 28
MIB = 1 << 20


@pytest.fixture
def roomy() -> Lab:
    """A machine whose memory could hold the page tables of 4 x 2^17 pages."""
    return Lab(frames=1 << 14, profile=MODERN)


def events_until_answered(lab: Lab, ticket: int) -> int:
    """Let time stand still; how many events the coordinator needs from here to the answer."""
    before = lab.memory.events
    while lab.answer_to(ticket) is None:
        assert lab.memory.alarms, "nobody will ever wake this call"
        lab.wait(0.0)
    return lab.memory.events - before


@pytest.mark.parametrize("how", ["mlock", "madvise", "MAP_POPULATE"])
def test_others_have_their_turn_while_a_large_range_is_populated(roomy: Lab, how: str) -> None:
    """Read faults on untouched memory ask no node, so nothing else would end the step."""
    pid, pages = roomy.spawn(), 10 * 4096
    start = roomy.mmap(pid, pages, prot=PROT_READ)
    whole = start * PAGE, pages * PAGE
    flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE
    asked = {
        "mlock": Mlock(pid, *whole),
        "madvise": Madvise(pid, *whole, int(Advice.POPULATE_READ)),
        "MAP_POPULATE": Mmap(pid, 0, pages * PAGE, PROT_READ, flags, "", 0),
    }[how]
    ticket = roomy.start(asked)
    assert roomy.answer_to(ticket) is None
    assert roomy.call(Renew()) == 0, "somebody else is answered in between"
    assert events_until_answered(roomy, ticket) >= 5
    roomy.validate()


def test_a_task_that_exits_ends_the_populating_of_its_memory(roomy: Lab) -> None:
    pid = roomy.spawn()
    start = roomy.mmap(pid, 1 << 17, prot=PROT_READ)
    ticket = roomy.start(Mlock(pid, start * PAGE, PAGE << 17))
    assert roomy.exit(pid) == 0
    assert events_until_answered(roomy, ticket) < 5
    roomy.validate()


@pytest.mark.parametrize("advised", [False, True], ids=["mlock", "madvise"])
def test_a_range_whose_page_tables_fit_into_no_memory_is_enomem(lab: Lab, advised: bool) -> None:
    lab = Lab(profile=MODERN)
    pid, pages = lab.spawn(), sum(lab.free()) * (PAGE // 8) + 1
    where = lab.mmap(pid, pages, prot=PROT_READ) * PAGE, pages * PAGE
    asked = Madvise(pid, *where, int(Advice.POPULATE_READ)) if advised else Mlock(pid, *where)
    value = lab.call(asked)
    # As the kernel has it: who wants memory locked may try again.
    assert value == (-errno.ENOMEM if advised else -errno.EAGAIN)
    lab.validate()


# ---- what is told in pieces ----------------------------------------------------------------


def test_the_pages_of_a_large_mm_are_told_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole, those of 32 GiB are a frame of a message that is longer than any is taken."""
    monkeypatch.setattr(reads, "DESCRIBED_MAX", 3)
    lab = Lab()
    pid = lab.spawn()
    low, high = lab.mapped(pid, 4, at=0x100, cpu=1), lab.mapped(pid, 4, at=0x200)
    present = [*range(low, low + 4), *range(high, high + 4)]

    class Asking:
        async def expect(self, message: DescribeMm, kind: type[AddressSpace]) -> AddressSpace:
            return lab.ask(message, kind)

    space = trio.run(read_address_space, cast(Machine, Asking()), pid)
    assert space.page.tolist() == present and space.value == 0
    assert space.page_node.tolist() == [1] * 4 + [0] * 4
    assert space.written.tolist() == [1] * 8
    assert lab.asked(DescribeMm) == 3


# ---- what is not touched -------------------------------------------------------------------


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@contextmanager
def little_memory() -> Iterator[None]:
    """No temporary inside is of the size of the mapping, and nothing of that size is left."""
    before = resident()
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 32 * MIB
    finally:
        tracemalloc.stop()
    assert resident() - before < 32 * MIB


def test_calls_on_a_huge_mapping_take_memory_for_what_is_touched_of_it(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mmap(pid, HUGE)
    end = start + HUGE
    with little_memory():
        for page in (start, start + BLOCK - 1, start + BLOCK, end - 1):
            lab.write(pid, page, page)
        assert lab.numa_maps(pid)[0].endswith("N0=4")
        assert lab.ask(DescribeMm(pid), AddressSpace).page.tolist()[-1] == end - 1
        assert lab.migrate(pid, 0, 1) == 0
        assert lab.where(pid, end - 1) == [1]
        assert lab.call(Mprotect(pid, start * PAGE, HUGE * PAGE, PROT_READ)) == 0
        assert lab.call(Mprotect(pid, start * PAGE, HUGE * PAGE, RW)) == 0
        assert [lab.read(pid, page) for page in (start, end - 1)] == [start, end - 1]
        assert lab.call(Madvise(pid, start * PAGE, HUGE * PAGE, int(Advice.DONTNEED))) == 0
        assert lab.where(pid, end - 1) == [-errno.ENOENT]
        lab.coordinator.validate()


def test_a_fork_of_a_huge_mapping_copies_what_is_touched_of_it(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mmap(pid, HUGE)
    lab.write(pid, start + HUGE // 2, 7)
    before = resident()
    child = lab.fork(pid)
    assert lab.read(child, start + HUGE // 2) == 7
    assert lab.call(Munmap(child, start * PAGE, HUGE * PAGE)) == 0
    assert resident() - before < 32 * MIB


def test_marks_of_what_is_split_again_and_again_miss_no_entry() -> None:
    """Against a plain array: wherever it is cut, each entry that was written is in a part."""
    draw = random.Random(1)
    size = 8 * BLOCK
    pieces = [(0, size, Touched(size))]
    written: list[int] = []
    for _ in range(200):
        start, end, touched = pieces.pop(draw.randrange(len(pieces)))
        slot = draw.randrange(start, end)
        touched.add(np.array([slot - start]))
        written.append(slot)
        if end - start > 1:
            cut = draw.randrange(start + 1, end)
            pieces.append((cut, end, touched.split(cut - start)))
            end = cut
        pieces.append((start, end, touched))
    marked = np.zeros(size, np.bool_)
    for start, end, touched in pieces:
        for part in touched.parts(end - start):
            assert 0 <= part.start < part.stop <= end - start
            marked[start + part.start : start + part.stop] = True
    assert marked[written].all()
    assert marked.sum() < size, "a block that nobody wrote to has no mark"
