"""Vmas are split and joined, and what belongs to them is never lost (K 4.30)."""

from __future__ import annotations

import random

import pytest

from coordinator.mm import PROT_EXEC, PROT_READ
from coordinator.mpol import Mode
from protocol.profile import MODERN, Profile
from protocol.syscalls import Mprotect
from tests.lab import PAGE, READ, RW, Lab
from tests.policies import (
    MOVE,
    Labs,
    areas,
    assert_the_journal_tells_all,
    both,
    by_profile,
    mbind,
    texts,
)

BASE = 5000


def map_at(lab: Lab, pid: int, page: int, pages: int, prot: int = RW) -> int:
    return lab.mmap(pid, pages, at=page, prot=prot)


def protect(lab: Lab, pid: int, page: int, pages: int, prot: int) -> None:
    assert lab.call(Mprotect(pid, page * PAGE, pages * PAGE, prot)) == 0


@by_profile(4, 1)
def test_k_4_30_a_policy_splits_and_the_same_policy_again_joins(
    make_lab: Labs, profile: Profile, expected: int
) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn()
    start = lab.mapped(pid, 9)
    assert mbind(lab, pid, start + 3, 3, Mode.BIND, (1,)) == 0
    assert areas(lab, pid) == [(start, 3), (start + 3, 3), (start + 6, 3)]
    assert mbind(lab, pid, start, 4, Mode.BIND, (1,)) == 0
    assert mbind(lab, pid, start + 6, 3, Mode.BIND, (1,)) == 0
    assert len(areas(lab, pid)) == expected
    assert lab.where(pid, start, 9) == [0] * 9
    assert_the_journal_tells_all(lab)


@both
def test_neighbours_that_mmap_makes_are_one_vma(make_lab: Labs, profile: Profile) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn()
    map_at(lab, pid, BASE, 2)
    map_at(lab, pid, BASE + 4, 2)
    lab.write(pid, BASE + 1, 11)
    # It closes the gap; only one of its neighbours has a page.
    map_at(lab, pid, BASE + 2, 2)
    assert areas(lab, pid) == [(BASE, 6)]
    lab.write(pid, BASE + 5, 55)
    assert [lab.read(pid, BASE + 1), lab.read(pid, BASE + 5)] == [11, 55]
    assert lab.migrate(pid, 0, 2) == 0
    assert [lab.read(pid, BASE + 1), lab.read(pid, BASE + 5)] == [11, 55]
    assert len(lab.numa_maps(pid)) == 1
    assert_the_journal_tells_all(lab)


@by_profile([(BASE, 4), (BASE + 4, 2)], [(BASE, 2), (BASE + 2, 4)])
def test_two_that_have_pages_of_their_own_are_not_joined(
    make_lab: Labs, profile: Profile, expected: list[tuple[int, int]]
) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn()
    for page in (BASE, BASE + 4):
        map_at(lab, pid, page, 2)
        lab.write(pid, page, page)
    # Both neighbours have an anon_vma, so the new one goes to only one of them.
    map_at(lab, pid, BASE + 2, 2)
    assert areas(lab, pid) == expected
    assert lab.migrate(pid, 0, 1) == 0
    assert [lab.read(pid, BASE), lab.read(pid, BASE + 4)] == [BASE, BASE + 4]
    assert_the_journal_tells_all(lab)


@both
def test_the_first_page_takes_the_neighbour_s_anon_vma_so_that_mprotect_can_join(
    make_lab: Labs, profile: Profile
) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn()
    map_at(lab, pid, BASE, 2)
    map_at(lab, pid, BASE + 2, 2, prot=PROT_READ)
    lab.write(pid, BASE, 1)
    protect(lab, pid, BASE + 2, 1, RW | PROT_EXEC)
    lab.write(pid, BASE + 2, 2)
    assert areas(lab, pid) == [(BASE, 2), (BASE + 2, 1), (BASE + 3, 1)]
    protect(lab, pid, BASE + 2, 1, RW)
    assert areas(lab, pid)[0] == (BASE, 3)
    assert [lab.read(pid, BASE), lab.read(pid, BASE + 2)] == [1, 2]
    assert_the_journal_tells_all(lab)


@by_profile([(BASE, 4)], [(BASE, 2), (BASE + 2, 2)])
def test_what_has_a_page_does_not_join_a_neighbour_without_one_since_it_has_a_list(
    make_lab: Labs, profile: Profile, expected: list[tuple[int, int]]
) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn()
    map_at(lab, pid, BASE, 2)
    map_at(lab, pid, BASE + 2, 2, prot=PROT_READ)
    lab.fault(pid, BASE + 2, access=READ)
    protect(lab, pid, BASE + 2, 2, RW | PROT_EXEC)
    lab.write(pid, BASE + 2, 7)
    protect(lab, pid, BASE + 2, 2, RW)
    assert areas(lab, pid) == expected
    assert lab.read(pid, BASE + 2) == 7


