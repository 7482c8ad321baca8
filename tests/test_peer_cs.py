"""Cases of other programs' tests about cpusets (peer_cases.py)."""

from __future__ import annotations

import errno

import pytest

from coordinator.mm import MAP_ANONYMOUS, MAP_LOCKED, MAP_PRIVATE
from protocol.syscalls import Mmap
from protocol.task_calls import Clone, Mlock
from protocol.user_mask import nodes_of
from tests.cpusets import cat, cpuset, mkdir, rmdir, write
from tests.lab import PAGE, RW
from tests.peer import BIND, DEFAULT, MEMS_ALLOWED, Peer, case

A, B = 0, 1
EINVAL, EACCES, EBUSY, ENOSPC = -errno.EINVAL, -errno.EACCES, -errno.EBUSY, -errno.ENOSPC


def attach(peer: Peer, path: str, pid: int) -> None:
    assert write(peer, path, "tasks", pid) == 0


# ---- where pages come from -----------------------------------------------------------------


@case("CS-01")
@pytest.mark.parametrize("node", [0, 1, 3])
def test_CS_01_mems_outrank_the_cpu_s_node(peer: Peer, node: int) -> None:
    pid = peer.spawn(cpu=0)
    cpuset(peer, "/set", mems=str(node), cpus="0")
    attach(peer, "/set", pid)
    assert peer.where(pid, peer.mapped(pid, 1)) == [node]
    assert peer.where(pid, peer.mapped(pid, 1, name="/file", shared=True)) == [node]


@case("CS-03")
@pytest.mark.parametrize("when", ["by mmap", "before touch"])
def test_CS_03_locked_memory(peer: Peer, when: str) -> None:
    pid = peer.spawn(cpu=1)
    cpuset(peer, "/set", mems="0")
    attach(peer, "/set", pid)
    flags = MAP_PRIVATE | MAP_ANONYMOUS | (MAP_LOCKED if when == "by mmap" else 0)
    start = peer.call(Mmap(pid, 0, 4 * PAGE, RW, flags, "", 0)) // PAGE
    if when == "before touch":
        assert peer.call(Mlock(pid, start * PAGE, 4 * PAGE)) == 0
    assert peer.where(pid, start, 4) == [A] * 4


@case("CS-05")
def test_CS_05_memory_migrate_of_the_destination_counts(peer: Peer) -> None:
    pid = peer.spawn()
    cpuset(peer, "/one", mems="0")
    cpuset(peer, "/two", mems="1", migrate=True)
    attach(peer, "/one", pid)
    start = peer.mapped(pid, 1)
    peer.write(pid, start, 7)
    assert peer.where(pid, start) == [A]
    attach(peer, "/two", pid)
    assert peer.where(pid, start) == [B]
    assert peer.read(pid, start) == 7
    assert peer.where(pid, peer.mapped(pid, 1)) == [B]
    attach(peer, "/one", pid)
    assert peer.where(pid, start) == [B]


@case("CS-06")
def test_CS_06_new_mems_without_memory_migrate(peer: Peer) -> None:
    pid = peer.spawn()
    cpuset(peer, "/set", mems="1")
    attach(peer, "/set", pid)
    start = peer.mapped(pid, 1)
    assert write(peer, "/set", "mems", "0") == 0
    assert peer.where(pid, start) == [B]
    assert peer.munmap(pid, start, 1) == 0
    assert peer.where(pid, peer.mapped(pid, 1)) == [A]


def two_threads(peer: Peer, *, migrate: bool) -> tuple[int, int]:
    """A process in /one of node 0, with a thread of it in /two of node 1."""
    first = peer.spawn(cpu=0)
    second = peer.call(Clone(first, 0, 0))
    assert second > 0
    cpuset(peer, "/one", mems="0")
    cpuset(peer, "/two", mems="1", migrate=migrate)
    attach(peer, "/one", first)
    return first, second


@case("CS-08")
@pytest.mark.parametrize("migrate", [False, True], ids=["stays", "memory_migrate"])
def test_CS_08_two_threads_in_two_cpusets(peer: Peer, migrate: bool) -> None:
    first, second = two_threads(peer, migrate=migrate)
    old = peer.mapped(first, 1)
    attach(peer, "/two", second)
    assert peer.where(second, peer.mapped(second, 1)) == [B]
    assert peer.where(first, peer.mapped(first, 1)) == [A]
    # In 2006 the memory of the whole process went with any thread.
    went = peer.answer(seed=migrate, modern=False)
    assert peer.where(first, old) == [B if went else A]


