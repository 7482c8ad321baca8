"""Cases of other programs' tests about mbind(2) (peer_cases.py)."""

from __future__ import annotations

import errno
from random import Random

import pytest

from coordinator.mm import PROT_READ
from coordinator.mpol import Mode
from protocol.syscalls import AddressSpace, DescribeMm, Mbind, Mprotect
from tests.filing import create, map_file
from tests.lab import PAGE, READ
from tests.peer import (
    BIND,
    DEFAULT,
    INTERLEAVE,
    LOCAL,
    MINUS_ONE,
    MODES,
    MOVE,
    MOVE_ALL,
    ONE,
    PREFERRED,
    STRICT,
    Boot,
    Peer,
    case,
)

A, B = 0, 1
LAST_PAGE = (1 << 63) - PAGE
#: An area of 4 MiB is one of this many pages here.
AREA = 64

each_mode = pytest.mark.parametrize("mode", MODES, ids=[mode.name.lower() for mode in MODES])


@case("MB-01")
def test_MB_01_modes_that_are_fine_without_a_mask(peer: Peer) -> None:
    pid = peer.spawn()
    start = peer.mmap(pid, AREA)
    for mode in (DEFAULT, PREFERRED):
        assert peer.call(Mbind(pid, start * PAGE, AREA * PAGE, mode, None, 0, 0)) == 0
        read = peer.policy(pid, start)
        if mode == DEFAULT:
            assert read == (DEFAULT, ())
    assert read == peer.answer(seed=(PREFERRED, (0, 1, 2, 3)), modern=(LOCAL, ()))


@case("MB-02")
@each_mode
def test_MB_02_modes_with_one_node_are_read_back(peer: Peer, mode: Mode) -> None:
    pid = peer.spawn()
    start = peer.mmap(pid, AREA)
    assert peer.mbind(pid, start, AREA, mode, (2,)) == 0
    assert peer.policy(pid, start) == (mode, (2,))


@case("MB-03")
@pytest.mark.parametrize(
    ("mode", "nodes", "flags"),
    [
        (DEFAULT, (0,), 0),
        (BIND, (), 0),
        (INTERLEAVE, (), 0),
        (MINUS_ONE, (0,), 0),
        (PREFERRED, (0,), MINUS_ONE),
    ],
    ids=["default with a mask", "bind none", "interleave none", "mode -1", "flags -1"],
)
def test_MB_03_what_is_refused_changes_nothing(
    peer: Peer, mode: int, nodes: tuple[int, ...], flags: int
) -> None:
    pid = peer.spawn()
    start = peer.mmap(pid, AREA)
    assert peer.mbind(pid, start, AREA, BIND, (2,)) == 0
    assert peer.mbind(pid, start, AREA, mode, nodes, flags) == -errno.EINVAL
    assert peer.policy(pid, start) == (BIND, (2,))


@case("MB-04")
def test_MB_04_local(peer: Peer) -> None:
    pid = peer.spawn()
    start = peer.mmap(pid, AREA)
    assert peer.mbind(pid, start, AREA, LOCAL) == peer.answer(seed=-errno.EINVAL, modern=0)
    assert peer.policy(pid, start) == (peer.answer(seed=DEFAULT, modern=LOCAL), ())
    assert peer.mbind(pid, start, AREA, LOCAL, (0,)) == -errno.EINVAL


@case("MB-06")
@each_mode
def test_MB_06_strict_alone_and_a_page_that_is_elsewhere(peer: Peer, mode: Mode) -> None:
    pid = peer.spawn()
    start = peer.mapped(pid, 1)
    assert peer.mbind(pid, start, 1, mode, (B,), STRICT) == -errno.EIO
    assert peer.where(pid, start) == [A]
    assert peer.policy(pid, start)[0] == Mode.DEFAULT


@case("MB-07")
@each_mode
def test_MB_07_move_brings_the_page(peer: Peer, mode: Mode) -> None:
    pid = peer.spawn(uid=1000, capable=False)
    start = peer.mapped(pid, 1)
    assert peer.mbind(pid, start, 1, mode, (B,), MOVE) == 0
    assert peer.per_node(pid) == {B: 1}


@case("MB-09")
@pytest.mark.parametrize("flags", [0, STRICT], ids=["plain", "strict"])
@each_mode
def test_MB_09_a_policy_is_inherited_by_fork(peer: Peer, mode: Mode, flags: int) -> None:
    for node in range(4):
        parent = peer.spawn(cpu=(node + 1) % 4)
        start = peer.mmap(parent, 16)
        assert peer.mbind(parent, start, 16, mode, (node,), flags) == 0
        child = peer.fork(parent)
        for pid in (child, parent):
            assert not peer.fault(pid, start, 16).status.any()
            assert peer.per_node(pid) == {node: 16}


