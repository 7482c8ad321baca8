"""Migration entries met by those who share the page: fork, mprotect, munmap, exit, faults (K 1F).

The task whose pages are moved holds its mmap_sem, so what changes its map waits (K 1.5).  Others
who map the same pages do not: they find READ and WRITE entries, and what they make of them counts.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from coordinator.mm import PROT_EXEC, PROT_READ, Pte
from protocol.messages import (
    CopyPages,
    Done,
    SetGeneration,
)
from protocol.profile import MODERN, SEED, Profile
from protocol.schema import Message
from protocol.syscalls import Exit, Fault, Fork, Mprotect, Munmap, Translations
from tests.calls import migration
from tests.filing import assert_journal_tells_all, create, map_file, unlink
from tests.lab import PAGE, READ, RW, WRITE, Lab, pages_from

MakeLab = Callable[..., Lab]
BOTH = pytest.mark.parametrize("profile", [SEED, MODERN], ids=lambda profile: profile.name)


class Moving:
    """A family of which one member's pages are being copied from node 0 to node 1."""

    def __init__(self, lab: Lab, *, shared: bool, pages: int = 2, pinned: bool = False) -> None:
        self.lab, self.pages = lab, pages
        self.mover = lab.spawn()
        self.start = lab.mapped(self.mover, pages, shared=shared)
        lab.write(self.mover, self.start, 7)
        self.sharer = lab.fork(self.mover)
        if shared:
            lab.fault(self.sharer, self.start, pages)
        self.where = lab.fault(self.mover, self.start, pages, access=READ)
        if pinned:
            lab.hold_pages(self.where, pinned=1)
        lab.hold_back(CopyPages)
        self.call = lab.start(migration(0, self.mover, (0,), (1,)))
        lab.run()
        assert len(lab.held(CopyPages)) == 1
        lab.coordinator.validate()

    def bits(self, pid: int) -> list[int]:
        """PRESENT, ENTRY and WRITE of each page."""
        kept = int(Pte.PRESENT | Pte.ENTRY | Pte.WRITE)
        return [int(bits) & kept for bits in self.lab.vma(pid, self.start).bits]

    def finish(self) -> int:
        self.lab.coordinator.validate()
        self.lab.let_go(CopyPages)
        answer = self.lab.answer_to(self.call)
        assert isinstance(answer, Done)
        return answer.value


def value_of(lab: Lab, call: int) -> int:
    answer = lab.answer_to(call)
    assert isinstance(answer, Done), f"the call was answered {answer}"
    return answer.value


# ---- what an entry is (K 1.35, 1.41) -------------------------------------------------------


@BOTH
def test_an_entry_is_write_where_the_pte_was_writable_and_read_elsewhere(
    make_lab: MakeLab, profile: Profile
) -> None:
    # K 1.35.
    lab = make_lab(profile=profile)
    moving = Moving(lab, shared=False)
    assert moving.bits(moving.mover) == moving.bits(moving.sharer) == [Pte.ENTRY] * 2
    assert moving.finish() == 0
    assert moving.bits(moving.mover) == moving.bits(moving.sharer) == [Pte.PRESENT] * 2
    assert_journal_tells_all(lab)


@BOTH
def test_the_write_bit_comes_back_if_and_only_if_the_entry_has_it(
    make_lab: MakeLab, profile: Profile
) -> None:
    lab = make_lab(profile=profile)
    moving = Moving(lab, shared=True)
    assert moving.bits(moving.sharer) == [Pte.ENTRY | Pte.WRITE] * 2
    assert moving.finish() == 0
    assert moving.bits(moving.sharer) == [Pte.PRESENT | Pte.WRITE] * 2
    bits = lab.vma(moving.sharer, moving.start).bits
    assert not (bits & (Pte.ACCESSED | Pte.DIRTY)).any()
    assert_journal_tells_all(lab)


# ---- fork (K 1.42) -------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("pinned", [False, True])
def test_fork_of_a_sharer_copies_its_entries_and_does_not_wait(
    make_lab: MakeLab, profile: Profile, pinned: bool
) -> None:
    # K 1.42.
    lab = make_lab(profile=profile)
    moving = Moving(lab, shared=False, pinned=pinned)
    child = value_of(lab, lab.start(Fork(moving.sharer, -1, 0)))
    assert moving.bits(child) == [Pte.ENTRY] * 2
    assert lab.memory.mem_map[0].mapcount.max() == 3
    assert moving.finish() == (2 if pinned else 0)
    node = 0 if pinned else 1
    family = (moving.mover, moving.sharer, child)
    assert [lab.where(pid, moving.start, 2) for pid in family] == [[node, node]] * 3
    for number, pid in enumerate(family):
        lab.write(pid, moving.start, 100 + number)
    assert [lab.read(pid, moving.start) for pid in family] == [100, 101, 102]
    assert_journal_tells_all(lab)


def test_a_child_made_in_mid_move_waits_for_the_page_and_writes_to_a_copy(lab: Lab) -> None:
    moving = Moving(lab, shared=False)
    child = value_of(lab, lab.start(Fork(moving.sharer, -1, 0)))
    writing = lab.start(Fault(child, 3, WRITE, pages_from(moving.start, 1)))
    assert lab.answer_to(writing) is None, "it sleeps until the page is unlocked (K 1.45)"
    assert moving.finish() == 0
    answer = lab.answer_to(writing)
    assert isinstance(answer, Translations) and answer.nid.tolist() == [3]
    assert lab.store(answer, 0, 8) == 0
    assert [lab.read(pid, moving.start) for pid in (moving.mover, child)] == [7, 8]
    assert_journal_tells_all(lab)