@case("CS-09")
def test_CS_09_two_threads_both_with_memory_migrate(peer: Peer) -> None:
    first, second = two_threads(peer, migrate=True)
    old = peer.mapped(first, 1)
    assert peer.where(first, old) == [A]
    attach(peer, "/two", second)
    assert write(peer, "/one", "memory_migrate", 1) == 0
    assert peer.where(second, peer.mapped(second, 1)) == [B]
    assert peer.munmap(first, old, 1) == 0
    assert peer.where(first, peer.mapped(first, 1)) == [A]


# ---- masks of system calls -----------------------------------------------------------------


@case("CS-11")
@pytest.mark.parametrize("mems", ["0-1", "0"])
def test_CS_11_mbind_with_nodes_outside(peer: Peer, mems: str) -> None:
    # K 4.31.
    pid = peer.spawn()
    cpuset(peer, "/set", mems=mems)
    attach(peer, "/set", pid)
    start = peer.mmap(pid, 4)
    value = peer.mbind(pid, start, 4, BIND, (1, 2))
    if peer.answer(seed=False, modern=mems == "0"):
        assert (value, peer.policy(pid, start)) == (EINVAL, (DEFAULT, ()))
    else:
        shown = peer.answer(seed=(1, 2), modern=(1,))
        assert (value, peer.policy(pid, start)) == (0, (BIND, shown))


@case("CS-12")
@pytest.mark.parametrize("mems", ["0-1", "0"])
def test_CS_12_set_mempolicy_with_nodes_outside(peer: Peer, mems: str) -> None:
    pid = peer.spawn()
    cpuset(peer, "/set", mems=mems)
    attach(peer, "/set", pid)
    peer.mmap(pid, 1)
    peer.mmap(pid, 1, name="[heap]")
    value = peer.set_mempolicy(pid, BIND, (1, 2))
    words = {line.split()[1] for line in peer.numa_maps(pid)}
    if peer.answer(seed=True, modern=mems == "0"):
        assert (value, words) == (EINVAL, {"default"})
    else:
        assert (value, words) == (0, {"bind:1"})


@case("CS-13")
@pytest.mark.parametrize("mems", ["0", "0-1"])
def test_CS_13_the_nodes_one_may_use(peer: Peer, mems: str) -> None:
    pid = peer.spawn()
    cpuset(peer, "/set", mems=mems)
    attach(peer, "/set", pid)
    told = peer.get_mempolicy(pid, 0, MEMS_ALLOWED)
    assert told.value == peer.answer(seed=EINVAL, modern=0)
    assert cat(peer, "/set", "mems") == mems
    if not told.value:
        assert nodes_of(told.nodes or b"") == {"0": (0,), "0-1": (0, 1)}[mems]


# ---- the attribute files -------------------------------------------------------------------

#: What is written to mems of an empty cpuset on a machine of nodes 0-3, and what it reads then:
#: today, and at the seed; None: it is refused.
MEMS: list[tuple[str, tuple[str | None, str | None]]] = [
    ("", ("", None)),
    ("0", ("0", "0")),
    ("4", (None, "")),
    ("0,1,2,3", ("0-3", "0-3")),
    ("0,1,2,4", (None, "0-2")),
    ("0,0", ("0", "0")),
    ("0-0", ("0", "0")),
    ("0-3", ("0-3", "0-3")),
    ("-1", (None, None)),
    ("0-4", (None, "0-3")),
    ("0--3", (None, None)),
    ("0AAA", (None, None)),
    ("AAA", (None, None)),
    ("0-", (None, None)),
    ("0-3,", ("0-3", "0-3")),
    ("0,", ("0", "0")),
]


@case("CS-16")
@pytest.mark.parametrize(("text", "reads"), MEMS, ids=[repr(text) for text, _ in MEMS])
def test_CS_16_what_may_be_written_to_mems(
    peer: Peer, text: str, reads: tuple[str | None, str | None]
) -> None:
    modern, seed = reads
    expected = peer.answer(seed=seed, modern=modern)
    assert mkdir(peer, "/set") == 0
    value = write(peer, "/set", "mems", text)
    assert (value == 0) == (expected is not None)
    assert cat(peer, "/set", "mems") == (expected or "")


@case("CS-16")
def test_CS_16_nothing_over_something(peer: Peer) -> None:
    cpuset(peer, "/set", mems="0-1")
    # Node 4 is not there; at the seed it is left out, and then nothing is left.
    assert write(peer, "/set", "mems", "4") == peer.answer(seed=ENOSPC, modern=EINVAL)
    assert cat(peer, "/set", "mems") == "0-1"


