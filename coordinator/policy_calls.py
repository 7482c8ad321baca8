"""mbind(2), set_mempolicy(2), get_mempolicy(2) (K 4.22 - 4.36)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from coordinator.calls import Steps, down_write, downgrade_write, up_read, up_write
from coordinator.cpuset import contextualized, mems_allowed
from coordinator.fault import Access, handle_mm_fault
from coordinator.mem_map import PageFlag, Rows
from coordinator.memory import Memory
from coordinator.mempolicy import (
    MPOL_MF_MOVE,
    MPOL_MF_MOVE_ALL,
    migrate_prep,
    vma_migratable,
)
from coordinator.migrate import migrate_pages
from coordinator.mm import TASK_SIZE, Mempolicy, Mm, Mode, Task, VmFlag
from coordinator.pagelist import Nodes, PageList, Settings
from coordinator.policy import effective_policy, new_policy, wanted_nodes
from coordinator.rebind import update_task_memory_state
from coordinator.records import PolicySet, TaskPolicySet
from coordinator.syscalls import Kernel, is_capable, read_mask
from protocol.syscalls import GetMempolicy, Mbind, PolicyTold, SetMempolicy
from protocol.user_mask import MAX_NUMNODES, copy_nodes_to_user

EPERM, ESRCH, EIO, EFAULT, EINVAL, ENOSYS = 1, 3, 5, 14, 22, 38
MPOL_MF_STRICT = 1
MPOL_F_NODE, MPOL_F_ADDR = 1, 2
_MOVING = MPOL_MF_MOVE | MPOL_MF_MOVE_ALL


@dataclass(frozen=True, slots=True)
class Told:
    """0 or -errno; a mode, or with MPOL_F_NODE a node; the nodes of the policy."""

    value: int
    mode: int = 0
    nodes: tuple[int, ...] = ()


def sys_set_mempolicy(memory: Memory, kernel: Kernel, task: Task, asked: SetMempolicy) -> int:
    """0, -EINVAL or -EFAULT, the mode first; moves no page (K 4.33, 4.34)."""
    if asked.mode not in list(Mode):
        return -EINVAL
    nodes = read_mask(kernel, asked.maxnode, asked.nodes)
    if isinstance(nodes, int):
        return nodes
    policy = new_policy(asked.mode, nodes, frozenset(memory.nids))
    if isinstance(policy, int):
        return policy
    task.policy = contextualized(memory, task, policy)
    told = policy or Mempolicy(Mode.DEFAULT, ())
    memory.records.append(TaskPolicySet(task.pid, told.mode, told.nodes))
    return 0


def sys_get_mempolicy(
    memory: Memory, kernel: Kernel, task: Task, asked: GetMempolicy
) -> Steps[PolicyTold]:
    """The policy and, where the caller has a pointer for it, its mask as K 4.4 writes it."""
    nr_node_ids = max(memory.nids) + 1
    least = MAX_NUMNODES if kernel.profile.get_mempolicy_wants_all_bits else nr_node_ids
    if asked.room is not None and asked.maxnode < least:
        return PolicyTold(-EINVAL, 0, None)
    told = yield from do_get_mempolicy(memory, task, asked.address, asked.flags)
    if told.value or asked.room is None:
        return PolicyTold(told.value, told.mode, None)
    mask = copy_nodes_to_user(told.nodes, asked.maxnode, asked.room)
    if isinstance(mask, int):
        return PolicyTold(mask, told.mode, None)
    return PolicyTold(0, told.mode, mask)


def do_get_mempolicy(memory: Memory, task: Task, address: int, flags: int) -> Steps[Told]:
    """Mode and nodes, or with MPOL_F_NODE a node in the place of the mode (K 4.35)."""
    update_task_memory_state(memory, task)
    page = address // memory.topology.page_size
    if flags & ~(MPOL_F_NODE | MPOL_F_ADDR) or (address and not flags & MPOL_F_ADDR):
        return Told(-EINVAL)
    vma = task.mm.find(page) if flags & MPOL_F_ADDR else None
    if flags & MPOL_F_ADDR and vma is None:
        return Told(-EFAULT)
    if flags == MPOL_F_NODE | MPOL_F_ADDR:
        asked = np.array([page], np.uint64)
        found = yield from handle_mm_fault(memory, task, task.cpu, Access.READ, asked)
        error = min(int(found.status[0]), 0)
        # The zero page is the kernel's, on its first node.
        return Told(error, max(int(found.nid[0]), memory.nids[0]))
    policy = task.policy if vma is None else vma.policy
    if flags == MPOL_F_NODE:
        if policy is None or policy.mode != Mode.INTERLEAVE:
            return Told(-EINVAL)
        return Told(0, policy.nodes[0])
    if policy is None:
        return Told(0, Mode.DEFAULT)
    # Preferred without a node is local; its mask reads as all nodes at the seed (K 4.36).
    return Told(0, policy.mode, policy.nodes or memory.nids)


def sys_mbind(memory: Memory, kernel: Kernel, task: Task, asked: Mbind) -> Steps[int]:
    """0, or -errno in the order of K 4.22; -EIO with STRICT for pages that are not where they
    should be (K 4.24, 4.26).
    """
    size, flags = memory.topology.page_size, asked.flags
    if not kernel.profile.mbind_reads_mask_first and asked.mode not in list(Mode):
        return -EINVAL
    nodes = read_mask(kernel, asked.maxnode, asked.nodes)
    if isinstance(nodes, int):
        return nodes
    error = _check_mbind(memory, task, asked)
    if error:
        return error
    if asked.mode == Mode.DEFAULT:
        flags &= ~MPOL_MF_STRICT
    start = asked.address // size
    end = start - (-asked.length // size)
    if end > TASK_SIZE:
        return -EINVAL
    if start == end:
        return 0
    policy = new_policy(asked.mode, nodes, frozenset(memory.nids))
    if isinstance(policy, int):
        return policy
    if flags & _MOVING and not kernel.migration:
        return -ENOSYS
    if flags & _MOVING:
        yield from migrate_prep(memory)
    yield from down_write(task.mm)
    writing = True
    try:
        if task.pid not in memory.tasks:
            return -ESRCH
        if policy is not None and _has_hole(task.mm, start, end, kernel):
            return -EFAULT
        pagelist = PageList(task.mm.pid)
        if not _check_range(memory, task.mm, start, end, policy, flags, pagelist):
            return -EIO
        _install(memory, task, start, end, policy)
        if not pagelist.rows:
            return 0
        if not kernel.profile.mbind_blocks_faults:
            downgrade_write(memory, task.mm)
            writing = False
        failed = yield from _move(memory, kernel, task, policy, pagelist)
        return -EIO if failed and flags & MPOL_MF_STRICT else 0
    finally:
        if writing:
            up_write(memory, task.mm)
        else:
            up_read(memory, task.mm)


def _check_mbind(memory: Memory, task: Task, asked: Mbind) -> int:
    if asked.flags & ~(MPOL_MF_STRICT | _MOVING) or asked.mode not in list(Mode):
        return -EINVAL
    if asked.flags & MPOL_MF_MOVE_ALL and not is_capable(memory, task.pid):
        return -EPERM
    return -EINVAL if asked.address % memory.topology.page_size else 0


def _has_hole(mm: Mm, start: int, end: int, kernel: Kernel) -> bool:
    """Whether part of the range is not mapped, as far as the profile notices it (K 4.23)."""
    at = start
    vmas = mm.overlapping(start, end)
    if kernel.profile.mbind_holes_at_edges_pass:
        if not mm.vmas or mm.vmas[-1].end <= start:
            return True
        at = vmas[0].start if vmas else end
    for vma in vmas:
        if vma.start > at:
            return True
        at = vma.end
    if kernel.profile.mbind_holes_at_edges_pass:
        return at < end and at == mm.vmas[-1].end
    return at < end


def _check_range(
    memory: Memory,
    mm: Mm,
    start: int,
    end: int,
    policy: Mempolicy | None,
    flags: int,
    pagelist: PageList,
) -> bool:
    """Queue misplaced pages if they are to be moved; False if STRICT alone finds one (K 4.24)."""
    allowed = np.array(() if policy is None else policy.nodes, np.uint8)
    for vma in mm.overlapping(start, end):
        movable = vma_migratable(vma, memory.profile)
        if not flags & MPOL_MF_STRICT and not (flags & _MOVING and movable):
            continue
        if vma.vm_flags & VmFlag.PFNMAP:
            continue
        slot = vma.present()
        slot = slot[(slot + vma.start >= start) & (slot + vma.start < end)]
        slot = slot[~np.isin(vma.nid[slot], allowed)]
        if slot.size and not flags & _MOVING:
            return False
        nid, pfn = vma.nid[slot], vma.pfn[slot]
        wanted = ~memory.flagged(nid, pfn, PageFlag.HELD)
        if not flags & MPOL_MF_MOVE_ALL:
            wanted &= memory.mapcounts(nid, pfn) == 1
        if wanted.any():
            pagelist.add(nid[wanted], pfn[wanted], slot[wanted] + vma.start)
            memory.hold(nid[wanted], pfn[wanted])
    return True


def _install(memory: Memory, task: Task, start: int, end: int, policy: Mempolicy | None) -> None:
    """Split the vmas at the edges and give them the policy (K 4.30)."""
    for vma in task.mm.isolate_range(start, end):
        vma.policy = contextualized(memory, task, policy)
    told = policy or Mempolicy(Mode.DEFAULT, ())
    memory.records.append(PolicySet(task.pid, start, end, told.mode, told.nodes))


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
    return (
        yield from migrate_pages(
            memory, pagelist, partial(new_vma_page, memory, task, local), None, settings
        )
    )


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
        if vma is not None:
            slot = (page[mine] - np.uint64(vma.start)).astype(np.intp)
            nodes[mine] = wanted_nodes(effective_policy(task, vma), vma, slot, local, memory)
    return nodes