# ---- mprotect (K 1.43) ---------------------------------------------------------------------


def test_mprotect_makes_a_write_entry_read_whatever_it_grants_and_a_store_faults(
    lab: Lab,
) -> None:
    # K 1.43.
    moving = Moving(lab, shared=True, pages=1)
    protecting = lab.start(Mprotect(moving.sharer, moving.start * PAGE, PAGE, RW | PROT_EXEC))
    assert value_of(lab, protecting) == 0, "nothing is taken away: there is nothing to wait for"
    assert moving.bits(moving.sharer) == [Pte.ENTRY]
    assert moving.finish() == 0
    assert moving.bits(moving.sharer) == [Pte.PRESENT]
    assert_journal_tells_all(lab)
    assert lab.fault(moving.sharer, moving.start, access=READ).writable.tolist() == [0]
    lab.write(moving.sharer, moving.start, 9)
    assert lab.read(moving.mover, moving.start) == 9
    assert_journal_tells_all(lab)


@pytest.mark.parametrize("pinned", [False, True])
def test_what_mprotect_takes_away_in_mid_move_is_gone_when_it_returns(
    lab: Lab, pinned: bool
) -> None:
    """The old frame is served until its node has locked it: the call waits for just that."""
    moving = Moving(lab, shared=True, pinned=pinned)
    protecting = lab.start(Mprotect(moving.sharer, moving.start * PAGE, 2 * PAGE, PROT_READ))
    assert lab.answer_to(protecting) is None
    assert moving.bits(moving.sharer) == [Pte.ENTRY] * 2, "the entries change at once"
    assert lab.store(moving.where, 0, 8) == 0
    assert moving.finish() == (2 if pinned else 0)
    assert value_of(lab, protecting) == 0
    assert lab.store(moving.where, 0, 9) == -errno.ESTALE
    assert lab.fault(moving.sharer, moving.start).status.tolist() == [-errno.EACCES]
    assert lab.read(moving.mover, moving.start) == 8
    lab.write(moving.mover, moving.start, 10)
    assert_journal_tells_all(lab)


def test_a_call_does_not_wait_for_all_ten_passes_of_the_other_s_migration(lab: Lab) -> None:
    moving = Moving(lab, shared=True, pinned=True)
    protecting = lab.start(Mprotect(moving.sharer, moving.start * PAGE, 2 * PAGE, PROT_READ))
    assert lab.answer_to(protecting) is None
    lab.let_pass(CopyPages)
    assert len(lab.held(CopyPages)) == 1, "the second pass is under way"
    assert value_of(lab, protecting) == 0
    assert moving.finish() == 2
    assert_journal_tells_all(lab)


# ---- munmap and exit (K 1.44, 1.27) --------------------------------------------------------


@BOTH
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("change", ["munmap", "exit"])
def test_munmap_and_exit_of_a_sharer_drop_its_entries_at_once(
    make_lab: MakeLab, profile: Profile, shared: bool, change: str
) -> None:
    # K 1.44.
    lab = make_lab(profile=profile)
    moving = Moving(lab, shared=shared)
    asked: Message = Exit(moving.sharer)
    if change == "munmap":
        asked = Munmap(moving.sharer, moving.start * PAGE, 2 * PAGE)
    leaving = lab.start(asked)
    lab.run()
    assert lab.memory.mem_map[0].mapcount.max() == 1
    assert moving.finish() == 0
    assert value_of(lab, leaving) == 0
    assert lab.where(moving.mover, moving.start, 2) == [1, 1]
    assert lab.read(moving.mover, moving.start) == 7
    lab.write(moving.mover, moving.start, 8)
    assert lab.free() == [256, 254, 256, 256], "the last one who maps it writes without a copy"
    assert_journal_tells_all(lab)


def test_a_page_of_a_file_outlives_the_entries_that_go_in_mid_move(lab: Lab) -> None:
    create(lab, pages=1)
    mover, sharer = lab.spawn(), lab.spawn()
    start, other = map_file(lab, mover, 1), map_file(lab, sharer, 1)
    lab.write(sharer, other, 3)
    lab.fault(mover, start, access=READ)
    lab.hold_back(CopyPages)
    call = lab.start(migration(0, mover, (0,), (1,)))
    lab.run()
    exiting = lab.start(Exit(sharer))
    assert unlink(lab) == 0
    lab.let_go(CopyPages)
    assert value_of(lab, call) == value_of(lab, exiting) == 0
    assert (lab.read(mover, start), lab.where(mover, start)) == (3, [1])
    assert_journal_tells_all(lab)
    lab.exit(mover)
    assert lab.free() == [256] * 4


def test_munmap_waits_for_a_revocation_that_another_has_begun(lab: Lab) -> None:
    """The copy of a write fault holds the page; its end takes the reader's translation, too."""
    reader = lab.spawn()
    start = lab.mapped(reader, 1)
    writer = lab.fork(reader)
    lab.fork(writer)
    where = lab.fault(reader, start, access=READ)
    lab.hold_back(CopyPages)
    writing = lab.start(Fault(writer, 1, WRITE, pages_from(start, 1)))
    lab.run()
    unmapping = lab.start(Munmap(reader, start * PAGE, PAGE))
    assert lab.answer_to(unmapping) is None
    lab.hold_back(SetGeneration)
    lab.let_go(CopyPages)
    assert lab.load(where, 0)[0] == 0 and lab.answer_to(unmapping) is None
    lab.let_go(SetGeneration)
    assert value_of(lab, unmapping) == 0 and lab.load(where, 0)[0] == -errno.ESTALE
    assert lab.answer_to(writing) is not None
    assert_journal_tells_all(lab)
