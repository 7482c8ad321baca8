"""The oracle against the numbers that were worked out from the kernel's text (K 1.9 to 1.12)."""

from __future__ import annotations

import errno
from itertools import product

import pytest

from numalab.simulation.oracle import (
    MPOL_MF_MOVE,
    MPOL_MF_MOVE_ALL,
    node_remap,
    pairs,
    sys_migrate_pages,
    sys_move_pages,
)
from numalab.simulation.oracle_machine import Area, Machine, Page, Process, Undetermined
from protocol.nodemask import parse_list


def nodes(text: str) -> frozenset[int]:
    return frozenset(parse_list(text))


#: The names of the first pages of ``machine``.
P0, P1, P2, P3 = ((0, at) for at in range(4))
SIX_NODES = [frozenset(n for n in range(6) if bits >> n & 1) for bits in range(1, 64)]

VECTORS = [
    ("0-2", "1-3", "2>3 1>2 0>1", None),
    ("1-3", "0-2", "1>0 2>1 3>2", None),
    ("0-3", "4-5", "0>4 1>5 2>4 3>5", None),
    ("0-7", "3-5", "7>4 6>3 2>5 1>4 0>3", None),
    ("0-3", "1-2", "3>2 2>1 1>2 0>1", "3>2 0>1"),
    ("0", "1-2", "0>1", None),
    ("0-1", "0-1", "", None),
]


@pytest.mark.parametrize(("old", "new", "seed", "modern"), VECTORS)
def test_the_order_of_node_pairs_is_that_of_k_1_12(
    old: str, new: str, seed: str, modern: str | None
) -> None:
    from_nodes, to_nodes = nodes(old), nodes(new)
    for expected, now in ((seed, False), (seed if modern is None else modern, True)):
        order = " ".join(f"{s}>{d}" for s, d in pairs(from_nodes, to_nodes, modern=now))
        assert order == expected


def walk(node: int, old: frozenset[int], new: frozenset[int], *, modern: bool) -> tuple[int, int]:
    """Where a page that starts on ``node`` ends, and how often it moved."""
    moves = 0
    for source, dest in pairs(old, new, modern=modern):
        if node == source:
            node, moves = dest, moves + 1
    return node, moves


def test_with_masks_of_equal_weight_every_page_moves_once_to_its_place() -> None:
    masks = [(a, b) for a, b in product(SIX_NODES, SIX_NODES) if len(a) == len(b)]
    assert len(masks) == 923
    for old, new in masks:
        for node in old:
            end, moves = walk(node, old, new, modern=False)
            assert end == node_remap(node, old, new) and moves <= 1


def test_with_unequal_masks_the_seed_moves_some_pages_twice_and_modern_none() -> None:
    masks = [(a, b) for a, b in product(SIX_NODES, SIX_NODES) if len(a) != len(b)]
    assert len(masks) == 3046
    twice = 0
    for old, new in masks:
        walks = [walk(node, old, new, modern=False) for node in old]
        assert all(end in new for end, _ in walks)
        twice += any(moves > 1 for _, moves in walks)
        assert all(walk(node, old, new, modern=True)[1] <= 1 for node in old)
    assert twice == 218


def machine(placed: str, *, free: int = 8, falls_back: bool = False) -> Machine:
    """One task (pid 1) with a page at 10, 11, ... on each of these nodes of three."""
    nids = (0, 1, 2)
    zonelist = {n: (n, *(m for m in nids if m != n)) if falls_back else (n,) for n in nids}
    result = Machine(dict.fromkeys(nids, free), zonelist)
    area = Area(10, 10 + len(placed))
    for at, node in enumerate(placed):
        result.pages[0, at] = Page(int(node))
        area.present[10 + at] = (0, at)
    result.processes[1] = Process(areas=[area])
    return result


def nodes_of(m: Machine) -> str:
    return "".join(str(page.node) for page in m.pages.values())


def migrate(m: Machine, old: str, new: str) -> int:
    return sys_migrate_pages(m, 1, 0, nodes(old), nodes(new))


def test_a_pinned_page_is_tried_ten_times_and_counted_once() -> None:
    m = machine("000")
    m.pages[P1].pins = 1
    assert migrate(m, "0", "1") == 1
    assert nodes_of(m) == "101" and m.free == {0: 10, 1: 6, 2: 8}


def test_a_mapping_that_refuses_is_counted_and_not_tried_again() -> None:
    m = machine("00")
    m.pages[P0].refusal = -errno.EIO
    assert migrate(m, "0", "1") == 1 and nodes_of(m) == "01"


