"""mbind(2): what it checks in which order, what it moves and what it leaves (K 4.22 - 4.29)."""

from __future__ import annotations

import errno

import pytest

from coordinator.mm import MAP_FIXED, MAP_PRIVATE, VmFlag
from coordinator.mpol import Mode
from protocol.messages import CopyPages, Done, NewPages
from protocol.profile import MODERN, SEED, Profile
from protocol.syscalls import Fault, Mmap, Translations
from tests.calls import binding
from tests.lab import NOT_NAMED, PAGE, RW, Lab, pages_from
from tests.policies import (
    MOVE,
    MOVE_ALL,
    STATIC,
    STRICT,
    Labs,
    at,
    both,
    by_profile,
    mbind,
    profiled,
    set_policy,
)

EIO, EFAULT, EINVAL = -errno.EIO, -errno.EFAULT, -errno.EINVAL
BASE = 1000


def with_holes(lab: Lab, pid: int) -> None:
    """Pages 2 and 3, 6 and 7, 20 and 21 from BASE are mapped."""
    for page in (2, 6, 20):
        address = (BASE + page) * PAGE
        asked = Mmap(pid, address, 2 * PAGE, RW, MAP_FIXED | MAP_PRIVATE, NOT_NAMED, 0)
        assert lab.call(asked) == address


# ---- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "pages", "mode", "nodes", "flags", "value"),
    [
        (0, 1, 9, (0,), 8, EINVAL),
        (0, 1, Mode.BIND, (0,), 8, EINVAL),
        (1, 1, Mode.BIND, (0,), MOVE_ALL, -errno.EPERM),
        (1, 1, Mode.BIND, (0,), 0, EINVAL),
        (0, 0, Mode.BIND, (), 0, 0),
        (0, 1, Mode.BIND, (), 0, EINVAL),
        (0, 1, Mode.DEFAULT, (1,), 0, EINVAL),
        (0, 1 << 40, Mode.BIND, (0,), 0, EINVAL),
        (0, 1, Mode.DEFAULT, (), STRICT, 0),
    ],
)
@both
def test_k_4_22_the_order_of_errors(
    make_lab: Labs,
    profile: Profile,
    offset: int,
    pages: int,
    mode: int,
    nodes: tuple[int, ...],
    flags: int,
    value: int,
) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn(capable=False, uid=1)
    start = lab.mmap(pid, 1)
    asked = binding(pid, start * PAGE + offset, pages * PAGE, mode, nodes, flags)
    assert lab.call(asked) == value


@pytest.mark.parametrize(
    ("first", "pages", "mode", "seed", "modern"),
    [
        (2, 6, Mode.BIND, EFAULT, EFAULT),
        (0, 4, Mode.BIND, 0, EFAULT),
        (6, 5, Mode.BIND, 0, EFAULT),
        (20, 5, Mode.BIND, EFAULT, EFAULT),
        (40, 1, Mode.BIND, EFAULT, EFAULT),
        (10, 2, Mode.BIND, 0, EFAULT),
        (0, 30, Mode.DEFAULT, 0, 0),
        (10, 2, Mode.DEFAULT, 0, EFAULT),
        (40, 1, Mode.DEFAULT, EFAULT, EFAULT),
    ],
)
def test_k_4_23_holes(
    make_lab: Labs, first: int, pages: int, mode: int, seed: int, modern: int
) -> None:
    for profile, value in ((SEED, seed), (MODERN, modern)):
        lab = make_lab(profile=profile)
        pid = lab.spawn()
        with_holes(lab, pid)
        nodes = (0,) if mode else ()
        assert mbind(lab, pid, BASE + first, pages, mode, nodes) == value, profile.name


@both
def test_k_4_23_what_comes_first_in_the_range_is_the_error(
    make_lab: Labs, profile: Profile
) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn(cpu=0)
    with_holes(lab, pid)
    lab.fault(pid, BASE + 20)
    assert mbind(lab, pid, BASE + 6, 16, Mode.BIND, (1,), STRICT) == EFAULT
    lab.fault(pid, BASE + 6)
    # The seed finds the hole when it has left the first vma, 6.1 when it comes to it.
    expected = EFAULT if profile is MODERN else EIO
    assert mbind(lab, pid, BASE + 6, 16, Mode.BIND, (1,), STRICT) == expected


