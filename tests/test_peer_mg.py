"""Cases of other programs' tests about migrate_pages(2) and whole processes (peer_cases.py)."""

from __future__ import annotations

import errno

import pytest

from protocol.syscalls import MigratePages, Mprotect
from tests.filing import create, map_file
from tests.lab import PAGE
from tests.peer import ALL_ONES, BIND, INTERLEAVE, MOVE_ALL, PREFERRED, Boot, Peer, case

A, B = 0, 1
ALL = (0, 1, 2, 3)


@case("MG-01")
@pytest.mark.parametrize("node", ALL)
def test_MG_01_the_same_node_from_and_to(peer: Peer, node: int) -> None:
    pid = peer.spawn()
    start = peer.mapped(pid, 4)
    mask = (1 << node).to_bytes(8, "little")
    assert peer.call(MigratePages(pid, 0, 64, mask, mask)) == 0
    assert peer.where(pid, start, 4) == [A] * 4


@case("MG-02")
@pytest.mark.parametrize("nobody", [-1, 4_000_000])
def test_MG_02_a_pid_that_nobody_has(peer: Peer, nobody: int) -> None:
    caller = peer.spawn()
    assert peer.migrate(nobody, ALL, ALL, caller=caller) == -errno.ESRCH


@case("MG-03")
def test_MG_03_maxnode_is_all_ones(peer: Peer) -> None:
    pid, one = peer.spawn(), (1).to_bytes(8, "little")
    assert peer.call(MigratePages(pid, 0, ALL_ONES, one, one)) == -errno.EINVAL


@case("MG-05")
def test_MG_05_a_target_node_that_is_not_there(peer: Peer) -> None:
    pid = peer.spawn()
    start = peer.mapped(pid, 1)
    assert peer.migrate(0, A, 77, caller=pid) == -errno.EINVAL
    assert peer.where(pid, start) == [A]


@case("MG-06")
def test_MG_06_an_ordinary_user_and_somebody_else_s_process(peer: Peer) -> None:
    parent = peer.spawn(uid=0)
    start = peer.mapped(parent, 1)
    child = peer.fork(parent)
    peer.become(child, 1000)
    assert peer.migrate(parent, A, B, caller=child) == -errno.EPERM
    assert peer.where(parent, start) == [A]


@case("MG-07")
def test_MG_07_own_private_page_there_and_back(peer: Peer) -> None:
    pid = peer.spawn(uid=1000, capable=False)
    start = peer.mapped(pid, 1)
    for node in (B, A):
        assert peer.migrate(0, ALL, node, caller=pid) >= 0
        assert peer.where(pid, start) == [node]


@case("MG-08")
def test_MG_08_shared_page_with_the_capability(peer: Peer) -> None:
    parent = peer.spawn()
    shared, private = peer.mapped(parent, 1, shared=True), peer.mapped(parent, 1)
    peer.put(parent, shared, 1, B)
    child = peer.fork(parent)
    peer.write(child, shared, 7)
    peer.write(child, private, 8)
    peer.put(child, private, 1, B)
    assert peer.migrate(0, ALL, A, caller=child) >= 0
    assert peer.where(child, private) == [A]
    assert peer.where(parent, shared) == [A]
    assert peer.read(parent, shared) == 7


@case("MG-10")
def test_MG_10_root_moves_another_user_s_page(peer: Peer) -> None:
    parent = peer.spawn(uid=0)
    one, root = peer.fork(parent), peer.fork(parent)
    start = peer.mapped(one, 1)
    peer.become(one, 1000)
    assert peer.migrate(one, ALL, B, caller=root) >= 0
    assert peer.where(one, start) == [B]


@case("MG-11")
def test_MG_11_the_same_user_moves_its_other_process(peer: Peer) -> None:
    parent = peer.spawn(uid=0)
    one, two = peer.fork(parent), peer.fork(parent)
    start = peer.mapped(one, 1)
    for child in (one, two):
        peer.become(child, 1000)
    # Today a process that changed its user id is closed, until it says prctl(PR_SET_DUMPABLE).
    closed = peer.answer(seed=0, modern=-errno.EPERM)
    assert peer.migrate(one, ALL, A, caller=two) == closed
    peer.memory.tasks[one].mm.dumpable = True
    assert peer.migrate(one, ALL, B, caller=two) >= 0
    assert peer.where(one, start) == [B]


@case("MG-14")
def test_MG_14_contents_and_a_hole(peer: Peer) -> None:
    pid = peer.spawn()
    start, hole = peer.mmap(pid, 32, name="[heap]"), 2
    peer.filled(pid, start, 32, but=(hole,))
    moved = peer.move(pid, list(range(start, start + 32)), [1] * 32)
    assert moved.value >= 0
    assert list(moved.status) == [peer.no_page if at == hole else 1 for at in range(32)]
    assert peer.migrate(0, 1, 0, caller=pid) >= 0
    now = peer.where(pid, start, 32)
    assert now[hole] == peer.no_page
    assert set(now[:hole] + now[hole + 1 :]) == {0}
    peer.assert_filled(pid, start, 32, but=(hole,))


