"""struct mempolicy: which policies there are, whose holds for a page, how one is written (K 5).

Where the pages then go is ``placement.py``.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from coordinator.mem_map import Rows
from coordinator.mm import Mapping, Task, Vma
from coordinator.mpol import (
    MPOL_F_NUMA_BALANCING,
    MPOL_F_RELATIVE_NODES,
    MPOL_F_STATIC_NODES,
    MPOL_MODE_FLAGS,
    Mempolicy,
    Mode,
)
from coordinator.rebind import relative_nodes
from protocol.nodemask import NodeSet, format_nodes
from protocol.profile import Profile

EINVAL = 22
SHMEM = "shmem"

_NAMES = {
    Mode.PREFERRED: "prefer",
    Mode.BIND: "bind",
    Mode.INTERLEAVE: "interleave",
    Mode.LOCAL: "local",
    Mode.PREFERRED_MANY: "prefer (many)",
    Mode.WEIGHTED_INTERLEAVE: "weighted interleave",
}


def sanitize_mpol_flags(mode: int, profile: Profile) -> int:
    """0 if there is such a mode with such flags, else -EINVAL (K 5.1, 4.22)."""
    flags = mode & MPOL_MODE_FLAGS if profile.mode_flags else 0
    number = mode & ~flags
    highest = Mode.PREFERRED_MANY if profile.mode_flags else Mode.INTERLEAVE
    if profile.weighted_interleave:
        highest = Mode.WEIGHTED_INTERLEAVE
    both = MPOL_F_STATIC_NODES | MPOL_F_RELATIVE_NODES
    if number > highest or flags & both == both:
        return -EINVAL
    return -EINVAL if flags & MPOL_F_NUMA_BALANCING and number != Mode.BIND else 0


def mpol_new(
    mode: int, user: frozenset[int], allowed: frozenset[int], profile: Profile
) -> Mempolicy | int | None:
    """The policy of a mode, which is a good one, and a mask; None for DEFAULT, or -EINVAL.

    ``allowed``: the nodes that the machine has and the caller may use (K 4.31, 4.33).
    """
    number, flags = Mode(mode & ~MPOL_MODE_FLAGS), mode & MPOL_MODE_FLAGS
    if not profile.policy_mask_is_intersected and not user <= allowed:
        return -EINVAL
    if number == Mode.DEFAULT:
        return -EINVAL if user else None
    if number == Mode.PREFERRED and not user:
        if flags:
            return -EINVAL
        number = Mode.LOCAL if profile.empty_preferred_is_local else number
        return Mempolicy(number, ())
    if number == Mode.LOCAL:
        return -EINVAL if user or flags else Mempolicy(number, ())
    mems = tuple(sorted(allowed))
    if flags & MPOL_F_RELATIVE_NODES and mems:
        nodes = relative_nodes(tuple(user), mems)
    else:
        nodes = tuple(sorted(user & allowed))
    if not nodes:
        return -EINVAL
    if number == Mode.PREFERRED:
        nodes = nodes[:1]
    user_nodes = tuple(sorted(user)) if flags else ()
    return Mempolicy(number, nodes, flags, user_nodes)


Columns = tuple[int, NodeSet, int, NodeSet, NodeSet, int]


def policy_columns(policy: Mempolicy | None) -> Columns:
    """What entries of the journal have of a policy, in their order."""
    told = policy or Mempolicy(Mode.DEFAULT, ())
    return (
        told.mode,
        told.nodes,
        told.flags,
        told.user_nodes,
        told.mems_allowed,
        told.home_node,
    )


def keeps_policy(vma: Vma) -> bool:
    """Shared memory: the policy is that of its object, whoever maps it and how (K 5.2)."""
    if vma.file is None:
        return False
    return vma.anonymous if vma.file.host is None else vma.file.host.kind == SHMEM


def mpol_set_shared_policy(
    mapping: Mapping, start: int, end: int, policy: Mempolicy | None
) -> None:
    """Pages ``start`` .. ``end`` of the object have this policy, or none, from now on."""
    ranges: list[tuple[int, int, Mempolicy]] = []
    for first, last, old in mapping.policies:
        if first < start:
            ranges.append((first, min(last, start), old))
        if last > end:
            ranges.append((max(first, end), last, old))
    if policy is not None:
        ranges.append((start, end, policy))
    mapping.policies = sorted(ranges, key=lambda item: item[0])


def mpol_shared_policy_lookup(mapping: Mapping, index: int) -> Mempolicy | None:
    """The policy that page ``index`` of the object has."""
    for first, last, policy in mapping.policies:
        if first <= index < last:
            return policy
    return None


def vma_policy_at(vma: Vma, page: int) -> Mempolicy | None:
    """The policy of a page by its vma or shared object, not by its task (K 4.35)."""
    if vma.file is not None and keeps_policy(vma):
        return mpol_shared_policy_lookup(vma.file, page - vma.start + vma.pgoff)
    return vma.policy


def effective_policy(task: Task, vma: Vma) -> Mempolicy | None:
    """That of the first page of the vma, else the task's, else none: local (K 5.2, 6.1)."""
    return vma_policy_at(vma, vma.start) or task.policy


def policies_of(
    task: Task, vma: Vma, slot: Rows
) -> Iterator[tuple[Mempolicy | None, npt.NDArray[np.intp]]]:
    """The effective policies of these slots, each with its rows of ``slot``."""
    rest = np.ones(slot.size, np.bool_)
    if vma.file is not None and keeps_policy(vma):
        index = slot + vma.pgoff
        for first, last, policy in vma.file.policies:
            inside = (index >= first) & (index < last)
            if inside.any():
                rest &= ~inside
                yield policy, np.flatnonzero(inside)
    if rest.any():
        policy_of_rest = None if keeps_policy(vma) else vma.policy
        yield policy_of_rest or task.policy, np.flatnonzero(rest)


def policy_text(policy: Mempolicy | None, profile: Profile) -> str:
    """As numa_maps writes it: ``default``, ``bind=0-1``, ``bind=static:0-1`` (K 6.2)."""
    if policy is None:
        return "default"
    words = []
    if policy.flags & MPOL_F_STATIC_NODES:
        words.append("static")
    elif policy.flags & MPOL_F_RELATIVE_NODES:
        words.append("relative")
    if policy.flags & MPOL_F_NUMA_BALANCING:
        words.append("balancing")
    text = _NAMES[policy.mode] + ("=" + "|".join(words) if words else "")
    if not policy.nodes:
        return text
    return f"{text}{profile.policy_separator}{format_nodes(policy.nodes)}"