@both
def test_k_4_32_an_error_after_pages_were_taken_gives_them_back(
    make_lab: Labs, profile: Profile
) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn(cpu=0)
    with_holes(lab, pid)
    lab.fault(pid, BASE + 2, 2)
    assert mbind(lab, pid, BASE + 2, 6, Mode.BIND, (1,), MOVE) == EFAULT
    assert lab.where(pid, BASE + 2, 2) == [0, 0]
    assert mbind(lab, pid, BASE + 2, 2, Mode.BIND, (1,), MOVE) == 0
    assert lab.where(pid, BASE + 2, 2) == [1, 1]


# ---- STRICT, MOVE, both --------------------------------------------------------------------------


@both
def test_k_4_24_strict_alone_installs_nothing(make_lab: Labs, profile: Profile) -> None:
    # K 3.1.
    lab = make_lab(profile=profile)
    pid = lab.spawn(cpu=0)
    start = lab.mapped(pid, 2)
    assert mbind(lab, pid, start, 2, Mode.BIND, (1,), STRICT) == EIO
    assert at(lab, pid, start) == (0, Mode.DEFAULT, ())
    assert mbind(lab, pid, start, 2, Mode.BIND, (0, 1), STRICT) == 0


@both
def test_k_4_25_move_is_best_effort_and_silent(make_lab: Labs, profile: Profile) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn(cpu=0)
    start = lab.mapped(pid, 3)
    lab.hold_pages(lab.fault(pid, start), pinned=1)
    assert mbind(lab, pid, start, 3, Mode.BIND, (1,), MOVE) == 0
    assert lab.where(pid, start, 3) == [0, 1, 1]
    assert at(lab, pid, start) == (0, Mode.BIND, (1,))


@both
def test_k_4_26_move_and_strict_is_eio_for_what_failed_to_move(
    make_lab: Labs, profile: Profile
) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn(cpu=0)
    start = lab.mapped(pid, 2)
    lab.hold_pages(lab.fault(pid, start), pinned=1)
    assert mbind(lab, pid, start, 2, Mode.BIND, (1,), MOVE | STRICT) == EIO
    assert lab.where(pid, start, 2) == [0, 1]
    assert at(lab, pid, start) == (0, Mode.BIND, (1,))


@both
def test_k_4_26_a_shared_page_stays_silently(make_lab: Labs, profile: Profile) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn(cpu=0)
    start = lab.mapped(pid, 1)
    lab.fork(pid)
    assert mbind(lab, pid, start, 1, Mode.BIND, (1,), MOVE | STRICT) == 0
    assert lab.where(pid, start) == [0]
    assert mbind(lab, pid, start, 1, Mode.BIND, (1,), MOVE_ALL | STRICT) == 0
    assert lab.where(pid, start) == [1]


@by_profile(0, EIO)
def test_k_4_26_what_another_has_isolated(make_lab: Labs, profile: Profile, expected: int) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn(cpu=0)
    start = lab.mapped(pid, 2)
    child = lab.fork(pid)
    # The child's migration has taken the page when the parent asks for it.
    lab.hold_back(NewPages)
    running = lab.start(binding(child, start * PAGE, PAGE, Mode.BIND, (2,), MOVE_ALL))
    assert lab.answer_to(running) is None
    other = lab.start(binding(pid, start * PAGE, 2 * PAGE, Mode.BIND, (1,), MOVE_ALL | STRICT))
    assert lab.answer_to(other) is None
    lab.let_go(NewPages)
    answer = lab.answer_to(other)
    assert isinstance(answer, Done) and answer.value == expected
    assert lab.where(pid, start + 1) == [1]


@both
def test_k_4_26_a_full_target_is_eio_with_strict(make_lab: Labs, profile: Profile) -> None:
    lab = make_lab(nodes=2, frames=4, profile=profile)
    pid, other = lab.spawn(cpu=0), lab.spawn(cpu=1)
    lab.mapped(other, 3, cpu=1)
    start = lab.mapped(pid, 3)
    assert mbind(lab, pid, start, 3, Mode.BIND, (1,), MOVE | STRICT) == EIO
    assert lab.where(pid, start, 3) == [1, 0, 0]