@by_profile([(BASE, 4)], [(BASE, 2), (BASE + 2, 2)])
def test_a_child_s_pages_are_in_objects_of_its_own_for_each_vma_now(
    make_lab: Labs, profile: Profile, expected: list[tuple[int, int]]
) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn()
    map_at(lab, pid, BASE, 4)
    lab.fault(pid, BASE, 4)
    protect(lab, pid, BASE, 2, PROT_READ)
    child = lab.fork(pid)
    for task in (pid, child):
        protect(lab, task, BASE, 2, RW)
    assert areas(lab, pid) == [(BASE, 4)]
    assert areas(lab, child) == expected
    assert_the_journal_tells_all(lab)


def test_k_4_30_only_equal_policies_join(make_lab: Labs) -> None:
    lab = make_lab(profile=MODERN)
    pid = lab.spawn()
    start = lab.mapped(pid, 4)
    for page, (mode, nodes) in enumerate(
        [
            (Mode.BIND, (0, 1)),
            (Mode.BIND | 1 << 15, (0, 1)),
            (Mode.INTERLEAVE, (0, 1)),
            (Mode.LOCAL, ()),
        ]
    ):
        assert mbind(lab, pid, start + page, 1, mode, nodes) == 0
    assert len(areas(lab, pid)) == 4
    assert texts(lab, pid) == ["bind:0-1", "bind=static:0-1", "interleave:0-1", "local"]
    assert mbind(lab, pid, start, 4, Mode.DEFAULT) == 0
    assert areas(lab, pid) == [(start, 4)]


def test_modern_mbind_leaves_alone_what_is_as_it_wants(make_lab: Labs) -> None:
    lab = make_lab(profile=MODERN)
    pid = lab.spawn()
    start = lab.mapped(pid, 6)
    assert mbind(lab, pid, start, 6, Mode.BIND, (1,)) == 0
    assert mbind(lab, pid, start + 2, 2, Mode.BIND, (1,)) == 0
    assert areas(lab, pid) == [(start, 6)]


def test_joined_vmas_move_with_mbind_and_keep_their_contents(make_lab: Labs) -> None:
    lab = make_lab(profile=MODERN)
    pid = lab.spawn(cpu=0)
    start = lab.mapped(pid, 6)
    for page in range(6):
        lab.write(pid, start + page, 100 + page)
    assert mbind(lab, pid, start + 2, 2, Mode.BIND, (2,), MOVE) == 0
    assert mbind(lab, pid, start, 6, Mode.BIND, (2,), MOVE) == 0
    assert areas(lab, pid) == [(start, 6)]
    assert lab.where(pid, start, 6) == [2] * 6
    assert [lab.read(pid, start + page) for page in range(6)] == list(range(100, 106))


@pytest.mark.parametrize("seed", range(4))
@both
def test_any_order_of_splits_and_joins_keeps_contents_and_journal(
    make_lab: Labs, profile: Profile, seed: int
) -> None:
    print(f"seed {seed}")
    draw = random.Random(seed)
    lab = make_lab(profile=profile)
    pid = lab.spawn(cpu=0)
    tasks = [pid]
    contents: dict[tuple[int, int], int] = {}
    mapped: set[int] = set()
    for turn in range(50):
        page, pages = BASE + draw.randrange(12), draw.randrange(1, 4)
        task = draw.choice(tasks)
        what = draw.randrange(7)
        if what == 0 and not mapped & set(range(page, page + pages)):
            for other in tasks:
                map_at(lab, other, page, pages)
            mapped |= set(range(page, page + pages))
        elif what == 1 and page in mapped:
            protect(lab, task, page, 1, RW)
            lab.write(task, page, turn + 1)
            contents[task, page] = turn + 1
        elif what == 2 and page in mapped:
            protect(lab, task, page, 1, PROT_READ)
        elif what in (3, 4) and page in mapped:
            node = draw.randrange(4)
            assert mbind(lab, task, page, 1, Mode.BIND, (node,), MOVE) == 0
        elif what == 5 and len(tasks) < 3:
            child = lab.fork(task)
            tasks.append(child)
            kept = {p: v for (t, p), v in contents.items() if t == task}
            contents.update({(child, p): v for p, v in kept.items()})
        elif what == 6 and mapped:
            lab.migrate(task, (0, 1, 2, 3), (draw.randrange(4),))
        lab.validate()
        assert_the_journal_tells_all(lab)
    for (task, page), value in contents.items():
        assert lab.read(task, page) == value, (seed, task, page)
