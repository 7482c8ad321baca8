"""TABLE: where the kernel of June 2006 (``seed``) and Linux 6.1 (``modern``) behave differently.

The code asks this table for a behaviour; it never asks which version it plays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Profile:
    """One column of the table; every field is a row of ``BEHAVIOURS``."""

    name: str
    skip_common_sources: bool
    allocation_falls_back: bool
    hole_below_vma_is_enoent: bool
    nothing_to_move_is_enoent: bool
    bind_in_node_order: bool
    policy_separator: str
    mbind_holes_at_edges_pass: bool
    mbind_blocks_faults: bool
    preferred_is_rebound: bool
    last_vma_skipped: bool = False


class Behaviour(NamedTuple):
    field: str
    fact: str
    meaning: str


BEHAVIOURS: tuple[Behaviour, ...] = (
    Behaviour(
        "skip_common_sources",
        "K 1.11",
        "masks of different weight: sources that are also targets are left alone",
    ),
    Behaviour(
        "allocation_falls_back",
        "K 1.18",
        "a full target node makes migrate_pages(2) use the next zone of its zonelist",
    ),
    Behaviour(
        "hole_below_vma_is_enoent",
        "K 4.18",
        "move_pages(2) answers -ENOENT, not -EFAULT, for a hole below some vma",
    ),
    Behaviour(
        "nothing_to_move_is_enoent",
        "K 4.15",
        "move_pages(2) fails with ENOENT when no page had to be moved",
    ),
    Behaviour(
        "bind_in_node_order",
        "K 5.4",
        "BIND tries its nodes in ascending order, not the nearest first",
    ),
    Behaviour(
        "policy_separator",
        "K 6.2",
        "what stands between a policy and its nodes in numa_maps",
    ),
    Behaviour(
        "mbind_holes_at_edges_pass",
        "K 4.23",
        "mbind(2) notices a hole only between two vmas of the range, or after the last of the mm",
    ),
    Behaviour(
        "mbind_blocks_faults",
        "K 4.29",
        "mbind(2) holds mmap_sem for write while pages move, so that faults wait for all of it",
    ),
    Behaviour(
        "preferred_is_rebound",
        "K 5.15",
        "PREFERRED moves with the cpuset of its task as the other policies do",
    ),
    Behaviour(
        "last_vma_skipped",
        "K 2.4",
        "migrate_vmas never offers the last vma (a bug until 2.6.29; a switch, off by default)",
    ),
)

SEED = Profile(
    name="seed",
    skip_common_sources=False,
    allocation_falls_back=True,
    hole_below_vma_is_enoent=True,
    nothing_to_move_is_enoent=True,
    bind_in_node_order=True,
    policy_separator="=",
    mbind_holes_at_edges_pass=True,
    mbind_blocks_faults=True,
    preferred_is_rebound=True,
)
MODERN = Profile(
    name="modern",
    skip_common_sources=True,
    allocation_falls_back=False,
    hole_below_vma_is_enoent=False,
    nothing_to_move_is_enoent=False,
    bind_in_node_order=False,
    policy_separator=":",
    mbind_holes_at_edges_pass=False,
    mbind_blocks_faults=False,
    preferred_is_rebound=False,
)
PROFILES = {profile.name: profile for profile in (SEED, MODERN)}
