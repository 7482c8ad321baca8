"""Cases of other programs' tests about move_pages(2) (peer_cases.py)."""

from __future__ import annotations

import errno
from dataclasses import replace
from random import Random

import numpy as np
import pytest

from protocol.syscalls import MovedPages
from protocol.task_calls import Setresuid
from tests.calls import moving
from tests.filing import create, map_file
from tests.lab import PAGE, READ, WRITE
from tests.peer import ADDR, BIND, MOVE, MOVE_ALL, NODE, STRICT, Peer, case

A, B = 0, 1


@case("MV-01")
def test_MV_01_a_query_tells_the_nodes_of_allocation(peer: Peer) -> None:
    pid = peer.spawn()
    start = peer.mmap(pid, 2)
    peer.fault(pid, start, cpu=A)
    peer.fault(pid, start + 1, cpu=B)
    assert peer.where(pid, start, 2) == [A, B]
    for page, node in ((start, A), (start + 1, B)):
        told = peer.get_mempolicy(pid, page, NODE | ADDR)
        assert (told.value, told.mode) == (0, node)


@case("MV-02")
def test_MV_02_two_private_pages(peer: Peer) -> None:
    pid = peer.spawn(uid=1000, capable=False)
    start = peer.mapped(pid, 2)
    moved = peer.move(0, [start, start + 1], [B, B], MOVE, caller=pid)
    assert moved.value >= 0
    assert list(moved.status) == [B, B]
    peer.filled(pid, start, 2)
    peer.assert_filled(pid, start, 2)
    for page in (start, start + 1):
        told = peer.get_mempolicy(pid, page, NODE | ADDR)
        assert told.mode == B


@case("MV-03")
def test_MV_03_two_shared_pages_with_move_all(peer: Peer) -> None:
    parent = peer.spawn()
    start = peer.mapped(parent, 2, shared=True)
    child = peer.fork(parent)
    peer.filled(child, start, 2)
    moved = peer.move(0, [start, start + 1], [B, B], MOVE_ALL, caller=parent)
    assert moved.value >= 0
    assert list(moved.status) == [B, B]
    assert peer.where(child, start, 2) == [B, B]
    peer.assert_filled(child, start, 2)


@case("MV-04")
def test_MV_04_pages_that_are_not_there(peer: Peer) -> None:
    pid = peer.spawn()
    start = peer.mmap(pid, 5)
    written, untouched, only_read, freed, last = range(start, start + 5)
    peer.write(pid, written, 7)
    peer.write(pid, last, 7)
    assert not peer.fault(pid, only_read, access=READ).status.any()
    peer.write(pid, freed, 7)
    assert peer.munmap(pid, freed, 1) == 0
    moved = peer.move(0, [written, untouched, only_read, freed], [B] * 4, MOVE, caller=pid)
    assert moved.value >= 0
    gone = peer.answer(seed=-errno.ENOENT, modern=-errno.EFAULT)
    assert list(moved.status) == [B, peer.no_page, peer.no_page, gone]


@case("MV-07")
def test_MV_07_a_shared_page_stays_with_plain_move(peer: Peer) -> None:
    parent = peer.spawn()
    shared, private = peer.mapped(parent, 1, shared=True), peer.mapped(parent, 1)
    child = peer.fork(parent)
    for page in (shared, private):
        peer.write(child, page, 7)
    moved = peer.move(0, [shared, private], [B, B], MOVE, caller=parent)
    assert moved.value >= 0
    assert list(moved.status) == [-errno.EACCES, B]
    assert peer.where(parent, shared) == [A]


@case("MV-08")
def test_MV_08_a_node_behind_the_last_one(peer: Peer) -> None:
    pid = peer.spawn()
    start = peer.mapped(pid, 2)
    moved = peer.move(0, [start, start + 1], [4, 4], MOVE, caller=pid)
    assert moved.value == -errno.ENODEV
    assert peer.where(pid, start, 2) == [A, A]


@case("MV-09")
def test_MV_09_a_pid_that_nobody_has(peer: Peer) -> None:
    pid = peer.spawn()
    start = peer.mapped(pid, 2)
    moved = peer.move(4_000_000, [start, start + 1], [B, B], MOVE, caller=pid)
    assert moved.value == -errno.ESRCH


@case("MV-12")
def test_MV_12_a_flag_that_is_not_of_this_call(peer: Peer) -> None:
    pid = peer.spawn()
    start = peer.mapped(pid, 2)
    moved = peer.move(0, [start, start + 1], [B, B], STRICT, caller=pid)
    assert moved.value == -errno.EINVAL


@case("MV-13")
def test_MV_13_move_all_without_the_capability(peer: Peer) -> None:
    parent = peer.spawn(uid=0)
    start = peer.mapped(parent, 2, shared=True)
    child = peer.fork(parent)
    peer.filled(child, start, 2)
    assert peer.call(Setresuid(parent, -1, 1000, -1)) == 0
    moved = peer.move(0, [start, start + 1], [B, B], MOVE_ALL, caller=parent)
    assert moved.value == -errno.EPERM
    assert peer.where(child, start, 2) == [A, A]


@case("MV-16")
def test_MV_16_flags_of_0_move_and_every_status_is_written(peer: Peer) -> None:
    pid = peer.spawn()
    start, hole = peer.mmap(pid, 32, name="[heap]"), 2
    peer.filled(pid, start, 32, but=(hole,))
    assert peer.where(pid, start, 32) == [peer.no_page if at == hole else A for at in range(32)]
    wanted = [at % 4 for at in range(32)]
    moved = peer.move(0, list(range(start, start + 32)), wanted, 0, caller=pid)
    wanted[hole] = peer.no_page
    assert moved.value >= 0
    assert list(moved.status) == wanted
    peer.assert_filled(pid, start, 32, but=(hole,))


