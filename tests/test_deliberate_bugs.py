"""The instruments are sharp: bugs put into the shipped code, one at a time, and who catches each.

A seed is run after the other until one fails with the sentence that the bug deserves, and the same
seed without the bug is run to see that it is the bug's.
"""

from __future__ import annotations

import errno
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
import pytest

from coordinator import (
    fault,
    fault_around,
    few,
    madvise,
    mbind,
    mempolicy,
    migrate,
    mmap,
    unmap_and_move,
)
from coordinator.memory import Memory
from coordinator.migrate import Migration
from coordinator.mm import NOT_MIGRATABLE, Mm, Pte, Vma
from coordinator.records import PagesCommitted
from coordinator.unmap_and_move import UnmapAndMove
from nodes.arena import Arena
from nodes.flags import ALLOCATED, MAPPED
from nodes.transfer import Transfers
from nodes.zone import Zone
from protocol.reply_cache import ReplyCache
from tests.deliberate import (
    ANY,
    CALLS,
    CORE,
    HISTORY,
    JOURNAL,
    ORACLE,
    RACES,
    TABLES,
    Bug,
    Load,
    Patch,
    is_caught,
    wrap,
)

FULL = {"frames": (5, 5, 4), "chunk_pages": 3}
FILES = Load(RACES, {"mapfile": 8, "store": 20})
SHARED = Load(CALLS, {"fork": 6, "spawn": 3})
MOVES = Load(RACES, {"migrate": 8, "move": 8, "store": 20, "touch": 6})
AROUND = Load(RACES | {"fault_around": 16}, {"fork": 8, "store": 20})
WRITE_PROTECTED = Load(RACES, {"fork": 5, "protect": 5, "hold": 8, "move": 12, "touch": 6})


# ---- the network -----------------------------------------------------------------------------


def an_echo_is_executed_again(patch: Patch) -> None:
    patch.setattr(ReplyCache, "admit", lambda self, xid, floor: True)
    patch.setattr(ReplyCache, "kept", lambda self, xid: None)
    patch.setattr(ReplyCache, "awaits", lambda self, xid: True)
    patch.setattr(ReplyCache, "settle", lambda self, xid, reply: None)


def a_late_echo_is_executed(patch: Patch) -> None:
    def admit(original: Any, cache: ReplyCache, xid: int, floor: int) -> bool:
        return bool(original(cache, xid, floor)) or xid < cache._floor

    wrap(patch, ReplyCache, "admit", admit)


# ---- nodes -----------------------------------------------------------------------------------


def pages_are_served_while_they_are_copied(patch: Patch) -> None:
    def lock(original: Any, zone: Zone, pfn: Any, generation: Any) -> Any:
        status = original(zone, pfn, generation)
        zone.unlock(pfn[status == 0], generation[status == 0], generation[status == 0])
        return status

    wrap(patch, Zone, "lock", lock)


def a_stale_generation_is_served(patch: Patch) -> None:
    def find(original: Any, zone: Zone, pfn: Any, generation: Any) -> Any:
        frame, flags, status = original(zone, pfn, generation)
        status[(status == -errno.ESTALE) & (flags & MAPPED != 0)] = 0
        return frame, flags, status

    wrap(patch, Zone, "_find", find)


def the_source_is_freed_before_the_commit(patch: Patch) -> None:
    def finish(original: Any, transfers: Transfers, transfer: Any) -> None:
        message, done = transfer.message, transfer.sending.status == 0
        if message.lock:
            transfers._zone.put_pages(message.pfn[done], message.generation[done])
        original(transfers, transfer)

    wrap(patch, Transfers, "_finish", finish)


def pages_land_in_the_wrong_order(patch: Patch) -> None:
    def scatter(original: Any, arena: Arena, position: Any, size: int, data: Any) -> None:
        rows = np.frombuffer(data, np.uint8).reshape(-1, size)
        original(arena, position, size, rows[::-1].tobytes())

    wrap(patch, Arena, "scatter", scatter)


def a_landing_says_ok_and_writes_nothing(patch: Patch) -> None:
    def land(original: Any, zone: Zone, pfn: Any, *rest: Any) -> Any:
        return np.zeros(pfn.size, np.int32)

    wrap(patch, Zone, "land", land)


def new_pages_are_not_zeroed(patch: Patch) -> None:
    patch.setattr(Arena, "zero", lambda self, frame: None)


def an_unused_target_frame_is_not_freed(patch: Patch) -> None:
    def put_pages(original: Any, zone: Zone, pfn: Any, generation: Any) -> Any:
        used, flags, *_ = zone.inventory()
        rows = ~np.isin(pfn, used[flags == ALLOCATED])
        original(zone, pfn[rows], generation[rows])
        return np.zeros(pfn.size, np.int32)

    wrap(patch, Zone, "put_pages", put_pages)


