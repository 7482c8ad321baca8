"""The oracle on cpusets and on policies that follow them, by K number."""

from __future__ import annotations

import errno

import pytest

from numalab.simulation.oracle import MPOL_MF_MOVE, sys_migrate_pages, sys_move_pages
from numalab.simulation.oracle_cpuset import sys_mkdir, sys_rmdir, sys_write
from numalab.simulation.oracle_machine import Area, Cpuset, Machine, Page, Policy, Process
from numalab.simulation.oracle_mbind import sys_mbind
from numalab.simulation.oracle_policy import (
    MPOL_BIND,
    MPOL_F_RELATIVE_NODES,
    MPOL_F_STATIC_NODES,
    MPOL_INTERLEAVE,
    MPOL_LOCAL,
    MPOL_PREFERRED,
    MPOL_PREFERRED_MANY,
    MPOL_WEIGHTED_INTERLEAVE,
    sys_set_mempolicy,
)

ROOT = 0
EVERYWHERE = frozenset({0, 1, 2, 3})
#: Bytes are not counted here: the pages of the only area.
PAGES = range(10, 14)


def on(*nodes: int) -> frozenset[int]:
    return frozenset(nodes)


def machine(*, modern: bool = False, migrates: bool = True, mems: str = "01") -> Machine:
    """Four nodes of a cpu each; task 1 is in the cpuset /a and has pages on nodes 0, 1, 2, 0."""
    lists: dict[int, tuple[int, ...]] = {
        nid: (nid, *(other for other in range(4) if other != nid)) for nid in range(4)
    }
    alone: dict[int, tuple[int, ...]] = {nid: (nid,) for nid in range(4)}
    made = Machine(dict.fromkeys(range(4), 8), alone if modern else lists, modern, lists)
    made.node_of_cpu = {nid: nid for nid in range(4)}
    made.cpusets["/"] = Cpuset(EVERYWHERE, EVERYWHERE)
    made.cpusets["/a"] = Cpuset(EVERYWHERE, frozenset(map(int, mems)), migrates)
    area = Area(PAGES.start, PAGES.stop, private=True)
    for at, node in zip(PAGES, (0, 1, 2, 0), strict=True):
        made.pages[0, at] = Page(node)
        area.present[at] = (0, at)
    made.processes[1] = Process(areas=[area], cpuset="/a")
    return made


def nodes_of(m: Machine) -> str:
    return "".join(str(page.node) for page in m.pages.values())


def write_mems(m: Machine, *nodes: int) -> int:
    return sys_write(m, ROOT, "/a", "mems", on(*nodes))


@pytest.mark.parametrize("modern", [False, True])
def test_memory_follows_the_nodes_of_its_cpuset_if_it_shall(modern: bool) -> None:
    """K 5.13, 5.16: by place, whoever holds the memory, and what was elsewhere stays."""
    m = machine(modern=modern)
    m.processes[1].capable = False
    assert write_mems(m, 2, 3) == 0 and nodes_of(m) == "2322"
    stays = machine(modern=modern, migrates=False)
    assert write_mems(stays, 2, 3) == 0 and nodes_of(stays) == "0120"


def test_attaching_moves_memory_as_the_new_cpuset_says() -> None:
    m = machine()
    m.processes[1].cpuset = "/"
    m.cpusets["/a"] = Cpuset(on(3), on(3), migrates=True)
    assert sys_write(m, ROOT, "/a", "tasks", on(1)) == 0
    assert nodes_of(m) == "3333"
    task = m.processes[1]
    assert (task.cpuset, task.cpu, task.node) == ("/a", 3, 3)


def test_a_thread_takes_the_memory_along_at_the_seed_only() -> None:
    for modern, nodes in ((False, "3333"), (True, "0120")):
        m = machine(modern=modern)
        m.cpusets["/b"] = Cpuset(EVERYWHERE, on(3), migrates=True)
        m.processes[1].leader, m.processes[1].cpuset = False, "/"
        assert sys_write(m, ROOT, "/b", "tasks", on(1)) == 0 and nodes_of(m) == nodes


def test_what_a_move_that_follows_fails_with_is_nobodys_to_know() -> None:
    m = machine()
    m.free[2] = m.free[3] = 0
    assert write_mems(m, 2, 3) == 0 and nodes_of(m) == "0120"


