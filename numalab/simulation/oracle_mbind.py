"""mbind(2) in straight lines: who is misplaced, and where a page goes then (K 4.22 - 4.28, 5)."""

from __future__ import annotations

import errno

from numalab.simulation.oracle import (
    MPOL_MF_MOVE,
    MPOL_MF_MOVE_ALL,
    isolate_lru_page,
    migrate_pages,
)
from numalab.simulation.oracle_machine import Area, Machine, Name, Policy, Process, Undetermined

MPOL_MF_STRICT = 1
MPOL_DEFAULT, MPOL_PREFERRED, MPOL_BIND, MPOL_INTERLEAVE = range(4)


def sys_mbind(
    machine: Machine, caller: int, start: int, end: int, policy: Policy, flags: int
) -> int:
    """mbind(2) of page numbers start .. end, with good modes and nodes: 0 or -errno (K 4.22)."""
    process = machine.processes[caller]
    if flags & ~(MPOL_MF_STRICT | MPOL_MF_MOVE | MPOL_MF_MOVE_ALL):
        return -errno.EINVAL
    if flags & MPOL_MF_MOVE_ALL and not process.capable:
        return -errno.EPERM
    mode, nodes = policy
    if mode == MPOL_DEFAULT:
        flags &= ~MPOL_MF_STRICT
    if start == end:
        return 0
    places: dict[Name, tuple[Area, int]] = {}
    pagelist: list[Name] = []
    value = check_range(machine, process, start, end, policy, flags, pagelist, places)
    if value < 0:
        return value
    failed = 0
    if pagelist:
        machine.met.add(f"mode {('default', 'prefer', 'bind', 'interleave')[mode]}")
        own = None if mode == MPOL_DEFAULT else policy

        def new_vma_page(name: Name) -> tuple[int, ...]:
            return zonelist(machine, process, own or process.policy, *places[name])

        failed = migrate_pages(machine, pagelist, new_vma_page)
    if not flags & MPOL_MF_STRICT:
        return 0
    if value:
        machine.met.add("strict and not movable")
    return -errno.EIO if failed or (machine.modern and value) else 0


def check_range(
    machine: Machine,
    process: Process,
    start: int,
    end: int,
    policy: Policy,
    flags: int,
    pagelist: list[Name],
    places: dict[Name, tuple[Area, int]],
) -> int:
    """The walk over the vmas: -errno, or 1 if something could not be isolated (K 4.23, 4.24)."""
    mode, nodes = policy
    areas = [area for area in process.areas if area.start < end and start < area.end]
    if not areas and (machine.modern or process.areas[-1:] == [] or process.areas[-1].end <= start):
        return -errno.EFAULT
    at = start if machine.modern or not areas else max(start, areas[0].start)
    unmovable = 0
    for area in areas:
        if mode != MPOL_DEFAULT and (area.start > at or _hole_after(machine, process, area, end)):
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


def zonelist(
    machine: Machine, process: Process, policy: Policy | None, area: Area, page: int
) -> tuple[int, ...]:
    """Where a page of this vma is allocated, by a policy or else locally (K 5.2 to 5.6)."""
    if policy is None:
        return machine.fallback[process.node]
    mode, nodes = policy
    order = sorted(nodes)
    if mode == MPOL_INTERLEAVE:
        index = page if area.private else area.pgoff + page - area.start
        return machine.fallback[order[index % len(order)]]
    if mode == MPOL_PREFERRED:
        return machine.fallback[order[0]]
    if not machine.modern:
        return tuple(order)
    return tuple(nid for nid in machine.fallback[process.node] if nid in nodes)