def sizes(peer: Peer, pid: int, start: int, pages: int) -> list[int]:
    """How many pages each mapping has that lies in these pages."""
    mm = peer.ask(DescribeMm(pid), AddressSpace)
    return [
        int(last - first)
        for first, last in zip(mm.start.tolist(), mm.end.tolist(), strict=True)
        if start <= first < start + pages
    ]


@case("MB-10")
def test_MB_10_mappings_that_are_equal_again(peer: Peer) -> None:
    pid = peer.spawn()
    start = peer.mapped(pid, 3)
    assert sizes(peer, pid, start, 3) == [3]
    assert peer.mbind(pid, start + 1, 1, BIND, (0,), MOVE_ALL) == 0
    assert sizes(peer, pid, start, 3) == [1, 1, 1]
    assert peer.mbind(pid, start, 3, DEFAULT) == 0
    assert sizes(peer, pid, start, 3) == peer.answer(seed=[1, 1, 1], modern=[3])


#: Calls as (mode, first page, pages); DEFAULT takes a policy away.
JOINS: list[tuple[list[tuple[Mode, int, int]], list[int]]] = [
    ([(BIND, 0, 4), (DEFAULT, 2, 2)], [2, 4]),
    ([(BIND, 0, 2), (BIND, 2, 2)], [4, 2]),
    ([(BIND, 0, 2), (BIND, 4, 2), (BIND, 2, 2)], [6]),
    ([(BIND, 0, 2), (INTERLEAVE, 4, 2), (BIND, 2, 2)], [4, 2]),
    ([(INTERLEAVE, 0, 2), (BIND, 4, 2), (BIND, 2, 2)], [2, 4]),
]


@case("MB-11")
@pytest.mark.parametrize(("calls", "joined"), JOINS)
def test_MB_11_which_neighbours_join(
    peer: Peer, calls: list[tuple[Mode, int, int]], joined: list[int]
) -> None:
    pid = peer.spawn()
    start = peer.mmap(pid, 8) + 1
    for guard in (start - 1, start + 6):
        assert peer.call(Mprotect(pid, guard * PAGE, PAGE, 0)) == 0
    for mode, first, pages in calls:
        nodes = () if mode == DEFAULT else (0,)
        assert peer.mbind(pid, start + first, pages, mode, nodes) == 0
    assert sizes(peer, pid, start, 6) == peer.answer(seed=[2, 2, 2], modern=joined)


@case("MB-12")
@pytest.mark.parametrize("pages", [32, 1024])
def test_MB_12_move_and_strict_over_a_hole(boot: Boot, pages: int) -> None:
    peer = boot(nodes=2, frames=2 * pages)
    pid, hole = peer.spawn(), 2
    start = peer.mmap(pid, pages, name="[heap]")
    peer.filled(pid, start, pages, but=(hole,))
    assert peer.move(0, list(range(start, start + pages)), [0] * pages, caller=pid).value in (
        0,
        -errno.ENOENT,
    )
    for node in (0, 1):
        assert peer.mbind(pid, start, pages, BIND, (node,), MOVE | STRICT) == 0
    assert peer.where(pid, start, pages) == [
        peer.no_page if at == hole else 1 for at in range(pages)
    ]
    peer.assert_filled(pid, start, pages, but=(hole,))


@case("MB-13")
def test_MB_13_preferred_node_after_node(peer: Peer) -> None:
    pid = peer.spawn()
    for node in reversed(range(4)):
        start = peer.mmap(pid, 1)
        assert peer.mbind(pid, start, 1, PREFERRED, (node,)) == 0
        peer.write(pid, start, 7)
        assert peer.policy(pid, start) == (PREFERRED, (node,))
        assert peer.where(pid, start) == [node]


