"""mbind(2): the policy of a range of addresses, and moving its pages to where it says (K 4D)."""

from __future__ import annotations

from functools import partial

import numpy as np

from coordinator.calls import Steps, down_write, downgrade_write, up_read, up_write
from coordinator.cpuset import contextualized, mems_allowed
from coordinator.life import State
from coordinator.mem_map import Nids, PageFlag, Pfns, Rows
from coordinator.memory import Memory
from coordinator.mempolicy import (
    MPOL_MF_MOVE,
    MPOL_MF_MOVE_ALL,
    migrate_prep,
    vma_migratable,
)
from coordinator.merge import merge_vmas
from coordinator.migrate import migrate_pages
from coordinator.mm import TASK_SIZE, Mm, Task, Vma, VmFlag
from coordinator.mpol import MPOL_MODE_FLAGS, Mempolicy, Mode
from coordinator.pagelist import Nodes, PageList, Settings
from coordinator.placement import allowed_nodes, interleave_index, wanted_nodes
from coordinator.policy import (
    keeps_policy,
    mpol_new,
    mpol_set_shared_policy,
    policies_of,
    policy_columns,
    sanitize_mpol_flags,
)
from coordinator.rebind import update_task_memory_state
from coordinator.records import PolicySet
from coordinator.syscalls import Kernel, is_capable, read_mask
from protocol.profile import Profile
from protocol.syscalls import Mbind

EPERM, ESRCH, EIO, EFAULT, EINVAL, ENOSYS = 1, 3, 5, 14, 22, 38
MPOL_MF_STRICT = 1
_MOVING = MPOL_MF_MOVE | MPOL_MF_MOVE_ALL


