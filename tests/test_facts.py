"""What the kernel does, seen from outside, where no other file of tests has it as its subject.

By the numbers of ``docs/kernel-facts.md``, in their order.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

import numpy as np
import pytest

from coordinator.mm import Pte
from coordinator.mpol import Mode
from numalab import constants
from protocol.messages import CopyPages
from protocol.profile import MODERN, SEED, Profile
from protocol.syscalls import MigratePages, MovedPages
from protocol.task_calls import Clone
from protocol.user_mask import MAXNODE, user_mask
from tests.calls import migration, moving
from tests.cpusets import attached, cpuset
from tests.filing import create, map_file
from tests.lab import PAGE, READ, Lab
from tests.policies import at, both, mbind, set_policy, told

MakeLab = Callable[..., Lab]
MOVE, MOVE_ALL, STRICT = 2, 4, 1
ENTRY, WRITE = int(Pte.ENTRY), int(Pte.WRITE)


# ---- 1: the algorithm ----------------------------------------------------------------------


@both
def test_k_1_3_who_has_the_capability_moves_shared_pages_without_asking(
    make_lab: MakeLab, profile: Profile
) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn()
    start = lab.mapped(pid, 1)
    child = lab.fork(pid)
    assert lab.migrate(pid, 0, 1, caller=pid) == 0
    assert lab.where(pid, start) == lab.where(child, start) == [1]


@both
@pytest.mark.parametrize("end", ["moved", "pinned", "refused", "no memory"])
def test_k_1_22_however_a_call_ends_no_page_is_left_isolated(
    make_lab: MakeLab, profile: Profile, end: str
) -> None:
    lab = make_lab(nodes=2, frames=16, profile=profile)
    pid = lab.spawn()
    start = lab.mapped(pid, 6, name="[fail_migrate_page]" if end == "refused" else "")
    where = lab.fault(pid, start, 1)
    if end == "pinned":
        lab.hold_pages(where, pinned=1)
    if end == "no memory":
        other = lab.spawn()
        lab.mapped(other, 14, cpu=1)
    value = lab.migrate(pid, 0, 1)
    full = -errno.ENOMEM if profile is MODERN else 0
    assert value == {"moved": 0, "pinned": 1, "refused": 6, "no memory": full}[end]
    assert [lab.zone(nid).isolated for nid in (0, 1)] == [0, 0]
    if end == "pinned":
        lab.hold_pages(lab.fault(pid, start, 1), pinned=0)
    if end == "no memory":
        lab.exit(other)
    # Whatever stayed can be isolated again, and moves if nothing is in its way any more.
    again = 6 if end == "refused" else 0
    assert lab.migrate(pid, 0, 1) == again
    assert sum(status == 0 for status in lab.where(pid, start, 6)) == again


def test_k_1_33_a_page_that_is_tried_again_stays_isolated_in_between(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mapped(pid, 3)
    where = lab.fault(pid, start, 1)
    lab.hold_pages(where, locked=1)
    call = lab.start(migration(0, pid, (0,), (1,)))
    # Three polite passes are over and a forced one waits for the lock: the others are done with.
    assert lab.answer_to(call) is None
    old, new = lab.zone(0), lab.zone(1)
    assert (old.isolated, old.frames - old.free) == (1, 1), "the old frames of the others are free"
    assert new.isolated <= 1, "and their new ones are on the LRU"
    lab.hold_pages(where, locked=0)
    assert lab.answer_to(call) is not None
    assert lab.zone(1).isolated == 0 and lab.where(pid, start, 3) == [1, 1, 1]


@both
def test_k_1_35_a_writable_pte_becomes_a_write_entry_and_a_readable_one_a_read_entry(
    make_lab: MakeLab, profile: Profile
) -> None:
    lab = make_lab(profile=profile)
    create(lab, "ext3", 2)
    pid = lab.spawn()
    written = lab.mapped(pid, 1)
    read = map_file(lab, pid, 2)
    lab.fault(pid, read, 2, access=READ)
    lab.hold_back(CopyPages)
    call = lab.start(migration(0, pid, (0,), (1,)))
    assert lab.answer_to(call) is None
    kinds = [int(bits) & (ENTRY | WRITE) for bits in lab.vma(pid, written).bits]
    assert kinds == [ENTRY | WRITE]
    assert [int(bits) & (ENTRY | WRITE) for bits in lab.vma(pid, read).bits] == [ENTRY, ENTRY]
    lab.let_go(CopyPages)
    assert lab.answer_to(call) is not None
    assert lab.fault(pid, written, access=READ).writable.tolist() == [1]


@both
@pytest.mark.parametrize("kind", ["shmem", "ext3"])
def test_k_1_48_references_of_the_cache_and_of_buffers_are_expected_and_one_more_is_not(
    make_lab: MakeLab, profile: Profile, kind: str
) -> None:
    lab = make_lab(profile=profile)
    create(lab, kind, 2)
    pid = lab.spawn()
    start = map_file(lab, pid, 2)
    where = lab.fault(pid, start, 1, access=READ)
    lab.fault(pid, start + 1, access=READ)
    lab.hold_pages(where, pinned=1)
    assert lab.migrate(pid, 0, 1) == 1
    assert lab.where(pid, start, 2) == [0, 1]
    lab.hold_pages(lab.fault(pid, start, 1, access=READ), pinned=0)
    assert lab.migrate(pid, 0, 1) == 0 and lab.where(pid, start, 2) == [1, 1]


# ---- 3: which pages ------------------------------------------------------------------------


@both
def test_k_3_1_the_numbers_of_the_flags(make_lab: MakeLab, profile: Profile) -> None:
    lab = make_lab(profile=profile)
    named = (constants.MPOL_MF_STRICT, constants.MPOL_MF_MOVE, constants.MPOL_MF_MOVE_ALL)
    assert named == (1, 2, 4)
    pid = lab.spawn()
    start = lab.mapped(pid, 2)
    lab.fork(pid)
    assert mbind(lab, pid, start, 2, Mode.BIND, (1,), 1) == -errno.EIO
    assert mbind(lab, pid, start, 2, Mode.BIND, (1,), 2) == 0
    assert lab.where(pid, start, 2) == [0, 0]
    assert mbind(lab, pid, start, 2, Mode.BIND, (1,), 4) == 0
    assert lab.where(pid, start, 2) == [1, 1]
    for internal in (8, 16, 1 << 30):
        assert mbind(lab, pid, start, 2, Mode.BIND, (1,), internal) == -errno.EINVAL


@pytest.mark.parametrize("end", ["write", "exit"])
def test_k_3_4_a_page_of_a_fork_is_shared_until_one_side_writes_or_exits(
    lab: Lab, end: str
) -> None:
    pid = lab.spawn(uid=5, capable=False)
    start = lab.mapped(pid, 1)
    child = lab.fork(pid)
    assert lab.migrate(pid, 0, 1, caller=pid) == 0 and lab.where(pid, start) == [0]
    assert lab.move(pid, [start], [1], MOVE, pid).status.tolist() != [1]
    if end == "write":
        lab.write(child, start, 3)
    else:
        lab.exit(child)
    assert lab.migrate(pid, 0, 1, caller=pid) == 0 and lab.where(pid, start) == [1]


# ---- 4: system calls -----------------------------------------------------------------------


@both
def test_k_4_5_the_value_is_the_number_of_pages_that_stayed(
    make_lab: MakeLab, profile: Profile
) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn()
    assert lab.migrate(pid, 0, 1) == 0, "nothing had to move"
    start = lab.mapped(pid, 5)
    lab.hold_pages(lab.fault(pid, start, 2), pinned=1)
    assert lab.migrate(pid, 0, 1) == 2
    assert lab.migrate(pid, 3, 1) == 0
    assert lab.where(pid, start, 5) == [0, 0, 1, 1, 1]


@both
def test_k_4_6_the_errors_of_migrate_pages(make_lab: MakeLab, profile: Profile) -> None:
    lab = make_lab(frames=4, profile=profile)
    pid, stranger = lab.spawn(uid=1), lab.spawn(uid=2, capable=False)
    zero, one, two = (user_mask([nid]) for nid in (0, 1, 2))

    def value(caller: int, target: int, new: bytes | None, maxnode: int = MAXNODE) -> int:
        return lab.call(MigratePages(caller, target, maxnode, zero, new))

    assert value(0, pid, b"") == -errno.EFAULT
    assert value(0, pid, one, 0) == -errno.EINVAL
    assert value(0, pid, one, 1 << 40) == -errno.EINVAL
    assert value(0, 99, one) == value(0, -1, one) == -errno.ESRCH
    assert value(stranger, pid, one) == -errno.EPERM
    inside = attached(lab, cpuset(lab, "/a", mems="0-1"), uid=2)
    assert value(stranger, inside, two) == -errno.EPERM
    assert value(0, pid, user_mask([77])) == -errno.EINVAL
    lab.mapped(lab.spawn(), 4, cpu=1)
    start = lab.mapped(pid, 1)
    if profile is MODERN:
        assert value(0, pid, one) == -errno.ENOMEM and lab.where(pid, start) == [0]
        assert value(0, pid, None) == -errno.EINVAL, "no node of the caller's is in it (K 4.7)"
    else:
        assert value(0, pid, one) == 0 and lab.where(pid, start) != [0], "it fell back"
        assert value(0, pid, None) == 0, "K 4.7"
    off = make_lab(profile=profile, migration=False)
    mine = off.spawn()
    assert off.migrate(mine, 0, 1) == -errno.ENOSYS


@both
@pytest.mark.parametrize("flags", [1, 8, 16, 1 << 20, MOVE | STRICT])
def test_k_4_11_move_pages_takes_no_flags_but_the_two(
    make_lab: MakeLab, profile: Profile, flags: int
) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn()
    start = lab.mapped(pid, 1)
    assert lab.move(pid, [start], [1], flags).value == -errno.EINVAL
    query = moving(pid, [start * PAGE], None, flags)
    assert lab.ask(query, MovedPages).value == -errno.EINVAL
    assert lab.move(pid, [start], [1], MOVE | MOVE_ALL).status.tolist() == [1]


@both
@pytest.mark.parametrize("node", [-1, 4, 254, 1 << 20, -(1 << 31)])
def test_k_4_14_a_node_that_is_not_there_is_enodev(
    make_lab: MakeLab, profile: Profile, node: int
) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn()
    start = lab.mapped(pid, 1)
    assert lab.move(pid, [start], [node]).value == -errno.ENODEV
    assert lab.where(pid, start) == [0]


@both
@pytest.mark.parametrize("query", [False, True], ids=["move", "query"])
def test_k_4_18_a_hole_below_a_vma_is_seen_in_modern_only(
    make_lab: MakeLab, profile: Profile, query: bool
) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn()
    for page in (0x100, 0x200):
        lab.mapped(pid, 2, at=page)
    pages = np.array([0x50, 0x100, 0x102, 0x1FF, 0x201, 0x202, 0x300], np.uint64)
    asked = moving(pid, pages * np.uint64(PAGE), None if query else [1] * pages.size)
    hole = -errno.ENOENT if profile is SEED else -errno.EFAULT
    node, beyond = 0 if query else 1, -errno.EFAULT
    answer = lab.ask(asked, MovedPages)
    assert answer.value == 0
    assert answer.status.tolist() == [hole, node, hole, hole, node, beyond, beyond]


@both
def test_k_4_33_nodes_outside_of_the_cpuset(make_lab: MakeLab, profile: Profile) -> None:
    lab = make_lab(profile=profile)
    pid = attached(lab, cpuset(lab, "/a", mems="0-1"))
    value = set_policy(lab, pid, Mode.BIND, (1, 2))
    if profile is SEED:
        assert value == -errno.EINVAL and told(lab, pid) == (0, Mode.DEFAULT, ())
    else:
        assert value == 0 and told(lab, pid) == (0, Mode.BIND, (1,))
    assert set_policy(lab, pid, Mode.BIND, (2, 3)) == -errno.EINVAL


@both
def test_k_4_33_a_policy_is_that_of_the_calling_thread(make_lab: MakeLab, profile: Profile) -> None:
    lab = make_lab(profile=profile)
    leader = lab.spawn()
    thread = lab.call(Clone(leader, 0, 0))
    assert set_policy(lab, thread, Mode.PREFERRED, (2,)) == 0
    assert told(lab, leader) == (0, Mode.DEFAULT, ())
    start = lab.mmap(leader, 2)
    assert lab.fault(leader, start).nid.tolist() == [0]
    assert lab.fault(thread, start + 1).nid.tolist() == [2]


@both
def test_k_4_36_preferred_without_nodes_reads_back_as_what_it_is(
    make_lab: MakeLab, profile: Profile
) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn()
    start = lab.mmap(pid, 1)
    assert mbind(lab, pid, start, 1, Mode.PREFERRED) == 0
    assert set_policy(lab, pid, Mode.PREFERRED) == 0
    seed, modern = (0, Mode.PREFERRED, (0, 1, 2, 3)), (0, Mode.LOCAL, ())
    expected = seed if profile is SEED else modern
    assert at(lab, pid, start) == told(lab, pid) == expected


# ---- 5: policies ---------------------------------------------------------------------------


@both
def test_k_5_1_the_numbers_of_modes_and_mode_flags(make_lab: MakeLab, profile: Profile) -> None:
    lab = make_lab(profile=profile)
    modes = ("DEFAULT", "PREFERRED", "BIND", "INTERLEAVE", "LOCAL", "PREFERRED_MANY")
    numbers = [getattr(constants, f"MPOL_{mode}") for mode in modes]
    assert numbers == [0, 1, 2, 3, 4, 5]
    flags = ("NUMA_BALANCING", "RELATIVE_NODES", "STATIC_NODES")
    bits = [getattr(constants, f"MPOL_F_{flag}") for flag in flags]
    assert bits == [1 << 13, 1 << 14, 1 << 15]
    pid = lab.spawn()
    known = {0: (), 1: (1,), 2: (1,), 3: (1,)}
    if profile is MODERN:
        known |= {4: (), 5: (1,), 2 | 1 << 13: (1,), 2 | 1 << 14: (1,), 2 | 1 << 15: (1,)}
    for mode, nodes in known.items():
        assert set_policy(lab, pid, mode, nodes) == 0, mode
    strange = {4, 5, 6, 7, 2 | 1 << 13, 2 | 1 << 14, 2 | 1 << 15, 2 | 1 << 12} - known.keys()
    for mode in sorted(strange):
        assert set_policy(lab, pid, mode, (1,)) == -errno.EINVAL, mode


@both
def test_k_5_3_preferred_without_nodes_is_local(make_lab: MakeLab, profile: Profile) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn(cpu=1)
    assert set_policy(lab, pid, Mode.PREFERRED) == 0
    start = lab.mmap(pid, 2)
    assert lab.fault(pid, start, cpu=1).nid.tolist() == [1]
    assert lab.fault(pid, start + 1, cpu=3).nid.tolist() == [3]
