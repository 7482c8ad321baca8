"""Files and their page caches: who maps what, what a private mapping copies, what outlives whom."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable

import pytest

from coordinator.mm import PROT_READ
from protocol.files import DescribeFile
from protocol.messages import CopyPages, NewPages
from protocol.syscalls import (
    Description,
    Fault,
    Mprotect,
    Munmap,
    Translations,
)
from tests.calls import migration
from tests.filing import (
    PATH,
    assert_journal_tells_all,
    count,
    create,
    described,
    map_file,
    touched,
    unlink,
)
from tests.lab import PAGE, READ, RW, WRITE, Lab, pages_from

MakeLab = Callable[..., Lab]
POPULATE_ANON, POPULATE_FILE = 2, 3


# ---- creating ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, 0),
        ({"path": "file"}, -errno.EINVAL),
        ({"kind": "reiserfs"}, -errno.EINVAL),
        ({"pages": 0}, -errno.EINVAL),
        ({"pages": 1 << 40}, -errno.EINVAL),
        ({"seconds": -1.0}, -errno.EINVAL),
        ({"seconds": float("nan")}, -errno.EINVAL),
    ],
)
def test_what_may_be_created(lab: Lab, arguments: dict[str, object], expected: int) -> None:
    assert create(lab, **arguments) == expected  # type: ignore[arg-type]


def test_a_name_is_taken_once_and_leads_nowhere_when_unlinked(lab: Lab) -> None:
    assert create(lab) == 0
    assert create(lab, "ext3") == -errno.EEXIST
    assert unlink(lab) == 0
    assert unlink(lab) == -errno.ENOENT
    assert lab.ask(DescribeFile(PATH), Description).value == -errno.ENOENT
    assert create(lab, "ext3") == 0
    assert described(lab)["kind"] == "ext3"
    assert_journal_tells_all(lab)


# ---- MAP_SHARED ----------------------------------------------------------------------------


def test_all_who_map_a_file_see_one_page_cache_at_their_offsets(lab: Lab) -> None:
    create(lab, pages=8)
    one, other = lab.spawn(), lab.spawn(cpu=1)
    whole = map_file(lab, one, 8)
    tail = map_file(lab, other, 3, offset=5)
    lab.write(one, whole + 6, 66)
    assert lab.read(other, tail + 1) == 66
    lab.write(other, tail + 2, 77)
    assert lab.read(one, whole + 7) == 77
    assert (count(lab, "cached"), count(lab, "mapped"), count(lab, "dirty")) == (2, 2, 2)
    assert_journal_tells_all(lab)


def test_a_page_beyond_the_end_of_the_file_is_an_error(lab: Lab) -> None:
    """The kernel sends SIGBUS; get_user_pages() says EFAULT."""
    create(lab, pages=2)
    pid = lab.spawn()
    for shared in (True, False):
        start = map_file(lab, pid, 4, shared=shared)
        status = lab.fault(pid, start, 4).status.tolist()
        assert status == [0, 0, -errno.EFAULT, -errno.EFAULT]


def test_mapcount_counts_entries_and_not_processes(lab: Lab) -> None:
    """K 3.2: the same file mapped twice by one process: MOVE refuses its pages."""
    create(lab, pages=2)
    pid = lab.spawn(uid=1, capable=False)
    first, second = map_file(lab, pid, 2), map_file(lab, pid, 2)
    lab.fault(pid, first, 2)
    lab.fault(pid, second, 1)
    assert "mapmax=2" in lab.numa_maps(pid)[0]
    assert lab.move(pid, [first, first + 1], [1, 1], caller=pid).status.tolist() == [
        -errno.EACCES,
        1,
    ]
    assert lab.move(pid, [first], [2], flags=4).status.tolist() == [2]
    assert lab.where(pid, second) == [2], "both entries name the new frame"


def test_two_who_touch_a_page_of_a_file_at_once_allocate_one_frame(lab: Lab) -> None:
    create(lab, pages=1)
    pids = [lab.spawn(cpu=cpu) for cpu in range(2)]
    starts = [map_file(lab, pid, 1) for pid in pids]
    lab.hold_back(NewPages)
    faults = [
        lab.start(Fault(pid, cpu, WRITE, pages_from(start, 1)))
        for cpu, (pid, start) in enumerate(zip(pids, starts, strict=True))
    ]
    lab.run()
    assert len(lab.held(NewPages)) == 1
    lab.let_go(NewPages)
    answers = [lab.answer_to(fault) for fault in faults]
    assert all(isinstance(answer, Translations) for answer in answers)
    assert lab.where(pids[0], starts[0]) == lab.where(pids[1], starts[1])
    assert sum(lab.free()) == 4 * 256 - 1


# ---- MAP_PRIVATE ---------------------------------------------------------------------------


def test_a_private_mapping_reads_the_cache_and_copies_what_it_writes_to(lab: Lab) -> None:
    create(lab, pages=2)
    writer, reader = lab.spawn(), lab.spawn(cpu=1)
    shared = touched(lab, writer, 2)
    lab.write(writer, shared, 1)
    private = map_file(lab, reader, 2, shared=False)
    assert lab.read(reader, private) == 1
    lab.write(writer, shared, 2)
    assert lab.read(reader, private) == 2, "a page that was only read is the file's"
    assert sum(lab.free()) == 4 * 256 - 2
    lab.write(reader, private, 3)
    assert (lab.read(reader, private), lab.read(writer, shared)) == (3, 2)
    lab.write(writer, shared, 4)
    assert lab.read(reader, private) == 3
    assert lab.where(reader, private) == [0], "the copy is where the writer's cpu was"
    assert sum(lab.free()) == 4 * 256 - 3
    assert_journal_tells_all(lab)


def test_a_page_that_only_one_private_mapping_maps_is_copied_too(lab: Lab) -> None:
    """mapcount is 1, but the page is the file's: who maps the file later must not see the store."""
    create(lab, pages=1)
    pid = lab.spawn()
    start = map_file(lab, pid, 1, shared=False)
    lab.write(pid, start, 5)
    assert lab.read(pid, start) == 5
    other = lab.spawn()
    assert lab.read(other, map_file(lab, other, 1)) == 0
    assert (count(lab, "cached"), count(lab, "dirty")) == (1, 0)
    assert_journal_tells_all(lab)