def sys_mbind(memory: Memory, kernel: Kernel, task: Task, asked: Mbind) -> Steps[int]:
    """0, or -errno in the order of K 4.22; -EIO with STRICT for pages that are not where they
    should be (K 4.24, 4.26).
    """
    size, flags, profile = memory.topology.page_size, asked.flags, kernel.profile
    wrong_mode = sanitize_mpol_flags(asked.mode, profile)
    if wrong_mode and not profile.mbind_reads_mask_first:
        return wrong_mode
    nodes = read_mask(kernel, asked.maxnode, asked.nodes)
    if isinstance(nodes, int):
        return nodes
    error = wrong_mode or _check_mbind(memory, task, asked)
    if error:
        return error
    if asked.mode & ~MPOL_MODE_FLAGS == Mode.DEFAULT:
        flags &= ~MPOL_MF_STRICT
    start = asked.address // size
    end = start - (-asked.length // size)
    if end > TASK_SIZE:
        return -EINVAL
    if start == end:
        return 0
    # At the seed only set_mempolicy looks at the cpuset (K 4.31).
    allowed = frozenset(memory.nids)
    if profile.policy_mask_is_intersected:
        allowed = allowed_nodes(memory, task)
    policy = mpol_new(asked.mode, nodes, allowed, profile)
    if isinstance(policy, int):
        return policy
    if flags & _MOVING and not kernel.migration:
        return -ENOSYS
    if flags & _MOVING:
        yield from migrate_prep(memory, task.mm)
    policy = contextualized(memory, task, policy)
    queue = QueuePages(memory, profile, task, start, end, flags, nodes, policy)
    return (yield from _do_mbind(memory, kernel, task, queue))


def _check_mbind(memory: Memory, task: Task, asked: Mbind) -> int:
    if asked.flags & ~(MPOL_MF_STRICT | _MOVING):
        return -EINVAL
    if asked.flags & MPOL_MF_MOVE_ALL and not is_capable(memory, task.pid):
        return -EPERM
    return -EINVAL if asked.address % memory.topology.page_size else 0


def _do_mbind(memory: Memory, kernel: Kernel, task: Task, queue: QueuePages) -> Steps[int]:
    """Look, install, move, under mmap_sem for write; who moves may let faults in (K 4.29)."""
    yield from down_write(task.mm)
    writing = True
    try:
        if task.pid not in memory.tasks:
            return -ESRCH
        error = queue.walk(task.mm)
        if error:
            queue.putback()
            return error
        mbind_range(memory, task, queue.start, queue.end, queue.policy)
        pagelist = queue.pagelist
        failed = 0
        if pagelist.rows:
            if not kernel.profile.mbind_blocks_faults:
                downgrade_write(memory, task.mm)
                writing = False
            failed = yield from _move(memory, kernel, task, queue.policy, pagelist)
            queue.unmovable |= bool(pagelist.count(State.SKIPPED))
        if kernel.profile.unmovable_is_eio and queue.unmovable:
            failed = failed or 1
        return -EIO if failed and queue.flags & MPOL_MF_STRICT else 0
    finally:
        if writing:
            up_write(memory, task.mm)
        else:
            up_read(memory, task.mm)


class QueuePages:
    """The walk over the range: holes, misplaced pages, and what of them is to be moved."""

    def __init__(
        self,
        memory: Memory,
        profile: Profile,
        task: Task,
        start: int,
        end: int,
        flags: int,
        nodes: frozenset[int],
        policy: Mempolicy | None,
    ) -> None:
        self.memory, self.profile, self.task = memory, profile, task
        self.start, self.end, self.flags, self.policy = start, end, flags, policy
        #: Every page that is elsewhere is misplaced: the mask as the user gave it (K 4.27).
        self.nodes = np.array(sorted(nodes), np.uint16)
        self.unmovable = False
        self.pagelist = PageList(task.mm.pid)
        self._held: list[tuple[Nids, Pfns]] = []

    def walk(self, mm: Mm) -> int:
        """0, -EFAULT or -EIO, whichever comes first in the order of addresses (K 4.23, 4.24)."""
        vmas = mm.overlapping(self.start, self.end)
        if not vmas and (not self._above(mm) or not self.profile.unmapped_default_passes):
            return -EFAULT
        at = self.start
        if self.profile.mbind_holes_at_edges_pass and vmas:
            at = max(at, vmas[0].start)
        for vma in vmas:
            if self.policy is not None and (vma.start > at or self._hole_after(mm, vma)):
                return -EFAULT
            at = vma.end
            if not self._check(vma):
                return -EIO
        return 0

    def _above(self, mm: Mm) -> bool:
        return bool(mm.vmas) and mm.vmas[-1].end > self.start

    def _hole_after(self, mm: Mm, vma: Vma) -> bool:
        """Whether the range goes on behind this vma where nothing is mapped, as it is noticed."""
        if vma.end >= self.end:
            return False
        if self.profile.mbind_holes_at_edges_pass:
            return vma is mm.vmas[-1]
        return mm.find(vma.end) is None

    def _check(self, vma: Vma) -> bool:
        """Queue misplaced pages if they are to be moved; False if STRICT alone finds one."""
        strict, moving = self.flags & MPOL_MF_STRICT, self.flags & _MOVING
        movable = vma_migratable(vma, self.profile)
        if vma.vm_flags & VmFlag.PFNMAP or not (strict or (moving and movable)):
            return True
        slot = vma.present()
        slot = slot[(slot + vma.start >= self.start) & (slot + vma.start < self.end)]
        slot = slot[~np.isin(vma.nid[slot], self.nodes)]
        if slot.size and not moving:
            return False
        if slot.size and not movable:
            self.unmovable = True
        nid, pfn = vma.nid[slot], vma.pfn[slot]
        if not self.flags & MPOL_MF_MOVE_ALL:
            slot = slot[self.memory.mapcounts(nid, pfn) == 1]
            nid, pfn = vma.nid[slot], vma.pfn[slot]
        free = ~self.memory.flagged(nid, pfn, PageFlag.HELD)
        self.unmovable |= not free.all()
        if free.any():
            self.pagelist.add(nid[free], pfn[free], slot[free] + vma.start)
            self.memory.hold(nid[free], pfn[free])
            self._held.append((nid[free], pfn[free]))
        return True

    def putback(self) -> None:
        """The walk has failed: what it took may be used again."""
        for nid, pfn in self._held:
            self.memory.release(nid, pfn)


def mbind_range(memory: Memory, task: Task, start: int, end: int, policy: Mempolicy | None) -> None:
    """Split vmas at the edges, give them the policy, and join what became equal (K 4.30)."""
    merging, ranges = memory.profile.mbind_merges, [(start, end)]
    if merging:
        ranges = [
            (max(vma.start, start), min(vma.end, end))
            for vma in task.mm.overlapping(start, end)
            if vma.policy != policy
        ]
    for first, last in ranges:
        install_policy(task.mm, first, last, policy)
        memory.records.append(PolicySet(task.mm.pid, first, last, *policy_columns(policy)))
        if merging:
            merge_vmas(memory, task, first, last)


def install_policy(mm: Mm, start: int, end: int, policy: Mempolicy | None) -> None:
    """The policy of these pages, of their vmas and of shared objects; also for replay."""
    for vma in mm.isolate_range(start, end):
        vma.policy = policy
        if vma.file is not None and keeps_policy(vma):
            mpol_set_shared_policy(vma.file, vma.pgoff, vma.pgoff + vma.pages, policy)


def _move(
    memory: Memory, kernel: Kernel, task: Task, policy: Mempolicy | None, pagelist: PageList
) -> Steps[int]:
    update_task_memory_state(memory, task)
    local = memory.topology.node_of_cpu(task.cpu)
    settings = Settings(
        kernel.chunk_pages,
        local=local,
        caller=task.pid,
        reason="mempolicy_mbind",
        policy=policy or task.policy,
        mems_allowed=mems_allowed(memory, task),
    )
    get_new_page = partial(new_vma_page, memory, task, local)
    return (yield from migrate_pages(memory, pagelist, get_new_page, None, settings))


def new_vma_page(
    memory: Memory,
    task: Task,
    local: int,
    pagelist: PageList,
    rows: Rows,
    private: object,
) -> Nodes:
    """new_page_t of mbind: where the policy of its vma wants each page now (K 4.28)."""
    nodes = np.full(rows.size, -1, np.int32)
    page = pagelist.page[rows].astype(np.uint64)
    for vma, mine in task.mm.by_vma(page):
        if vma is None:
            continue
        slot = (page[mine] - np.uint64(vma.start)).astype(np.intp)
        for policy, some in policies_of(task, vma, slot):
            index = interleave_index(vma, slot[some])
            wanted = wanted_nodes(memory, task, policy, index, some.size, local)
            nodes[mine[some]] = wanted
    return nodes
