"""Cases of tests about device memory: nodes without a cpu and uncached vmas (peer_cases.py)."""

from __future__ import annotations

import errno

import pytest

from coordinator.mm import PROT_READ
from protocol.syscalls import Mprotect
from protocol.topology import Topology, TopologyNode, uniform_distances
from tests.lab import PAGE, READ, RW, WRITE
from tests.peer import MOVE_ALL, Boot, Peer, case

HOST, DEVICE, OTHER = 0, 1, 2
PAGES = 1024


@pytest.fixture
def devices(boot: Boot) -> Peer:
    """One node with a cpu, and two that have memory alone."""
    nodes = (
        TopologyNode(HOST, PAGES + 64, (0,)),
        TopologyNode(DEVICE, PAGES + 64, ()),
        TopologyNode(OTHER, 64, ()),
    )
    return boot(topology=Topology(nodes, uniform_distances(3), PAGE))


@case("HM-01")
@pytest.mark.parametrize("rounds", [1, 10])
def test_HM_01_a_thousand_pages_to_a_device_and_back(devices: Peer, rounds: int) -> None:
    pid = devices.spawn()
    start = devices.mmap(pid, PAGES)
    devices.filled(pid, start, PAGES)
    for _ in range(rounds):
        for source, target in ((HOST, DEVICE), (DEVICE, HOST)):
            assert devices.migrate(pid, source, target) == 0
            assert devices.per_node(pid) == {target: PAGES}
            devices.assert_filled(pid, start, PAGES)


@case("HM-01")
@pytest.mark.parametrize("rounds", [1, 10])
def test_HM_01_uncached_memory_moves_by_its_own_method(devices: Peer, rounds: int) -> None:
    pid = devices.spawn()
    start = devices.mmap(pid, PAGES, shared=True, name="[uncached]")
    devices.filled(pid, start, PAGES)
    assert devices.per_node(pid) == {}
    for _ in range(rounds):
        for source, target in ((HOST, DEVICE), (DEVICE, HOST)):
            assert devices.migrate(pid, source, target) == 0
            found = devices.fault(pid, start, PAGES, access=READ)
            assert set(found.nid.tolist()) == {target}
            devices.assert_filled(pid, start, PAGES)


@case("HM-03")
def test_HM_03_a_shared_mapping_that_was_never_touched(devices: Peer) -> None:
    pid = devices.spawn()
    start = devices.mmap(pid, 16, shared=True)
    moved = devices.move(pid, list(range(start, start + 16)), [DEVICE] * 16, MOVE_ALL)
    assert moved.value == devices.answer(seed=-errno.ENOENT, modern=0)
    if moved.value == 0:
        assert set(moved.status) == {-errno.ENOENT}
    assert devices.where(pid, start, 16) == [-errno.ENOENT] * 16


@case("HM-05")
def test_HM_05_permissions_page_by_page_before_and_after(devices: Peer) -> None:
    pid = devices.spawn()
    start = devices.mapped(pid, 7)
    devices.filled(pid, start, 7)
    devices.put(pid, start + 5, 1, DEVICE)
    devices.put(pid, start + 6, 1, OTHER)
    for page, prot in ((1, 0), (2, PROT_READ), (3, PROT_READ), (5, PROT_READ)):
        assert devices.call(Mprotect(pid, (start + page) * PAGE, PAGE, prot)) == 0
    before = permissions(devices, pid, start, 7)
    assert before == ["rw", "", "r", "r", "rw", "r", "rw"]
    for nodes in ([DEVICE] * 7, [OTHER] * 7, [HOST, DEVICE, OTHER, HOST, DEVICE, OTHER, HOST]):
        moved = devices.move(pid, list(range(start, start + 7)), nodes, MOVE_ALL)
        # 6.1 finds no page behind PROT_NONE, and leaves it where it is (K 4.17).
        hidden = devices.answer(seed=nodes[1], modern=-errno.ENOENT)
        assert list(moved.status) == [nodes[0], hidden, *nodes[2:]]
        assert permissions(devices, pid, start, 7) == before


def permissions(peer: Peer, pid: int, start: int, pages: int) -> list[str]:
    """What a task may do with each page."""
    read, write = (peer.fault(pid, start, pages, access=access).status for access in (READ, WRITE))
    return [
        ("r" if not no_read else "") + ("w" if not no_write else "")
        for no_read, no_write in zip(read.tolist(), write.tolist(), strict=True)
    ]


@case("HM-05")
def test_HM_05_contents_after_a_pull_back(devices: Peer) -> None:
    pid = devices.spawn()
    start = devices.mapped(pid, 6)
    devices.filled(pid, start, 6)
    devices.put(pid, start, 3, DEVICE)
    devices.put(pid, start + 3, 3, OTHER)
    # What is on one device is read from a cpu, moved to the other device, and pulled back.
    devices.assert_filled(pid, start, 6)
    for node in (OTHER, DEVICE, HOST):
        devices.put(pid, start, 6, node)
        devices.assert_filled(pid, start, 6)


@case("HM-05")
def test_HM_05_a_write_through_a_read_only_mapping(devices: Peer) -> None:
    pid = devices.spawn()
    start = devices.mapped(pid, 2)
    devices.filled(pid, start, 2)
    assert devices.call(Mprotect(pid, start * PAGE, 2 * PAGE, PROT_READ)) == 0
    devices.put(pid, start, 2, DEVICE)
    assert set(devices.fault(pid, start, 2, access=WRITE).status.tolist()) == {-errno.EACCES}
    devices.assert_filled(pid, start, 2)
    assert devices.call(Mprotect(pid, start * PAGE, 2 * PAGE, RW)) == 0
    devices.filled(pid, start, 2)
