"""Where pages go: node pairs, destinations, zonelists (mm/mempolicy.c of the seed).

Policy is an argument of ``migrate_pages``: the functions here are ``new_page_t`` callbacks, given
a page list and rows of it, returning the node on which to allocate for each row.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from coordinator.calls import Ask, Steps, ask_all, at_once, down_read, up_read
from coordinator.few import no_trail, pages_on
from coordinator.life import State
from coordinator.mem_map import MemMap, PageFlag, Pfns, Rows
from coordinator.memory import Memory
from coordinator.migrate import migrate_pages, migrate_vmas
from coordinator.mm import LOCKED, NOT_MIGRATABLE, Mm, Pte, Vma
from coordinator.pagelist import Nodes, PageList, Settings, new_page_t
from coordinator.pairs import groups
from protocol.messages import MigratePrep
from protocol.nodemask import node_remap
from protocol.profile import Profile
from protocol.schema import node_name

MPOL_MF_MOVE, MPOL_MF_MOVE_ALL = 2, 4


def next_pair(
    from_nodes: frozenset[int],
    to_nodes: frozenset[int],
    remaining: frozenset[int],
    left_alone: frozenset[int] = frozenset(),
) -> tuple[int, int] | None:
    """The next (source, dest) of do_migrate_pages, or None when nothing is left (K 1.8).

    Of the sources in ``remaining``, ascending, the first whose destination is not itself still to
    be emptied; if there is none, the last one with a destination other than itself.  A source that
    is ``left_alone`` is never chosen, but counts as still to be emptied, as in the kernel.
    """
    chosen: tuple[int, int] | None = None
    for source in sorted(remaining - left_alone):
        dest = node_remap(source, sorted(from_nodes), sorted(to_nodes))
        if dest == source:
            continue
        chosen = (source, dest)
        if dest not in remaining:
            break
    return chosen


def node_pairs(
    from_nodes: frozenset[int], to_nodes: frozenset[int], *, skip_common_sources: bool
) -> list[tuple[int, int]]:
    """All pairs in order.  ``skip_common_sources``: the rule of K 1.11 instead of K 1.10."""
    pairs: list[tuple[int, int]] = []
    remaining, left_alone = from_nodes, frozenset[int]()
    if skip_common_sources and len(from_nodes) != len(to_nodes):
        left_alone = to_nodes
    while (pair := next_pair(from_nodes, to_nodes, remaining, left_alone)) is not None:
        pairs.append(pair)
        remaining = remaining - {pair[0]}
    return pairs


def new_node_page(pagelist: PageList, rows: Rows, private: object) -> Nodes:
    """new_page_t of migrate_to_node: everything goes to the node ``private`` (K 1.18)."""
    assert isinstance(private, int)
    return np.full(rows.size, private, np.int32)


def new_page_node(pagelist: PageList, rows: Rows, private: object) -> Nodes:
    """new_page_t of move_pages(2): ``private`` has the wanted node of each row of the list."""
    assert isinstance(private, np.ndarray)
    wanted: Nodes = private[rows]
    return wanted


def vma_migratable(vma: Vma, profile: Profile) -> bool:
    """Whether pages of this vma may be moved at all (K 3.6)."""
    stays = LOCKED | NOT_MIGRATABLE if profile.mlocked_pages_stay else NOT_MIGRATABLE
    return not int(vma.vm_flags) & stays


def to_isolate(frames: MemMap, pfn: Pfns, flags: int) -> tuple[npt.NDArray[np.bool_], int]:
    """Which of these frames a migration takes off the LRU, and how many more it would but for
    somebody who is busy with them (K 1.15).
    """
    wanted = ~frames.test(pfn, PageFlag.HELD)
    if flags & MPOL_MF_MOVE_ALL:
        return wanted, int(np.count_nonzero(~wanted))
    alone = frames.mapcount[pfn] == 1
    return wanted & alone, int(np.count_nonzero(alone & ~wanted))


def check_range(memory: Memory, mm: Mm, source: int, flags: int, pagelist: PageList) -> int:
    """Queue the pages of ``mm`` on node ``source`` that may be migrated, in address order (K 1.17).

    A page that somebody is busy with is not on the LRU for this purpose: left where it is (K 1.15).
    Returns how many were left so, migration entries included.
    """
    frames, left = memory.mem_map[source], 0
    for vma in mm.vmas:
        if not vma_migratable(vma, memory.profile):
            continue
        left += int(np.count_nonzero(vma.nid[vma.marked(Pte.ENTRY)] == source))
        for slot in vma.marked_parts(Pte.PRESENT):
            slot = slot[vma.nid[slot] == source]
            pfn = vma.pfn[slot]
            wanted, busy = to_isolate(frames, pfn, flags)
            left += busy
            slot, pfn = slot[wanted], pfn[wanted]
            if slot.size:
                pagelist.add(vma.nid[slot], pfn, slot + vma.start)
                frames.set(pfn, PageFlag.HELD)
    return left


def migrate_prep(memory: Memory, mm: Mm | None = None) -> Steps[None]:
    """Drain the pending LRU adds of every node that answers (K 1.13).

    First, what a migration of ``mm`` has left to be done is waited for.
    """
    if mm is not None:
        yield from no_trail(memory, mm)
    nids = [nid for nid in memory.nids if nid not in memory.lost]
    yield from ask_all([Ask(node_name(nid), MigratePrep()) for nid in nids])


def migrate_to_node(
    memory: Memory,
    mm: Mm,
    source: int,
    dest: int,
    flags: int,
    settings: Settings,
    get_new_page: new_page_t = new_node_page,
) -> Steps[int]:
    """Move what ``mm`` has on ``source`` to ``dest``; pages not moved, or -errno (K 1.13)."""
    pages = pages_on(mm, source)
    if (yield from no_trail(memory, mm, pages)):
        pages = pages_on(mm, source)
    few = get_new_page is new_node_page and 0 < pages <= settings.few_pages
    if not few:
        yield from migrate_prep(memory)
    pagelist = PageList(mm.pid, few=few)
    left = check_range(memory, mm, source, flags, pagelist)
    return (yield from migrate_list(memory, pagelist, left, dest, settings, get_new_page))


def migrate_list(
    memory: Memory,
    pagelist: PageList,
    left: int,
    dest: int,
    settings: Settings,
    get_new_page: new_page_t,
) -> Steps[int]:
    """Move what is queued to ``dest``, where ``left`` pages could not be queued; as above."""
    result = 0
    if pagelist.rows:
        result = yield from migrate_pages(memory, pagelist, get_new_page, dest, settings)
        left += pagelist.count(State.SKIPPED)
    if result < 0 or not memory.profile.unisolated_are_counted:
        return result
    return result + left


def _migrate_group(
    memory: Memory,
    mm: Mm,
    group: list[tuple[int, int]],
    flags: int,
    settings: Settings,
    get_new_page: new_page_t,
) -> Steps[list[int]]:
    """What each of these pairs gives, up to the first errno; several of them go at once."""
    if len(group) > 1:
        # None falls back on a node that another one of them leaves.
        at_home = replace(settings, fallback=False)
        results = yield from at_once(
            memory,
            [migrate_to_node(memory, mm, *pair, flags, at_home, get_new_page) for pair in group],
        )
        if min(results) >= 0:
            return results
        # The frames that were free are another task's by now: what is left goes in strict order.
    results = []
    for pair in group:
        result = yield from migrate_to_node(memory, mm, *pair, flags, settings, get_new_page)
        results.append(result)
        if result < 0:
            break
    return results


def do_migrate_pages(
    memory: Memory,
    mm: Mm,
    *,
    from_nodes: frozenset[int],
    to_nodes: frozenset[int],
    flags: int,
    settings: Settings,
    profile: Profile,
    get_new_page: new_page_t = new_node_page,
) -> Steps[int]:
    """Move the pages of ``mm`` from one set of nodes to another (K 1.5 - 1.8).

    mmap_sem is held for read over everything; vma hooks first, then the pairs, those that have
    nothing to do with each other at the same time (pairs.py).  Returns the number of pages not
    moved, or the first negative errno, which hides the counts before it (K 1.6).
    """
    yield from down_read(mm)
    try:
        error = yield from migrate_vmas(
            memory, mm, from_nodes=from_nodes, to_nodes=to_nodes, flags=flags, profile=profile
        )
        if error:
            return min(error, 0)
        pairs = node_pairs(from_nodes, to_nodes, skip_common_sources=profile.skip_common_sources)
        # A node that the machine does not have has its place in the mask, but no pages.
        pairs = [pair for pair in pairs if pair[0] in memory.mem_map]
        # What users have loaded may go by the order in which it is asked.
        if get_new_page is not new_node_page:
            settings = replace(settings, strict_order=True)
        busy = 0
        for group in groups(memory, mm, pairs, settings):
            results = yield from _migrate_group(memory, mm, group, flags, settings, get_new_page)
            if results[-1] < 0:
                return results[-1]
            busy += sum(results)
        return busy
    finally:
        up_read(memory, mm)
