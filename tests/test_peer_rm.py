"""Cases of other programs' tests about frames with many mappers (peer_cases.py)."""

from __future__ import annotations

import pytest

from tests.filing import create, map_file
from tests.lab import READ
from tests.peer import MOVE_ALL, Boot, Peer, case

A, B = 0, 1
#: A process has this many children, and so have they, and theirs.
CHILDREN, GENERATIONS = 3, 3


@case("RM-02")
@pytest.mark.parametrize("kind", ["shmem", "ext3"])
def test_RM_02_a_tree_of_processes_over_one_object(boot: Boot, kind: str) -> None:
    peer = boot(nodes=2, frames=64)
    tree = [peer.spawn()]
    assert create(peer, kind, 4) == 0
    start = map_file(peer, tree[0], 4)
    peer.filled(tree[0], start, 4)
    last = tree
    for _ in range(GENERATIONS):
        last = [peer.fork(parent) for parent in last for _ in range(CHILDREN)]
        tree += last
    assert len(tree) == 40
    before = {where_in(peer, pid, start) for pid in tree}
    assert len(before) == 1
    worker = tree[20]
    moved = peer.move(0, list(range(start, start + 4)), [B] * 4, MOVE_ALL, caller=worker)
    assert (moved.value, list(moved.status)) == (0, [B] * 4)
    [after] = {where_in(peer, pid, start) for pid in tree}
    assert {node for node, _ in after} == {B}
    assert after not in before
    for pid in tree:
        peer.assert_filled(pid, start, 4)


def where_in(peer: Peer, pid: int, start: int, pages: int = 4) -> tuple[tuple[int, int], ...]:
    """Node and frame of each page as this process sees them."""
    found = peer.fault(pid, start, pages, access=READ)
    return tuple(zip(found.nid.tolist(), found.pfn.tolist(), strict=True))


@case("RM-04")
def test_RM_04_one_frame_at_sixteen_addresses(peer: Peer) -> None:
    pid = peer.spawn()
    assert create(peer, "shmem", 1) == 0
    starts = [map_file(peer, pid, 1) for _ in range(16)]
    peer.write(pid, starts[0], 7)
    [before] = {where_in(peer, pid, start, 1) for start in starts}
    moved = peer.move(pid, [starts[5]], [B], MOVE_ALL)
    assert (moved.value, list(moved.status)) == (0, [B])
    [after] = {where_in(peer, pid, start, 1) for start in starts}
    assert after != before
    assert after[0][0] == B
    assert {peer.read(pid, start) for start in starts} == {7}
