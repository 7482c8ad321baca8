"""Node masks as programs pass them (K 4.1 - 4.4), and unreadable arrays of move_pages (K 4.12)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from coordinator.mpol import Mode
from protocol.messages import CopyPages
from protocol.profile import MODERN, SEED, Profile
from protocol.syscalls import (
    GetMempolicy,
    Mbind,
    MigratePages,
    MovedPages,
    MovePages,
    PolicyTold,
    SetMempolicy,
)
from protocol.user_mask import (
    MASK_BYTES_MAX,
    MAX_NUMNODES,
    MAXNODE,
    copy_nodes_to_user,
    get_nodes,
    nodes_of,
    user_mask,
)
from tests.calls import PREFILL, moving, setting
from tests.lab import PAGE, Lab

MakeLab = Callable[..., Lab]
PROFILE = pytest.mark.parametrize("profile", [SEED, MODERN], ids=["seed", "modern"])
DIRECTION = pytest.mark.parametrize("from_the_end", [False, True])
ALL_ONES = b"\xff" * 8


@DIRECTION
@pytest.mark.parametrize(
    ("maxnode", "mask", "meant"),
    [
        (3, b"\x07" + bytes(7), {0, 1}),
        (64, ALL_ONES, set(range(63))),
        (65, ALL_ONES, set(range(64))),
        (66, ALL_ONES + b"\x01" + bytes(7), set(range(65))),
        (67, ALL_ONES + b"\xfe" + bytes(7), {*range(64), 65}),
        (1, ALL_ONES, set()),
        (1, b"", set()),
        (0, None, set()),
        (64, None, set()),
        (MAXNODE, user_mask([0, 1023]), {0, 1023}),
    ],
)
def test_k_4_1_the_kernel_reads_one_bit_less_than_it_is_told(
    maxnode: int, mask: bytes | None, meant: set[int], from_the_end: bool
) -> None:
    """No bits, of a mask that is there or NULL, are the empty set (K 4.2)."""
    assert get_nodes(maxnode, mask, from_the_end=from_the_end) == frozenset(meant)


@DIRECTION
def test_k_4_2_a_length_of_zero_with_a_pointer_is_too_long(from_the_end: bool) -> None:
    assert get_nodes(0, ALL_ONES, from_the_end=from_the_end) == -errno.EINVAL
    assert get_nodes(0, b"", from_the_end=from_the_end) == -errno.EINVAL


@DIRECTION
def test_k_4_3_a_mask_has_no_more_bits_than_a_page(from_the_end: bool) -> None:
    page = bytes(MASK_BYTES_MAX)
    bits = MASK_BYTES_MAX * 8
    assert get_nodes(bits + 1, page, from_the_end=from_the_end) == frozenset()
    assert get_nodes(bits + 2, page + bytes(8), from_the_end=from_the_end) == -errno.EINVAL
    assert get_nodes((1 << 63) - 1, page, from_the_end=from_the_end) == -errno.EINVAL


@DIRECTION
def test_k_4_3_bits_of_nodes_that_no_kernel_has_must_be_zero(from_the_end: bool) -> None:
    known = user_mask([1])
    for bit in (MAX_NUMNODES, MAX_NUMNODES + 63, MAX_NUMNODES + 64):
        mask = known + (1 << (bit - MAX_NUMNODES)).to_bytes(16, "little")
        assert get_nodes(bit + 2, mask, from_the_end=from_the_end) == -errno.EINVAL
        # The bit itself is past maxnode - 1, in the last word: it is not looked at.
        assert get_nodes(bit + 1, mask, from_the_end=from_the_end) == frozenset({1})


@DIRECTION
def test_k_4_3_a_mask_that_ends_too_early_is_efault(from_the_end: bool) -> None:
    assert get_nodes(9, b"\x01", from_the_end=from_the_end) == -errno.EFAULT
    assert get_nodes(66, ALL_ONES, from_the_end=from_the_end) == -errno.EFAULT
    assert get_nodes(MAXNODE + 64, user_mask([0]), from_the_end=from_the_end) == -errno.EFAULT


def test_k_4_3_which_of_two_wrong_words_is_met_first() -> None:
    """The word after the last known one has a bit, and the one after that cannot be read."""
    mask = user_mask([0]) + ALL_ONES
    assert get_nodes(MAXNODE + 128, mask, from_the_end=False) == -errno.EINVAL
    assert get_nodes(MAXNODE + 128, mask, from_the_end=True) == -errno.EFAULT


def test_k_4_4_whole_words_are_written() -> None:
    assert copy_nodes_to_user([0, 2], 4, 8) == b"\x05" + bytes(7)
    assert copy_nodes_to_user([0, 64], 66, 16) == b"\x01" + bytes(7) + b"\x01" + bytes(7)
    wide = copy_nodes_to_user([3], MAXNODE + 64, 1 << 12)
    assert isinstance(wide, bytes) and len(wide) == MAX_NUMNODES // 8 + 8
    assert nodes_of(wide) == (3,)
    assert copy_nodes_to_user([0], MASK_BYTES_MAX * 8 + 2, 1 << 13) == -errno.EINVAL
    assert copy_nodes_to_user([0], 66, 8) == -errno.EFAULT


# ---- the calls -------------------------------------------------------------------------------


@PROFILE
def test_k_1_1_migrate_pages_reads_both_masks_before_it_looks_for_the_task(
    make_lab: MakeLab, profile: Profile
) -> None:
    lab = make_lab(profile=profile)
    good = user_mask([0])
    for old, new in ((b"", good), (good, b"")):
        assert lab.call(MigratePages(0, 99, MAXNODE, old, new)) == -errno.EFAULT
    assert lab.call(MigratePages(0, 99, 0, good, good)) == -errno.EINVAL
    assert lab.call(MigratePages(0, 99, 0, None, None)) == -errno.ESRCH
    assert lab.call(MigratePages(0, 99, MAXNODE, good, good)) == -errno.ESRCH


def test_k_4_1_migrate_pages_to_the_node_of_the_last_bit_goes_nowhere(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mapped(pid, 1)
    assert lab.call(MigratePages(0, pid, 3, b"\x01" + bytes(7), b"\x04" + bytes(7))) == 0
    assert lab.where(pid, start) == [0]
    assert lab.call(MigratePages(0, pid, 4, b"\x01" + bytes(7), b"\x04" + bytes(7))) == 0
    assert lab.where(pid, start) == [2]


@pytest.mark.parametrize(
    ("profile", "error"), [(SEED, errno.EFAULT), (MODERN, errno.EINVAL)], ids=["seed", "modern"]
)
def test_k_4_22_mbind_of_the_seed_reads_the_mask_before_the_mode(
    make_lab: MakeLab, profile: Profile, error: int
) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn()
    assert lab.call(Mbind(pid, 1, PAGE, 99, b"", MAXNODE, 0)) == -error
    # The mask is before the flags and the address in both.
    assert lab.call(Mbind(pid, 1, PAGE, Mode.BIND, b"", MAXNODE, 99)) == -errno.EFAULT


@PROFILE
def test_k_4_33_set_mempolicy_looks_at_the_mode_first(make_lab: MakeLab, profile: Profile) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn()
    assert lab.call(SetMempolicy(pid, 99, b"", MAXNODE)) == -errno.EINVAL
    assert lab.call(SetMempolicy(pid, Mode.BIND, b"", MAXNODE)) == -errno.EFAULT
    assert lab.call(SetMempolicy(pid, Mode.DEFAULT, None, 0)) == 0


@PROFILE
def test_k_4_4_a_mask_that_is_too_short_for_the_policy(make_lab: MakeLab, profile: Profile) -> None:
    lab = make_lab(nodes=4, profile=profile)
    pid = lab.spawn()
    assert lab.call(setting(pid, Mode.BIND, (1, 3))) == 0

    def told(room: int | None, maxnode: int) -> PolicyTold:
        return lab.ask(GetMempolicy(pid, room, maxnode, 0, 0), PolicyTold)

    least = MAX_NUMNODES if profile is SEED else 4
    assert told(MASK_BYTES_MAX, least - 1).value == -errno.EINVAL
    enough = told(MASK_BYTES_MAX, least + 1)
    assert (enough.value, enough.mode) == (0, Mode.BIND)
    assert enough.nodes is not None and nodes_of(enough.nodes) == (1, 3)
    # Without a pointer no length is wrong; without room it is EFAULT, and the mode is told.
    nowhere, elsewhere = told(None, 0), told(0, least + 1)
    assert (nowhere.value, nowhere.mode, nowhere.nodes) == (0, Mode.BIND, None)
    assert (elsewhere.value, elsewhere.mode) == (-errno.EFAULT, Mode.BIND)


# ---- arrays of move_pages --------------------------------------------------------------------


def cut(
    asked: MovePages, *, pages: int | None = None, nodes: int | None = None, room: int | None = None
) -> MovePages:
    """The same call with arrays that end early."""
    return replace(
        asked, address=asked.address[:pages], node=asked.node[:nodes], status=asked.status[:room]
    )


def test_k_4_12_a_bad_array_comes_after_the_task_and_nothing_moves_at_the_seed(lab: Lab) -> None:
    pid, other = lab.spawn(), lab.spawn(uid=7, capable=False)
    start = lab.mapped(pid, 2)
    call = moving(pid, [start * PAGE, (start + 1) * PAGE], [1, 1])
    for bad in (cut(call, pages=1), cut(call, nodes=1), cut(call, pages=0, nodes=0)):
        assert lab.ask(bad, MovedPages).value == -errno.EFAULT
        assert lab.ask(replace(bad, pid=99), MovedPages).value == -errno.ESRCH
        assert lab.ask(replace(bad, caller=other), MovedPages).value == -errno.EPERM
    assert lab.where(pid, start, 2) == [0, 0]


def test_k_4_12_of_two_bad_entries_the_first_counts(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mapped(pid, 2)
    call = moving(pid, [start * PAGE, (start + 1) * PAGE], [77, 1])
    assert lab.ask(cut(call, pages=1), MovedPages).value == -errno.ENODEV
    call = moving(pid, [start * PAGE, (start + 1) * PAGE], [1, 77])
    assert lab.ask(cut(call, pages=1), MovedPages).value == -errno.EFAULT


def test_k_4_12_too_many_pages_come_before_their_arrays_at_the_seed(lab: Lab) -> None:
    pid = lab.spawn()
    call = moving(pid, [], [])
    assert lab.ask(replace(call, count=1 << 62), MovedPages).value == -errno.E2BIG
    assert lab.ask(replace(call, count=1 << 40), MovedPages).value == -errno.ENOMEM
    assert lab.ask(replace(call, count=2), MovedPages).value == -errno.EFAULT
    assert lab.ask(replace(call, count=1 << 62, pid=99), MovedPages).value == -errno.ESRCH


def test_k_4_16_a_status_array_that_ends_early_is_noticed_when_the_pages_have_moved(
    lab: Lab,
) -> None:
    pid = lab.spawn()
    start = lab.mapped(pid, 2)
    call = moving(pid, [start * PAGE, (start + 1) * PAGE], [1, 2])
    answer = lab.ask(cut(call, room=1), MovedPages)
    assert (answer.value, answer.status.tolist()) == (-errno.EFAULT, [1])
    assert lab.where(pid, start, 2) == [1, 2]


def test_k_4_16_an_error_leaves_the_status_as_it_was(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mapped(pid, 1)
    answer = lab.ask(moving(pid, [start * PAGE], [77]), MovedPages)
    assert answer.status.tolist() == [PREFILL] and not lab.asked(CopyPages)


@PROFILE
def test_k_4_19_an_unreadable_query(make_lab: MakeLab, profile: Profile) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn()
    start = lab.mapped(pid, 2)
    query = moving(pid, [start * PAGE, (start + 1) * PAGE], None)
    assert lab.ask(cut(query, pages=1), MovedPages).value == -errno.EFAULT
    # The array of nodes is not read.
    nothing = replace(query, node=np.zeros(0, np.int32))
    assert lab.ask(nothing, MovedPages).status.tolist() == [0, 0]