def test_a_fork_of_a_private_mapping_shares_copies_and_leaves_the_cache_alone(lab: Lab) -> None:
    """copy_page_range leaves out what a fault finds in the cache: a library's page stays at 1."""
    create(lab, pages=2)
    parent = lab.spawn()
    library = map_file(lab, parent, 2, shared=False)
    lab.fault(parent, library, 2, access=READ)
    child = lab.fork(parent)
    assert lab.where(child, library, 2) == [-errno.ENOENT] * 2
    lab.write(parent, library, 9)
    grandchild = lab.fork(parent)
    assert lab.where(grandchild, library, 2) == [0, 0]
    lab.write(grandchild, library, 10)
    values = [lab.read(pid, library) for pid in (parent, child, grandchild)]
    assert values == [9, 0, 10]
    assert_journal_tells_all(lab)


def test_a_copy_waits_for_the_page_of_the_file_that_moves(lab: Lab) -> None:
    create(lab, pages=1)
    owner, other = lab.spawn(), lab.spawn(cpu=2)
    shared = touched(lab, owner, 1)
    lab.write(owner, shared, 7)
    private = map_file(lab, other, 1, shared=False)
    lab.hold_back(CopyPages)
    moving = lab.start(migration(0, owner, (0,), (1,)))
    lab.run()
    writing = lab.start(Fault(other, 2, WRITE, pages_from(private, 1)))
    assert lab.answer_to(writing) is None
    lab.let_go(CopyPages)
    answer = lab.answer_to(writing)
    assert isinstance(answer, Translations) and answer.nid.tolist() == [2]
    assert lab.answer_to(moving) is not None
    assert lab.load(answer, 0) == (0, 7)
    assert lab.where(owner, shared) == [1]
    assert_journal_tells_all(lab)