def failed_pages_are_not_put_back(patch: Patch) -> None:
    def putback(original: Any, zone: Zone, pfn: Any, generation: Any) -> Any:
        used, flags, *_ = zone.inventory()
        fresh = np.isin(pfn, used[flags & MAPPED == 0])
        original(zone, pfn[fresh], generation[fresh])
        return np.zeros(pfn.size, np.int32)

    wrap(patch, Zone, "putback_lru_pages", putback)


def pending_pages_are_not_drained(patch: Patch) -> None:
    patch.setattr(Zone, "migrate_prep", lambda self: None)


def a_pin_is_overlooked(patch: Patch) -> None:
    def lock(original: Any, zone: Zone, pfn: Any, generation: Any) -> Any:
        zone.hold(pfn, generation, *np.zeros((2, pfn.size), np.uint8))
        return original(zone, pfn, generation)

    wrap(patch, Zone, "lock", lock)


# ---- the coordinator: which pages, where to, how often ---------------------------------------


def from_and_to_are_swapped(patch: Patch) -> None:
    wrap(
        patch,
        mempolicy,
        "node_pairs",
        lambda original, old, new, **more: original(new, old, **more),
    )


def pairs_are_taken_as_they_come(patch: Patch) -> None:
    wrap(
        patch,
        mempolicy,
        "node_pairs",
        lambda original, old, new, **more: sorted(original(old, new, **more)),
    )


def the_last_vma_is_skipped(patch: Patch) -> None:
    def check_range(original: Any, memory: Any, mm: Mm, *rest: Any) -> Any:
        part = Mm(mm.pid)
        part.vmas = mm.vmas[:-1]
        return original(memory, part, *rest)

    wrap(patch, mempolicy, "check_range", check_range)


def shared_pages_move_without_move_all(patch: Patch) -> None:
    wrap(
        patch,
        mempolicy,
        "check_range",
        lambda original, memory, mm, source, flags, pages: original(memory, mm, source, 4, pages),
    )


def there_is_one_pass(patch: Patch) -> None:
    patch.setattr(migrate, "PASSES", 1)


def no_pass_is_forced(patch: Patch) -> None:
    patch.setattr(migrate, "POLITE_PASSES", 10)


def enomem_does_not_end_the_call(patch: Patch) -> None:
    def no_frames(original: Any, work: UnmapAndMove, rows: Any) -> None:
        original(work, rows)
        work.nomem_row = None

    wrap(patch, UnmapAndMove, "_no_frames", no_frames)


def pages_to_be_retried_are_not_counted(patch: Patch) -> None:
    def run(original: Any, migration: Migration) -> Any:
        value = yield from original(migration)
        return min(value, 0)

    wrap(patch, Migration, "run", run)


# ---- the coordinator: page tables ------------------------------------------------------------


def entries_name_the_wrong_frame(patch: Patch) -> None:
    def commit(original: Any, memory: Memory, nid: int, pfn: Any, target: int, new: Any) -> None:
        memory.remove_migration_ptes(nid, pfn, target, np.roll(new, 1))
        generation = memory.mem_map[target].generation[new]
        memory.records.append(PagesCommitted(nid, target, pfn, new, generation))

    wrap(patch, Memory, "commit", commit)


def failed_pages_are_restored_writable(patch: Patch) -> None:
    def remove(original: Any, memory: Memory, nid: int, pfn: Any, *target: Any) -> None:
        slots = [(vma, slot) for vma, slot, _ in memory.mappers(nid, pfn)]
        original(memory, nid, pfn, *target)
        for vma, slot in slots:
            vma.bits[slot] |= np.uint8(Pte.WRITE)

    wrap(patch, Memory, "remove_migration_ptes", remove)


def munmap_does_not_tell_the_nodes(patch: Patch) -> None:
    def revoke(original: Any, memory: Memory, nid: Any, pfn: Any) -> Iterator[Any]:
        return iter(())

    wrap(patch, mmap, "revoke", revoke)


def fork_leaves_the_parent_writable(patch: Patch) -> None:
    def copy_mm(original: Any, *tasks: Any) -> Any:
        nid, pfn = original(*tasks)
        return nid[:0], pfn[:0]

    wrap(patch, mmap, "copy_mm", copy_mm)


def a_move_is_not_recorded(patch: Patch) -> None:
    def commit(original: Any, memory: Memory, *frames: Any) -> None:
        original(memory, *frames)
        memory.records.pop()

    wrap(patch, Memory, "commit", commit)


def mapcount_is_not_kept(patch: Patch) -> None:
    def remove(original: Any, memory: Memory, nid: int, pfn: Any, *target: Any) -> None:
        before = memory.mem_map[nid].mapcount.copy()
        original(memory, nid, pfn, *target)
        memory.mem_map[nid].mapcount[:] = before

    wrap(patch, Memory, "remove_migration_ptes", remove)


# ---- kinds of memory -------------------------------------------------------------------------


def the_method_of_a_file_is_not_asked(patch: Patch) -> None:
    def migratepage(original: Any, memory: Memory, mapping: Any, index: Any) -> Any:
        return np.zeros(index.size, np.int32)

    wrap(patch, unmap_and_move, "migratepage", migratepage)


