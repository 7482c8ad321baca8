"""struct mempolicy: where pages go (include/linux/mempolicy.h)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from protocol.values import at_hand


@at_hand
class Mode(IntEnum):
    """MPOL_* with the kernel's values (K 5.1)."""

    DEFAULT = 0
    PREFERRED = 1
    BIND = 2
    INTERLEAVE = 3
    LOCAL = 4
    PREFERRED_MANY = 5
    WEIGHTED_INTERLEAVE = 6


#: Flags that a mode may carry (K 5.1).
MPOL_F_NUMA_BALANCING, MPOL_F_RELATIVE_NODES, MPOL_F_STATIC_NODES = 1 << 13, 1 << 14, 1 << 15
MPOL_MODE_FLAGS = MPOL_F_NUMA_BALANCING | MPOL_F_RELATIVE_NODES | MPOL_F_STATIC_NODES
NUMA_NO_NODE = -1


@dataclass(frozen=True, slots=True)
class Mempolicy:
    """struct mempolicy; ``nodes`` ascending.  DEFAULT is never stored: it means none (K 5.2).

    ``user_nodes``: the mask as it was given, if ``flags`` (MPOL_F_*) has a mode flag.
    ``mems_allowed``: what the task might use when the policy was made or rebound (K 5.15).
    Equality is mpol_equal().
    """

    mode: Mode
    nodes: tuple[int, ...]
    flags: int = 0
    user_nodes: tuple[int, ...] = ()
    mems_allowed: tuple[int, ...] = field(default=(), compare=False)
    home_node: int = NUMA_NO_NODE
