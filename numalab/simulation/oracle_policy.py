"""struct mempolicy in straight lines: made, followed and rebound (K 4.33, 5)."""

from __future__ import annotations

import errno
from dataclasses import replace

from numalab.simulation.oracle import node_remap, within
from numalab.simulation.oracle_machine import Area, Machine, Nodes, Policy, Process, Wish

MPOL_DEFAULT, MPOL_PREFERRED, MPOL_BIND, MPOL_INTERLEAVE = range(4)
MPOL_LOCAL, MPOL_PREFERRED_MANY, MPOL_WEIGHTED_INTERLEAVE = range(4, 7)
MPOL_F_NUMA_BALANCING, MPOL_F_RELATIVE_NODES, MPOL_F_STATIC_NODES = 1 << 13, 1 << 14, 1 << 15
MODE_FLAGS = MPOL_F_NUMA_BALANCING | MPOL_F_RELATIVE_NODES | MPOL_F_STATIC_NODES
NAMES = (
    *("default", "prefer", "bind", "interleave"),
    *("local", "prefer (many)", "weighted interleave"),
)


def sanitize(machine: Machine, mode: int) -> tuple[int, int]:
    """(mode, flags) of what a call has as its mode; (-EINVAL, 0): there is no such mode (K 5.1)."""
    flags = mode & MODE_FLAGS if machine.modern else 0
    mode &= ~flags
    last = MPOL_INTERLEAVE
    if machine.modern:
        last = MPOL_WEIGHTED_INTERLEAVE if machine.weighted else MPOL_PREFERRED_MANY
    if mode > last or (flags & MPOL_F_STATIC_NODES and flags & MPOL_F_RELATIVE_NODES):
        return -errno.EINVAL, 0
    if flags & MPOL_F_NUMA_BALANCING and mode != MPOL_BIND:
        return -errno.EINVAL, 0
    return mode, flags


def relative(user: Nodes, allowed: Nodes) -> Nodes:
    """Number n is the n-th of the allowed ones, round and round (K 5.15)."""
    order = sorted(allowed)
    return frozenset(order[nid % len(order)] for nid in user)


def mpol_new(
    machine: Machine, process: Process, mode: int, flags: int, user: Nodes, allowed: Nodes
) -> Policy | int | None:
    """The policy, None for DEFAULT, or -EINVAL (K 4.31, 4.33, 4.36)."""
    if not machine.modern and not user <= allowed:
        return -errno.EINVAL
    mems = machine.mems(process)
    if mode == MPOL_DEFAULT:
        return -errno.EINVAL if user else None
    if mode == MPOL_PREFERRED and not user:
        mode = MPOL_LOCAL if machine.modern else mode
        return -errno.EINVAL if flags else Policy(mode, user, mems=mems)
    if mode == MPOL_LOCAL:
        return -errno.EINVAL if user or flags else Policy(mode, user, mems=mems)
    nodes = relative(user, allowed) if flags & MPOL_F_RELATIVE_NODES else user & allowed
    if flags:
        machine.met.add("mode flags")
    if not nodes:
        return -errno.EINVAL
    if mode == MPOL_PREFERRED:
        nodes = frozenset({min(nodes)})
    return Policy(mode, nodes, flags, user if flags else frozenset(), mems)


def rebind(machine: Machine, policy: Policy | None, mems: Nodes) -> Policy | None:
    """mpol_rebind_policy(): what becomes of it when its task may use ``mems`` (K 5.15)."""
    if policy is None or not policy.nodes or policy.mems == mems:
        return policy
    machine.met.add("policy rebound")
    if machine.modern and policy.mode in (MPOL_PREFERRED, MPOL_PREFERRED_MANY):
        return replace(policy, mems=mems)
    if policy.flags & MPOL_F_STATIC_NODES:
        nodes = policy.user & mems
    elif policy.flags & MPOL_F_RELATIVE_NODES:
        nodes = relative(policy.user, mems)
    else:
        nodes = frozenset(node_remap(nid, policy.mems, mems) for nid in policy.nodes)
    return replace(policy, nodes=nodes or mems, mems=mems)


def rebind_task(machine: Machine, process: Process) -> None:
    """The policy of a task follows its cpuset; at the seed when it allocates next (K 5.15)."""
    process.policy = rebind(machine, process.policy, machine.mems(process))


def rebind_areas(machine: Machine, process: Process, mems: Nodes) -> None:
    """mpol_rebind_mm(): those of its vmas; what objects keep stays as it is."""
    for area in process.areas:
        for page, policy in area.policies.items():
            rebound = rebind(machine, policy, mems)
            assert rebound is not None
            area.policies[page] = rebound


def sys_set_mempolicy(machine: Machine, caller: int, wish: Wish) -> int:
    """set_mempolicy(2) with a mask of nodes that are there: 0 or -EINVAL (K 4.33)."""
    process = machine.processes[caller]
    mode, flags = sanitize(machine, wish[0])
    if mode < 0:
        return mode
    policy = mpol_new(machine, process, mode, flags, wish[1], machine.mems(process))
    if isinstance(policy, int):
        return policy
    machine.met.add(f"mode {NAMES[mode]}")
    process.policy = policy
    return 0


def zonelist(
    machine: Machine, process: Process, policy: Policy | None, area: Area, page: int
) -> tuple[int, ...]:
    """Where a page of this vma is allocated, by a policy or else locally (K 5.2 to 5.9, 5.12)."""
    here = machine.fallback[process.node]
    if policy is None or not policy.nodes:
        return within(machine, process, here)
    order = sorted(policy.nodes)
    if policy.mode in (MPOL_INTERLEAVE, MPOL_WEIGHTED_INTERLEAVE):
        index = page if area.private else area.pgoff + page - area.start
        if policy.mode == MPOL_WEIGHTED_INTERLEAVE:
            order = [nid for nid in order for _ in range(machine.weights.get(nid, 1))]
        return within(machine, process, machine.fallback[order[index % len(order)]])
    if policy.mode == MPOL_PREFERRED:
        return within(machine, process, machine.fallback[order[0]])
    inside = tuple(nid for nid in here if nid in policy.nodes)
    if policy.mode == MPOL_PREFERRED_MANY:
        return within(machine, process, (*inside, *(nid for nid in here if nid not in inside)))
    if policy.nodes.isdisjoint(machine.mems(process)):
        # A BIND that leaves nothing is ignored (K 5.5).
        return within(machine, process, here)
    return within(machine, process, inside if machine.modern else tuple(order))
