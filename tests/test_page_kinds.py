"""What migratepage of each kind of file does to clean, dirty and busy pages (K 1.47 - 1.57)."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from coordinator.inode import Device
from coordinator.mm import Pte
from protocol.files import SetDevice
from protocol.messages import CopyPages, UnlockPages
from protocol.notes import PassEnded
from protocol.profile import MODERN, SEED, Profile
from protocol.schema import COORDINATOR
from tests.calls import migration
from tests.filing import (
    PATH,
    assert_journal_tells_all,
    count,
    create,
    described,
    map_file,
    set_device,
    status_of_move,
    touched,
    unlink,
)
from tests.lab import READ, Lab

MakeLab = Callable[..., Lab]
BOTH = pytest.mark.parametrize("profile", [SEED, MODERN], ids=lambda profile: profile.name)


def passes(lab: Lab) -> list[tuple[int, int, int]]:
    return [(note.number, note.retry, note.failed) for note in lab.noted(PassEnded)]


# ---- who moves at all ----------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("kind", ["shmem", "ext3", "ext3-journal", "nfs", "ramfs"])
def test_a_clean_page_of_every_kind_but_one_moves_at_once(
    make_lab: MakeLab, profile: Profile, kind: str
) -> None:
    # K 1.47.
    lab = make_lab(profile=profile)
    create(lab, kind, 3)
    pid = lab.spawn()
    start = touched(lab, pid, 3, access=READ)
    assert lab.migrate(pid, 0, 1) == 0
    assert passes(lab) == [(0, 0, 0)]
    assert lab.where(pid, start, 3) == [1, 1, 1]
    assert (described(lab)["nodes"], count(lab, "writepages")) == ("N1=3", 0)
    assert_journal_tells_all(lab)


@BOTH
@pytest.mark.parametrize("kind", ["shmem", "ext3"])
def test_a_dirty_page_with_a_method_moves_and_stays_dirty(
    make_lab: MakeLab, profile: Profile, kind: str
) -> None:
    """K 1.38, 1.41, 1.50, 3.11: the page is dirty, its entry is clean and not accessed."""
    lab = make_lab(profile=profile)
    create(lab, kind, 2)
    pid = lab.spawn()
    start = touched(lab, pid, 2)
    lab.write(pid, start, 21)
    assert lab.vma(pid, start).bits[0] & Pte.DIRTY
    assert lab.migrate(pid, 0, 1) == 0
    bits = int(lab.vma(pid, start).bits[0])
    assert bits & Pte.WRITE and not bits & (Pte.DIRTY | Pte.ACCESSED)
    assert (count(lab, "dirty"), count(lab, "writepages")) == (2, 0)
    assert lab.read(pid, start) == 21
    assert_journal_tells_all(lab)


def test_a_page_with_buffers_takes_them_along(lab: Lab) -> None:
    """K 1.47, 1.53: buffer_migrate_page moves the buffers; the fallback releases them (K 1.55)."""
    left = {}
    for kind in ("ext3", "ext3-journal"):
        create(lab, kind, 2, f"/{kind}")
        pid = lab.spawn()
        start = map_file(lab, pid, 2, path=f"/{kind}")
        lab.fault(pid, start, 2, access=READ)
        assert count(lab, "private", f"/{kind}") == 2
        assert lab.migrate(pid, 0, 1) == 0
        left[kind] = count(lab, "private", f"/{kind}")
    assert left == {"ext3": 2, "ext3-journal": 0}
    assert_journal_tells_all(lab)


@BOTH
def test_pages_of_xfs_metadata_fail_with_eio_once(make_lab: MakeLab, profile: Profile) -> None:
    """K 1.54, 1.57."""
    lab = make_lab(profile=profile)
    create(lab, "xfs-metadata", 3)
    pid = lab.spawn()
    start = touched(lab, pid, 3)
    assert lab.migrate(pid, 0, 1) == 3
    assert passes(lab) == [(0, 0, 3)]
    assert status_of_move(lab, pid, start) == -errno.EIO
    assert lab.where(pid, start, 3) == [0, 0, 0]
    assert_journal_tells_all(lab)


# ---- the fallback: dirty pages (K 1.56) ----------------------------------------------------


@pytest.mark.parametrize("kind", ["nfs", "ext3-journal"])
def test_at_the_seed_a_dirty_page_is_written_back_and_moves_in_the_next_pass(
    lab: Lab, kind: str
) -> None:
    # K 1.55, 1.56.
    create(lab, kind, 3)
    pid = lab.spawn()
    start = touched(lab, pid, 3)
    lab.write(pid, start + 2, 33)
    assert lab.migrate(pid, 0, 1) == 0
    assert passes(lab) == [(0, 3, 0), (1, 0, 0)], "never on the first attempt"
    assert (count(lab, "writepages"), count(lab, "dirty")) == (3, 0)
    assert lab.where(pid, start, 3) == [1, 1, 1]
    assert lab.read(pid, start + 2) == 33
    assert_journal_tells_all(lab)


def test_a_store_after_the_writeback_makes_the_page_dirty_again(lab: Lab) -> None:
    create(lab, "nfs", 1)
    pid = lab.spawn()
    start = touched(lab, pid, 1)
    lab.migrate(pid, 0, 1)
    assert count(lab, "dirty") == 0
    assert lab.fault(pid, start, access=READ).writable.tolist() == [0], "a store must fault first"
    lab.write(pid, start, 2)
    assert count(lab, "dirty") == 1
    assert lab.migrate(pid, 1, 2) == 0
    assert count(lab, "writepages") == 2
    assert_journal_tells_all(lab)


def test_without_writepage_a_dirty_page_fails_with_einval(lab: Lab) -> None:
    # K 1.56.
    create(lab, "ramfs", 2)
    pid = lab.spawn()
    start = touched(lab, pid, 2, access=READ)
    lab.write(pid, start, 1)
    assert lab.migrate(pid, 0, 1) == 1
    assert passes(lab) == [(0, 0, 1)]
    assert lab.where(pid, start, 2) == [0, 1]
    assert status_of_move(lab, pid, start) == -errno.EINVAL
    assert_journal_tells_all(lab)


def test_a_writepage_that_fails_makes_it_eio_and_the_page_stays_dirty(lab: Lab) -> None:
    create(lab, "nfs", 1)
    pid = lab.spawn()
    start = touched(lab, pid, 1)
    lab.write(pid, start, 4)
    set_device(lab, Device.FAIL_WRITEPAGE)
    assert status_of_move(lab, pid, start) == -errno.EIO
    assert (count(lab, "writepages"), count(lab, "dirty")) == (1, 1)
    set_device(lab)
    assert lab.migrate(pid, 0, 1) == 0
    assert lab.read(pid, start) == 4
    assert_journal_tells_all(lab)


@pytest.mark.parametrize("kind", ["nfs", "ext3-journal", "ramfs"])
def test_modern_does_not_write_back_and_gives_a_dirty_page_up_with_ebusy(
    make_lab: MakeLab, kind: str
) -> None:
    lab = make_lab(profile=MODERN)
    create(lab, kind, 2)
    pid = lab.spawn()
    start = touched(lab, pid, 2, access=READ)
    lab.write(pid, start, 5)
    assert lab.migrate(pid, 0, 1) == 1
    assert passes(lab) == [(0, 0, 1)], "for good: not tried again (K 1.20)"
    assert lab.where(pid, start, 2) == [0, 1]
    assert status_of_move(lab, pid, start) == -errno.EBUSY
    assert (count(lab, "writepages"), count(lab, "dirty")) == (0, 1)
    assert lab.read(pid, start) == 5
    assert_journal_tells_all(lab)


# ---- buffers (K 1.53, 1.55) ----------------------------------------------------------------


@BOTH
def test_buffers_that_are_not_released_make_it_eagain_in_every_pass(
    make_lab: MakeLab, profile: Profile
) -> None:
    lab = make_lab(profile=profile)
    create(lab, "ext3-journal", 1)
    pid = lab.spawn()
    start = touched(lab, pid, 1, access=READ)
    set_device(lab, Device.KEEP_BUFFERS)
    assert lab.migrate(pid, 0, 1) == 1
    assert passes(lab) == [(number, 1, 0) for number in range(10)]
    assert status_of_move(lab, pid, start) == -errno.EAGAIN, "exhausted retries (K 1.34)"
    set_device(lab)
    assert lab.migrate(pid, 0, 1) == 0
    assert_journal_tells_all(lab)


@BOTH
def test_locked_buffers_are_waited_for_even_by_a_polite_pass(
    make_lab: MakeLab, profile: Profile
) -> None:
    lab = make_lab(profile=profile)
    create(lab, "ext3", 2)
    pid = lab.spawn()
    start = touched(lab, pid, 2)
    set_device(lab, Device.LOCK_BUFFERS)
    call = lab.start(migration(0, pid, (0,), (1,)))
    lab.wait(60.0)
    assert lab.answer_to(call) is None and not passes(lab)
    lab.write(pid, start, 6)
    set_device(lab)
    assert lab.answer_to(call) is not None
    assert passes(lab) == [(0, 0, 0)]
    assert lab.read(pid, start) == 6 and lab.where(pid, start, 2) == [1, 1]
    assert_journal_tells_all(lab)


# ---- writeback (K 1.29) --------------------------------------------------------------------


def under_writeback(lab: Lab, kind: str = "nfs") -> tuple[int, int]:
    """A task with three pages of a file, of which the first is being written: (pid, page)."""
    create(lab, kind, 3)
    pid = lab.spawn()
    start = touched(lab, pid, 3, access=READ)
    lab.write(pid, start, 40)
    set_device(lab, Device.HOLD_WRITEBACK, sync=True)
    assert (count(lab, "writeback"), count(lab, "dirty"), count(lab, "writepages")) == (1, 0, 1)
    return pid, start


@BOTH
@pytest.mark.parametrize("kind", ["nfs", "shmem", "ext3"])
def test_polite_passes_leave_a_page_under_writeback_and_forced_ones_wait(
    make_lab: MakeLab, profile: Profile, kind: str
) -> None:
    # K 1.29.
    lab = make_lab(profile=profile)
    pid, start = under_writeback(lab, kind)
    call = lab.start(migration(0, pid, (0,), (1,)))
    lab.wait(60.0)
    assert lab.answer_to(call) is None
    assert passes(lab) == [(0, 1, 0), (1, 1, 0), (2, 1, 0)]
    assert lab.read(pid, start) == 40, "the page is used meanwhile"
    assert "writeback=1" in lab.numa_maps(pid)[0]
    assert lab.zone(1).free == 256 - 2, "each attempt gave its frame back (K 1.26)"
    set_device(lab)
    assert lab.answer_to(call) is not None
    assert passes(lab)[3:] == [(3, 0, 0)]
    assert lab.where(pid, start, 3) == [1, 1, 1] and lab.read(pid, start) == 40
    assert_journal_tells_all(lab)


def test_writeback_that_ends_lets_a_polite_pass_take_the_page(lab: Lab) -> None:
    pid, start = under_writeback(lab)
    lab.when(PassEnded(0, 1, 0), lambda: SetDevice(PATH, 0, 0), COORDINATOR)
    assert lab.migrate(pid, 0, 1) == 0
    assert lab.where(pid, start, 3) == [1, 1, 1]
    assert passes(lab)[-1][0] < 3


def test_unlink_ends_what_the_device_held_up(lab: Lab) -> None:
    pid, start = under_writeback(lab)
    call = lab.start(migration(0, pid, (0,), (1,)))
    assert lab.answer_to(call) is None
    assert unlink(lab) == 0
    assert lab.answer_to(call) is not None
    assert lab.where(pid, start, 3) == [1, 1, 1]
    assert_journal_tells_all(lab)


def test_writeback_started_by_a_migration_takes_its_time(lab: Lab) -> None:
    """Started by the first pass; the fourth one is forced and waits for two seconds to be over."""
    create(lab, "nfs", 1, seconds=2.0)
    pid = lab.spawn()
    start = touched(lab, pid, 1)
    call = lab.start(migration(0, pid, (0,), (1,)))
    lab.wait(1.9)
    assert lab.answer_to(call) is None and count(lab, "writeback") == 1
    lab.wait(0.2)
    assert lab.answer_to(call) is not None and count(lab, "writeback") == 0
    assert passes(lab) == [(0, 1, 0), (1, 1, 0), (2, 1, 0), (3, 0, 0)]
    assert lab.where(pid, start) == [1]
    assert_journal_tells_all(lab)


def test_a_store_to_a_page_under_writeback_makes_it_dirty_and_is_not_lost(lab: Lab) -> None:
    pid, start = under_writeback(lab)
    lab.write(pid, start, 41)
    assert (count(lab, "dirty"), count(lab, "writeback")) == (1, 1)
    set_device(lab)
    assert lab.migrate(pid, 0, 1) == 0
    assert (lab.read(pid, start), count(lab, "writepages")) == (41, 2)
    assert_journal_tells_all(lab)


def test_a_store_through_an_old_translation_is_not_served_after_the_writeback_began(
    lab: Lab,
) -> None:
    create(lab, "nfs", 1)
    pid = lab.spawn()
    start = touched(lab, pid, 1)
    old = lab.fault(pid, start)
    set_device(lab, sync=True)
    assert lab.store(old, 0, 1) == -errno.ESTALE
    assert count(lab, "dirty") == 0
    lab.write(pid, start, 1)
    assert count(lab, "dirty") == 1
    assert_journal_tells_all(lab)


def test_a_store_before_the_page_is_locked_is_written_with_it(lab: Lab) -> None:
    """writepage is called when no old translation is served any more: no dirty page is lost."""
    create(lab, "nfs", 1)
    pid = lab.spawn()
    start = touched(lab, pid, 1)
    old = lab.fault(pid, start)
    lab.hold_back(UnlockPages)
    call = lab.start(migration(0, pid, (0,), (1,)))
    lab.run()
    assert lab.store(old, 0, 9) == 0, "the node has not been told yet"
    assert (count(lab, "dirty"), count(lab, "writepages")) == (1, 0)
    lab.let_go(UnlockPages)
    assert lab.answer_to(call) is not None
    assert (count(lab, "dirty"), count(lab, "writepages")) == (0, 1)
    assert lab.store(old, 0, 10) == -errno.ESTALE and lab.read(pid, start) == 9
    assert_journal_tells_all(lab)


def test_sync_leaves_a_page_that_is_on_the_move_alone(lab: Lab) -> None:
    create(lab, "shmem", 1)
    pid = lab.spawn()
    touched(lab, pid, 1)
    lab.hold_back(CopyPages)
    call = lab.start(migration(0, pid, (0,), (1,)))
    lab.run()
    set_device(lab, sync=True)
    assert (count(lab, "dirty"), count(lab, "writepages")) == (1, 0)
    lab.let_go(CopyPages)
    assert lab.answer_to(call) is not None
    assert count(lab, "dirty") == 1
    assert_journal_tells_all(lab)


# ---- references (K 1.48) -------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("kind", ["shmem", "ext3", "nfs"])
def test_a_reference_more_than_cache_and_buffers_have_is_eagain(
    make_lab: MakeLab, profile: Profile, kind: str
) -> None:
    lab = make_lab(profile=profile)
    create(lab, kind, 2)
    pid = lab.spawn()
    start = touched(lab, pid, 2, access=READ)
    held = lab.fault(pid, start, access=READ)
    lab.hold_pages(held, pinned=1)
    assert lab.migrate(pid, 0, 1) == 1
    assert status_of_move(lab, pid, start) == -errno.EAGAIN
    lab.hold_pages(held)
    assert lab.migrate(pid, 0, 1) == 0
    assert_journal_tells_all(lab)


# ---- several kinds in one call -------------------------------------------------------------


def test_each_page_of_a_call_has_the_status_of_its_kind(lab: Lab) -> None:
    """K 1.47, 1.57: the method of its mapping, or the fallback, says what becomes of a page."""
    pid = lab.spawn()
    expected = {
        "shmem": 1,
        "ext3": 1,
        "nfs": 1,
        "xfs-metadata": -errno.EIO,
        "ramfs": -errno.EINVAL,
    }
    pages = []
    for kind in expected:
        create(lab, kind, 1, f"/{kind}")
        pages.append(map_file(lab, pid, 1, path=f"/{kind}"))
        lab.fault(pid, pages[-1])
    moved = lab.move(pid, pages, [1] * len(pages))
    assert (moved.value, moved.status.tolist()) == (2, list(expected.values()))
    assert_journal_tells_all(lab)