def a_private_write_goes_into_the_file(patch: Patch) -> None:
    def needs(original: Any, memory: Memory, vma: Vma, *rest: Any) -> Any:
        found = original(memory, vma, *rest)
        if vma.copies_file:
            found.reuse, found.copy = np.append(found.reuse, found.copy), found.copy[:0]
        return found

    wrap(patch, fault, "_needs", needs)


def mlocked_pages_move_at_the_seed(patch: Patch) -> None:
    def migratable(original: Any, vma: Vma, profile: Any) -> bool:
        return not vma.vm_flags & NOT_MIGRATABLE

    wrap(patch, mempolicy, "vma_migratable", migratable)
    for module in (few, unmap_and_move):
        patch.setattr(module, "has_mlocked", lambda memory, mapping: False)


def mbind_forgets_the_policy(patch: Patch) -> None:
    def new_page(original: Any, memory: Memory, task: Any, local: int, *of_list: Any) -> Any:
        return np.full(of_list[1].size, local, np.int32)

    wrap(patch, mbind, "new_vma_page", new_page)


def madvise_drops_nothing(patch: Patch) -> None:
    def zap(original: Any, memory: Memory, mm: Mm, start: int, end: int) -> Any:
        return original(memory, mm, start, start)

    wrap(patch, madvise, "zap_page_range", zap)


def pages_around_a_fault_are_told_writable(patch: Patch) -> None:
    def tell(original: Any, memory: Memory, vma: Vma, slot: Any, rows: Any, answer: Any) -> None:
        original(memory, vma, slot, rows, answer)
        answer.writable[rows] = 1

    wrap(patch, fault_around, "tell", tell)


def hooks_of_vmas_are_not_called(patch: Patch) -> None:
    def hooks(original: Any, *args: Any, **more: Any) -> Generator[Any, Any, int]:
        yield from ()
        return 0

    wrap(patch, mempolicy, "migrate_vmas", hooks)


BUGS: list[tuple[Bug, str, Load]] = [
    (an_echo_is_executed_again, f"{HISTORY}|{TABLES}|{ORACLE}|{CORE}", ANY),
    (a_late_echo_is_executed, f"{HISTORY}|{TABLES}|{CORE}", ANY),
    (pages_are_served_while_they_are_copied, HISTORY, MOVES),
    (a_stale_generation_is_served, HISTORY, ANY),
    (the_source_is_freed_before_the_commit, TABLES, ANY),
    (pages_land_in_the_wrong_order, HISTORY, ANY),
    (a_landing_says_ok_and_writes_nothing, HISTORY, ANY),
    (new_pages_are_not_zeroed, HISTORY, ANY),
    (an_unused_target_frame_is_not_freed, TABLES, ANY),
    (failed_pages_are_not_put_back, TABLES, ANY),
    (pending_pages_are_not_drained, ORACLE, Load(CALLS)),
    (a_pin_is_overlooked, ORACLE, Load(CALLS)),
    (from_and_to_are_swapped, ORACLE, Load(CALLS)),
    (pairs_are_taken_as_they_come, ORACLE, Load(CALLS)),
    (the_last_vma_is_skipped, ORACLE, Load(CALLS)),
    (shared_pages_move_without_move_all, ORACLE, SHARED),
    (there_is_one_pass, ORACLE, Load(CALLS)),
    (no_pass_is_forced, ORACLE, Load(CALLS)),
    (enomem_does_not_end_the_call, ORACLE, Load(CALLS | FULL)),
    (pages_to_be_retried_are_not_counted, ORACLE, Load(CALLS)),
    (entries_name_the_wrong_frame, CORE, ANY),
    (failed_pages_are_restored_writable, HISTORY, WRITE_PROTECTED),
    (munmap_does_not_tell_the_nodes, f"{TABLES}|no value at all", ANY),
    (fork_leaves_the_parent_writable, HISTORY, Load(RACES, {"fork": 8, "store": 20, "touch": 4})),
    (a_move_is_not_recorded, JOURNAL, ANY),
    (mapcount_is_not_kept, CORE, ANY),
    (the_method_of_a_file_is_not_asked, ORACLE, Load(CALLS, {"mapfile": 8})),
    (a_private_write_goes_into_the_file, f"{HISTORY}|{CORE}", FILES),
    (mlocked_pages_move_at_the_seed, ORACLE, Load(CALLS | {"profile": "seed"}, {"lock": 20})),
    (mbind_forgets_the_policy, ORACLE, Load(CALLS)),
    (madvise_drops_nothing, HISTORY, ANY),
    (hooks_of_vmas_are_not_called, ORACLE, Load(CALLS, {"special": 8})),
    (pages_around_a_fault_are_told_writable, HISTORY, AROUND),
]


@pytest.mark.parametrize(("bug", "says", "load"), BUGS, ids=lambda p: getattr(p, "__name__", ""))
def test_the_bug_is_caught(bug: Bug, says: str, load: Load) -> None:
    is_caught(bug, says, load)
