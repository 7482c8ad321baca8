"""What the kernel would have done: migrate.c and mempolicy.c of June 2006 in straight lines.

``modern``: what Linux 6.1 does instead, where that is a row of protocol/profile.py.

Plain dicts, one page at a time, in the kernel's order; nothing is shared with the code that it
judges.  A ``Machine`` is a snapshot; the two system calls change it and give their value.  What
nobody can say beforehand (a forced wait for a lock that somebody else holds) is ``Undetermined``.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence

from numalab.simulation.oracle_files import move_to_new_page
from numalab.simulation.oracle_machine import Machine, Name, Nodes, Process, Undetermined

MPOL_MF_MOVE, MPOL_MF_MOVE_ALL = 2, 4

PASSES = 10
POLITE_PASSES = 3
#: What a call has met whose last pass did not come to its end.
NO_MEMORY = "no memory"
E2BIG_COUNT = (1 << 32) // 24


# ---- the order of node pairs (K 1.7, 1.8) --------------------------------------------------


def node_remap(node: int, old: frozenset[int], new: frozenset[int]) -> int:
    """The n-th node of ``old`` becomes node n mod |new| of ``new``; others stay (K 1.7)."""
    if node not in old or not new:
        return node
    return sorted(new)[sorted(old).index(node) % len(new)]


def pairs(
    from_nodes: frozenset[int], to_nodes: frozenset[int], *, modern: bool = False
) -> Iterator[tuple[int, int]]:
    """(source, target) in the order in which do_migrate_pages empties the nodes (K 1.8, 1.11)."""
    tmp = set(from_nodes)
    skips_common = modern and len(from_nodes) != len(to_nodes)
    while tmp:
        source = dest = -1
        for s in sorted(tmp):
            d = node_remap(s, from_nodes, to_nodes)
            if s == d or (skips_common and s in to_nodes):
                continue
            source, dest = s, d
            if dest not in tmp:
                break
        if source == -1:
            return
        tmp.remove(source)
        yield source, dest


# ---- mm/migrate.c --------------------------------------------------------------------------


def alloc_pages(machine: Machine, zonelist: tuple[int, ...]) -> int | None:
    """Take a frame from the first node of the zonelist that has one; the node, or None.

    The kernel goes page by page, so that a frame that an earlier page of the list gave back serves
    a later one; who goes chunk by chunk may not have it yet.  Neither is wrong.
    """
    for nid in zonelist:
        if 0 < machine.free[nid] <= machine.freed.get(nid, 0):
            raise Undetermined("a page can only have a frame that came free in the same pass")
        if machine.free[nid] > 0:
            machine.free[nid] -= 1
            return nid
    return None


def within(machine: Machine, caller: Process, zonelist: tuple[int, ...]) -> tuple[int, ...]:
    """What the cpuset of who allocates leaves of a zonelist (K 5.12)."""
    allowed = machine.mems(caller)
    if not allowed.issuperset(zonelist):
        machine.met.add("cpuset")
    return tuple(nid for nid in zonelist if nid in allowed)


def free_page(machine: Machine, nid: int) -> None:
    """A frame is free again."""
    machine.free[nid] += 1
    machine.freed[nid] = machine.freed.get(nid, 0) + 1


def unmap_and_move(machine: Machine, name: Name, zonelist: tuple[int, ...], *, force: bool) -> int:
    """One attempt with one page: 0 or -errno (K 1.25, 1.26, 1.28, 1.29)."""
    page = machine.pages[name]
    if machine.mapcount(name) > 1:
        machine.met.add("mapped several times")
    nid = alloc_pages(machine, zonelist)
    if nid is None:
        return -errno.ENOMEM
    if page.locked and force and not page.unlocks:
        raise Undetermined("a forced pass waits for a page lock that somebody else holds")
    if page.writeback:
        machine.met.add("writeback")
        page.writeback = not force
    if (page.locked or page.writeback) and not force:
        status = -errno.EAGAIN
    elif machine.mlocked(name):
        machine.met.add("mlocked")
        status = -errno.EPERM
    else:
        status = move_to_new_page(machine, page)
    if status == 0:
        free_page(machine, page.node)
        page.node = nid
    else:
        free_page(machine, nid)
    return status


def migrate_pages(
    machine: Machine,
    pagelist: list[Name],
    zonelist: Callable[[Name], tuple[int, ...]],
    result: dict[Name, int] | None = None,
) -> int:
    """The list in at most ten passes: pages not moved, or -ENOMEM (K 1.19 to 1.23, 1.34)."""
    failed = retry = 0
    for number in range(PASSES):
        machine.freed.clear()
        retry = 0
        for name in list(pagelist):
            status = unmap_and_move(machine, name, zonelist(name), force=number >= POLITE_PASSES)
            if result is not None:
                result[name] = status or machine.pages[name].node
            if status == -errno.ENOMEM:
                machine.met.add(NO_MEMORY)
                return status
            if status == -errno.EAGAIN:
                retry += 1
                continue
            pagelist.remove(name)
            failed += status != 0
        machine.passes.append((retry, failed))
        if retry == 0:
            break
    return failed + retry


def isolate_lru_page(machine: Machine, name: Name, pagelist: list[Name]) -> int:
    """Onto the list if it is on the LRU and not on the list already: 0 or -EBUSY (K 1.16)."""
    if not machine.pages[name].lru or name in pagelist:
        return -errno.EBUSY
    pagelist.append(name)
    return 0


# ---- mm/mempolicy.c ------------------------------------------------------------------------


def migrate_to_node(
    machine: Machine,
    process: Process,
    source: int,
    flags: int,
    zonelist: tuple[int, ...],
) -> int:
    """check_range() and then migrate_pages() to where ``zonelist`` says (K 1.13 to 1.17)."""
    pagelist: list[Name] = []
    for area in process.areas:
        if not machine.migratable(area):
            continue
        for address in sorted(area.present):
            name = area.present[address]
            if machine.pages[name].node != source:
                continue
            if flags & MPOL_MF_MOVE_ALL or machine.mapcount(name) == 1:
                isolate_lru_page(machine, name, pagelist)
    return migrate_pages(machine, pagelist, lambda _: zonelist) if pagelist else 0


def migrate_vmas(machine: Machine, process: Process) -> int:
    """The first of the vmas' hooks that gives something else than 0 ends the call (K 2.5)."""
    for area in process.areas:
        if area.uncached:
            raise Undetermined("nothing is known here of the uncached allocator")
        if area.hook:
            machine.met.add(f"hook {'fails' if area.hook < 0 else 'is positive'}")
            return area.hook
    return 0


