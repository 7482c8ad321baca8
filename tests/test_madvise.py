"""madvise(2): MADV_DONTNEED, MADV_POPULATE_READ and _WRITE."""

from __future__ import annotations

import errno
from collections.abc import Callable

import numpy as np

from coordinator.mm import PROT_READ
from coordinator.replay import differences, replay
from protocol.messages import CopyPages
from protocol.profile import MODERN
from protocol.task_calls import Madvise, Mlock
from tests.calls import migration
from tests.filing import create, map_file
from tests.lab import PAGE, READ, Lab

MakeLab = Callable[..., Lab]
NORMAL, DONTNEED, POPULATE_READ, POPULATE_WRITE = 0, 4, 22, 23


def madvise(lab: Lab, pid: int, start: int, pages: int, advice: int = DONTNEED) -> int:
    return lab.call(Madvise(pid, start * PAGE, pages * PAGE, advice))


def journal_agrees(lab: Lab) -> bool:
    return list(differences(replay(lab.topology, lab.records), lab.memory)) == []


def test_private_pages_are_freed_and_read_zeros_afterwards(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mapped(pid, 4)
    where = lab.fault(pid, start + 1)
    assert lab.store(where, 0, 9) == 0
    assert madvise(lab, pid, start + 1, 2) == 0
    assert lab.where(pid, start, 4) == [0, -errno.ENOENT, -errno.ENOENT, 0]
    assert lab.free() == [254, 256, 256, 256]
    # An old translation is not served any more, and a new one has zeros.
    assert lab.store(where, 0, 10) == -errno.ESTALE
    assert lab.fault(pid, start + 1, access=READ).nid.tolist() == [-1]
    assert lab.read(pid, start) == 0 and len(lab.memory.tasks[pid].mm.vmas) == 1
    assert lab.load(lab.fault(pid, start + 1), 0) == (0, 0)
    assert journal_agrees(lab)


def test_pages_of_a_shared_object_stay_and_come_back(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mapped(pid, 2, shared=True)
    lab.write(pid, start, 77)
    assert madvise(lab, pid, start, 2) == 0
    assert lab.where(pid, start, 2) == [-errno.ENOENT] * 2
    assert lab.free() == [254, 256, 256, 256]
    assert lab.read(pid, start) == 77
    assert journal_agrees(lab)


def test_a_child_keeps_what_its_parent_drops(lab: Lab) -> None:
    parent = lab.spawn()
    start = lab.mapped(parent, 1)
    lab.write(parent, start, 5)
    child = lab.fork(parent)
    assert madvise(lab, parent, start, 1) == 0
    assert lab.read(child, start) == 5
    assert lab.fault(parent, start, access=READ).nid.tolist() == [-1]
    assert journal_agrees(lab)


def test_dontneed_waits_for_pages_on_their_way(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mapped(pid, 2)
    lab.hold_back(CopyPages)
    moving = lab.start(migration(0, pid, (0,), (1,)))
    lab.run()
    dropping = lab.start(Madvise(pid, start * PAGE, 2 * PAGE, DONTNEED))
    assert lab.answer_to(dropping) is None
    lab.let_go(CopyPages)
    assert lab.answer_to(moving) is not None and lab.answer_to(dropping) is not None
    assert lab.free() == [256] * 4
    lab.validate()


def test_what_is_wrong_with_a_range(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mapped(pid, 2, at=0x100)
    lab.mapped(pid, 2, at=0x104)
    assert lab.call(Madvise(pid, start * PAGE + 1, PAGE, DONTNEED)) == -errno.EINVAL
    assert madvise(lab, pid, start, 2, 99) == -errno.EINVAL
    assert madvise(lab, pid, start, 0) == 0
    assert madvise(lab, pid, start, 1, NORMAL) == 0
    assert madvise(lab, pid, start, 3, NORMAL) == -errno.ENOMEM
    assert madvise(lab, 99, start, 1) == -errno.ESRCH
    # Holes are told of, and the rest is dropped all the same.
    assert madvise(lab, pid, start, 6) == -errno.ENOMEM
    assert lab.free() == [256] * 4


def test_a_locked_vma_refuses_dontneed_and_what_lay_before_it_is_dropped(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mapped(pid, 4)
    assert lab.call(Mlock(pid, (start + 1) * PAGE, PAGE)) == 0
    assert madvise(lab, pid, start, 4) == -errno.EINVAL
    assert lab.where(pid, start, 4) == [-errno.ENOENT, 0, 0, 0]
    assert journal_agrees(lab)


def test_the_seed_knows_no_populating_advice(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mmap(pid, 1)
    for advice in (POPULATE_READ, POPULATE_WRITE):
        assert madvise(lab, pid, start, 1, advice) == -errno.EINVAL


def test_populate_write_makes_pages_and_populate_read_maps_the_zero_page(
    make_lab: MakeLab,
) -> None:
    lab = make_lab(profile=MODERN)
    pid = lab.spawn(cpu=3)
    start = lab.mmap(pid, 4)
    assert madvise(lab, pid, start, 2, POPULATE_WRITE) == 0
    assert madvise(lab, pid, start, 4, POPULATE_READ) == 0
    assert lab.free() == [256, 256, 256, 254]
    readonly = lab.mmap(pid, 2, prot=PROT_READ)
    assert madvise(lab, pid, readonly, 2, POPULATE_WRITE) == -errno.EINVAL
    assert madvise(lab, pid, readonly, 3, POPULATE_READ) == -errno.ENOMEM
    assert madvise(lab, pid, lab.mmap(pid, 1, prot=0), 1, POPULATE_READ) == -errno.EINVAL
    assert journal_agrees(lab)


def test_populate_tells_of_a_hole_and_fills_in_what_lies_behind(make_lab: MakeLab) -> None:
    lab = make_lab(profile=MODERN)
    pid = lab.spawn()
    start = lab.mmap(pid, 2, at=0x100)
    lab.mmap(pid, 2, at=0x104)
    assert madvise(lab, pid, start, 6, POPULATE_WRITE) == -errno.ENOMEM
    assert lab.where(pid, start, 2) == lab.where(pid, 0x104, 2) == [0, 0]
    assert lab.free() == [252, 256, 256, 256]


def test_populate_without_frames_is_enomem(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=1, frames=4, profile=MODERN)
    pid = lab.spawn()
    assert madvise(lab, pid, lab.mmap(pid, 6), 6, POPULATE_WRITE) == -errno.ENOMEM


def test_populate_beyond_the_end_of_a_file_is_efault(make_lab: MakeLab) -> None:
    lab = make_lab(profile=MODERN)
    pid = lab.spawn()
    create(lab, pages=2)
    start = map_file(lab, pid, 3)
    for advice in (POPULATE_READ, POPULATE_WRITE):
        assert madvise(lab, pid, start, 3, advice) == -errno.EFAULT


def test_a_frame_that_was_dropped_and_given_to_another_is_zeroed(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=1, frames=2)
    pid, other = lab.spawn(), lab.spawn()
    start = lab.mapped(pid, 2)
    lab.write(pid, start, 1234)
    assert madvise(lab, pid, start, 2) == 0
    base = lab.mapped(other, 2)
    assert {lab.read(other, base), lab.read(other, base + 1)} == {0}
    assert np.count_nonzero(lab.memory.mem_map[0].flags) == 2
