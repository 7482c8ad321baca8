"""Which node pairs do_migrate_pages() empties in which order, and what the scan queues."""

from __future__ import annotations

import errno
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest

from coordinator.mempolicy import next_pair, node_pairs
from coordinator.mm import VmFlag
from protocol.messages import IsolateLruPage, MigratePrep
from protocol.nodemask import node_remap, parse_list
from tests.calls import migration
from tests.lab import READ, Lab

#: (from, to, pairs at the seed, pairs of modern): K 1.12.
VECTORS = [
    ("0-2", "1-3", "2>3 1>2 0>1", "2>3 1>2 0>1"),
    ("1-3", "0-2", "1>0 2>1 3>2", "1>0 2>1 3>2"),
    ("0-3", "4,5", "0>4 1>5 2>4 3>5", "0>4 1>5 2>4 3>5"),
    ("0-7", "3-5", "7>4 6>3 2>5 1>4 0>3", "7>4 6>3 2>5 1>4 0>3"),
    ("0-3", "1,2", "3>2 2>1 1>2 0>1", "3>2 0>1"),
    ("0", "1,2", "0>1", "0>1"),
    ("0,1", "0,1", "", ""),
]


def nodes(text: str) -> frozenset[int]:
    return frozenset(parse_list(text))


@pytest.mark.parametrize(("old", "new", "seed", "modern"), VECTORS)
def test_pairs_come_in_the_order_of_the_kernel(old: str, new: str, seed: str, modern: str) -> None:
    # K 1.8, 1.12.
    for expected, skips in ((seed, False), (modern, True)):
        pairs = node_pairs(nodes(old), nodes(new), skip_common_sources=skips)
        assert " ".join(f"{source}>{dest}" for source, dest in pairs) == expected


def test_the_seed_is_right_about_the_three_nodes_that_stay() -> None:
    # K 1.12.
    pairs = node_pairs(nodes("0-7"), nodes("3-5"), skip_common_sources=False)
    assert {3, 4, 5}.isdisjoint(source for source, _ in pairs)


def test_an_empty_target_leaves_every_page_where_it_is() -> None:
    # K 1.7.
    for skips in (False, True):
        assert node_pairs(nodes("0-3"), frozenset(), skip_common_sources=skips) == []


def test_a_destination_that_is_still_to_be_emptied_is_left_for_later() -> None:
    # K 1.8.
    everything = frozenset({0, 1, 2})
    assert next_pair(everything, frozenset({1, 2, 3}), everything) == (2, 3)
    assert next_pair(everything, frozenset({1, 2, 3}), frozenset({0, 1})) == (1, 2)
    assert next_pair(everything, frozenset({1, 2, 3}), frozenset()) is None


# ---- every pair of masks over six nodes (K 1.9 - 1.11) -------------------------------------

MASKS = [frozenset(n for n in range(6) if mask >> n & 1) for mask in range(1, 64)]


def journeys(old: frozenset[int], new: frozenset[int], skips: bool) -> dict[int, list[int]]:
    """The nodes that a page of each node of ``old`` sees, its first one included."""
    journey = {node: [node] for node in old}
    for source, dest in node_pairs(old, new, skip_common_sources=skips):
        for seen in journey.values():
            if seen[-1] == source:
                seen.append(dest)
    return journey


@pytest.mark.parametrize("skips", [False, True], ids=["seed", "modern"])
def test_masks_of_one_weight_move_a_page_once_and_to_its_node(skips: bool) -> None:
    # K 1.9.
    cases = [(old, new) for old, new in product(MASKS, MASKS) if len(old) == len(new)]
    assert len(cases) == 923
    for old, new in cases:
        for node, seen in journeys(old, new, skips).items():
            assert len(seen) <= 2, f"{sorted(old)} -> {sorted(new)}: {seen}"
            assert seen[-1] == node_remap(node, sorted(old), sorted(new))


def test_masks_of_other_weights_move_twice_at_the_seed_and_once_in_modern() -> None:
    # K 1.10, 1.11.
    cases = [(old, new) for old, new in product(MASKS, MASKS) if len(old) != len(new)]
    assert len(cases) == 3046
    twice = {"seed": 0, "modern": 0}
    for old, new in cases:
        for profile, skips in (("seed", False), ("modern", True)):
            ends = journeys(old, new, skips)
            assert all(seen[-1] in new for seen in ends.values()), f"{old} -> {new}: {ends}"
            several = any(len(seen) > 2 for seen in ends.values())
            assert not (several and len(old) < len(new))
            twice[profile] += several
    assert twice == {"seed": 218, "modern": 0}


# ---- the scan (K 1.13 - 1.17, 3.6) ---------------------------------------------------------


def test_pages_are_queued_in_the_order_of_their_addresses(lab: Lab) -> None:
    # K 1.17.
    pid = lab.spawn()
    start = lab.mmap(pid, 20)
    order = np.random.default_rng(7).permutation(20)
    for offset in order:
        lab.fault(pid, start + int(offset))
    lab.hold_back(IsolateLruPage)
    lab.start(migration(0, pid, (0,), (1,)))
    lab.run()
    (asked,) = lab.held(IsolateLruPage)
    vma = lab.vma(pid, start)
    assert asked.pfn.tolist() == vma.pfn.tolist() != sorted(vma.pfn.tolist())
    lab.let_go(IsolateLruPage)


def test_only_present_pages_of_the_source_node_are_queued(lab: Lab) -> None:
    # K 1.14.
    pid = lab.spawn()
    start = lab.mmap(pid, 8)
    lab.fault(pid, start, 2, cpu=0)
    lab.fault(pid, start + 2, 2, cpu=2)
    lab.fault(pid, start + 4, 2, access=READ)  # the zero page
    assert lab.migrate(pid, 0, 1) == 0
    assert lab.where(pid, start, 8) == [1, 1, 2, 2] + 4 * [-errno.ENOENT]


def test_pending_lru_adds_are_drained_at_every_node_first(lab: Lab) -> None:
    # K 1.13.
    pid = lab.spawn()
    lab.mapped(pid, 3)
    assert lab.zone(0).pending == 3
    assert lab.migrate(pid, 0, 1) == 0
    assert lab.asked(MigratePrep) == 4
    assert lab.zone(0).free == 256


@pytest.mark.parametrize("flag", [flag for flag in VmFlag if flag != VmFlag.ACCOUNT])
def test_a_vma_that_is_not_migratable_stays_and_is_not_counted(lab: Lab, flag: VmFlag) -> None:
    # K 3.6, 1.15.
    pid = lab.spawn()
    fixed, free = lab.mapped(pid, 2), lab.mapped(pid, 2, at=1000)
    lab.vma(pid, fixed).vm_flags = flag
    assert lab.migrate(pid, 0, 1) == 0
    assert lab.vma(pid, fixed).nid.tolist() == [0, 0] and lab.where(pid, free, 2) == [1, 1]


# ---- where frames come from (K 1.18) -------------------------------------------------------


def test_the_first_touch_is_on_the_node_of_the_cpu_or_the_nearest_that_has_room(
    make_lab: Callable[..., Lab],
) -> None:
    # K 5.10.
    lab = make_lab(nodes=3, frames=4)
    pid = lab.spawn()
    start = lab.mmap(pid, 12)
    answer = lab.fault(pid, start, 12, cpu=1)
    assert (answer.nid[:4] == 1).all()
    assert sorted(answer.nid.tolist()) == [0] * 4 + [1] * 4 + [2] * 4
    assert lab.fault(pid, lab.mmap(pid, 1)).status.tolist() == [-errno.ENOMEM]