def do_migrate_pages(
    machine: Machine, process: Process, old: Nodes, new: Nodes, flags: int, allowed: Nodes
) -> int:
    """Hooks, then pair after pair; the first that fails hides the counts before it (K 1.6).

    allowed: where the frames may come from (K 1.18).
    """
    error = migrate_vmas(machine, process)
    if error:
        return min(error, 0)
    busy = 0
    for source, dest in pairs(old, new, modern=machine.modern):
        zonelist = tuple(nid for nid in machine.zonelist[dest] if nid in allowed)
        value = migrate_to_node(machine, process, source, flags, zonelist)
        if value < 0:
            return value
        busy += value
    return busy


# ---- the system calls ----------------------------------------------------------------------


def _target(machine: Machine, caller: int, pid: int) -> Process | int:
    """The task of ``pid`` (0: the caller) if the caller may touch it, or -errno (K 1.1, 1.2)."""
    mine = machine.processes[caller]
    process = machine.processes.get(pid) if pid else mine
    if process is None:
        return -errno.ESRCH
    if process.uid != mine.uid and not mine.capable:
        return -errno.EPERM
    return process


def sys_migrate_pages(machine: Machine, caller: int, pid: int, old: Nodes, new: Nodes) -> int:
    """migrate_pages(2): pages not moved, or -errno (K 1.1, 1.3; EINVAL for no such node, 1.4)."""
    process, mine = _target(machine, caller, pid), machine.processes[caller]
    if isinstance(process, int):
        return process
    if not new <= machine.mems(process) and not mine.capable:
        return -errno.EPERM
    allowed = machine.mems(mine)
    if machine.modern:
        new &= allowed
    if (machine.modern and not new) or not new <= machine.free.keys():
        return -errno.EINVAL
    if not allowed.issuperset(machine.free):
        machine.met.add("cpuset")
    flags = MPOL_MF_MOVE_ALL if mine.capable else MPOL_MF_MOVE
    return do_migrate_pages(machine, process, old, new, flags, allowed)


def sys_move_pages(
    machine: Machine,
    caller: int,
    pid: int,
    pages: Sequence[int],
    nodes: Sequence[int] | None,
    flags: int,
) -> tuple[int, list[int]]:
    """move_pages(2) of page numbers: its value, and the status array if value >= 0 (K 4.11-4.21).

    Without ``nodes`` it is a query.
    """
    if flags & ~(MPOL_MF_MOVE | MPOL_MF_MOVE_ALL):
        return -errno.EINVAL, []
    if flags & MPOL_MF_MOVE_ALL and not machine.processes[caller].capable:
        return -errno.EPERM, []
    process = _target(machine, caller, pid)
    if isinstance(process, int):
        return process, []
    if len(pages) > E2BIG_COUNT:
        return -errno.E2BIG, []
    if nodes is None:
        return 0, [_stat_page(machine, process, page) for page in pages]
    mine, move_all = machine.processes[caller], bool(flags & MPOL_MF_MOVE_ALL)
    if machine.modern:
        return do_pages_move(machine, mine, process, pages, nodes, move_all)
    for node in nodes:
        if error := _wrong_node(machine, process, node):
            return error, []
    return do_move_pages(machine, mine, process, pages, nodes, move_all)