def test_a_full_target_ends_the_call_and_what_moved_stays_moved() -> None:
    m = machine("0000", free=2)
    assert migrate(m, "0", "1") == -errno.ENOMEM
    assert nodes_of(m) == "1100" and m.free[1] == 0


def test_a_full_target_falls_back_to_the_next_node_of_its_zonelist() -> None:
    m = machine("0000", free=2, falls_back=True)
    m.zonelist[1] = (1, 2, 0)
    assert migrate(m, "0", "1") == 0 and nodes_of(m) == "1122"


def test_even_a_page_that_cannot_move_needs_a_frame_first() -> None:
    m = machine("0000", free=3)
    m.pages[P3].pins = 1
    assert migrate(m, "0", "1") == -errno.ENOMEM and nodes_of(m) == "1110"


def test_who_depends_on_frames_freed_by_the_same_call_has_no_determined_outcome() -> None:
    m = machine("0000", free=3)
    m.pages[P0].pins = 1
    with pytest.raises(Undetermined):
        migrate(m, "0", "1")


def test_a_shared_page_moves_for_the_privileged_only() -> None:
    m = machine("00")
    child = Area(10, 12, {10: P0})
    m.processes[2] = Process(areas=[child])
    m.processes[1].capable = False
    assert migrate(m, "0", "1") == 0 and nodes_of(m) == "01"
    m.processes[1].capable = True
    assert migrate(m, "0", "1") == 0 and nodes_of(m) == "11"


def test_mlocked_pages_are_not_scanned_but_move_pages_gets_eperm_for_them() -> None:
    # K 1.31, 3.6, 3.7.
    m = machine("0")
    m.processes[1].areas[0].mlocked = True
    assert migrate(m, "0", "1") == 0 and nodes_of(m) == "0"
    assert sys_move_pages(m, 1, 0, [10], [1], MPOL_MF_MOVE) == (1, [-errno.EPERM])


def test_a_lock_that_somebody_holds_for_ever_has_no_determined_outcome() -> None:
    m = machine("0")
    m.pages[P0].locked = True
    with pytest.raises(Undetermined):
        migrate(m, "0", "1")


def test_errors_come_in_the_kernels_order() -> None:
    m = machine("0")
    m.processes[2] = Process(uid=5, capable=False)
    nobody, here = 99, [10]
    assert sys_migrate_pages(m, 1, nobody, frozenset({0}), frozenset({9})) == -errno.ESRCH
    assert sys_migrate_pages(m, 2, 1, frozenset({0}), frozenset({9})) == -errno.EPERM
    assert sys_migrate_pages(m, 1, 1, frozenset({0}), frozenset({9})) == -errno.EINVAL
    assert sys_move_pages(m, 2, nobody, here, [9], 1)[0] == -errno.EINVAL
    assert sys_move_pages(m, 2, nobody, here, [9], MPOL_MF_MOVE_ALL)[0] == -errno.EPERM
    assert sys_move_pages(m, 2, nobody, here, [9], 0)[0] == -errno.ESRCH
    assert sys_move_pages(m, 2, 1, here, [9], 0)[0] == -errno.EPERM
    assert sys_move_pages(m, 1, 1, here, [9], 0)[0] == -errno.ENODEV


def test_move_pages_says_of_each_row_what_became_of_it() -> None:
    m = machine("0011")
    m.processes[1].areas[0].end = 20
    m.processes[2] = Process(areas=[Area(10, 12, {11: P1})])
    m.pages[P2].pins = 1
    rows = [10, 11, 12, 13, 10, 19, 5, 30]
    value, status = sys_move_pages(m, 1, 0, rows, [1] * 2 + [2] * 6, MPOL_MF_MOVE)
    busy, shared, nothing = -errno.EBUSY, -errno.EACCES, -errno.ENOENT
    assert status == [1, shared, -errno.EAGAIN, 2, busy, nothing, nothing, -errno.EFAULT]
    assert value == 1
    assert sys_move_pages(m, 1, 0, [10, 11], None, 0) == (0, [1, 0])


def test_nothing_to_move_is_enoent_at_the_seed_and_zero_now() -> None:
    # K 4.15.
    m = machine("0")
    assert sys_move_pages(m, 1, 0, [10], [0], 0) == (-errno.ENOENT, [])
    m.modern = True
    assert sys_move_pages(m, 1, 0, [10], [0], 0) == (0, [0])
