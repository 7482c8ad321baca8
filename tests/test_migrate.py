"""migrate_pages(): passes and force, what is counted, what is undone, who is remapped (K 1D - 1G).

A page is pinned or locked by a client that plays another user of the frame (HoldPages)."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from coordinator.mm import Pte
from protocol.messages import CopyPages, NewPages, PutbackLruPages, UnlockPages
from protocol.notes import MigrationEnded, PagesMoved, PagesNotMoved, PassEnded
from protocol.profile import MODERN
from protocol.schema import node_name
from protocol.syscalls import Fault, Translations
from tests.calls import migration
from tests.lab import READ, WRITE, Lab, pages_from

MakeLab = Callable[..., Lab]


def row_of(where: Translations, row: int) -> Translations:
    """One row of an answer, to be held alone."""
    at = slice(row, row + 1)
    return Translations(
        where.status[at], where.nid[at], where.pfn[at], where.generation[at], where.writable[at]
    )


def passes(lab: Lab) -> list[tuple[int, int, int]]:
    return [(note.number, note.retry, note.failed) for note in lab.noted(PassEnded)]


# ---- the ordinary course -------------------------------------------------------------------


def test_pages_move_with_their_contents_and_the_call_says_that_none_stayed(lab: Lab) -> None:
    # K 1.33, 3.11.
    pid = lab.spawn()
    start = lab.mapped(pid, 10)
    for offset in range(10):
        lab.write(pid, start + offset, 1000 + offset)
    assert lab.migrate(pid, 0, 3) == 0
    assert lab.where(pid, start, 10) == [3] * 10
    assert [lab.read(pid, start + offset) for offset in range(10)] == list(range(1000, 1010))
    assert lab.free() == [256, 256, 256, 246]
    assert passes(lab) == [(0, 0, 0)]
    assert [(n.source, n.target, n.pages) for n in lab.noted(PagesMoved)] == [(0, 3, 10)]
    (ended,) = lab.noted(MigrationEnded)
    assert (ended.moved, ended.failed, ended.reason) == (10, 0, "syscall_or_cpuset")


def test_a_task_with_nothing_on_the_source_is_not_worked_on(lab: Lab) -> None:
    pid = lab.spawn()
    assert lab.migrate(pid, 0, 1) == 0
    lab.mapped(pid, 2, cpu=2)
    assert lab.migrate(pid, 0, 1) == 0
    assert not lab.noted(PassEnded) and not lab.noted(MigrationEnded)


@pytest.mark.parametrize("chunk_pages", [1, 3, 64])
def test_the_size_of_a_chunk_changes_nothing_but_the_number_of_questions(
    make_lab: MakeLab, chunk_pages: int
) -> None:
    lab = make_lab(chunk_pages=chunk_pages)
    pid = lab.spawn()
    start = lab.mapped(pid, 10)
    assert lab.migrate(pid, 0, 1) == 0
    assert lab.where(pid, start, 10) == [1] * 10
    assert lab.asked(CopyPages) == -(-10 // chunk_pages)


def test_protection_and_dirtiness_travel_and_the_accessed_bit_does_not(lab: Lab) -> None:
    # K 1.38, 1.41, 3.11.
    """K 1.38, 1.41, 3.11."""
    pid = lab.spawn()
    start = lab.mapped(pid, 2)
    child = lab.fork(pid)
    lab.fault(pid, start)
    before = lab.vma(pid, start).bits.tolist()
    assert lab.migrate(pid, (0,), (1,)) == 0
    after = lab.vma(pid, start).bits.tolist()
    assert after == [bits & ~Pte.ACCESSED for bits in before]
    assert after[0] & Pte.WRITE and not after[1] & Pte.WRITE
    assert not (lab.vma(child, start).bits & Pte.WRITE).any()


# ---- ten passes (K 1.19 - 1.21) ------------------------------------------------------------


def test_a_pinned_page_is_tried_in_ten_passes_and_counted_once(lab: Lab) -> None:
    # K 1.19, 1.20, 1.48.
    pid = lab.spawn()
    start = lab.mapped(pid, 3)
    where = lab.fault(pid, start, 3)
    lab.store(where, 1, 77)
    lab.hold_pages(row_of(where, 1), pinned=1)
    assert lab.migrate(pid, 0, 1) == 1
    assert passes(lab) == [(number, 1, 0) for number in range(10)]
    assert lab.where(pid, start, 3) == [1, 0, 1]
    assert lab.read(pid, start + 1) == 77
    assert [(n.source, n.status, n.pages) for n in lab.noted(PagesNotMoved)] == [
        (0, -errno.EAGAIN, 1)
    ]
    assert lab.noted(MigrationEnded)[0].failed == 1


def test_polite_passes_come_first_and_force_begins_with_the_fourth(lab: Lab) -> None:
    # K 1.19.
    pid = lab.spawn()
    where = lab.fault(pid, lab.mapped(pid, 1))
    lab.hold_pages(where, pinned=1)
    lab.hold_back(CopyPages)
    call = lab.start(migration(0, pid, (0,), (1,)))
    forced = []
    while lab.answer_to(call) is None:
        forced += [asked.force for asked in lab.held(CopyPages)]
        lab.let_pass(CopyPages)
    assert forced == [0, 0, 0, 1, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("last_pinned_pass", [0, 2, 6])
def test_a_pin_that_is_dropped_lets_the_page_go_in_the_next_pass(
    lab: Lab, last_pinned_pass: int
) -> None:
    # K 1.48.
    pid = lab.spawn()
    start = lab.mapped(pid, 2)
    where = lab.fault(pid, start, 2)
    lab.hold_pages(where, pinned=1)
    lab.when(PassEnded(last_pinned_pass, 2, 0), lambda: lab.hold_of(where), node_name(0))
    assert lab.migrate(pid, 0, 1) == 0
    assert [number for number, *_ in passes(lab)] == list(range(last_pinned_pass + 2))
    assert passes(lab)[-1] == (last_pinned_pass + 1, 0, 0)
    assert lab.where(pid, start, 2) == [1, 1]


def test_only_the_last_pass_counts_what_is_to_be_tried_again(lab: Lab) -> None:
    # K 1.21.
    """Two pages are in the way at first, one in the end: one is not moved (K 1.21)."""
    pid = lab.spawn()
    start = lab.mapped(pid, 3)
    where = lab.fault(pid, start, 3)
    lab.hold_pages(where, pinned=1)
    lab.when(PassEnded(8, 3, 0), lambda: lab.hold_of(row_of(where, 0)), node_name(0))
    assert lab.migrate(pid, 0, 1) == 2
    assert lab.where(pid, start, 3) == [1, 0, 0]


# ---- the page lock (K 1.28) ----------------------------------------------------------------


def test_polite_passes_do_not_wait_for_a_page_lock_and_forced_ones_do(lab: Lab) -> None:
    # K 1.28.
    pid = lab.spawn()
    start = lab.mapped(pid, 2)
    where = lab.fault(pid, start, 2)
    lab.hold_pages(row_of(where, 0), locked=1)
    call = lab.start(migration(0, pid, (0,), (1,)))
    assert lab.answer_to(call) is None
    assert passes(lab) == [(0, 1, 0), (1, 1, 0), (2, 1, 0)]
    lab.wait(60.0)
    assert lab.answer_to(call) is None, "there is no time limit to a page lock"
    lab.hold_pages(row_of(where, 0), locked=0)
    assert lab.answer_to(call) is not None
    assert passes(lab)[3:] == [(3, 0, 0)]
    assert lab.where(pid, start, 2) == [1, 1]


def test_pages_of_the_same_chunk_pass_the_locked_one(lab: Lab) -> None:
    pid = lab.spawn()
    where = lab.fault(pid, lab.mapped(pid, 40), 40)
    lab.hold_pages(row_of(where, 0), locked=1)
    lab.start(migration(0, pid, (0,), (1,)))
    lab.run()
    assert sum(note.pages for note in lab.noted(PagesMoved)) == 39
    lab.hold_pages(row_of(where, 0))


# ---- what fails for good (K 1.54, 1.20) ----------------------------------------------------


def test_a_page_that_must_not_move_is_counted_once_and_not_tried_again(lab: Lab) -> None:
    # K 1.20, 1.54, 1.57.
    pid = lab.spawn()
    stays = lab.mapped(pid, 3, name="[fail_migrate_page]")
    goes = lab.mapped(pid, 2, name="[migrate_page]")
    lab.write(pid, stays, 5)
    assert lab.migrate(pid, 0, 1) == 3
    assert passes(lab) == [(0, 0, 3)]
    assert lab.where(pid, stays, 3) + lab.where(pid, goes, 2) == [0, 0, 0, 1, 1]
    assert lab.noted(PagesNotMoved)[0].status == -errno.EIO
    assert lab.read(pid, stays) == 5


def test_failures_of_all_passes_and_retries_of_the_last_are_added_up(lab: Lab) -> None:
    # K 1.21.
    pid = lab.spawn()
    lab.mapped(pid, 2, name="[fail_migrate_page]")
    pinned = lab.fault(pid, lab.mapped(pid, 1))
    lab.hold_pages(pinned, pinned=1)
    assert lab.migrate(pid, 0, 1) == 3
    assert passes(lab)[0] == (0, 1, 2) and passes(lab)[-1] == (9, 1, 2)


# ---- no frame on the target (K 1.18, 1.20, 1.23) -------------------------------------------


def test_a_full_target_ends_the_call_and_what_has_moved_stays_moved(make_lab: MakeLab) -> None:
    # K 1.18, 1.20, 1.23.
    lab = make_lab(nodes=2, frames=8, profile=MODERN, chunk_pages=2)
    pid, other = lab.spawn(), lab.spawn()
    start = lab.mapped(pid, 6)
    lab.mapped(other, 5, cpu=1)
    for offset in range(6):
        lab.write(pid, start + offset, offset)
    assert lab.migrate(pid, 0, 1) == -errno.ENOMEM
    assert lab.where(pid, start, 6) == [1, 1, 1, 0, 0, 0]
    assert [lab.read(pid, start + offset) for offset in range(6)] == list(range(6))
    assert lab.free() == [5, 0]
    assert len(passes(lab)) == 1
    assert not lab.zone(0).isolated
    assert lab.migrate(pid, 1, 0) == 0, "nothing is left isolated that could not be moved again"


def test_a_page_behind_the_one_without_a_frame_is_not_attempted(make_lab: MakeLab) -> None:
    """Node 2 has room, node 1 has not: the second page ends the call before the third (K 1.20)."""
    lab = make_lab(nodes=3, frames=4, profile=MODERN)
    pid, other = lab.spawn(), lab.spawn()
    start = lab.mapped(pid, 3)
    lab.mapped(other, 4, cpu=1)
    assert lab.move(pid, [start, start + 1, start + 2], [2, 1, 2]).value == -errno.ENOMEM
    assert lab.where(pid, start, 3) == [2, 0, 0]
    assert lab.free() == [2, 0, 3]


def test_at_the_seed_a_full_target_passes_its_pages_on_along_the_zonelist(
    make_lab: MakeLab,
) -> None:
    # K 1.18.
    lab = make_lab(nodes=3, frames=8)
    pid, other = lab.spawn(), lab.spawn()
    start = lab.mapped(pid, 6)
    lab.mapped(other, 6, cpu=1)
    assert lab.migrate(pid, 0, 1) == 0
    second = lab.topology.zonelist(1)[1]
    assert lab.where(pid, start, 6) == [1, 1] + [second] * 4


def test_at_the_seed_it_takes_a_full_machine_to_fail(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=2, frames=4)
    pid = lab.spawn()
    lab.mapped(pid, 4)
    lab.mapped(pid, 4, cpu=1)
    assert lab.migrate(pid, 0, 1) == -errno.ENOMEM


def test_a_failed_attempt_gives_its_frame_back(lab: Lab) -> None:
    """K 1.26: the frame is taken before it is known whether the page can go."""
    pid = lab.spawn()
    lab.hold_pages(lab.fault(pid, lab.mapped(pid, 1)), pinned=1)
    assert lab.migrate(pid, 0, 1) == 1
    assert lab.asked(NewPages, node_name(1)) == 10
    assert lab.zone(1).free == 256


# ---- sharers (K 3.2 - 3.4, 1.30) -----------------------------------------------------------


def test_move_leaves_what_a_fork_shares_and_move_all_takes_it(lab: Lab) -> None:
    # K 1.3, 3.2, 3.3, 3.4.
    owner = lab.spawn(uid=1000, capable=False)
    start = lab.mapped(owner, 2)
    child = lab.fork(owner)
    lab.fault(owner, start)
    assert lab.migrate(owner, 0, 1, caller=owner) == 0, "what is shared is not counted (K 4.10)"
    assert (lab.where(owner, start, 2), lab.where(child, start, 2)) == ([1, 0], [0, 0])
    assert lab.migrate(child, 0, 2) == 0
    assert (lab.where(owner, start, 2), lab.where(child, start, 2)) == ([1, 2], [2, 2])


def test_a_page_is_remapped_in_every_mm_that_maps_it(lab: Lab) -> None:
    # K 1.30, 3.3.
    parent = lab.spawn()
    private, shared = lab.mapped(parent, 2), lab.mapped(parent, 2, shared=True)
    lab.write(parent, private, 1)
    lab.write(parent, shared, 2)
    family = [parent, lab.fork(parent), lab.fork(parent)]
    for pid in family[1:]:
        lab.fault(pid, shared, 2, access=READ)
    assert lab.migrate(family[2], 0, 3) == 0
    for pid in family:
        assert lab.where(pid, private, 2) + lab.where(pid, shared, 2) == [3, 3, 3, 3]
        assert (lab.read(pid, private), lab.read(pid, shared)) == (1, 2)
    assert lab.free() == [256, 256, 256, 252]


def test_after_the_last_sharer_is_gone_a_page_is_private_again(lab: Lab) -> None:
    owner = lab.spawn(uid=1, capable=False)
    start = lab.mapped(owner, 1)
    child = lab.fork(owner)
    assert lab.exit(child) == 0
    assert lab.migrate(owner, 0, 1, caller=owner) == 0
    assert lab.where(owner, start) == [1]


# ---- while a page is under way -------------------------------------------------------------


def test_a_locked_page_is_not_served_and_a_fault_on_it_waits_for_the_target(lab: Lab) -> None:
    # K 1.40, 1.45.
    """K 1.45: the waiter wakes only when the target serves the page."""
    pid = lab.spawn()
    start = lab.mapped(pid, 1)
    old = lab.fault(pid, start)
    lab.store(old, 0, 42)
    lab.hold_back(PutbackLruPages)
    call = lab.start(migration(0, pid, (0,), (1,)))
    lab.run()
    assert lab.store(old, 0, 43) == -errno.EAGAIN, "the old frame is locked"
    waiting = lab.start(Fault(pid, 0, WRITE, pages_from(start, 1)))
    assert lab.answer_to(waiting) is None and lab.answer_to(call) is None
    lab.let_go(PutbackLruPages)
    answer = lab.answer_to(waiting)
    assert isinstance(answer, Translations) and answer.nid.tolist() == [1]
    assert lab.load(answer, 0) == (0, 42)
    assert lab.load(old, 0)[0] == -errno.ESTALE


def test_a_fault_on_a_migration_entry_parks_and_others_are_served(lab: Lab) -> None:
    # K 1.45.
    pid = lab.spawn()
    start, elsewhere = lab.mapped(pid, 1), lab.mapped(pid, 1, cpu=2)
    lab.hold_back(CopyPages)
    lab.start(migration(0, pid, (0,), (1,)))
    lab.run()
    assert lab.vma(pid, start).bits[0] & Pte.ENTRY
    waiting = lab.start(Fault(pid, 0, READ, pages_from(start, 1)))
    assert lab.answer_to(waiting) is None
    assert lab.fault(pid, elsewhere).nid.tolist() == [2]
    assert lab.where(pid, start) == [-errno.ENOENT], "an entry is not present (K 1.14)"
    lab.coordinator.validate()
    lab.let_go(CopyPages)
    answer = lab.answer_to(waiting)
    assert isinstance(answer, Translations) and answer.nid.tolist() == [1]


def test_after_a_failed_attempt_the_old_frame_is_served_under_a_new_generation(lab: Lab) -> None:
    # K 1.32.
    pid = lab.spawn()
    start = lab.mapped(pid, 1)
    old = lab.fault(pid, start)
    lab.store(old, 0, 9)
    lab.hold_pages(old, pinned=1)
    assert lab.migrate(pid, 0, 1) == 1
    assert lab.store(old, 0, 10) == -errno.ESTALE
    new = lab.fault(pid, start)
    assert new.nid[0] == 0 and new.pfn[0] == old.pfn[0] and lab.load(new, 0) == (0, 9)


def test_a_parked_fault_is_let_go_by_a_restored_entry_too(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mapped(pid, 1)
    lab.hold_pages(lab.fault(pid, start), pinned=1)
    lab.hold_back(UnlockPages)
    lab.start(migration(0, pid, (0,), (1,)))
    lab.run()
    waiting = lab.start(Fault(pid, 0, WRITE, pages_from(start, 1)))
    assert lab.answer_to(waiting) is None
    lab.let_go(UnlockPages)
    answer = lab.answer_to(waiting)
    assert isinstance(answer, Translations) and answer.nid.tolist() == [0]


def test_a_store_that_was_acknowledged_before_the_lock_is_on_the_target(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mapped(pid, 1)
    where = lab.fault(pid, start)
    lab.hold_back(CopyPages)
    lab.start(migration(0, pid, (0,), (1,)))
    lab.run()
    assert lab.store(where, 0, 1234) == 0, "the source has not locked it yet"
    lab.let_go(CopyPages)
    assert lab.read(pid, start) == 1234 and lab.where(pid, start) == [1]