def test_an_image_that_is_filled_in_over_a_file_does_not_write_to_the_file(lab: Lab) -> None:
    create(lab, pages=2)
    pid = lab.spawn()
    start = map_file(lab, pid, 2, shared=False, prot=PROT_READ)
    own = lab.fault(pid, start, 1, access=POPULATE_ANON)
    lab.store(own, 0, 8)
    assert lab.fault(pid, start, 1, access=WRITE).status.tolist() == [-errno.EACCES]
    assert lab.fault(pid, start, 1, access=READ).writable.tolist() == [0]
    lab.fault(pid, start + 1, 1, access=POPULATE_FILE)
    assert lab.read(pid, start) == 8
    reader = lab.spawn()
    assert lab.read(reader, map_file(lab, reader, 1)) == 0
    assert_journal_tells_all(lab)


def test_a_name_that_no_file_has_is_a_mapping_of_its_own(lab: Lab) -> None:
    one, other = lab.spawn(), lab.spawn()
    first, second = (map_file(lab, pid, 1, path="/no/such") for pid in (one, other))
    lab.write(one, first, 1)
    assert lab.read(other, second) == 0
    lab.exit(one)
    lab.exit(other)
    assert lab.free() == [256] * 4


# ---- what outlives whom --------------------------------------------------------------------


def test_the_page_cache_outlives_its_mappings_and_exit_frees_only_anonymous_pages(
    lab: Lab,
) -> None:
    create(lab, pages=4)
    pid = lab.spawn()
    start = touched(lab, pid, 4)
    lab.write(pid, start + 1, 11)
    private = map_file(lab, pid, 4, shared=False)
    lab.write(pid, private, 12)
    lab.mapped(pid, 3)
    assert lab.call(Munmap(pid, start * PAGE, 4 * PAGE)) == 0
    assert lab.exit(pid) == 0
    assert sum(lab.free()) == 4 * 256 - 4
    assert (count(lab, "cached"), count(lab, "mapped"), count(lab, "dirty")) == (4, 0, 4)
    later = lab.spawn()
    assert lab.read(later, map_file(lab, later, 4) + 1) == 11
    assert_journal_tells_all(lab)


def test_unlink_frees_what_nobody_maps(lab: Lab) -> None:
    create(lab, pages=4)
    pid = lab.spawn()
    touched(lab, pid, 4)
    lab.exit(pid)
    assert unlink(lab) == 0
    assert lab.free() == [256] * 4
    assert_journal_tells_all(lab)


def test_a_file_without_a_name_lives_until_the_last_mapping_is_gone(lab: Lab) -> None:
    create(lab, pages=2)
    pid = lab.spawn()
    start = touched(lab, pid, 2)
    lab.write(pid, start, 3)
    child = lab.fork(pid)
    assert unlink(lab) == 0
    assert lab.numa_maps(pid)[0].split()[2] == f"file={PATH}\\040(deleted)"
    assert lab.migrate(pid, 0, 1) == 0
    lab.exit(pid)
    assert lab.read(child, start) == 3
    create(lab, pages=2)
    fresh = lab.spawn()
    assert lab.read(fresh, map_file(lab, fresh, 2)) == 0, "the new file is another one"
    lab.exit(child)
    assert lab.free() == [255, 256, 256, 256]
    assert_journal_tells_all(lab)


def test_pages_of_the_cache_that_nobody_maps_are_neither_moved_nor_counted(lab: Lab) -> None:
    """K 1.14."""
    create(lab, pages=4)
    pid = lab.spawn()
    start = touched(lab, pid, 4)
    lab.call(Munmap(pid, (start + 2) * PAGE, 2 * PAGE))
    assert lab.migrate(pid, 0, 1) == 0
    assert described(lab)["nodes"] == "N0=2,N1=2"
    assert lab.move(pid, [start + 2], [1]).status.tolist() != [1]


# ---- numa_maps (K 6.1) ---------------------------------------------------------------------


def tokens(lab: Lab, pid: int, page: int) -> str:
    [line] = [text for text in lab.numa_maps(pid) if text.startswith(f"{page * PAGE:08x} ")]
    return line.partition(" ")[2]


