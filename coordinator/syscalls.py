"""migrate_pages(2) and move_pages(2): checks in the kernel's order, then the work (K 4)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from coordinator import migrate_off
from coordinator.calls import Steps, down_read, up_read
from coordinator.cpuset import mems_allowed, mems_charged
from coordinator.cred import ptrace_may_access, same_user
from coordinator.few import no_trail
from coordinator.life import State
from coordinator.mem_map import PageFlag
from coordinator.memory import Memory
from coordinator.mempolicy import (
    MPOL_MF_MOVE,
    MPOL_MF_MOVE_ALL,
    do_migrate_pages,
    migrate_prep,
    new_node_page,
    new_page_node,
)
from coordinator.migrate import migrate_pages
from coordinator.mm import Pages, Task
from coordinator.move_pages import Move, do_pages_stat, leading
from coordinator.page_status import find_movable, find_pages
from coordinator.pagelist import LoadedNewPage, PageList, Settings
from protocol.jobs import PlanMigration, StartJob
from protocol.profile import Profile
from protocol.syscalls import MigratePages, MovedPages, MovePages
from protocol.user_mask import get_nodes
from protocol.values import value

EPERM, ENOENT, ESRCH, EIO, E2BIG, ENOMEM, EACCES, EFAULT = 1, 2, 3, 5, 7, 12, 13, 14
EBUSY, ENODEV, EINVAL, ENOSYS = 16, 19, 22, 38
#: What limits the number of entries of one move_pages(2): sizeof(struct page_to_node), 64 bits.
PAGE_TO_NODE = 24
ULONG_MAX = (1 << 64) - 1
#: ``caller`` of the operator at the console: no task, all capabilities.
OPERATOR = 0


@value
class Kernel:
    """How this machine is built: the profile, the switch, pages of a chunk, what are few, and
    whether node pairs that have nothing to do with each other go one after the other all the same.
    """

    profile: Profile
    migration: bool
    chunk_pages: int
    few_pages: int
    strict_order: bool


def may_move(memory: Memory, caller: int, target: Task) -> bool:
    """Whether the caller may move pages of ``target``: K 1.2, or the rule of ptrace (K 4.8)."""
    task = memory.tasks.get(caller)
    if task is None:
        return caller == OPERATOR
    if memory.profile.ptrace_decides_who_may_move:
        return ptrace_may_access(task, target)
    return is_capable(memory, caller) or same_user(task, target)


def is_capable(memory: Memory, caller: int) -> bool:
    """CAP_SYS_NICE: the operator has it, and tasks that were spawned with it."""
    task = memory.tasks.get(caller)
    return caller == OPERATOR or (task is not None and task.capable)


def read_mask(kernel: Kernel, maxnode: int, mask: bytes | None) -> frozenset[int] | int:
    """The node set that a caller passes, or -EINVAL, -EFAULT (K 4.1 - 4.3)."""
    return get_nodes(maxnode, mask, from_the_end=kernel.profile.mask_read_from_its_end)


def cpu_node(memory: Memory, caller: int) -> int:
    """The node of the cpu that the caller runs on; the first node for the operator."""
    task = memory.tasks.get(caller)
    return memory.nids[0] if task is None else memory.topology.node_of_cpu(task.cpu)


@value
class Migrating:
    """A call of migrate_pages(2) whose arguments are right.  ``loaded``: who chooses where each
    page goes, if it is not the node of its pair.
    """

    task: Task
    from_nodes: frozenset[int]
    to_nodes: frozenset[int]
    flags: int
    settings: Settings
    loaded: LoadedNewPage | None


def check_migrate_pages(
    memory: Memory, kernel: Kernel, asked: MigratePages | StartJob | PlanMigration
) -> Migrating | int:
    """The checks of migrate_pages(2) in their order, or the -errno with which it ends (K 1.1, 4.6).

    A node that the machine does not have is -EINVAL, as since 2.6.23 (K 1.4); one that is lost is
    -ENODEV, which no kernel answers here.
    """
    from_nodes = read_mask(kernel, asked.maxnode, asked.old_nodes)
    if isinstance(from_nodes, int):
        return from_nodes
    to_nodes = read_mask(kernel, asked.maxnode, asked.new_nodes)
    if isinstance(to_nodes, int):
        return to_nodes
    task = memory.tasks.get(asked.pid or asked.caller)
    if task is None:
        return -ESRCH
    if not may_move(memory, asked.caller, task):
        return -EPERM
    if not to_nodes <= mems_allowed(memory, task) and not is_capable(memory, asked.caller):
        return -EPERM
    charged = mems_charged(memory, asked.caller)
    if kernel.profile.migrate_pages_is_cut_to_cpuset:
        to_nodes &= charged
        if not to_nodes:
            return -EINVAL
    if not to_nodes <= frozenset(memory.nids):
        return -EINVAL
    capable = is_capable(memory, asked.caller)
    flags = MPOL_MF_MOVE_ALL if capable else MPOL_MF_MOVE
    if not kernel.migration:
        return migrate_off.migrate_vmas(
            task.mm, from_nodes=from_nodes, to_nodes=to_nodes, flags=flags
        )
    if memory.lost & (from_nodes | to_nodes):
        return -ENODEV
    loaded = None
    if asked.new_page:
        if asked.new_page not in memory.new_pages:
            return -EINVAL
        loaded = memory.new_pages[asked.new_page]()
    settings = Settings(
        chunk_pages=kernel.chunk_pages,
        fallback=kernel.profile.allocation_falls_back,
        local=cpu_node(memory, asked.caller),
        mems_allowed=charged,
        caller=asked.caller,
        few_pages=kernel.few_pages,
        strict_order=kernel.strict_order,
    )
    return Migrating(task, from_nodes, to_nodes, flags, settings, loaded)


def sys_migrate_pages(memory: Memory, kernel: Kernel, asked: MigratePages) -> Steps[int]:
    """migrate_pages(2): pages not moved, or -errno (K 1.3)."""
    checked = check_migrate_pages(memory, kernel, asked)
    if isinstance(checked, int):
        return checked
    value = yield from do_migrate_pages(
        memory,
        checked.task.mm,
        from_nodes=checked.from_nodes,
        to_nodes=checked.to_nodes,
        flags=checked.flags,
        settings=checked.settings,
        profile=kernel.profile,
        get_new_page=checked.loaded or new_node_page,
    )
    return -EIO if checked.loaded is not None and checked.loaded.wrong else value


def sys_move_pages(memory: Memory, kernel: Kernel, asked: MovePages) -> Steps[MovedPages]:
    """move_pages(2): value and status array (K 4.11 - 4.21)."""
    error, task = _check_move_pages(memory, kernel, asked)
    first = kernel.profile.move_pages_checks_first
    if task is not None and first:
        error = _check_sizes(memory, asked) or _check_entries(memory, task, asked)[1]
    if task is None or error:
        return MovedPages(error, asked.status)
    status = asked.status.copy()
    page = asked.address[: asked.count] // np.uint64(memory.topology.page_size)
    yield from down_read(task.mm)
    try:
        if not asked.query and first and asked.count <= kernel.few_pages:
            yield from no_trail(memory, task.mm, asked.count)
        elif not asked.query:
            yield from migrate_prep(memory, task.mm)
        if first:
            value = yield from _move_at_once(memory, kernel, task, asked, page, status)
        elif asked.query:
            value = do_pages_stat(memory, task.mm, asked.count, page, status)
        else:
            value = yield from _entry_by_entry(memory, kernel, task, asked, page, status)
    finally:
        up_read(memory, task.mm)
    return MovedPages(value, status)


def _entry_by_entry(
    memory: Memory,
    kernel: Kernel,
    task: Task,
    asked: MovePages,
    page: Pages,
    status: npt.NDArray[np.int32],
) -> Steps[int]:
    stop, error = _check_entries(memory, task, asked)
    settings = _settings(memory, kernel, asked)
    move_all = bool(asked.flags & MPOL_MF_MOVE_ALL)
    where = page, asked.node[: asked.count], status
    move = Move(memory, task.mm, settings, asked.count, *where, move_all, stop, error)
    return (yield from move.run())


def _settings(memory: Memory, kernel: Kernel, asked: MovePages) -> Settings:
    return Settings(
        kernel.chunk_pages,
        fallback=kernel.profile.allocation_falls_back,
        local=cpu_node(memory, asked.caller),
        mems_allowed=mems_charged(memory, asked.caller),
        caller=asked.caller,
    )


def _move_at_once(
    memory: Memory,
    kernel: Kernel,
    task: Task,
    asked: MovePages,
    page: Pages,
    status: npt.NDArray[np.int32],
) -> Steps[int]:
    """All entries in one list; the status array is written at the end, if all went well."""
    found, value = np.zeros(asked.count, np.int32), 0
    if asked.query:
        find_pages(memory, kernel.profile, task.mm, page, found)
    else:
        value = yield from _move(memory, kernel, task, asked, page, found)
    if value < 0:
        return value
    room = min(status.size, asked.count)
    status[:room] = found[:room]
    return value if room == asked.count else -EFAULT


def _check_move_pages(memory: Memory, kernel: Kernel, asked: MovePages) -> tuple[int, Task | None]:
    """The order of K 4.12; with MIGRATION=n the call is absent altogether (K 0.4)."""
    if not kernel.migration:
        return -ENOSYS, None
    if asked.flags & ~(MPOL_MF_MOVE | MPOL_MF_MOVE_ALL):
        return -EINVAL, None
    if asked.flags & MPOL_MF_MOVE_ALL and not is_capable(memory, asked.caller):
        return -EPERM, None
    task = memory.tasks.get(asked.pid or asked.caller)
    if task is None:
        return -ESRCH, None
    if not may_move(memory, asked.caller, task):
        return -EPERM, None
    return 0, task


def _check_sizes(memory: Memory, asked: MovePages) -> int:
    """The kernel keeps PAGE_TO_NODE bytes for each entry; it has no more than the machine."""
    if asked.count > ULONG_MAX // PAGE_TO_NODE - 1:
        return -E2BIG
    memory_bytes = sum(node.frames for node in memory.topology.nodes) * memory.topology.page_size
    return -ENOMEM if (asked.count + 1) * PAGE_TO_NODE > memory_bytes else 0


def _check_entries(memory: Memory, task: Task, asked: MovePages) -> tuple[int, int]:
    """How many entries are right, and what is wrong with the next one (K 4.12, 4.13)."""
    if asked.query:
        return asked.count, -EFAULT if asked.address.size < asked.count else 0
    readable = min(asked.address.size, asked.node.size, asked.count)
    online = [nid for nid in memory.nids if nid not in memory.lost]
    there = np.isin(asked.node[:readable], _ids(online))
    allowed = np.isin(asked.node[:readable], _ids(sorted(mems_allowed(memory, task))))
    right = leading(there & allowed)
    if right < readable:
        return right, -EACCES if there[right] else -ENODEV
    return right, -EFAULT if readable < asked.count else 0


def _ids(nids: Iterable[int]) -> npt.NDArray[np.int32]:
    return np.array(list(nids), np.int32)


def _move(
    memory: Memory,
    kernel: Kernel,
    task: Task,
    asked: MovePages,
    page: Pages,
    status: npt.NDArray[np.int32],
) -> Steps[int]:
    nid, pfn = find_movable(memory, task.mm, page, status)
    found = np.flatnonzero(status >= 0)
    wanted = asked.node[: asked.count]
    todo = found[status[found] != wanted[found]]
    if not asked.flags & MPOL_MF_MOVE_ALL:
        several = memory.mapcounts(nid[todo], pfn[todo]) > 1
        status[todo[several]] = -EACCES
        todo = todo[~several]
    # The first address of a page takes it off the LRU, so that a second one finds it busy (K 4.17).
    frame = (nid.astype(np.uint64) << np.uint64(32)) | pfn
    first = np.zeros(todo.size, np.bool_)
    first[np.unique(frame[todo], return_index=True)[1]] = True
    first &= ~memory.flagged(nid[todo], pfn[todo], PageFlag.HELD)
    first &= ~np.isin(nid[todo], _ids(sorted(memory.lost)))
    status[todo[~first]] = -EBUSY
    todo = todo[first]
    status[todo] = 0
    nothing_to_move = -ENOENT if kernel.profile.nothing_to_move_is_enoent else 0
    settings = _settings(memory, kernel, asked)
    few = kernel.profile.move_pages_checks_first and asked.count <= kernel.few_pages
    if not todo.size:
        if few:
            yield from migrate_prep(memory)
        return nothing_to_move
    memory.hold(nid[todo], pfn[todo])
    pagelist = PageList(task.mm.pid, few=few)
    pagelist.add(nid[todo], pfn[todo], page[todo].astype(np.int64))
    entry = _first_entry(frame, found, todo)
    value = yield from migrate_pages(memory, pagelist, new_page_node, wanted[entry], settings)
    skipped = pagelist.state == State.SKIPPED
    status[todo[skipped]] = -EBUSY
    status[entry[~skipped]] = pagelist.status[~skipped]
    return nothing_to_move if pagelist.count(State.SKIPPED) == pagelist.rows else value


def _first_entry(
    frame: npt.NDArray[np.uint64], found: npt.NDArray[np.intp], todo: npt.NDArray[np.intp]
) -> npt.NDArray[np.intp]:
    """For each row of ``todo`` the first row of the call that names the same page.

    new_page_node looks a page up by its first entry: that one says where it goes, and has the
    status of the move, even if a later entry put the page on the list (K 4.21).
    """
    known, at = np.unique(frame[found], return_index=True)
    return found[at[np.searchsorted(known, frame[todo])]]
