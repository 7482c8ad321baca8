"""migrate_pages(2) and move_pages(2): which error comes first, which status a page gets (K 4)."""

from __future__ import annotations

import errno
from collections.abc import Callable

import numpy as np
import pytest

from coordinator.mpol import Mode
from protocol.messages import CopyPages, IsolateLruPage, MigratePrep
from protocol.profile import MODERN, PROFILES, SEED, Profile
from protocol.syscalls import Fault, MovedPages, MovePages, Mprotect
from protocol.topology import Topology, TopologyNode, uniform_distances
from tests.calls import PREFILL, binding, moving
from tests.lab import PAGE, READ, WRITE, Lab, pages_from

MakeLab = Callable[..., Lab]
MOVE, MOVE_ALL = 2, 4
PROFILE = pytest.mark.parametrize("profile", [SEED, MODERN], ids=list(PROFILES))


# ---- migrate_pages(2) (K 1.1 - 1.4, 4.5 - 4.7) ---------------------------------------------


def test_a_process_that_is_not_there_comes_before_a_node_that_is_not(lab: Lab) -> None:
    # K 1.1, 4.6.
    assert lab.migrate(99, 0, 77) == -errno.ESRCH
    assert lab.migrate(-1, 0, 1) == -errno.ESRCH


def test_permission_comes_before_a_node_that_is_not_there(lab: Lab) -> None:
    # K 1.1, 1.4.
    target, caller = lab.spawn(uid=1), lab.spawn(uid=2, capable=False)
    assert lab.migrate(target, 0, 77, caller=caller) == -errno.EPERM
    assert lab.migrate(target, 0, 77) == -errno.EINVAL


def test_who_has_the_same_uid_or_the_capability_may(lab: Lab) -> None:
    # K 1.2.
    target = lab.spawn(uid=1)
    same, capable = lab.spawn(uid=1, capable=False), lab.spawn(uid=2)
    assert lab.migrate(target, 0, 1, caller=same) == 0
    assert lab.migrate(target, 0, 1, caller=capable) == 0


def test_pid_0_is_the_caller(lab: Lab) -> None:
    # K 4.5.
    pid = lab.spawn()
    start = lab.mapped(pid, 1)
    assert lab.migrate(0, 0, 1, caller=pid) == 0
    assert lab.where(pid, start) == [1]


def test_the_operator_has_no_pages_of_its_own(lab: Lab) -> None:
    assert lab.migrate(0, 0, 1) == -errno.ESRCH