def test_numa_maps_of_shared_and_private_mappings_of_a_file(lab: Lab) -> None:
    create(lab, pages=4)
    pid = lab.spawn()
    shared = map_file(lab, pid, 4)
    lab.fault(pid, shared, 3, access=READ)
    lab.write(pid, shared, 1)
    private = map_file(lab, pid, 4, shared=False)
    lab.fault(pid, private, 2, access=READ)
    lab.write(pid, private, 2)
    assert (
        tokens(lab, pid, shared) == f"default file={PATH} dirty=1 mapped=3 mapmax=2 active=0 N0=3"
    )
    assert (
        tokens(lab, pid, private)
        == f"default file={PATH} anon=1 dirty=1 mapped=2 mapmax=2 active=1 N0=2"
    )


def test_a_page_that_another_mapper_has_made_dirty_shows_when_the_page_says_so(lab: Lab) -> None:
    """The dirty bit is the entry's own until the entry goes; then it is the page's (K 1.38)."""
    create(lab, pages=1)
    writer, reader = lab.spawn(), lab.spawn()
    start = touched(lab, writer, 1)
    other = map_file(lab, reader, 1)
    lab.fault(reader, other, access=READ)
    assert "dirty" not in tokens(lab, reader, other)
    lab.migrate(writer, 0, 1)
    assert "dirty=1" in tokens(lab, reader, other) and "dirty=1" in tokens(lab, writer, start)
    lab.exit(writer)
    assert "dirty=1" in tokens(lab, reader, other)
    assert_journal_tells_all(lab)


# ---- the journal ---------------------------------------------------------------------------


def live_with_files(lab: Lab, rng: random.Random, steps: int) -> None:
    """Tasks map one of two files, privately or not, write, fork, protect, unmap, move and exit."""
    paths = ["/one", "/two"]
    for path, kind in zip(paths, rng.sample(["shmem", "nfs", "ext3", "ramfs"], 2), strict=True):
        create(lab, kind, 8, path)
    areas: dict[int, list[int]] = {lab.spawn(cpu=cpu): [] for cpu in range(2)}
    for _ in range(steps):
        pid = rng.choice(list(areas))
        page = rng.choice(areas[pid]) + rng.randrange(4) if areas[pid] else 0
        match rng.randrange(9):
            case 0 if len(areas) < 5:
                areas[lab.fork(pid)] = list(areas[pid])
            case 1 if page:
                lab.call(Mprotect(pid, page * PAGE, PAGE, rng.choice([PROT_READ, RW])))
            case 2 if page:
                lab.call(Munmap(pid, page * PAGE, PAGE))
            case 3:
                lab.migrate(pid, rng.sample(range(4), 2), rng.randrange(4))
            case 4 if page:
                lab.move(pid, [page], [rng.randrange(4)], flags=4)
            case 5 if len(areas) > 2:
                lab.exit(pid)
                del areas[pid]
            case 6:
                path = rng.choice(paths)
                if not unlink(lab, path):
                    create(lab, rng.choice(["shmem", "nfs", "ext3-journal"]), 8, path)
            case 7 if page:
                lab.fault(pid, page, 1, access=rng.randrange(2), cpu=rng.randrange(4))
            case _:
                shared, offset, path = rng.random() < 0.5, rng.randrange(5), rng.choice(paths)
                areas[pid].append(map_file(lab, pid, 4, shared=shared, offset=offset, path=path))
                lab.fault(pid, areas[pid][-1], 4, access=rng.randrange(2), cpu=rng.randrange(4))


@pytest.mark.parametrize("seed", range(12))
def test_the_journal_tells_of_files_too(seed: int) -> None:
    lab = Lab()
    live_with_files(lab, random.Random(seed), steps=60)
    assert_journal_tells_all(lab)
    for pid in list(lab.memory.tasks):
        lab.exit(pid)
    for path in list(lab.memory.files):
        unlink(lab, path)
    assert lab.free() == [256] * 4 and not lab.memory.mappings
    assert_journal_tells_all(lab)


def test_a_page_that_was_dirty_twice_is_as_the_journal_has_it(lab: Lab) -> None:
    """The second attempt to move it says nothing new: the page is dirty already (K 1.38)."""
    create(lab, "xfs-metadata", pages=1)
    pid = lab.spawn()
    start = touched(lab, pid, 1)
    assert lab.migrate(pid, 0, 1) == 1
    lab.write(pid, start, 2)
    assert lab.migrate(pid, 0, 1) == 1
    assert_journal_tells_all(lab)