@case("CS-17")
@pytest.mark.parametrize(
    ("text", "modern", "seed"),
    [("0", "0", "0"), ("1", "1", "1"), ("-1", None, "0"), ("A", None, "0"), ("2", "1", "1")],
)
def test_CS_17_memory_migrate(peer: Peer, text: str, modern: str | None, seed: str) -> None:
    assert mkdir(peer, "/set") == 0
    value = write(peer, "/set", "memory_migrate", text)
    expected = peer.answer(seed=seed, modern=modern)
    assert (value == 0) == (expected is not None)
    assert cat(peer, "/set", "memory_migrate") == (expected or "0")


@case("CS-17")
@pytest.mark.parametrize("missing", ["cpus", "mems"])
def test_CS_17_a_task_is_not_attached_without_cpus_or_mems(peer: Peer, missing: str) -> None:
    pid = peer.spawn()
    assert mkdir(peer, "/set") == 0
    assert write(peer, "/set", "mems" if missing == "cpus" else "cpus", "0") == 0
    assert write(peer, "/set", "tasks", pid) == ENOSPC
    assert cat(peer, "/", "tasks") == f"{pid}"


@case("CS-17")
@pytest.mark.parametrize("flag", ["0", "1"])
def test_CS_17_a_grandchild_starts_without_memory_migrate(peer: Peer, flag: str) -> None:
    assert mkdir(peer, "/set") == 0
    assert write(peer, "/set", "memory_migrate", flag) == 0
    assert mkdir(peer, "/set/below") == 0
    assert cat(peer, "/set/below", "memory_migrate") == "0"
    assert rmdir(peer, "/set/below") == 0


# ---- exclusive memory ----------------------------------------------------------------------


def family(peer: Peer, *exclusive: str, child: str = "0", sibling: str = "1") -> None:
    """/father with all nodes, /father/child and /father/sibling; these are exclusive."""
    for path, mems in (("", "0-1"), ("/child", child), ("/sibling", sibling)):
        assert mkdir(peer, f"/father{path}") == 0
        assert write(peer, f"/father{path}", "mems", mems) == 0
        if (path or "/father")[1:] in exclusive:
            assert write(peer, f"/father{path}", "mem_exclusive", 1) == 0


@case("CS-19")
def test_CS_19_an_exclusive_child_of_a_plain_father_is_refused(peer: Peer) -> None:
    family(peer)
    assert write(peer, "/father/child", "mem_exclusive", 1) == EACCES
    assert cat(peer, "/father/child", "mem_exclusive") == "0"


@case("CS-19")
def test_CS_19_a_father_stays_exclusive_above_an_exclusive_child(peer: Peer) -> None:
    family(peer, "father", "child")
    assert write(peer, "/father", "mem_exclusive", 0) == EBUSY
    assert cat(peer, "/father", "mem_exclusive") == "1"
    assert write(peer, "/father/child", "mem_exclusive", 0) == 0
    assert write(peer, "/father", "mem_exclusive", 0) == 0


@case("CS-19")
def test_CS_19_a_sibling_does_not_take_what_an_exclusive_child_has(peer: Peer) -> None:
    family(peer, "father", "child")
    for mems in ("0", "0-1"):
        assert write(peer, "/father/sibling", "mems", mems) == EINVAL
        assert cat(peer, "/father/sibling", "mems") == "1"
    assert write(peer, "/father/child", "mem_exclusive", 0) == 0
    assert write(peer, "/father/sibling", "mems", "0-1") == 0


@case("CS-19")
@pytest.mark.parametrize("sibling_exclusive", [False, True])
def test_CS_19_no_child_turns_exclusive_while_a_sibling_overlaps(
    peer: Peer, sibling_exclusive: bool
) -> None:
    family(peer, "father", sibling="0-1")
    if sibling_exclusive:
        assert write(peer, "/father/sibling", "mem_exclusive", 1) == EINVAL
    assert write(peer, "/father/child", "mem_exclusive", 1) == EINVAL
    assert cat(peer, "/father/child", "mem_exclusive") == "0"
    assert write(peer, "/father/sibling", "mems", "1") == 0
    assert write(peer, "/father/child", "mem_exclusive", 1) == 0


@case("CS-19")
def test_CS_19_all_else_is_accepted(peer: Peer) -> None:
    family(peer, "father", "child", "sibling")
    for path in ("/father", "/father/child", "/father/sibling"):
        assert cat(peer, path, "mem_exclusive") == "1"
