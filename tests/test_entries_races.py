"""Migrations that hold no mmap_sem, and calls of a family that overlap in every way (K 1F)."""

from __future__ import annotations

import errno
import random

import numpy as np
import pytest

from coordinator.calls import Steps
from coordinator.mem_map import PageFlag
from coordinator.mempolicy import migrate_prep, new_node_page
from coordinator.migrate import migrate_pages
from coordinator.mm import PROT_READ, Pte
from coordinator.pagelist import PageList, Settings
from protocol.messages import (
    CopyPages,
    Done,
    IsolateLruPage,
    NewPages,
    PutbackLruPages,
    PutPages,
    SetGeneration,
    UnlockPages,
)
from protocol.profile import MODERN, SEED
from protocol.schema import Message
from protocol.syscalls import Exit, Fault, Fork, Mprotect, Munmap
from tests.calls import migration
from tests.filing import assert_journal_tells_all, create, map_file, unlink
from tests.lab import PAGE, RW, Lab, pages_from


def value_of(lab: Lab, call: int) -> int:
    answer = lab.answer_to(call)
    assert isinstance(answer, Done), f"the call was answered {answer}"
    return answer.value


# ---- a migration that holds no mmap_sem -----------------------------------------------------


def evacuate(lab: Lab, source: int, target: int) -> None:
    """Start to move all that is mapped on a node, whoever maps it, without any mmap_sem."""
    frames = lab.memory.mem_map[source]
    mapped = (frames.mapcount > 0) & ((frames.flags & ~np.uint8(PageFlag.ALLOCATED)) == 0)
    pfn = np.flatnonzero(mapped).astype(np.uint32)
    if not pfn.size:
        return
    nid = np.full(pfn.size, source, np.uint8)
    lab.memory.hold(nid, pfn)
    pages = PageList(0)
    pages.add(nid, pfn, np.zeros(pfn.size, np.int64))

    def steps() -> Steps[Message]:
        yield from migrate_prep(lab.memory)
        moved = yield from migrate_pages(lab.memory, pages, new_node_page, target, Settings())
        return Done(moved)

    lab.coordinator._start(steps(), None, "evacuate")
    # What it asks leaves the Core with the effects of the next event.
    lab.numa_maps(next(iter(lab.memory.tasks)))


@pytest.mark.parametrize("kind", ["exit", "munmap"])
@pytest.mark.parametrize("stage", [IsolateLruPage, NewPages, CopyPages, PutbackLruPages, PutPages])
def test_a_page_that_is_freed_in_mid_move_is_no_failure_and_does_not_leak(
    lab: Lab, stage: type[Message], kind: str
) -> None:
    """K 1.27: the final putback frees it."""
    pid, other = lab.spawn(), lab.spawn()
    start, kept = lab.mapped(pid, 3), lab.mapped(other, 2)
    call = Exit(pid) if kind == "exit" else Munmap(pid, start * PAGE, 3 * PAGE)
    lab.hold_back(stage)
    evacuate(lab, 0, 1)
    lab.run()
    leaving = lab.start(call)
    lab.run()
    lab.coordinator.validate()
    lab.let_go(stage)
    assert value_of(lab, leaving) == 0
    assert lab.free() == [256, 254, 256, 256] and lab.where(other, kept, 2) == [1, 1]
    assert_journal_tells_all(lab)


@pytest.mark.parametrize("pinned", [False, True])
def test_fork_makes_write_entries_of_a_private_page_read_in_both(lab: Lab, pinned: bool) -> None:
    """K 1.42: only a migration that does not hold the parent's mmap_sem leaves WRITE ones."""
    parent = lab.spawn()
    start = lab.mapped(parent, 1)
    lab.write(parent, start, 1)
    where = lab.fault(parent, start)
    if pinned:
        lab.hold_pages(where, pinned=1)
    lab.hold_back(CopyPages)
    evacuate(lab, 0, 1)
    lab.run()
    entry = int(Pte.ENTRY | Pte.WRITE)
    assert int(lab.vma(parent, start).bits[0]) & entry == entry
    forking = lab.start(Fork(parent, -1, 0))
    assert lab.answer_to(forking) is None, "the parent's translation is served still"
    child = max(lab.memory.tasks)
    for pid in (parent, child):
        assert int(lab.vma(pid, start).bits[0]) & entry == Pte.ENTRY
    lab.let_go(CopyPages)
    assert value_of(lab, forking) == child
    assert lab.store(where, 0, 2) == -errno.ESTALE
    lab.write(child, start, 3)
    assert [lab.read(pid, start) for pid in (parent, child)] == [1, 3]
    assert_journal_tells_all(lab)


# ---- all at once ---------------------------------------------------------------------------

HELD_BACK: tuple[type[Message], ...] = (
    CopyPages,
    IsolateLruPage,
    NewPages,
    PutbackLruPages,
    PutPages,
    SetGeneration,
    UnlockPages,
)


def draw_call(rng: random.Random, areas: dict[int, list[int]]) -> Message:
    pid = rng.choice(list(areas))
    page = rng.choice(areas[pid]) + rng.randrange(4)
    source, target = rng.sample(range(3), 2)
    return rng.choice(
        [
            migration(0, pid, (source,), (target,)),
            migration(0, pid, (source,), (target,)),
            migration(0, pid, (source,), (target,)),
            Fault(pid, rng.randrange(3), rng.randrange(2), pages_from(page, 1)),
            Fault(pid, rng.randrange(3), rng.randrange(2), pages_from(page, 1)),
            Mprotect(pid, page * PAGE, PAGE, rng.choice([PROT_READ, RW])),
            Munmap(pid, page * PAGE, PAGE),
            Fork(pid, -1, 0),
            Exit(pid) if rng.random() < 0.3 else Fork(pid, -1, 0),
        ]
    )


@pytest.mark.parametrize("seed", range(40))
def test_whatever_meets_whatever_nothing_leaks_and_the_journal_tells_it(seed: int) -> None:
    """Calls of a family overlap, with one kind of message after another held back."""
    rng = random.Random(seed)
    lab = Lab(nodes=3, frames=64, profile=rng.choice([SEED, MODERN]))
    create(lab, "shmem", 4)
    root = lab.spawn()
    starts = [lab.mapped(root, 4), lab.mapped(root, 4, shared=True)]
    starts += [map_file(lab, root, 4), map_file(lab, root, 4, shared=False)]
    areas = {root: starts, lab.fork(root): starts, lab.fork(root): starts}
    for start in starts:
        lab.fault(root, start, 4, access=rng.randrange(2))
    calls: list[int] = []
    for _ in range(12):
        held = rng.sample(HELD_BACK, rng.randrange(1, 3))
        for cls in held:
            lab.hold_back(cls)
        for _ in range(rng.randrange(1, 6)):
            calls.append(lab.start(draw_call(rng, areas)))
            lab.run()
            if rng.random() < 0.2 and lab.memory.tasks:
                evacuate(lab, *rng.sample(range(3), 2))
            lab.run()
            lab.coordinator.validate()
        rng.shuffle(held)
        for cls in held:
            lab.let_go(cls)
            lab.coordinator.validate()
        areas = dict.fromkeys(lab.memory.tasks, starts) or {lab.spawn(): starts}
    assert all(lab.answer_to(call) is not None for call in calls)
    assert_journal_tells_all(lab)
    for pid in list(lab.memory.tasks):
        lab.exit(pid)
    unlink(lab)
    assert lab.free() == [64] * 3 and not lab.memory.mappings
    assert_journal_tells_all(lab)
