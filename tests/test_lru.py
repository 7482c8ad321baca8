"""Which pages count as active: those whose second access the kernel takes note of (mm/swap.c)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from coordinator.mm import MAP_ANONYMOUS, MAP_LOCKED, MAP_SHARED
from protocol.messages import Statuses
from protocol.observe import SetPageActive
from protocol.profile import MODERN, SEED, Profile
from protocol.schema import node_name
from protocol.syscalls import GetMempolicy, Mmap, PolicyTold
from protocol.task_calls import Madvise, Mlock, Munlock
from protocol.user_mask import MASK_BYTES_MAX, MAXNODE
from tests.calls import migration
from tests.lab import PAGE, READ, RW, Lab

MakeLab = Callable[..., Lab]
DONTNEED, POPULATE_READ = 4, 22
NODE_OF_ADDRESS = 3


def populate(lab: Lab, pid: int, start: int, pages: int) -> None:
    assert lab.call(Madvise(pid, start * PAGE, pages * PAGE, POPULATE_READ)) == 0


def active(lab: Lab, pid: int, start: int) -> int:
    """How many pages of the vma at ``start`` numa_maps counts as active."""
    [line] = [line for line in lab.numa_maps(pid) if line.startswith(f"{start * PAGE:08x}")]
    tokens = dict(token.split("=") for token in line.split() if "=" in token)
    total = sum(int(count) for name, count in tokens.items() if name[1:].isdigit())
    return int(tokens.get("active", total))


def test_the_second_access_that_is_noted_makes_a_page_active(make_lab: MakeLab) -> None:
    lab = make_lab(profile=MODERN)
    pid = lab.spawn()
    start = lab.mapped(pid, 3)
    populate(lab, pid, start, 2)
    assert active(lab, pid, start) == 0
    # What was noted moves with the page.
    assert lab.call(migration(0, pid, (0,), (2,))) == 0
    populate(lab, pid, start + 1, 2)
    assert active(lab, pid, start) == 1
    populate(lab, pid, start + 1, 1)
    assert active(lab, pid, start) == 1
    lab.validate()


@pytest.mark.parametrize("node", [0, 1])
def test_a_copy_of_an_active_page_goes_where_new_pages_go(make_lab: MakeLab, node: int) -> None:
    """As the original keeps its list, the copy of a copy-on-write has its own."""
    lab = make_lab(profile=MODERN)
    pid = lab.spawn()
    start = lab.mapped(pid, 1)
    populate(lab, pid, start, 1)
    populate(lab, pid, start, 1)
    child = lab.fork(pid)
    assert active(lab, pid, start) == 1
    lab.fault(child, start, cpu=node)
    assert lab.where(child, start) == [node]
    assert (active(lab, pid, start), active(lab, child, start)) == (1, 0)


def test_a_frame_that_is_given_to_another_page_has_no_note(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=1, frames=1, profile=MODERN)
    pid = lab.spawn()
    start = lab.mapped(pid, 1)
    populate(lab, pid, start, 1)
    assert lab.call(Madvise(pid, start * PAGE, PAGE, DONTNEED)) == 0
    lab.write(pid, start, 1)
    populate(lab, pid, start, 1)
    assert active(lab, pid, start) == 0


def test_a_shared_page_is_noted_when_the_entry_of_who_used_it_goes(make_lab: MakeLab) -> None:
    lab = make_lab(profile=MODERN)
    pid = lab.spawn()
    start = lab.mapped(pid, 2, shared=True)
    for expected in (0, 1):
        child = lab.fork(pid)
        lab.write(child, start, 7)
        lab.exit(child)
        assert active(lab, pid, start) == expected
    assert lab.call(Madvise(pid, start * PAGE, 2 * PAGE, DONTNEED)) == 0
    lab.write(pid, start + 1, 1)
    assert lab.call(Madvise(pid, start * PAGE, 2 * PAGE, DONTNEED)) == 0
    assert not lab.fault(pid, start, 2, access=READ).status.any()
    assert active(lab, pid, start) == 2
    lab.validate()


@pytest.mark.parametrize(("profile", "expected"), [(MODERN, 0), (SEED, 1)], ids=["modern", "seed"])
def test_asking_for_the_node_of_a_mapped_page(
    make_lab: MakeLab, profile: Profile, expected: int
) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn()
    start = lab.mapped(pid, 1, shared=True)
    for _ in range(3):
        lab.ask(
            GetMempolicy(pid, MASK_BYTES_MAX, MAXNODE, start * PAGE, NODE_OF_ADDRESS), PolicyTold
        )
    assert active(lab, pid, start) == expected


def test_a_locked_page_is_active_no_more_in_61(make_lab: MakeLab) -> None:
    lab = make_lab(profile=MODERN)
    pid = lab.spawn()
    start = lab.mapped(pid, 2)
    for _ in range(2):
        populate(lab, pid, start, 2)
    assert active(lab, pid, start) == 2
    assert lab.call(Mlock(pid, start * PAGE, 2 * PAGE)) == 0
    # It counts as active while it is locked, as it is on no list.
    assert active(lab, pid, start) == 2
    assert lab.call(Munlock(pid, start * PAGE, 2 * PAGE)) == 0
    assert active(lab, pid, start) == 0


@pytest.mark.parametrize(("profile", "dirty"), [(MODERN, False), (SEED, True)], ids=["61", "seed"])
def test_locked_shared_memory_is_filled_in_clean_or_dirty(
    make_lab: MakeLab, profile: Profile, dirty: bool
) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn()
    flags = MAP_SHARED | MAP_ANONYMOUS | MAP_LOCKED
    assert lab.call(Mmap(pid, 0, 2 * PAGE, RW, flags, "", 0)) > 0
    start = lab.mmap(pid, 2, shared=True)
    assert lab.call(Mlock(pid, start * PAGE, 2 * PAGE)) == 0
    assert [("dirty=2" in line) for line in lab.numa_maps(pid)] == [dirty, dirty]


def test_a_node_says_which_frames_were_otherwise(lab: Lab) -> None:
    pid = lab.spawn()
    where = lab.fault(pid, lab.mapped(pid, 2, shared=True), 2)
    stale = where.generation + np.arange(2).astype(np.uint32)

    def ask(active: int, generation: npt.NDArray[np.uint32]) -> list[int]:
        asked = SetPageActive(active, where.pfn, generation)
        status = lab.ask(asked, Statuses, node_name(0)).status
        return [int(one) for one in status]

    assert ask(1, where.generation) == [1, 1]
    assert ask(1, where.generation) == [0, 0]
    first, second = ask(0, stale)
    assert first == 1 and second < 0
    assert ask(1, where.generation) == [1, 0]