@case("MV-17")
@pytest.mark.parametrize("order", ["in order", "addresses shuffled", "nodes shuffled"])
def test_MV_17_sixteen_times_on_to_the_next_node(peer: Peer, order: str) -> None:
    pid, pages, seed = peer.spawn(), 64, 17
    print(f"seed {seed}")
    random = Random(seed)
    start = peer.mapped(pid, pages, shared=True)
    for turn in range(16):
        at = list(range(start, start + pages))
        nodes = [(turn + 1) % 4] * pages
        if order == "addresses shuffled":
            random.shuffle(at)
        if order == "nodes shuffled":
            nodes = [random.randrange(4) for _ in at]
        if turn % 4 == 0:
            peer.filled(pid, start, pages)
        moved = peer.move(0, at, nodes, MOVE, caller=pid)
        assert moved.value >= 0
        assert list(moved.status) == nodes
    peer.assert_filled(pid, start, pages)


@case("MV-21")
def test_MV_21_no_nodes_but_a_flag_that_says_move(peer: Peer) -> None:
    pid = peer.spawn()
    start = peer.mapped(pid, 8, cpu=2)
    # The block starts in the middle of a page: its pages are what counts.
    address = [(start + at) * PAGE + 10 for at in range(8)]
    answer = peer.ask(moving(0, address, None, MOVE, caller=pid), MovedPages)
    assert answer.value == 0
    assert list(answer.status) == [2] * 8


@case("MV-22")
@pytest.mark.parametrize("bad", ["pages", "nodes", "status", "all"])
def test_MV_22_arrays_that_cannot_be_read_or_written(peer: Peer, bad: str) -> None:
    pid = peer.spawn()
    start = peer.mapped(pid, 1)
    asked = moving(0, [start * PAGE], [B], 0, caller=pid)
    if bad in ("pages", "all"):
        asked = replace(asked, address=np.zeros(0, np.uint64))
    if bad in ("nodes", "all"):
        asked = replace(asked, node=np.zeros(0, np.int32))
    if bad in ("status", "all"):
        asked = replace(asked, status=np.zeros(0, np.int32))
    assert peer.ask(asked, MovedPages).value == -errno.EFAULT
    # That the status cannot be written is seen when the page has moved.
    assert peer.where(pid, start) == [B if bad == "status" else A]


@case("MV-23")
@pytest.mark.parametrize("shared", [False, True], ids=["private", "shared"])
@pytest.mark.parametrize("call", ["move_pages", "mbind"])
def test_MV_23_no_page_keeps_its_frame(peer: Peer, shared: bool, call: str) -> None:
    pid, pages = peer.spawn(), 51
    start = peer.mapped(pid, pages, shared=shared)
    peer.filled(pid, start, pages)
    before = frames(peer, pid, start, pages)
    if call == "mbind":
        assert peer.mbind(pid, start, pages, BIND, (B,), MOVE | STRICT) == 0
    else:
        wanted = list(range(start, start + pages))
        assert peer.move(0, wanted, [B] * pages, MOVE_ALL, caller=pid).value >= 0
    assert not before & frames(peer, pid, start, pages)
    assert peer.where(pid, start, pages) == [B] * pages
    peer.assert_filled(pid, start, pages)
    peer.filled(pid, start, pages)


def frames(peer: Peer, pid: int, start: int, pages: int) -> set[tuple[int, int]]:
    """Node and frame number of each page."""
    found = peer.fault(pid, start, pages, access=READ)
    return set(zip(found.nid.tolist(), found.pfn.tolist(), strict=True))


def dirty(peer: Peer, pid: int, start: int) -> int:
    """The pages of the area that begins at this page which numa_maps calls dirty."""
    [words] = [
        line.split() for line in peer.numa_maps(pid) if int(line.split()[0], 16) == start * PAGE
    ]
    return sum(int(word.partition("=")[2]) for word in words if word.startswith("dirty="))


@case("MV-26")
@pytest.mark.parametrize("written", [False, True], ids=["clean", "dirty"])
@pytest.mark.parametrize("kind", ["anonymous", "ext3", "shmem"])
def test_MV_26_that_a_page_was_written_to_is_not_lost(peer: Peer, kind: str, written: bool) -> None:
    owner, other, pages = peer.spawn(), peer.spawn(), 8
    if kind == "anonymous":
        start = peer.mmap(owner, pages, shared=True)
    else:
        assert create(peer, kind, pages) == 0
        start = map_file(peer, owner, pages)
    assert not peer.fault(owner, start, pages, access=WRITE if written else READ).status.any()
    had, was = frames(peer, owner, start, pages), dirty(peer, owner, start)
    assert was == (pages if written else 0)
    for node in (B, A):
        moved = peer.move(owner, list(range(start, start + pages)), [node] * pages, caller=other)
        assert list(moved.status) == [node] * pages
        assert not had & frames(peer, owner, start, pages)
        had = frames(peer, owner, start, pages)
        assert dirty(peer, owner, start) == was
    peer.filled(owner, start, pages)
    assert dirty(peer, owner, start) == pages


@case("MV-26")
def test_MV_26_private_pages_stay_dirty(peer: Peer) -> None:
    pid = peer.spawn()
    start = peer.mapped(pid, 8)
    for node in (B, A):
        assert dirty(peer, pid, start) == 8
        peer.put(pid, start, 8, node)
    assert dirty(peer, pid, start) == 8
