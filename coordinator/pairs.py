"""Node pairs of one do_migrate_pages(): which move at the same time, which in the kernel's order.

A kernel moves one pair after the other (K 1.8).  Here pairs that have nothing to do with each other
go at once: then it is not in what the call gives, nor in where pages are, that this is seen, but
in how long it takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from coordinator.few import pages_on
from coordinator.memory import Memory
from coordinator.mm import Mm
from coordinator.pagelist import Settings
from coordinator.placement import policy_zonelist


def groups(
    memory: Memory, mm: Mm, pairs: Sequence[tuple[int, int]], settings: Settings
) -> Iterator[list[tuple[int, int]]]:
    """The pairs in order; those of one group may go at once.  For each group memory is looked at
    when its turn has come.

    Each is by itself where the strict order is asked for, where emulated time passes on the clock,
    as a kernel copies with one thread, and where a target may have no frame: then the pairs after
    it must not be attempted (K 1.6, K 1.20), or its pages go to a node that they leave (K 1.18).
    """
    if settings.strict_order or memory.emulated.pace:
        yield from ([pair] for pair in pairs)
        return
    for group in independent(pairs):
        if len(group) == 1 or _have_room(memory, mm, group, settings):
            yield group
        else:
            yield from ([pair] for pair in group)


def independent(pairs: Sequence[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """The pairs in groups, in order: within one, no node is both left and moved to."""
    found: list[list[tuple[int, int]]] = []
    for source, dest in pairs:
        group = found[-1] if found else []
        if not group or any(source == to or dest == left for left, to in group):
            found.append([])
        found[-1].append((source, dest))
    return found


def _have_room(
    memory: Memory, mm: Mm, group: Sequence[tuple[int, int]], settings: Settings
) -> bool:
    """Every target gives frames, and has as many as these pairs may bring to it."""
    wanted: dict[int, int] = {}
    for source, dest in group:
        wanted[dest] = wanted.get(dest, 0) + pages_on(mm, source)
    allowed = settings.mems_allowed
    if allowed is None:
        allowed = frozenset(memory.nids)
    for nid, pages in wanted.items():
        frames = memory.mem_map[nid]
        zonelist = policy_zonelist(settings.policy, nid, memory, allowed)
        if not zonelist.only(nid).nodes or frames.frames - frames.used < pages:
            return False
    return True
