"""The oracle on pages of files, special vmas, hooks and mbind, by K number."""

from __future__ import annotations

import errno

import pytest

from numalab.simulation.oracle import MPOL_MF_MOVE, MPOL_MF_MOVE_ALL, sys_migrate_pages
from numalab.simulation.oracle import sys_move_pages as move_pages
from numalab.simulation.oracle_machine import (
    Area,
    File,
    Machine,
    Page,
    Process,
    Undetermined,
    Wish,
)
from numalab.simulation.oracle_mbind import MPOL_MF_STRICT, sys_mbind
from numalab.simulation.oracle_policy import (
    MPOL_BIND,
    MPOL_DEFAULT,
    MPOL_INTERLEAVE,
    MPOL_PREFERRED,
)

MOVE_STRICT = MPOL_MF_MOVE | MPOL_MF_STRICT


def machine(pages: int = 1, *, modern: bool = False, free: int = 8, **of_page: object) -> Machine:
    """Three nodes; task 1 has ``pages`` pages on node 0, from page 10 on."""
    lists = {nid: (nid, *(other for other in range(3) if other != nid)) for nid in range(3)}
    result = Machine(dict.fromkeys(range(3), free), {n: (n,) for n in range(3)}, modern, lists)
    area = Area(10, 10 + pages, private=True)
    for at in range(pages):
        result.pages[0, at] = Page(0, **of_page)  # type: ignore[arg-type]
        area.present[10 + at] = (0, at)
    result.processes[1] = Process(areas=[area])
    return result


def status_of(m: Machine) -> int:
    value, status = move_pages(m, 1, 0, [10], [1], MPOL_MF_MOVE)
    return status[0]


def migrate(m: Machine) -> int:
    return sys_migrate_pages(m, 1, 0, frozenset({0}), frozenset({1}))


def nodes_of(m: Machine) -> str:
    return "".join(str(page.node) for page in m.pages.values())


@pytest.mark.parametrize(
    ("kind", "of_page", "status", "left", "passes"),
    [
        ("shmem", {"dirty": True}, 1, 0, 1),
        ("ext3", {"dirty": True, "private": True}, 1, 0, 1),
        ("xfs-metadata", {}, -errno.EIO, 1, 1),
        ("nfs", {}, 1, 0, 1),
        ("nfs", {"dirty": True}, 1, 1, 1),
        ("ramfs", {"dirty": True}, -errno.EINVAL, 1, 1),
        ("ext3-journal", {"private": True}, 1, 0, 1),
        ("nfs", {"pins": 1}, -errno.EAGAIN, 1, 10),
    ],
)
def test_the_method_of_a_file_decides(
    kind: str, of_page: dict[str, object], status: int, left: int, passes: int
) -> None:
    """K 1.52 - 1.57: the status at the seed; pages left, after so many passes, in 6.1."""
    m, now = machine(file=File(kind)), machine(modern=True, file=File(kind))
    for name, value in of_page.items():
        setattr(m.pages[0, 0], name, value)
        setattr(now.pages[0, 0], name, value)
    assert status_of(m) == status
    assert (migrate(now), len(now.passes)) == (left, passes)


def test_a_dirty_page_of_the_fallback_needs_a_second_pass() -> None:
    m = machine(file=File("nfs"), dirty=True)
    assert migrate(m) == 0 and m.passes == [(1, 0), (0, 0)]


def test_a_writepage_that_fails_and_buffers_that_stay() -> None:
    assert status_of(machine(file=File("nfs", fails=True), dirty=True)) == -errno.EIO
    keeps = File("ext3-journal", keeps=True)
    assert status_of(machine(file=keeps, private=True)) == -errno.EAGAIN


def test_polite_passes_leave_a_page_under_writeback() -> None:
    """K 1.29."""
    m = machine(file=File("shmem"), writeback=True)
    assert migrate(m) == 0 and m.passes == [(1, 0)] * 3 + [(0, 0)]