def test_a_source_that_the_machine_does_not_have_holds_nothing(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mapped(pid, 1)
    assert lab.migrate(pid, (0, 99), (1, 2)) == 0
    assert lab.where(pid, start) == [1]


def test_a_missing_source_keeps_its_place_in_the_mask(make_lab: MakeLab) -> None:
    # K 1.7.
    """There is no node 1: node 2 is still the third of 0-2, and goes to the third (K 1.7)."""
    nids = (0, 2, 3, 4, 5)
    nodes = tuple(TopologyNode(nid, 8, (nid,)) for nid in nids)
    lab = make_lab(topology=Topology(nodes, uniform_distances(5), PAGE))
    pid = lab.spawn()
    start = lab.mapped(pid, 1, cpu=2)
    assert lab.migrate(pid, (0, 1, 2), (3, 4, 5)) == 0
    assert lab.where(pid, start) == [5]


def test_an_empty_target_moves_nothing_at_the_seed(lab: Lab) -> None:
    # K 1.7, 4.7.
    pid = lab.spawn()
    start = lab.mapped(pid, 1)
    assert lab.migrate(pid, 0, ()) == 0
    assert lab.where(pid, start) == [0]


def test_a_swap_of_two_nodes_cannot_be_said(lab: Lab) -> None:
    # K 1.7.
    """Masks are sets (K 1.7)."""
    pid = lab.spawn()
    start = lab.mapped(pid, 1)
    assert lab.migrate(pid, (0, 1), (1, 0)) == 0
    assert lab.where(pid, start) == [0]


@pytest.mark.parametrize(
    ("profile", "ends"), [(SEED, [1, 2, 2, 2]), (MODERN, [1, 1, 2, 2])], ids=["seed", "modern"]
)
def test_pages_of_node_1_and_3_move_again_at_the_seed(
    make_lab: MakeLab, profile: Profile, ends: list[int]
) -> None:
    # K 1.10, 1.11.
    """0-3 -> 1,2: a page of node 3 moves three times, and one of node 1 leaves it (K 1.12)."""
    lab = make_lab(profile=profile)
    pid = lab.spawn()
    start = lab.mmap(pid, 4)
    for cpu in range(4):
        lab.fault(pid, start + cpu, cpu=cpu)
    assert lab.migrate(pid, range(4), (1, 2)) == 0
    assert lab.where(pid, start, 4) == ends


def test_counts_of_all_pairs_are_added_up(lab: Lab) -> None:
    # K 1.6.
    pid = lab.spawn()
    for cpu in (0, 1):
        lab.hold_pages(lab.fault(pid, lab.mapped(pid, 1 + cpu, cpu=cpu)), pinned=1)
    assert lab.migrate(pid, (0, 1), (2, 3)) == 2


def test_the_first_error_hides_the_counts_before_it(make_lab: MakeLab) -> None:
    # K 1.6.
    """K 1.6."""
    lab = make_lab(nodes=4, frames=4, profile=MODERN)
    pid, other = lab.spawn(), lab.spawn()
    lab.hold_pages(lab.fault(pid, lab.mapped(pid, 1)), pinned=1)
    stays = lab.mapped(pid, 1, cpu=1)
    lab.mapped(other, 4, cpu=3)
    assert lab.migrate(pid, (0, 1), (2, 3)) == -errno.ENOMEM
    assert lab.where(pid, stays) == [1]


# ---- move_pages(2): the order of errors (K 4.11 - 4.14) ------------------------------------


def test_errors_come_in_the_order_of_the_kernel(lab: Lab) -> None:
    # K 4.12.
    mine, other = lab.spawn(uid=1, capable=False), lab.spawn(uid=2)
    start = lab.mapped(other, 1)
    everything_wrong = {"pages": [start], "nodes": [77], "caller": mine}
    assert lab.move(99, flags=1, **everything_wrong).value == -errno.EINVAL  # type: ignore[arg-type]
    assert lab.move(99, flags=MOVE_ALL, **everything_wrong).value == -errno.EPERM  # type: ignore[arg-type]
    assert lab.move(99, flags=MOVE, **everything_wrong).value == -errno.ESRCH  # type: ignore[arg-type]
    assert lab.move(other, flags=MOVE, **everything_wrong).value == -errno.EPERM  # type: ignore[arg-type]
    assert lab.move(other, [start], [77]).value == -errno.ENODEV


@pytest.mark.parametrize("node", [-1, 4, 1 << 20])
def test_one_bad_node_anywhere_and_nothing_moves(lab: Lab, node: int) -> None:
    # K 4.13, 4.14.
    pid = lab.spawn()
    start = lab.mapped(pid, 2)
    assert lab.move(pid, [start, start + 1], [1, node]).value == -errno.ENODEV
    assert lab.where(pid, start, 2) == [0, 0]


def test_flags_0_is_move(lab: Lab) -> None:
    # K 4.11.
    pid = lab.spawn()
    start = lab.mapped(pid, 1)
    lab.fork(pid)
    alone = lab.mapped(pid, 1)
    answer = lab.move(pid, [start, alone], [1, 1])
    assert answer.status.tolist() == [-errno.EACCES, 1]


# ---- move_pages(2): the status of each page (K 4.15 - 4.21) --------------------------------


@PROFILE
def test_every_page_gets_its_own_status(make_lab: MakeLab, profile: Profile) -> None:
    # K 4.17, 4.18.
    lab = make_lab(profile=profile)
    pid = lab.spawn()
    first, last = lab.mapped(pid, 6, at=0x100), lab.mapped(pid, 1, at=0x200)
    lab.fork(pid)
    lab.fault(pid, first, 4)
    untouched = lab.mmap(pid, 1, at=0x180)
    where = lab.fault(pid, first + 3)
    lab.hold_pages(where, pinned=1)
    touched = [first, first + 1, first + 1, first + 2, first + 3, first + 4]
    pages = [*touched, untouched, 0x150, last + 9]
    answer = lab.move(pid, pages, [1, 2, 3, 0, 1, 1, 1, 1, 1])
    hole = -errno.ENOENT if profile is SEED else -errno.EFAULT
    if profile is MODERN:
        # The pinned page ends the call: it and the three after the next were not done (K 4.15).
        assert answer.value == 4
        assert answer.status.tolist()[:6] == [1, 2, 3, 0, PREFILL, -errno.EACCES]
        assert answer.status.tolist()[6:] == [PREFILL] * 3
        # A page that is listed for two nodes in turn goes to the one and then to the other.
        assert lab.where(pid, first, 5) == [1, 3, 0, 0, 0]
        return
    assert answer.value == 1
    assert answer.status.tolist() == [
        1,
        2,
        -errno.EBUSY,
        0,
        -errno.EAGAIN,
        -errno.EACCES,
        hole,
        hole,
        -errno.EFAULT,
    ]
    assert lab.where(pid, first, 5) == [1, 2, 0, 0, 0]


@PROFILE
def test_nothing_to_do_is_an_error_at_the_seed(make_lab: MakeLab, profile: Profile) -> None:
    # K 4.15, 4.20.
    lab = make_lab(profile=profile)
    pid = lab.spawn()
    start = lab.mapped(pid, 1)
    nothing = -errno.ENOENT if profile is SEED else 0
    assert lab.move(pid, [start], [0]).value == nothing
    assert lab.move(pid, [], []).value == nothing
    assert lab.move(pid, [start + 5], [1]).value == nothing


@PROFILE
def test_a_query_moves_nothing_and_is_never_empty_handed(
    make_lab: MakeLab, profile: Profile
) -> None:
    # K 4.19.
    lab = make_lab(profile=profile)
    pid = lab.spawn()
    start = lab.mmap(pid, 4)
    lab.fault(pid, start, cpu=3)
    lab.fault(pid, start + 1, access=READ)
    address = pages_from(start, 5) * np.uint64(PAGE) + np.uint64(PAGE - 1)
    answer = lab.ask(moving(pid, address, None), MovedPages)
    assert answer.value == 0
    # The zero page, and in 6.1 what was never touched, too (K 4.17).
    absent = -errno.ENOENT if profile is SEED else -errno.EFAULT
    assert answer.status.tolist() == [3] + [absent] * 3 + [-errno.EFAULT]
    assert lab.ask(moving(pid, (), None), MovedPages).value == 0
    assert lab.ask(moving(pid, address, None, 1), MovedPages).value == -errno.EINVAL


def test_an_address_inside_a_page_means_the_page(lab: Lab) -> None:
    # K 4.20.
    pid = lab.spawn()
    start = lab.mapped(pid, 1)
    asked = moving(pid, [start * PAGE + 17], [2])
    assert lab.ask(asked, MovedPages).status.tolist() == [2]


def test_the_status_is_where_the_page_really_is(make_lab: MakeLab) -> None:
    # K 4.17.
    """At the seed the frame may come from another node than the wanted one (K 1.18, 4.17)."""
    lab = make_lab(nodes=3, frames=4)
    pid, other = lab.spawn(), lab.spawn()
    start = lab.mapped(pid, 2)
    lab.mapped(other, 3, cpu=1)
    second = lab.topology.zonelist(1)[1]
    assert lab.move(pid, [start, start + 1], [1, 1]).status.tolist() == [1, second]


def test_a_page_that_must_not_move_says_eio(lab: Lab) -> None:
    # K 1.34, 1.54.
    pid = lab.spawn()
    start = lab.mapped(pid, 1, name="[fail_migrate_page]")
    answer = lab.move(pid, [start], [1])
    assert (answer.value, answer.status.tolist()) == (1, [-errno.EIO])


def test_move_all_takes_what_others_map_too(lab: Lab) -> None:
    # K 3.3.
    pid = lab.spawn()
    start = lab.mapped(pid, 1)
    child = lab.fork(pid)
    assert lab.move(pid, [start], [3], MOVE_ALL).status.tolist() == [3]
    assert lab.where(child, start) == [3]


def test_pages_of_many_nodes_go_where_each_is_wanted(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mmap(pid, 8)
    for offset in range(8):
        lab.fault(pid, start + offset, cpu=offset % 4)
        lab.write(pid, start + offset, offset)
    wanted = [3, 3, 1, 1, 2, 2, 0, 0]
    assert lab.move(pid, list(range(start, start + 8)), wanted).status.tolist() == wanted
    assert [lab.read(pid, start + offset) for offset in range(8)] == list(range(8))


def test_a_page_that_another_call_is_moving_is_busy(lab: Lab) -> None:
    # K 1.16, 4.17.
    pid = lab.spawn()
    start = lab.mapped(pid, 2)
    lab.hold_back(IsolateLruPage)
    first = lab.start(move_of(pid, start, 1))
    lab.run()
    second = lab.start(move_of(pid, start, 2))
    answer = lab.answer_to(second)
    assert isinstance(answer, MovedPages) and answer.value == -errno.ENOENT
    lab.let_go(IsolateLruPage)
    answer = lab.answer_to(first)
    assert isinstance(answer, MovedPages) and answer.status.tolist() == [1]


def move_of(pid: int, page: int, node: int) -> MovePages:
    return moving(pid, [page * PAGE], [node])


def test_a_page_touched_while_the_lru_is_drained_is_busy_and_nothing_was_to_do(lab: Lab) -> None:
    # K 1.13.
    """None isolatable: -ENOENT at the seed, and the status is not written (K 4.15)."""
    pid = lab.spawn()
    start = lab.mmap(pid, 1)
    lab.hold_back(MigratePrep, "node3")
    call = lab.start(move_of(pid, start, 1))
    lab.run()
    lab.start(Fault(pid, 0, WRITE, pages_from(start, 1)))
    lab.run()
    assert lab.zone(0).pending == 1
    lab.let_go(MigratePrep)
    answer = lab.answer_to(call)
    assert isinstance(answer, MovedPages) and answer.value == -errno.ENOENT
    assert answer.status.tolist() == [PREFILL] and not lab.asked(CopyPages)


# ---- where pages are and what was asked of them ----------------------------------------------


@PROFILE
def test_k_4_9_migrate_pages_asks_no_policy_and_changes_none(
    make_lab: MakeLab, profile: Profile
) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn()
    start = lab.mmap(pid, 2)
    assert lab.call(binding(pid, start * PAGE, 2 * PAGE, Mode.BIND, (0,))) == 0
    lab.fault(pid, start, 2)
    assert lab.migrate(pid, 0, 1) == 0
    assert lab.where(pid, start, 2) == [1, 1]
    [line] = lab.numa_maps(pid)
    assert line.split()[1] == f"bind{profile.policy_separator}0"


def test_k_4_21_of_two_rows_for_one_page_the_first_has_the_status_of_the_move(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mapped(pid, 1)
    moved = lab.move(pid, [start, start], [1, 2])
    assert (moved.value, moved.status.tolist()) == (0, [1, -errno.EBUSY])
    assert lab.where(pid, start) == [1]


@PROFILE
def test_k_4_17_pages_without_any_protection_are_not_there_in_modern(
    make_lab: MakeLab, profile: Profile
) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn()
    start = lab.mapped(pid, 1)
    assert lab.call(Mprotect(pid, start * PAGE, PAGE, 0)) == 0
    moved = lab.move(pid, [start], [1])
    assert moved.status.tolist() == [-errno.ENOENT if profile is MODERN else 1]
    assert lab.migrate(pid, (0, 1), 2) == 0
    [line] = lab.numa_maps(pid)
    assert "N2=1" in line, "migrate_pages(2) does not mind"
