"""Cases of other programs' tests about task policies and placement (peer_cases.py)."""

from __future__ import annotations

import errno
from random import Random

import pytest

from coordinator.mpol import Mode
from protocol.nodemask import format_nodes, parse_nodes
from protocol.syscalls import DescribeHardware, GetMempolicy, Hardware, PolicyTold, SetMempolicy
from protocol.user_mask import MAXNODE, nodes_of, user_mask
from tests.filing import create, map_file, unlink
from tests.peer import (
    ADDR,
    ALL_ONES,
    BIND,
    DEFAULT,
    INTERLEAVE,
    MEMS_ALLOWED,
    MINUS_ONE,
    NODE,
    ONE,
    PREFERRED,
    RELATIVE_NODES,
    STATIC_NODES,
    Boot,
    Peer,
    case,
)

#: What a program of 1 MiB has, in pages of a small machine.
MIB = 32


@case("PL-01")
@pytest.mark.parametrize("node", range(4))
def test_PL_01_the_last_of_five_task_policies(peer: Peer, node: int) -> None:
    pid = peer.spawn()
    assert peer.set_mempolicy(pid, DEFAULT) == 0
    for mode in (BIND, INTERLEAVE, PREFERRED):
        assert peer.set_mempolicy(pid, mode, ((node + 1) % 4,)) == 0
    assert peer.set_mempolicy(pid, PREFERRED, (node,)) == 0
    assert peer.policy(pid) == (PREFERRED, (node,))


@case("PL-02")
def test_PL_02_five_areas_with_policies_of_their_own(peer: Peer) -> None:
    # K 4.36.
    pid, node = peer.spawn(), 2
    wanted = [(DEFAULT, ()), (BIND, (node,)), (INTERLEAVE, (node,)), (PREFERRED, ())]
    wanted.append((PREFERRED, (node,)))
    areas = [peer.mmap(pid, MIB) for _ in wanted]
    for start, (mode, nodes) in zip(areas, wanted, strict=True):
        assert peer.mbind(pid, start, MIB, mode, nodes) == 0
    masks = [peer.policy(pid, start)[1] for start in areas]
    no_node: tuple[int, ...] = peer.answer(seed=(0, 1, 2, 3), modern=())
    assert masks == [(), (node,), (node,), no_node, (node,)]


@case("PL-03")
def test_PL_03_address_0_and_all_flags(peer: Peer) -> None:
    pid = peer.spawn()
    peer.mapped(pid, 1)
    assert peer.get_mempolicy(pid, 0, ADDR).value == -errno.EFAULT
    assert peer.get_mempolicy(pid, 0, MINUS_ONE).value == -errno.EINVAL


@case("PL-04")
@pytest.mark.parametrize("mode", [BIND, PREFERRED], ids=["bind", "preferred"])
def test_PL_04_task_policies_place_the_pages_of_parent_and_child(peer: Peer, mode: Mode) -> None:
    for node in range(4):
        parent = peer.spawn(cpu=(node + 1) % 4)
        assert peer.set_mempolicy(parent, mode, (node,)) == 0
        start = peer.mmap(parent, 16)
        child = peer.fork(parent)
        for pid in (child, parent):
            assert not peer.fault(pid, start, 16).status.any()
            assert peer.per_node(pid) == {node: 16}


#: Kinds of files that have pages in memory like those of a file system of their own.
each_kind = pytest.mark.parametrize("kind", ["shmem", "ext3", "nfs", "ramfs"])


@case("PL-06")
@pytest.mark.parametrize("mode", [BIND, PREFERRED], ids=["bind", "preferred"])
@each_kind
def test_PL_06_task_policies_place_the_pages_of_a_file(peer: Peer, kind: str, mode: Mode) -> None:
    pid = peer.spawn()
    for node in range(4):
        assert create(peer, kind, 16) == 0
        start = map_file(peer, pid, 16)
        assert unlink(peer) == 0
        assert peer.set_mempolicy(pid, mode, (node,)) == 0
        assert not peer.fault(pid, start, 16).status.any()
        assert peer.per_node(pid) == {node: 16}
        assert peer.munmap(pid, start, 16) == 0


@case("PL-07")
@each_kind
def test_PL_07_many_files_interleaved_are_spread_evenly(boot: Boot, kind: str) -> None:
    peer = boot(frames=400)
    pid = peer.spawn()
    assert peer.set_mempolicy(pid, INTERLEAVE, (0, 1, 2, 3)) == 0
    sizes = [10 * number + more for number in range(1, 5) for more in range(10)]
    for at, pages in enumerate(sizes):
        path = f"/data/{at}"
        assert create(peer, kind, pages, path) == 0
        start = map_file(peer, pid, pages, path=path)
        assert not peer.fault(pid, start, pages).status.any()
    found, total = peer.per_node(pid), sum(sizes)
    assert sum(found.values()) == total == sum(peer.used())
    for node in range(4):
        assert abs(found[node] - total / 4) <= total / 60