def test_directories() -> None:
    m = machine()
    m.processes[2] = Process(uid=1000)
    assert sys_mkdir(m, ROOT, "/a") == -errno.EEXIST
    assert sys_mkdir(m, ROOT, "/b/c") == -errno.ENOENT
    assert sys_mkdir(m, 2, "/b") == -errno.EACCES
    assert sys_mkdir(m, ROOT, "/a/c") == 0
    assert sys_rmdir(m, ROOT, "/b") == -errno.ENOENT
    assert sys_rmdir(m, 2, "/a") == -errno.EACCES
    assert sys_rmdir(m, ROOT, "/a/c") == 0
    assert sys_rmdir(m, ROOT, "/a") == -errno.EBUSY, "it has a task"
    assert sys_rmdir(m, ROOT, "/") == -errno.EBUSY


def test_what_may_be_written() -> None:
    m, now = machine(), machine(modern=True)
    for of in (m, now):
        of.cpusets["/a/c"] = Cpuset(on(), on(1))
        of.processes[2] = Process(uid=1000)
        assert sys_write(of, ROOT, "/b", "mems", on(1)) == -errno.ENOENT
        assert sys_write(of, 2, "/a", "mems", on(1)) == -errno.EACCES
        assert write_mems(of, 2) == -errno.EBUSY, "the child would stick out"
        assert sys_write(of, ROOT, "/a/c", "mems", on(2)) == -errno.EACCES, "of its parent"
        assert sys_write(of, ROOT, "/a/c", "tasks", on(1)) == -errno.ENOSPC, "it has no cpus"
        assert sys_write(of, ROOT, "/a", "tasks", on(9)) == -errno.ESRCH
    assert write_mems(m, 7) == -errno.ENOSPC and write_mems(now, 7) == -errno.EINVAL
    assert sys_write(now, ROOT, "/", "mems", EVERYWHERE) == -errno.EACCES
    assert sys_write(m, ROOT, "/", "mems", EVERYWHERE) == 0


def test_cpus_reach_a_task_at_once_now_and_by_attaching_at_the_seed() -> None:
    for modern, node in ((False, 0), (True, 2)):
        m = machine(modern=modern)
        assert sys_write(m, ROOT, "/a", "cpus", on(2, 3)) == 0
        assert m.processes[1].node == node
        sys_write(m, ROOT, "/a", "tasks", on(1))
        assert m.processes[1].node == 2


# ---- policies --------------------------------------------------------------------------------


def rebound(policy: Policy, *, modern: bool = True) -> str:
    """The nodes of a policy of a vma that was made with nodes 0-1, when 2-3 are allowed."""
    m = machine(modern=modern, migrates=False)
    m.processes[1].areas[0].policies[10] = policy
    assert write_mems(m, 2, 3) == 0
    told = m.processes[1].areas[0].policies[10]
    assert told.mems == on(2, 3)
    return "".join(map(str, sorted(told.nodes)))


def test_policies_of_vmas_move_with_their_cpuset() -> None:
    """K 5.15."""
    mems = on(0, 1)
    assert rebound(Policy(MPOL_BIND, on(1), mems=mems)) == "3"
    assert rebound(Policy(MPOL_PREFERRED, on(1), mems=mems), modern=False) == "3"
    assert rebound(Policy(MPOL_PREFERRED, on(1), mems=mems)) == "1"
    static = Policy(MPOL_INTERLEAVE, on(1), MPOL_F_STATIC_NODES, on(1, 3), mems)
    assert rebound(static) == "3"
    relative = Policy(MPOL_INTERLEAVE, on(0, 1), MPOL_F_RELATIVE_NODES, on(0, 3), mems)
    assert rebound(relative) == "23"
    nowhere = Policy(MPOL_BIND, on(1), MPOL_F_STATIC_NODES, on(1), mems)
    assert rebound(nowhere) == "23", "none is left, so all are"


