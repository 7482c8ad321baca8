"""Cases of other programs' tests about numa_maps (peer_cases.py)."""

from __future__ import annotations

import pytest

from coordinator.mm import PROT_READ
from tests.cpusets import cpuset, write
from tests.lab import PAGE
from tests.peer import BIND, MOVE, Peer, case


def line_of(peer: Peer, pid: int, start: int) -> list[str]:
    """The words of the line of the area that begins at this page."""
    lines = [line.split() for line in peer.numa_maps(pid)]
    [found] = [words for words in lines if int(words[0], 16) == start * PAGE]
    return found


@case("NM-01")
@pytest.mark.parametrize("mems", ["0", "0-1"])
def test_NM_01_a_policy_is_shown_though_no_page_is_present(peer: Peer, mems: str) -> None:
    pid = peer.spawn()
    cpuset(peer, "/set", mems=mems)
    assert write(peer, "/set", "tasks", pid) == 0
    start = peer.mmap(pid, 100, prot=PROT_READ)
    peer.mapped(pid, 1)
    assert peer.mbind(pid, start, 100, BIND, (0,)) == 0
    words = line_of(peer, pid, start)
    assert words[1] == peer.answer(seed="bind=0", modern="bind:0")
    assert not [word for word in words if word[0] == "N"]


@case("NM-04")
def test_NM_04_a_bound_area_before_and_after(peer: Peer) -> None:
    pid, pages = peer.spawn(), 100
    start = peer.mmap(pid, pages)
    assert peer.mbind(pid, start, pages, BIND, (1,)) == 0
    peer.filled(pid, start, pages)
    for node in (1, 3):
        assert peer.mbind(pid, start, pages, BIND, (node,), MOVE) == 0
        words = line_of(peer, pid, start)
        assert words[1] == peer.answer(seed=f"bind={node}", modern=f"bind:{node}")
        assert [word for word in words if word[0] == "N"] == [f"N{node}={pages}"]
    peer.assert_filled(pid, start, pages)


@case("NM-05")
def test_NM_05_the_sum_of_all_lines_is_what_is_resident(peer: Peer) -> None:
    pid = peer.spawn()
    for cpu, pages in enumerate((3, 5, 7)):
        peer.mapped(pid, pages, cpu=cpu)
    peer.mapped(pid, 2, shared=True, cpu=2)
    peer.mmap(pid, 50)
    assert peer.per_node(pid) == {0: 3, 1: 5, 2: 9}
    assert peer.used() == [3, 5, 9, 0]