@case("MB-14")
def test_MB_14_overlapping_ranges_of_a_segment(peer: Peer) -> None:
    pages, seed = 400, 14
    print(f"seed {seed}")
    random = Random(seed)
    one, other = peer.spawn(), peer.spawn()
    assert create(peer, "shmem", pages) == 0
    starts = {pid: map_file(peer, pid, pages, prot=PROT_READ) for pid in (one, other)}
    shadow: list[tuple[int, tuple[int, ...]]] = [(DEFAULT, ())] * pages
    fixed = [(0, 1), (0, 40), (10, 20), (5, 10), (35, 10), (60, 1), (59, 3), (0, 100), (300, 100)]
    for turn in range(40):
        first, length = random.randrange(pages - 40), random.randrange(1, 41)
        if turn < len(fixed):
            first, length = fixed[turn]
        mode = random.choice((BIND, INTERLEAVE, PREFERRED, DEFAULT))
        nodes = tuple(sorted(random.sample(range(4), random.randrange(1, 4))))
        nodes = {DEFAULT: (), PREFERRED: nodes[:1]}.get(mode, nodes)
        assert peer.mbind(one, starts[one] + first, length, mode, nodes) == 0
        shadow[first : first + length] = [(mode, nodes)] * length
        around = range(max(0, first - 20), min(pages, first + length + 20))
        looker = random.choice((one, other))
        for at in random.sample(around, 10):
            assert peer.policy(looker, starts[looker] + at) == shadow[at]


@case("MB-15")
def test_MB_15_interleaving_goes_by_the_page_whoever_comes_first(peer: Peer) -> None:
    parent = peer.spawn()
    start = peer.mmap(parent, 100, shared=True)
    assert peer.mbind(parent, start, 100, INTERLEAVE, (0, 1, 2, 3)) == 0
    children = [peer.fork(parent) for _ in range(10)]
    for number, child in reversed(list(enumerate(children))):
        for page in range(number, 100, 10):
            peer.write(child, start + page, page)
    nodes = peer.fault(parent, start, 100, access=READ).nid.tolist()
    assert nodes == [(nodes[0] + at) % 4 for at in range(100)]


@case("MB-17")
@pytest.mark.parametrize(
    ("mode", "nodes"),
    [
        (INTERLEAVE, (0, 1)),
        (INTERLEAVE, (0, 1, 2, 3)),
        (BIND, (0, 1)),
        (BIND, (2,)),
        (PREFERRED, (2,)),
    ],
    ids=["interleave 0,1", "interleave all", "membind 0,1", "membind 2", "preferred 2"],
)
def test_MB_17_memhog_and_numastat(peer: Peer, mode: Mode, nodes: tuple[int, ...]) -> None:
    pid, pages = peer.spawn(), 192
    start = peer.mmap(pid, pages)
    before = peer.counters()
    assert peer.mbind(pid, start, pages, mode, nodes) == 0
    assert peer.policy(pid, start) == (mode, nodes)
    assert not peer.fault(pid, start, pages).status.any()
    after = peer.counters()
    hits = (after.numa_hit - before.numa_hit).tolist()
    interleaved = (after.interleave_hit - before.interleave_hit).tolist()
    share = pages // len(nodes)
    if mode == INTERLEAVE:
        assert interleaved == [share if node in nodes else 0 for node in range(4)]
        assert hits == interleaved
    else:
        # What is bound to two nodes goes to the first one until that is full.
        assert hits == [pages if node == nodes[0] else 0 for node in range(4)]
        assert not any(interleaved)


@case("MB-19")
def test_MB_19_strict_fails_with_eio_at_most(peer: Peer) -> None:
    pid = peer.spawn(uid=1000, capable=False)
    start = peer.mapped(pid, AREA, shared=True)
    for node in (1, 2, 3, 0, 0):
        here = peer.where(pid, start) == [node]
        value = peer.mbind(pid, start, AREA, BIND, (node,), STRICT)
        assert value == (0 if here else -errno.EIO)
        if value:
            assert peer.mbind(pid, start, AREA, BIND, (node,), STRICT | MOVE) == 0
        assert peer.mbind(pid, start, AREA, BIND, (node,)) == 0
        assert peer.where(pid, start, AREA) == [node] * AREA


@case("MB-20")
@pytest.mark.parametrize(
    ("address", "pages"), [(7, 1), (LAST_PAGE, 2)], ids=["not aligned", "past the last page"]
)
def test_MB_20_odd_addresses(peer: Peer, address: int, pages: int) -> None:
    pid = peer.spawn()
    start = peer.mapped(pid, AREA, shared=True) if address < PAGE else 0
    asked = Mbind(pid, start * PAGE + address, pages * PAGE, BIND, ONE, 64, STRICT)
    assert peer.call(asked) == -errno.EINVAL