@both
def test_k_4_27_default_and_move_takes_every_page_to_where_the_task_wants_it(
    make_lab: Labs, profile: Profile
) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn(cpu=0)
    start = lab.mapped(pid, 2, cpu=3)
    assert set_policy(lab, pid, Mode.PREFERRED, (2,)) == 0
    assert mbind(lab, pid, start, 2, Mode.DEFAULT, (), MOVE) == 0
    assert lab.where(pid, start, 2) == [2, 2]


@both
def test_k_4_27_what_is_misplaced_goes_by_the_mask_that_was_given(
    make_lab: Labs, profile: Profile
) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn(cpu=0)
    start = lab.mapped(pid, 1, cpu=2)
    # Node 1 is preferred, but a page on 2 is where the mask allows it.
    assert mbind(lab, pid, start, 1, Mode.PREFERRED, (1, 2), MOVE) == 0
    assert lab.where(pid, start) == [2]
    assert mbind(lab, pid, start, 1, Mode.PREFERRED, (), STRICT) == EIO


@both
def test_k_4_28_destinations_follow_the_new_policy_page_by_page(
    make_lab: Labs, profile: Profile
) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn(cpu=0)
    start = lab.mapped(pid, 6)
    lab.write(pid, start + 3, 42)
    # Two vmas by now, and one rule for both.
    assert mbind(lab, pid, start, 2, Mode.PREFERRED, (0,)) == 0
    assert mbind(lab, pid, start, 6, Mode.INTERLEAVE, (1, 2), MOVE) == 0
    assert lab.where(pid, start, 6) == [(1, 2)[(start + page) % 2] for page in range(6)]
    assert lab.read(pid, start + 3) == 42
    assert int(lab.memory.numastat.interleave_hit.sum()) == 6


def test_k_4_28_a_preferred_many_move_begins_with_its_nodes(make_lab: Labs) -> None:
    lab = make_lab(nodes=3, frames=2, profile=MODERN)
    pid = lab.spawn(cpu=0)
    start = lab.mapped(pid, 2)
    assert mbind(lab, pid, start, 2, Mode.PREFERRED_MANY | STATIC, (1, 2), MOVE | STRICT) == 0
    assert lab.where(pid, start, 2) == [1, 1]


@pytest.mark.parametrize(
    ("profile", "waits"),
    [(SEED, True), (MODERN, True), (profiled(MODERN, mbind_blocks_faults=False), False)],
    ids=["seed", "modern", "since 6.7"],
)
def test_k_4_29_faults_wait_for_mbind(make_lab: Labs, profile: Profile, waits: bool) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn(cpu=0)
    start, other = lab.mapped(pid, 1), lab.mmap(pid, 1, at=BASE)
    lab.hold_back(CopyPages)
    moving = lab.start(binding(pid, start * PAGE, PAGE, Mode.BIND, (1,), MOVE))
    assert lab.answer_to(moving) is None
    fault = lab.start(Fault(pid, 0, 1, pages_from(other, 1)))
    assert (lab.answer_to(fault) is None) is waits
    lab.let_go(CopyPages)
    assert isinstance(lab.answer_to(moving), Done)
    assert isinstance(lab.answer_to(fault), Translations)


# ---- vmas that may not be migrated ---------------------------------------------------------------


@by_profile([0, 0, EIO, 0], [0, 0, EIO, EIO])
def test_k_3_8_strict_looks_at_vmas_that_may_not_be_migrated_too(
    make_lab: Labs, profile: Profile, expected: list[int]
) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn(cpu=0)
    start = lab.mapped(pid, 1)
    lab.vma(pid, start).vm_flags = VmFlag.IO
    values, places = [], []
    for flags in (0, MOVE, STRICT, MOVE | STRICT):
        values.append(mbind(lab, pid, start, 1, Mode.BIND, (1,), flags))
        places.extend(lab.where(pid, start))
    assert values == expected
    assert places == [0, 0, 0, 1]
