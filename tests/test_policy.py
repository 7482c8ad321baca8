"""Policies: where new pages go, and what mbind moves (K 4.22 - 4.36, K 5)."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from coordinator.mm import MAP_FIXED, MAP_PRIVATE
from coordinator.mpol import Mempolicy, Mode
from coordinator.policy import mpol_new
from coordinator.replay import differences, replay
from protocol.profile import MODERN, SEED
from protocol.syscalls import Mmap, PolicyTold
from protocol.topology import Topology
from protocol.user_mask import nodes_of
from tests.calls import binding, getting, setting
from tests.lab import NOT_NAMED, PAGE, READ, RW, Lab

MOVE, MOVE_ALL, STRICT = 2, 4, 1
NODE, ADDR = 1, 2
Labs = Callable[..., Lab]
Nodes = tuple[int, ...]


def mbind(
    lab: Lab, pid: int, start: int, pages: int, mode: int, nodes: tuple[int, ...], flags: int = 0
) -> int:
    return lab.call(binding(pid, start * PAGE, pages * PAGE, mode, nodes, flags))


def told(lab: Lab, pid: int, page: int = 0, flags: int = 0) -> tuple[int, int, tuple[int, ...]]:
    answer = lab.ask(getting(pid, page * PAGE, flags), PolicyTold)
    return answer.value, answer.mode, nodes_of(answer.nodes or b"")


# ---- where new pages go ----------------------------------------------------------------------


def test_k_5_2_the_vma_s_policy_comes_before_the_task_s_and_that_before_local(lab: Lab) -> None:
    pid = lab.spawn(cpu=0)
    assert lab.where(pid, lab.mapped(pid, 1)) == [0]
    assert lab.call(setting(pid, Mode.PREFERRED, (2,))) == 0
    assert lab.where(pid, lab.mapped(pid, 1)) == [2]
    start = lab.mmap(pid, 2)
    assert mbind(lab, pid, start + 1, 1, Mode.BIND, (3,)) == 0
    lab.fault(pid, start, 2)
    assert lab.where(pid, start, 2) == [2, 3]


def test_k_5_3_preferred_takes_the_lowest_node_and_then_its_fallback_list(make_lab: Labs) -> None:
    lab = make_lab(nodes=3, frames=4)
    pid = lab.spawn(cpu=0)
    assert lab.call(setting(pid, Mode.PREFERRED, (2, 1))) == 0
    start = lab.mapped(pid, 6)
    assert lab.where(pid, start, 6)[:4] == [1] * 4
    assert 1 not in lab.where(pid, start, 6)[4:]


@pytest.mark.parametrize(
    ("profile", "expected"), [("seed", [1, 1, 1, 3]), ("modern", [3, 3, 3, 1])]
)
def test_k_5_4_bind_order(make_lab: Labs, profile: str, expected: list[int]) -> None:
    # A line of four nodes; the cpu is on node 2, and node 3 is nearer to it than node 1.
    distances = ((10, 20, 30, 40), (20, 10, 20, 30), (30, 25, 10, 20), (40, 30, 20, 10))
    flat = Topology.uniform(4, 3 * PAGE, page_size=PAGE)
    topology = Topology(flat.nodes, distances, PAGE)
    how = {"profile": MODERN} if profile == "modern" else {}
    lab = make_lab(topology=topology, **how)
    pid = lab.spawn(cpu=2)
    assert lab.call(setting(pid, Mode.BIND, (1, 3))) == 0
    start = lab.mapped(pid, 4, cpu=2)
    assert lab.where(pid, start, 4) == expected


def test_k_5_4_bind_never_leaves_its_nodes(make_lab: Labs) -> None:
    lab = make_lab(nodes=2, frames=4)
    pid = lab.spawn(cpu=0)
    assert lab.call(setting(pid, Mode.BIND, (1,))) == 0
    start = lab.mmap(pid, 6)
    status = lab.fault(pid, start, 6).status
    assert sorted(status.tolist()) == [-errno.ENOMEM] * 2 + [0] * 4


def test_k_5_6_interleave_goes_by_the_page_and_counts_its_hits(lab: Lab) -> None:
    # K 5.7.
    pid = lab.spawn(cpu=0)
    start = lab.mmap(pid, 8)
    assert mbind(lab, pid, start, 8, Mode.INTERLEAVE, (0, 2, 3)) == 0
    lab.fault(pid, start, 8)
    order = (0, 2, 3)
    assert lab.where(pid, start, 8) == [order[(start + at) % 3] for at in range(8)]
    assert int(lab.memory.numastat.interleave_hit.sum()) == 8


def test_fork_inherits_both_policies(lab: Lab) -> None:
    pid = lab.spawn(cpu=0)
    start = lab.mmap(pid, 2)
    assert mbind(lab, pid, start, 1, Mode.BIND, (3,)) == 0
    assert lab.call(setting(pid, Mode.PREFERRED, (2,))) == 0
    child = lab.fork(pid)
    lab.fault(child, start, 2)
    assert lab.where(child, start, 2) == [3, 2]


# ---- set_mempolicy and get_mempolicy -----------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "nodes", "value"),
    [
        (Mode.DEFAULT, (), 0),
        (Mode.DEFAULT, (1,), -errno.EINVAL),
        (Mode.BIND, (), -errno.EINVAL),
        (Mode.INTERLEAVE, (), -errno.EINVAL),
        (Mode.PREFERRED, (), 0),
        (Mode.BIND, (0, 9), -errno.EINVAL),
        (7439, (0,), -errno.EINVAL),
    ],
)
def test_k_4_33_which_policies_there_are(
    lab: Lab, mode: int, nodes: tuple[int, ...], value: int
) -> None:
    pid = lab.spawn()
    assert lab.call(setting(pid, mode, nodes)) == value


def test_k_4_35_what_get_mempolicy_tells(lab: Lab) -> None:
    pid = lab.spawn(cpu=1)
    start = lab.mapped(pid, 2, cpu=1)
    assert told(lab, pid) == (0, Mode.DEFAULT, ())
    assert lab.call(setting(pid, Mode.INTERLEAVE, (1, 2))) == 0
    assert told(lab, pid) == (0, Mode.INTERLEAVE, (1, 2))
    assert told(lab, pid, flags=NODE) == (0, 1, (1, 2))
    # A vma without a policy reports DEFAULT, not the task's.
    assert told(lab, pid, start, ADDR) == (0, Mode.DEFAULT, ())
    assert mbind(lab, pid, start, 1, Mode.BIND, (3,)) == 0
    assert told(lab, pid, start, ADDR) == (0, Mode.BIND, (3,))
    assert told(lab, pid, start, NODE | ADDR)[:2] == (0, 1)
    assert told(lab, pid, start)[0] == -errno.EINVAL
    assert told(lab, pid, 1, ADDR)[0] == -errno.EFAULT
    assert told(lab, pid, flags=8)[0] == -errno.EINVAL


def test_k_4_34_set_mempolicy_moves_nothing(lab: Lab) -> None:
    pid = lab.spawn(cpu=0)
    start = lab.mapped(pid, 3)
    assert lab.call(setting(pid, Mode.BIND, (2,))) == 0
    assert lab.where(pid, start, 3) == [0, 0, 0]


# ---- mbind -------------------------------------------------------------------------------------


def test_k_4_24_strict_alone_installs_nothing_if_a_page_is_misplaced(lab: Lab) -> None:
    pid = lab.spawn(cpu=0)
    start = lab.mapped(pid, 2)
    assert mbind(lab, pid, start, 2, Mode.BIND, (1,), STRICT) == -errno.EIO
    assert told(lab, pid, start, ADDR) == (0, Mode.DEFAULT, ())
    assert mbind(lab, pid, start, 2, Mode.BIND, (0, 1), STRICT) == 0


def test_k_4_25_move_follows_the_new_policy_page_by_page(lab: Lab) -> None:
    # K 4.28.
    pid = lab.spawn(cpu=0)
    start = lab.mapped(pid, 6)
    lab.write(pid, start + 3, 42)
    assert mbind(lab, pid, start, 6, Mode.INTERLEAVE, (1, 2), MOVE) == 0
    assert lab.where(pid, start, 6) == [(1, 2)[(start + at) % 2] for at in range(6)]
    assert lab.read(pid, start + 3) == 42


def test_k_4_25_and_4_26_a_shared_page_stays_silently_even_with_strict(lab: Lab) -> None:
    pid = lab.spawn(cpu=0)
    start = lab.mapped(pid, 1)
    lab.fork(pid)
    assert mbind(lab, pid, start, 1, Mode.BIND, (1,), MOVE | STRICT) == 0
    assert lab.where(pid, start) == [0]
    assert mbind(lab, pid, start, 1, Mode.BIND, (1,), MOVE_ALL | STRICT) == 0
    assert lab.where(pid, start) == [1]


def test_k_4_26_move_and_strict_is_eio_after_moving_what_could_be_moved(lab: Lab) -> None:
    pid = lab.spawn(cpu=0)
    start = lab.mapped(pid, 2)
    lab.hold_pages(lab.fault(pid, start, access=READ), pinned=1)
    assert mbind(lab, pid, start, 2, Mode.BIND, (1,), MOVE | STRICT) == -errno.EIO
    assert lab.where(pid, start, 2) == [0, 1]
    assert told(lab, pid, start, ADDR) == (0, Mode.BIND, (1,))


def test_k_4_27_default_with_move_takes_every_page_to_where_the_task_wants_it(lab: Lab) -> None:
    pid = lab.spawn(cpu=0)
    start = lab.mapped(pid, 2, cpu=3)
    assert mbind(lab, pid, start, 2, Mode.DEFAULT, (), MOVE) == 0
    assert lab.where(pid, start, 2) == [0, 0]


def test_a_full_bind_target_is_eio_only_with_strict_and_loses_nothing(make_lab: Labs) -> None:
    # K 4.26.
    lab = make_lab(nodes=2, frames=4)
    pid = lab.spawn(cpu=0)
    other = lab.spawn(cpu=1)
    lab.mapped(other, 3, cpu=1)
    start = lab.mapped(pid, 3)
    assert mbind(lab, pid, start, 3, Mode.BIND, (1,), MOVE | STRICT) == -errno.EIO
    assert lab.where(pid, start, 3) == [1, 0, 0]


@pytest.mark.parametrize(
    ("address", "pages", "mode", "nodes", "flags", "value"),
    [
        (0, 1, 9, (0,), 8, -errno.EINVAL),
        (0, 1, Mode.BIND, (0,), MOVE_ALL, -errno.EPERM),
        (1, 1, Mode.BIND, (0,), 0, -errno.EINVAL),
        (0, 0, 0, (1,), 0, 0),
        (0, 1, Mode.BIND, (), 0, -errno.EINVAL),
        (0, 1, Mode.BIND, (7,), 0, -errno.EINVAL),
    ],
)
def test_k_4_22_the_order_of_errors(
    lab: Lab, address: int, pages: int, mode: int, nodes: tuple[int, ...], flags: int, value: int
) -> None:
    pid = lab.spawn(capable=False, uid=1)
    start = lab.mmap(pid, 1)
    asked = binding(pid, start * PAGE + address, pages * PAGE, mode, nodes, flags)
    assert lab.call(asked) == value


def test_k_4_23_holes(make_lab: Labs) -> None:
    for profile, edges in (("seed", 0), ("modern", -errno.EFAULT)):
        lab = make_lab(**({"profile": MODERN} if profile == "modern" else {}))
        pid = lab.spawn()
        base = 1000
        for at in (base + 2, base + 6, base + 20):
            fixed = Mmap(pid, at * PAGE, 2 * PAGE, RW, MAP_FIXED | MAP_PRIVATE, NOT_NAMED, 0)
            assert lab.call(fixed) == at * PAGE
        assert mbind(lab, pid, base + 2, 6, Mode.BIND, (0,)) == -errno.EFAULT, profile
        assert mbind(lab, pid, base, 4, Mode.BIND, (0,)) == edges, profile
        assert mbind(lab, pid, base + 6, 5, Mode.BIND, (0,)) == edges, profile
        assert mbind(lab, pid, base + 20, 5, Mode.BIND, (0,)) == -errno.EFAULT, profile
        assert mbind(lab, pid, base + 40, 1, Mode.BIND, (0,)) == -errno.EFAULT, profile
        assert mbind(lab, pid, base, 30, Mode.DEFAULT, ()) == 0, profile


def test_k_0_4_without_migration_mbind_moves_nothing_but_sets_policies(make_lab: Labs) -> None:
    lab = make_lab(migration=False)
    pid = lab.spawn(cpu=0)
    start = lab.mapped(pid, 1)
    assert mbind(lab, pid, start, 1, Mode.BIND, (1,), MOVE) == -errno.ENOSYS
    assert mbind(lab, pid, start, 1, Mode.BIND, (1,)) == 0


# ---- what one reads ------------------------------------------------------------------------------


def test_k_6_2_numa_maps_names_the_effective_policy(make_lab: Labs) -> None:
    for profile, mark in (("seed", "="), ("modern", ":")):
        lab = make_lab(**({"profile": MODERN} if profile == "modern" else {}))
        pid = lab.spawn()
        start = lab.mmap(pid, 2)
        assert mbind(lab, pid, start, 1, Mode.BIND, (0, 1)) == 0
        assert lab.call(setting(pid, Mode.PREFERRED, (1,))) == 0
        lines = [line.split()[1] for line in lab.numa_maps(pid)]
        assert lines == [f"bind{mark}0-1", f"prefer{mark}1"]


def test_the_journal_tells_of_policies(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mapped(pid, 4)
    assert mbind(lab, pid, start + 1, 2, Mode.INTERLEAVE, (1, 2), MOVE) == 0
    assert lab.call(setting(pid, Mode.BIND, (3,))) == 0
    lab.fork(pid)
    assert list(differences(replay(lab.topology, lab.records), lab.memory)) == []


def test_a_policy_is_made_or_refused() -> None:
    online = frozenset({0, 1})
    assert mpol_new(Mode.BIND, frozenset({1, 0}), online, SEED) == Mempolicy(Mode.BIND, (0, 1))
    assert mpol_new(Mode.DEFAULT, frozenset(), online, SEED) is None