def test_the_policy_of_a_task_is_rebound_at_once_now_and_when_it_allocates_at_the_seed() -> None:
    for modern, nodes in ((False, on(1)), (True, on(3))):
        m = machine(modern=modern, migrates=False)
        m.processes[1].policy = Policy(MPOL_BIND, on(1), mems=on(0, 1))
        write_mems(m, 2, 3)
        assert m.processes[1].policy.nodes == nodes
        assert sys_mbind(m, 1, 10, 14, (0, on()), MPOL_MF_MOVE) == 0
        assert m.processes[1].policy.nodes == on(3) and nodes_of(m) == "3333"


def test_which_modes_and_flags_there_are() -> None:
    static, relative = MPOL_F_STATIC_NODES, MPOL_F_RELATIVE_NODES
    for modern, wish, error in (
        (False, (MPOL_LOCAL, on()), errno.EINVAL),
        (False, (MPOL_BIND | static, on(1)), errno.EINVAL),
        (True, (MPOL_LOCAL, on()), 0),
        (True, (MPOL_LOCAL | static, on()), errno.EINVAL),
        (True, (MPOL_PREFERRED | static, on()), errno.EINVAL),
        (True, (MPOL_PREFERRED_MANY, on(0)), 0),
        (True, (MPOL_WEIGHTED_INTERLEAVE, on(0)), errno.EINVAL),
        (True, (MPOL_BIND | static | relative, on(1)), errno.EINVAL),
        (True, (MPOL_INTERLEAVE | 1 << 13, on(1)), errno.EINVAL),
        (True, (MPOL_BIND | 1 << 13, on(1)), 0),
        (False, (MPOL_BIND, on(1, 2)), errno.EINVAL),
        (True, (MPOL_BIND, on(1, 2)), 0),
        (True, (MPOL_BIND, on(2)), errno.EINVAL),
        (True, (MPOL_BIND | relative, on(2)), 0),
    ):
        assert sys_set_mempolicy(machine(modern=modern), 1, wish) == -error, wish


def bound(m: Machine, mode: int, *nodes: int) -> str:
    """Where all pages are after mbind with MOVE."""
    assert sys_mbind(m, 1, 10, 14, (mode, on(*nodes)), MPOL_MF_MOVE) == 0
    return nodes_of(m)


def test_where_the_later_modes_put_pages() -> None:
    """K 5.8, 5.9; the cpuset outranks all of them (K 5.12)."""
    m = machine(modern=True, mems="0123")
    m.free[3] = 1
    assert bound(m, MPOL_PREFERRED_MANY, 3) == "3000", "what has no room in the mask is local"
    m = machine(modern=True, mems="0123")
    m.processes[1].node = 2
    assert bound(m, MPOL_LOCAL) == "2222"
    m = machine(modern=True, mems="0123")
    m.weighted, m.weights = True, {2: 3}
    assert bound(m, MPOL_WEIGHTED_INTERLEAVE, 2, 3) == "2322", "2 2 2 3, and page 10 is the third"
    assert bound(machine(modern=True, mems="01"), MPOL_INTERLEAVE, 1, 3) == "1111"


def test_migrate_pages_and_move_pages_keep_to_the_cpuset() -> None:
    """K 1.1, 4.8, 4.12."""
    m = machine()
    m.processes[1].capable = False
    assert sys_migrate_pages(m, 1, 0, on(0), on(3)) == -errno.EPERM
    assert sys_move_pages(m, 1, 0, [10], [3], MPOL_MF_MOVE) == (-errno.EACCES, [])
    m.processes[1].capable = True
    assert sys_migrate_pages(m, 1, 0, on(1), on(3)) == 0
    assert nodes_of(m) == "0020", "its zonelist goes on with what is allowed"
    now = machine(modern=True)
    assert sys_migrate_pages(now, 1, 0, on(0), on(3)) == -errno.EINVAL
    assert sys_migrate_pages(now, 1, 0, on(0), on(1, 3)) == 0 and nodes_of(now) == "1121"


def test_an_equal_policy_is_left_alone_now() -> None:
    """K 4.30: so it keeps the note of what its task might use when it was made."""
    for modern, mems in ((False, on(0, 1)), (True, on(1))):
        m = machine(modern=modern)
        m.processes[1].areas[0].policies[10] = Policy(MPOL_BIND, on(1), mems=on(1))
        assert sys_mbind(m, 1, 10, 11, (MPOL_BIND, on(1)), 0) == 0
        assert m.processes[1].areas[0].policies[10].mems == mems