@case("PL-09")
@pytest.mark.parametrize("how", ["membind", "localalloc"])
@pytest.mark.parametrize("node", range(4))
def test_PL_09_near_one_s_cpu(peer: Peer, node: int, how: str) -> None:
    pid = peer.spawn(cpu=node)
    if how == "membind":
        assert peer.set_mempolicy(pid, BIND, (node,)) == 0
    else:
        assert peer.set_mempolicy(pid, PREFERRED) == 0
    peer.mapped(pid, MIB, cpu=node, name="[heap]")
    assert peer.per_node(pid) == {node: MIB}


@case("PL-10")
@pytest.mark.parametrize("shared", [False, True], ids=["private", "shared file"])
@pytest.mark.parametrize("node", range(4))
def test_PL_10_preferred_is_the_next_node(peer: Peer, node: int, shared: bool) -> None:
    pid, target = peer.spawn(cpu=node), (node + 1) % 4
    assert peer.set_mempolicy(pid, PREFERRED, (target,)) == 0
    peer.mapped(pid, MIB, cpu=node, shared=shared, name="/tmp/file" if shared else "")
    assert peer.per_node(pid) == {target: MIB}


@case("PL-11")
@pytest.mark.parametrize("shape", ["heap", "shared file", "repeated"])
def test_PL_11_interleaved_over_all_nodes(peer: Peer, shape: str) -> None:
    pid = peer.spawn()
    assert peer.set_mempolicy(pid, INTERLEAVE, (0, 1, 2, 3)) == 0
    for _ in range(3 if shape == "repeated" else 1):
        name = "/tmp/file" if shape == "shared file" else "[heap]"
        start = peer.mapped(pid, MIB, shared=shape == "shared file", name=name)
        assert peer.per_node(pid) == dict.fromkeys(range(4), MIB // 4)
        assert peer.munmap(pid, start, MIB) == 0


@case("PL-12")
@pytest.mark.parametrize(
    ("mode", "nodes"),
    [
        (INTERLEAVE, (1,)),
        (INTERLEAVE, (0, 1)),
        (INTERLEAVE, (0, 1, 2, 3)),
        (BIND, (0, 1, 2, 3)),
        (BIND, (0, 1)),
        (BIND, (2,)),
        (PREFERRED, (2,)),
        (PREFERRED, ()),
    ],
)
def test_PL_12_task_policies_and_numastat(peer: Peer, mode: Mode, nodes: tuple[int, ...]) -> None:
    pid, pages = peer.spawn(), 192
    assert peer.set_mempolicy(pid, mode, nodes) == 0
    before = peer.counters()
    peer.mapped(pid, pages, name="[heap]")
    after = peer.counters()
    hits = (after.numa_hit - before.numa_hit).tolist()
    interleaved = (after.interleave_hit - before.interleave_hit).tolist()
    if mode == INTERLEAVE:
        share = pages // len(nodes)
        assert hits == interleaved == [share if node in nodes else 0 for node in range(4)]
    else:
        first = nodes[0] if nodes else 0
        assert hits == [pages if node == first else 0 for node in range(4)]
        assert not any(interleaved)
    assert not (after.numa_miss - before.numa_miss).any()


@case("PL-13")
def test_PL_13_the_default_and_what_was_set(peer: Peer) -> None:
    pid = peer.spawn()
    assert peer.policy(pid) == (DEFAULT, ())
    assert peer.set_mempolicy(pid, BIND, (0,)) == 0
    assert peer.policy(pid) == (BIND, (0,))
    for flag in (STATIC_NODES, RELATIVE_NODES):
        mode = INTERLEAVE | flag
        assert peer.set_mempolicy(pid, mode, (0,)) == peer.answer(seed=-errno.EINVAL, modern=0)
        assert peer.policy(pid)[0] == peer.answer(seed=BIND, modern=mode)


@case("PL-14")
@pytest.mark.parametrize(
    ("mode", "nodemask", "maxnode"),
    [
        (7439, ONE, 64),
        (DEFAULT, ONE, 0),
        (INTERLEAVE | STATIC_NODES | RELATIVE_NODES, ONE, 64),
        (INTERLEAVE, bytes(8), 64),
    ],
    ids=["no such mode", "pointer without a size", "both flags", "empty mask"],
)
def test_PL_14_inputs_that_are_refused(
    peer: Peer, mode: int, nodemask: bytes, maxnode: int
) -> None:
    pid = peer.spawn()
    assert peer.call(SetMempolicy(pid, mode, nodemask, maxnode)) == -errno.EINVAL
    assert peer.policy(pid) == (DEFAULT, ())


@case("PL-16")
def test_PL_16_the_nodes_one_may_use(peer: Peer) -> None:
    pid = peer.spawn()
    start = peer.mapped(pid, 1)
    told = peer.get_mempolicy(pid, 0, MEMS_ALLOWED)
    assert told.value == peer.answer(seed=-errno.EINVAL, modern=0)
    if not told.value:
        assert nodes_of(told.nodes or b"") == (0, 1, 2, 3)
    for flags in (ADDR, NODE, ADDR | NODE):
        page = start if flags & ADDR else 0
        assert peer.get_mempolicy(pid, page, MEMS_ALLOWED | flags).value == -errno.EINVAL


@case("PL-17")
@pytest.mark.parametrize("name", ["[stack]", "[heap]"])
def test_PL_17_the_node_of_an_address(peer: Peer, name: str) -> None:
    pid = peer.spawn(cpu=2)
    start = peer.mapped(pid, 4, cpu=2, name=name)
    told = peer.get_mempolicy(pid, start + 1, NODE | ADDR)
    assert (told.value, told.mode) == (0, 2)
    # A page that was never touched is touched by the question.
    untouched = peer.mmap(pid, 1)
    assert peer.get_mempolicy(pid, untouched, NODE | ADDR).value == 0
    no_address = GetMempolicy(pid, None, 0, ALL_ONES, NODE | ADDR)
    assert peer.ask(no_address, PolicyTold).value == -errno.EFAULT


@case("PL-17")
def test_PL_17_pointers_that_are_left_out_or_lead_nowhere(peer: Peer) -> None:
    pid = peer.spawn()
    assert peer.ask(GetMempolicy(pid, None, 0, 0, 0), PolicyTold).value == 0
    assert peer.ask(GetMempolicy(pid, 0, MAXNODE, 0, 0), PolicyTold).value == -errno.EFAULT


@case("PL-20")
def test_PL_20_a_mix_of_modes_and_flags_with_an_empty_mask(peer: Peer) -> None:
    pid, flags = peer.spawn(), (0, STATIC_NODES, RELATIVE_NODES)
    assert peer.call(SetMempolicy(pid, PREFERRED, None, 0)) == 0
    for mode in (BIND, INTERLEAVE, MINUS_ONE):
        for flag in flags:
            asked = SetMempolicy(pid, mode | flag, bytes(8), 64)
            assert peer.call(asked) == -errno.EINVAL
    for flag in flags:
        # The two flags need a mask; without one, PREFERRED is local.
        asked = SetMempolicy(pid, PREFERRED | flag, bytes(8), 64)
        assert peer.call(asked) == (-errno.EINVAL if flag else 0)
        asked = SetMempolicy(pid, DEFAULT | flag, bytes(8), 64)
        assert peer.call(asked) == (peer.answer(seed=-errno.EINVAL, modern=0) if flag else 0)


# ---- the hardware --------------------------------------------------------------------------


@case("PL-23")
def test_PL_23_distances_and_cpus(peer: Peer) -> None:
    found = peer.ask(DescribeHardware(), Hardware)
    distance = found.distance.reshape(4, 4)
    assert (distance.diagonal() == 10).all()
    assert (distance == distance.T).all()
    assert found.nid.tolist() == [0, 1, 2, 3]
    assert found.cpus == ((0,), (1,), (2,), (3,))


@case("PL-23")
def test_PL_23_masks_of_300_bits_as_text(peer: Peer) -> None:
    seed = 300
    print(f"seed {seed}")
    random = Random(seed)
    for density in (0.01, 0.5, 0.99):
        mask = tuple(nid for nid in range(255) if random.random() < density)
        assert parse_nodes(format_nodes(mask), tuple(range(255))) == mask
    wide = tuple(random.sample(range(300), 100))
    assert nodes_of(user_mask(wide)) == tuple(sorted(wide))
    pid = peer.spawn()
    assert peer.call(SetMempolicy(pid, BIND, user_mask((1, 3)), 301)) == 0
    assert peer.policy(pid) == (BIND, (1, 3))


@case("PL-23")
@pytest.mark.parametrize("node", range(4))
def test_PL_23_the_node_of_a_fresh_page_is_that_of_the_cpu(peer: Peer, node: int) -> None:
    pid = peer.spawn(cpu=node)
    start = peer.mapped(pid, 1, cpu=node)
    assert peer.get_mempolicy(pid, start, NODE | ADDR).mode == node