@pytest.mark.parametrize(("hook", "value"), [(-errno.EIO, -errno.EIO), (3, 0)])
def test_a_hook_that_does_not_say_zero_ends_the_call(hook: int, value: int) -> None:
    """K 2.5."""
    m = machine()
    m.processes[1].areas[0].hook = hook
    assert migrate(m) == value and nodes_of(m) == "0"


def test_special_vmas_are_not_scanned_and_6_1_does_not_look_into_them() -> None:
    """K 3.6, 3.7, 4.17."""
    for flag in ("fixed", "mlocked"):
        m = machine()
        setattr(m.processes[1].areas[0], flag, True)
        assert migrate(m) == 0 and nodes_of(m) == "0", flag
    m = machine(modern=True)
    m.processes[1].areas[0].fixed = True
    assert status_of(m) == -errno.EFAULT
    m.processes[1].areas[0].structless = True
    assert move_pages(m, 1, 0, [10], None, 0) == (0, [-errno.EFAULT])


def mbind(m: Machine, wish: Wish, flags: int, start: int = 10, end: int = 0) -> int:
    last = m.processes[1].areas[-1].end
    return sys_mbind(m, 1, start, end or last, wish, flags)


def on(*nodes: int) -> frozenset[int]:
    return frozenset(nodes)


def test_mbind_moves_to_where_the_new_policy_says() -> None:
    """K 4.28, 5.3, 5.4, 5.6."""
    interleaved = machine(4)
    assert mbind(interleaved, (MPOL_INTERLEAVE, on(1, 2)), MPOL_MF_MOVE) == 0
    assert nodes_of(interleaved) == "1212", "page 10 is even"
    full = machine(3, free=2)
    assert mbind(full, (MPOL_PREFERRED, on(1)), MPOL_MF_MOVE) == 0
    assert nodes_of(full) == "110", "the zonelist of node 1 goes on with node 0"
    bound = machine(3, free=2)
    assert mbind(bound, (MPOL_BIND, on(1)), MPOL_MF_MOVE) == 0
    assert nodes_of(bound) == "110", "two went, and then nothing was free in the mask"


def test_with_mode_default_every_page_is_misplaced() -> None:
    """K 4.27."""
    m = machine(2)
    m.processes[1].node = 2
    assert mbind(m, (MPOL_DEFAULT, on()), MOVE_STRICT) == 0 and nodes_of(m) == "22"


def test_strict_alone_says_eio_and_moves_nothing() -> None:
    """K 4.24."""
    m = machine()
    assert mbind(m, (MPOL_BIND, on(1)), MPOL_MF_STRICT) == -errno.EIO and nodes_of(m) == "0"
    assert mbind(m, (MPOL_BIND, on(0)), MPOL_MF_STRICT) == 0


def test_strict_and_move_say_eio_for_what_stayed() -> None:
    """K 4.25, 4.26: a shared page is left alone and no reason."""
    m = machine(2, pins=1)
    assert mbind(m, (MPOL_BIND, on(1)), MPOL_MF_MOVE) == 0
    assert mbind(m, (MPOL_BIND, on(1)), MOVE_STRICT) == -errno.EIO
    shared = machine()
    shared.processes[2] = Process(areas=[Area(10, 11, {10: (0, 0)})])
    assert mbind(shared, (MPOL_BIND, on(1)), MOVE_STRICT) == 0 and nodes_of(shared) == "0"
    assert mbind(shared, (MPOL_BIND, on(1)), MPOL_MF_MOVE_ALL) == 0 and nodes_of(shared) == "1"


def test_mbind_at_the_seed_does_not_see_a_hole_at_the_edge() -> None:
    """K 4.23."""
    for modern, value in ((False, 0), (True, -errno.EFAULT)):
        m = machine(modern=modern)
        assert mbind(m, (MPOL_BIND, on(0)), 0, start=8) == value
        assert mbind(m, (MPOL_BIND, on(0)), 0, end=12) == -errno.EFAULT, "after the last vma"


def test_6_1_and_strict_with_what_cannot_be_isolated_is_not_determined() -> None:
    m = machine(modern=True, lru=False)
    with pytest.raises(Undetermined):
        mbind(m, (MPOL_BIND, on(1)), MOVE_STRICT)