@case("MG-17")
@pytest.mark.parametrize("pages", [1, 8, 64, 1024])
def test_MG_17_all_other_nodes_to_one(boot: Boot, pages: int) -> None:
    peer = boot(nodes=3, frames=1100)
    pid = peer.spawn()
    start = peer.mmap(pid, pages)
    assert peer.mbind(pid, start, pages, PREFERRED, (1,)) == 0
    assert not peer.fault(pid, start, pages).status.any()
    before = peer.free()
    assert peer.migrate(pid, (0, 1), 2, caller=pid) == 0
    assert peer.where(pid, start, pages) == [2] * pages
    assert peer.free() == [before[0], before[1] + pages, before[2] - pages]


@case("MG-18")
def test_MG_18_interleaved_pages_keep_their_turns(peer: Peer) -> None:
    pid = peer.spawn()
    start = peer.mmap(pid, 16)
    assert peer.mbind(pid, start, 16, INTERLEAVE, (0, 1)) == 0
    peer.filled(pid, start, 16)
    before = peer.where(pid, start, 16)
    assert sorted(set(before)) == [0, 1]
    assert peer.migrate(pid, (0, 1), (2, 3), caller=pid) == 0
    peer.assert_filled(pid, start, 16)
    assert peer.where(pid, start, 16) == [node + 2 for node in before]


@case("MG-19")
@pytest.mark.parametrize(
    ("kind", "pages"), [("segment", 4), ("segment", 256), ("segment", 1024), ("anonymous", 256)]
)
def test_MG_19_two_shared_segments_go_to_one_node(boot: Boot, kind: str, pages: int) -> None:
    peer = boot(frames=2 * pages)
    pid = peer.spawn(uid=1000, capable=False)
    starts = []
    for node in (1, 2):
        if kind == "segment":
            assert create(peer, "shmem", pages, f"/SYSV{node}") == 0
            start = map_file(peer, pid, pages, path=f"/SYSV{node}")
        else:
            start = peer.mmap(pid, pages, shared=True)
        assert peer.mbind(pid, start, pages, PREFERRED, (node,)) == 0
        peer.filled(pid, start, pages)
        starts.append(start)
    assert peer.used() == [0, pages, pages, 0]
    assert peer.migrate(0, (0, 1, 2), 3, caller=pid) == 0
    for start in starts:
        assert peer.where(pid, start, pages) == [3] * pages
        assert peer.munmap(pid, start, pages) == 0
    if kind == "segment":
        assert peer.used() == [0, 0, 0, 2 * pages]
        peer.assert_filled(pid, map_file(peer, pid, pages, path="/SYSV1"), pages)
    else:
        assert peer.used() == [0, 0, 0, 0]


@case("MG-20")
@pytest.mark.parametrize("pages", [256, 1024])
@pytest.mark.parametrize("placed", ["preferred", "interleaved"])
def test_MG_20_a_privately_mapped_file(boot: Boot, placed: str, pages: int) -> None:
    peer = boot(frames=2 * pages)
    pid = peer.spawn(uid=1000, capable=False)
    assert create(peer, "ext3", pages) == 0
    start = map_file(peer, pid, pages, shared=False)
    mode, nodes = (PREFERRED, (1,)) if placed == "preferred" else (INTERLEAVE, (0, 1))
    assert peer.mbind(pid, start, pages, mode, nodes) == 0
    peer.filled(pid, start, pages)
    before = peer.where(pid, start, pages)
    if placed == "preferred":
        for source, target in (((0, 1, 2), 3), ((0, 1, 3), 2)):
            assert peer.migrate(0, source, target, caller=pid) == 0
            assert peer.where(pid, start, pages) == [target] * pages
    else:
        assert sorted(set(before)) == [0, 1]
        assert peer.migrate(0, (0, 1), (2, 3), caller=pid) == 0
        assert peer.where(pid, start, pages) == [node + 2 for node in before]
    peer.assert_filled(pid, start, pages)


@case("MG-25")
@pytest.mark.parametrize("shape", ["plain", "shared by fork", "split mapping"])
@pytest.mark.parametrize("call", ["migrate_pages", "mbind", "move_pages"])
def test_MG_25_512_pages_by_each_call(boot: Boot, shape: str, call: str) -> None:
    peer = boot(nodes=2, frames=1100)
    pid, pages = peer.spawn(), 512
    start = peer.mapped(pid, pages)
    peer.write(pid, start + 7, 7)
    mappers = [pid]
    if shape == "shared by fork":
        mappers.append(peer.fork(pid))
    if shape == "split mapping":
        assert peer.call(Mprotect(pid, (start + 100) * PAGE, 56 * PAGE, 1)) == 0
    if call == "migrate_pages":
        assert peer.migrate(pid, A, B) == 0
    elif call == "mbind":
        assert peer.mbind(pid, start, pages, BIND, (B,), MOVE_ALL) == 0
    else:
        wanted = list(range(start, start + pages))
        assert set(peer.move(pid, wanted, [B] * pages, MOVE_ALL).status) == {B}
    for mapper in mappers:
        assert peer.where(mapper, start, pages) == [B] * pages
        assert peer.read(mapper, start + 7) == 7
    assert peer.used() == [0, pages]
