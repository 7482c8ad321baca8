"""mbind(2) in straight lines: who is misplaced, and where a page goes then (K 4.22 - 4.28, 5)."""

from __future__ import annotations

import errno
from dataclasses import replace

from numalab.simulation.oracle import (
    MPOL_MF_MOVE,
    MPOL_MF_MOVE_ALL,
    isolate_lru_page,
    migrate_pages,
)
from numalab.simulation.oracle_machine import (
    Area,
    Machine,
    Name,
    Nodes,
    Policy,
    Process,
    Undetermined,
    Wish,
)
from numalab.simulation.oracle_policy import (
    MPOL_DEFAULT,
    NAMES,
    mpol_new,
    rebind_task,
    sanitize,
    zonelist,
)

MPOL_MF_STRICT = 1


def sys_mbind(machine: Machine, caller: int, start: int, end: int, wish: Wish, flags: int) -> int:
    """mbind(2) of page numbers start .. end, with a mask of nodes that are there (K 4.22)."""
    process = machine.processes[caller]
    (mode, mode_flags), nodes = sanitize(machine, wish[0]), wish[1]
    if mode < 0 or flags & ~(MPOL_MF_STRICT | MPOL_MF_MOVE | MPOL_MF_MOVE_ALL):
        return -errno.EINVAL
    if flags & MPOL_MF_MOVE_ALL and not process.capable:
        return -errno.EPERM
    if mode == MPOL_DEFAULT:
        flags &= ~MPOL_MF_STRICT
    if start == end:
        return 0
    # At the seed only set_mempolicy looks at the cpuset (K 4.31).
    allowed = machine.mems(process) if machine.modern else frozenset(machine.free)
    policy = mpol_new(machine, process, mode, mode_flags, nodes, allowed)
    if isinstance(policy, int):
        return policy
    places: dict[Name, tuple[Area, int]] = {}
    pagelist: list[Name] = []
    walk = policy is None, nodes, flags
    value = check_range(machine, process, start, end, *walk, pagelist, places)
    if value < 0:
        return value
    mbind_range(machine, process, start, end, policy)
    failed = 0
    if pagelist:
        machine.met.add(f"mode {NAMES[mode]}")
        if not machine.modern:
            rebind_task(machine, process)

        def new_vma_page(name: Name) -> tuple[int, ...]:
            return zonelist(machine, process, policy or process.policy, *places[name])

        failed = migrate_pages(machine, pagelist, new_vma_page)
    if not flags & MPOL_MF_STRICT:
        return 0
    if value:
        machine.met.add("strict and not movable")
    return -errno.EIO if failed or (machine.modern and value) else 0


def mbind_range(
    machine: Machine, process: Process, start: int, end: int, policy: Policy | None
) -> None:
    """The vmas get the policy, and so do objects; 6.1 leaves alone what is equal (K 4.30)."""
    for area in process.areas:
        for page in range(max(start, area.start), min(end, area.end)):
            if machine.modern and _equal(area.policies.get(page), policy):
                continue
            if policy is None:
                area.policies.pop(page, None)
            else:
                area.policies[page] = policy
            if area.object:
                place = area.object, area.pgoff + page - area.start
                if policy is None:
                    machine.shared_policies.pop(place, None)
                else:
                    machine.shared_policies[place] = policy


def _equal(one: Policy | None, other: Policy | None) -> bool:
    """mpol_equal(): when the policies were made is of no matter."""
    if one is None or other is None:
        return one is other
    return one == replace(other, mems=one.mems)


def check_range(
    machine: Machine,
    process: Process,
    start: int,
    end: int,
    default: bool,
    nodes: Nodes,
    flags: int,
    pagelist: list[Name],
    places: dict[Name, tuple[Area, int]],
) -> int:
    """The walk over the vmas: -errno, or 1 if something could not be isolated (K 4.23, 4.24)."""
    areas = [area for area in process.areas if area.start < end and start < area.end]
    if not areas and (machine.modern or process.areas[-1:] == [] or process.areas[-1].end <= start):
        return -errno.EFAULT
    at = start if machine.modern or not areas else max(start, areas[0].start)
    unmovable = 0
    for area in areas:
        if not default and (area.start > at or _hole_after(machine, process, area, end)):
            return -errno.EFAULT
        at = area.end
        fixed = not machine.migratable(area)
        moving = flags & (MPOL_MF_MOVE | MPOL_MF_MOVE_ALL)
        if area.structless or not (flags & MPOL_MF_STRICT or (moving and not fixed)):
            continue
        for page in range(max(start, area.start), min(end, area.end)):
            name = area.present.get(page)
            if name is None or machine.pages[name].node in nodes:
                continue
            if not moving:
                machine.met.add("strict alone")
                return -errno.EIO
            if fixed and machine.modern:
                unmovable = 1
            elif flags & MPOL_MF_MOVE_ALL or machine.mapcount(name) == 1:
                unmovable |= isolate_lru_page(machine, name, pagelist) != 0
                places.setdefault(name, (area, page))
            if unmovable and machine.modern:
                raise Undetermined("6.1 looks no further than what it cannot isolate")
    return unmovable


def _hole_after(machine: Machine, process: Process, area: Area, end: int) -> bool:
    """Whether the range goes on where nothing is mapped, as far as it is noticed (K 4.23)."""
    if area.end >= end:
        return False
    if not machine.modern:
        return area is process.areas[-1]
    return not any(other.start == area.end for other in process.areas)