@case("MB-22")
@pytest.mark.parametrize(
    ("maxnode", "flags"),
    [(0, MOVE), (MINUS_ONE, MOVE), (64, MINUS_ONE)],
    ids=["no bits", "2**32-1 bits", "all flags"],
)
def test_MB_22_odd_masks_and_flags(peer: Peer, maxnode: int, flags: int) -> None:
    pid = peer.spawn()
    start = peer.mapped(pid, AREA, shared=True)
    asked = Mbind(pid, start * PAGE, AREA * PAGE, BIND, ONE, maxnode, flags)
    assert peer.call(asked) == -errno.EINVAL


@case("MB-23")
def test_MB_23_move_all_without_the_capability(peer: Peer) -> None:
    pid = peer.spawn(uid=1000, capable=False)
    start = peer.mapped(pid, AREA, shared=True)
    assert peer.mbind(pid, start, AREA, BIND, (B,), MOVE_ALL) == -errno.EPERM
    assert peer.where(pid, start, AREA) == [A] * AREA


@case("MB-26")
@pytest.mark.parametrize("pages", [1, 8, 512])
def test_MB_26_pages_are_there_when_the_call_returns(boot: Boot, pages: int) -> None:
    peer = boot(nodes=3, frames=600)
    pid = peer.spawn(cpu=1)
    start = peer.mapped(pid, pages, cpu=1)
    assert peer.mbind(pid, start, pages, BIND, (2,), MOVE) == 0
    assert peer.where(pid, start, pages) == [2] * pages
    assert not peer.fault(pid, start, pages, access=READ).status.any()
    free = peer.free()
    assert peer.migrate(0, (0, 1), 2, caller=pid) == 0
    assert peer.free() == free


@case("MB-28")
@pytest.mark.parametrize("shared", [False, True], ids=["private", "shared"])
def test_MB_28_a_part_of_a_file_mapping(peer: Peer, shared: bool) -> None:
    pid, pages = peer.spawn(cpu=1, uid=1000, capable=False), 32
    assert create(peer, "ext3", pages) == 0
    start = map_file(peer, pid, pages, shared=shared)
    assert not peer.fault(pid, start, pages, cpu=1).status.any()
    assert peer.where(pid, start, pages) == [1] * pages
    assert peer.mbind(pid, start + 8, 8, BIND, (2,), MOVE) == 0
    assert peer.where(pid, start, pages) == [1] * 8 + [2] * 8 + [1] * 16
    assert peer.migrate(0, (0, 1, 2), 3, caller=pid) == 0
    assert peer.where(pid, start, pages) == [3] * pages


@case("MB-31")
@pytest.mark.parametrize("kind", ["file", "anonymous", "shmem"])
def test_MB_31_each_kind_of_memory_moves(peer: Peer, kind: str) -> None:
    pid, pages = peer.spawn(), 64
    if kind == "file":
        assert create(peer, "ext3", pages) == 0
        start = map_file(peer, pid, pages)
    else:
        start = peer.mmap(pid, pages, shared=kind == "shmem")
    peer.filled(pid, start, pages)
    had = peer.fault(pid, start, pages, access=READ)
    assert peer.mbind(pid, start, pages, BIND, (B,), MOVE | STRICT) == 0
    has = peer.fault(pid, start, pages, access=READ)
    assert (had.nid != has.nid).all()
    assert set(has.nid.tolist()) == {B}
    peer.assert_filled(pid, start, pages)


@case("MB-37")
@pytest.mark.parametrize(
    ("pages", "bound", "first", "last", "verified"),
    [
        (3, (1,), 64 + 10, 128, 0),
        (3, (0, 1), 32, 96, 0),
        (3, (1,), 32, 96, -1),
        (3, (1,), 96, 129, -1),
        (5, (1, 2, 3), 65, 4 * 64, 0),
        (5, (1, 3), 65, 4 * 64, -1),
    ],
)
def test_MB_37_is_a_range_of_bytes_wholly_on_one_node(
    peer: Peer, pages: int, bound: tuple[int, ...], first: int, last: int, verified: int
) -> None:
    """A page has 64 bytes; the range is ``first`` up to but not including ``last``."""
    pid = peer.spawn()
    start = peer.mmap(pid, pages)
    for at in bound:
        assert peer.mbind(pid, start + at, 1, BIND, (B,)) == 0
    peer.filled(pid, start, pages)
    inside = range(first // 64, (last - 1) // 64 + 1)
    nodes = peer.where(pid, start, pages)
    assert (0 if all(nodes[at] == B for at in inside) else -1) == verified
