"""A machine as the oracle knows it: everything that decides what a system call does."""

from __future__ import annotations

import errno
from functools import cache

from coordinator.cpuset import CpusetFlag
from coordinator.inode import Device, PageTag
from coordinator.migrate import fail_migrate_page
from coordinator.mm import NOT_MIGRATABLE, UNCACHED, Mapping, Mm, VmFlag
from coordinator.mpol import Mempolicy
from coordinator.policy import keeps_policy
from nodes.flags import HELD, ISOLATED, MAPPED, PINNED
from numalab.simulation.cluster import HOOKED, Cluster
from numalab.simulation.oracle_machine import (
    Area,
    Cpuset,
    File,
    Machine,
    Name,
    Page,
    Policy,
    Process,
)

_WRITEBACK, _PRIVATE = int(PageTag.WRITEBACK), int(PageTag.PRIVATE)


def describe(cluster: Cluster) -> Machine:
    """A snapshot, to be taken while nothing is under way."""
    modern = cluster.plan.profile == "modern"
    free = {nid: zone.count()["free"] for nid, zone in cluster.zones.items()}
    by_rank = cluster.memory.profile.zonelist_load_by_rank
    fallback: dict[int, tuple[int, ...]] = {
        nid: tuple(cluster.topology.zonelist(nid, load_by_rank=by_rank)) for nid in cluster.zones
    }
    machine = Machine(free, dict(fallback), modern, fallback)
    machine.weighted = cluster.memory.profile.weighted_interleave
    machine.weights = dict(cluster.memory.interleave_weights)
    machine.node_of_cpu = {cpu: cluster.topology.node_of_cpu(cpu) for cpu in cluster.topology.cpus}
    machine.cpusets = cpusets(cluster)
    if modern:
        machine.zonelist.update((nid, (nid,)) for nid in cluster.zones)
    caches = {number: Cache(mapping) for number, mapping in cluster.memory.mappings.items()}
    for nid, zone in cluster.zones.items():
        pfn, flags, _, owner, index = (column.tolist() for column in zone.inventory())
        for frame, is_, number, at in zip(pfn, flags, owner, index, strict=True):
            page = Page(
                nid,
                pins=int(is_ & PINNED != 0),
                locked=is_ & HELD != 0,
                lru=is_ & (MAPPED | ISOLATED) == MAPPED,
            )
            if number in caches:
                caches[number].tell(page, at)
            machine.pages[nid, frame] = page
    describe_tasks(cluster, machine)
    for mapping in cluster.memory.mappings.values():
        for first, last, policy in mapping.policies:
            for index in range(first, last):
                told = policy_of(policy)
                assert told is not None
                machine.shared_policies[mapping.id, index] = told
    return machine


def describe_tasks(cluster: Cluster, machine: Machine) -> None:
    """The tasks; threads have one list of areas."""
    of_mm: dict[int, list[Area]] = {}
    for pid, task in cluster.memory.tasks.items():
        mine = of_mm.setdefault(task.mm.pid, areas(task.mm))
        machine.processes[pid] = Process(
            task.uid,
            task.capable,
            mine,
            machine.node_of_cpu[task.cpu],
            policy_of(task.policy),
            task.cpu,
            task.cpuset,
            pid == task.mm.pid,
        )


def policy_of(policy: Mempolicy | None) -> Policy | None:
    """A policy in the oracle's words."""
    if policy is None:
        return None
    sets = (frozenset(nodes) for nodes in (policy.user_nodes, policy.mems_allowed))
    return Policy(int(policy.mode), frozenset(policy.nodes), policy.flags, *sets)


def cpusets(cluster: Cluster) -> dict[str, Cpuset]:
    """All of them, by path."""
    return {
        path: Cpuset(cpuset.cpus, cpuset.mems, bool(cpuset.flags & CpusetFlag.MEMORY_MIGRATE))
        for path, cpuset in cluster.memory.cpusets.items()
    }


@cache
def _troubles_of(device: Device) -> tuple[bool, bool, bool]:
    """Which it has, of those that the oracle knows."""
    known = (Device.FAIL_WRITEPAGE, Device.KEEP_BUFFERS, Device.HOLD_WRITEBACK)
    fails, keeps, holds = (trouble in device for trouble in known)
    return fails, keeps, holds


@cache
def _traits_of(vm_flags: VmFlag) -> tuple[bool, bool, bool]:
    """Not to be moved; locked in memory; without page structs."""
    fixed, locked = bool(vm_flags & NOT_MIGRATABLE), VmFlag.LOCKED in vm_flags
    return fixed, locked, VmFlag.PFNMAP in vm_flags


class Cache:
    """What an object knows of its pages."""

    def __init__(self, mapping: Mapping) -> None:
        self._refusal = -errno.EIO if mapping.migratepage is fail_migrate_page else 0
        self._file: File | None = None
        self._tags = mapping.tags
        host = mapping.host
        if host is not None:
            fails, keeps, holds = _troubles_of(host.device)
            self._file = File(host.kind, fails, keeps, bool(host.writeback_seconds) or holds)
            self._dirty = mapping.dirty()

    def tell(self, page: Page, index: int) -> None:
        """Fill in what the page at ``index`` of the object is."""
        page.refusal, page.file = self._refusal, self._file
        if self._file is not None:
            tags = int(self._tags[index])
            page.dirty = bool(self._dirty[index])
            page.writeback = bool(tags & _WRITEBACK)
            page.private = bool(tags & _PRIVATE)


def areas(mm: Mm) -> list[Area]:
    """The vmas, and what is present in them."""
    found = []
    for vma in mm.vmas:
        slot = vma.present()
        names = zip(vma.nid[slot].tolist(), vma.pfn[slot].tolist(), strict=True)
        present: dict[int, Name] = dict(zip((slot + vma.start).tolist(), names, strict=True))
        policy = policy_of(vma.policy)
        fixed, locked, structless = _traits_of(vma.vm_flags)
        found.append(
            Area(
                vma.start,
                vma.end,
                present,
                fixed=fixed,
                mlocked=locked,
                private=vma.file is None,
                structless=structless,
                pgoff=vma.pgoff,
                hook=HOOKED.get(vma.name, 0),
                uncached=vma.name == UNCACHED,
                policies={} if policy is None else dict.fromkeys(range(vma.start, vma.end), policy),
                object=vma.file.id if vma.file is not None and keeps_policy(vma) else 0,
            )
        )
    return found