def _wrong_node(machine: Machine, process: Process, node: int) -> int:
    """-ENODEV, -EACCES (its cpuset has it not), or 0 (K 4.12)."""
    if node not in machine.free:
        return -errno.ENODEV
    return 0 if node in machine.mems(process) else -errno.EACCES


def _stat_page(machine: Machine, process: Process, page: int) -> int:
    """Node of the page, -ENOENT or -EFAULT: a hole below a vma is the vma's (K 4.18, 4.19)."""
    for area in process.areas:
        if page < area.end and (page >= area.start or not machine.modern):
            if area.structless and page >= area.start:
                return -errno.EFAULT if machine.modern else -errno.ENOENT
            name = area.present.get(page) if page >= area.start else None
            if name is None:
                # The zero page, and in 6.1 also where it would be (K 4.17).
                return -errno.EFAULT if machine.modern and area.private else -errno.ENOENT
            return machine.pages[name].node
    return -errno.EFAULT


def do_move_pages(
    machine: Machine,
    caller: Process,
    process: Process,
    pages: Sequence[int],
    nodes: Sequence[int],
    move_all: bool,
) -> tuple[int, list[int]]:
    """Isolate what may move, then one migrate_pages() for all targets (K 4.15, 4.17, 4.20)."""
    pagelist: list[Name] = []
    statuses: list[int] = []
    row_of: dict[Name, int] = {}
    present = {page: name for area in process.areas for page, name in area.present.items()}
    for row, (page, node) in enumerate(zip(pages, nodes, strict=True)):
        status = _stat_page(machine, process, page)
        if status >= 0:
            # The first row that names a page is the one that its move reports to (K 4.21).
            name = present[page]
            row_of.setdefault(name, row)
            if status == node:
                pass
            elif machine.mapcount(name) > 1 and not move_all:
                status = -errno.EACCES
            else:
                status = isolate_lru_page(machine, name, pagelist)
        statuses.append(status)
    if not pagelist:
        return -errno.ENOENT, []
    result: dict[Name, int] = {}

    def new_page_node(name: Name) -> tuple[int, ...]:
        return within(machine, caller, machine.zonelist[nodes[row_of[name]]])

    value = migrate_pages(machine, pagelist, new_page_node, result)
    for name, status in result.items():
        statuses[row_of[name]] = status
    return value, statuses if value >= 0 else []


def do_pages_move(
    machine: Machine,
    caller: Process,
    process: Process,
    pages: Sequence[int],
    nodes: Sequence[int],
    move_all: bool,
) -> tuple[int, list[int]]:
    """6.1: neighbours for one node are one list; what is not reached stays 0 (K 4.13 - 4.16)."""
    statuses = [0] * len(pages)
    batch: list[int] = []
    pagelist: list[Name] = []

    def flush() -> int:
        rows, names = list(batch), list(pagelist)
        batch.clear()
        pagelist.clear()
        value = 0
        if names:
            zonelist = within(machine, caller, machine.zonelist[nodes[rows[0]]])
            value = migrate_pages(machine, names, lambda _: zonelist)
        if value == 0:
            for row in rows:
                statuses[row] = nodes[row]
        return value

    for row, (page, node) in enumerate(zip(pages, nodes, strict=True)):
        if error := _wrong_node(machine, process, node):
            flush()
            return error, statuses
        if batch and nodes[batch[0]] != node and (value := flush()):
            return value if value < 0 else value + len(pages) - row, statuses
        status = _stat_page(machine, process, page)
        here = next((area for area in process.areas if area.start <= page < area.end), None)
        if here is not None and not machine.migratable(here):
            # Where pages cannot be moved, none is looked for (K 3.7, 4.17).
            status = -errno.EFAULT
        if status >= 0 and status != node:
            name = next(area.present[page] for area in process.areas if page in area.present)
            if machine.mapcount(name) > 1 and not move_all:
                status = -errno.EACCES
            elif (status := isolate_lru_page(machine, name, pagelist)) == 0:
                batch.append(row)
                continue
        statuses[row] = status
        if value := flush():
            return value if value < 0 else value + len(pages) - row - 1, statuses
    return flush(), statuses
