"""The journal tells everything: read back, it gives the page tables that the coordinator has."""

from __future__ import annotations

import random

import pytest

from coordinator.life import State
from coordinator.mm import PROT_READ
from coordinator.records import AllocationsCounted, EntriesChanged, PagesCommitted, PagesMapped
from coordinator.replay import differences, replay
from protocol.codec import decode_entry
from protocol.messages import PutbackLruPages
from protocol.syscalls import Mprotect, Munmap
from tests.calls import migration
from tests.lab import PAGE, RW, Lab


def told(lab: Lab) -> list[str]:
    """In what the journal differs from memory."""
    return list(differences(replay(lab.topology, lab.records), lab.memory))


def live_for_a_while(lab: Lab, rng: random.Random, steps: int) -> None:
    """Tasks map, write, fork, protect, unmap, move and exit, as the seed has it."""
    areas: dict[int, list[tuple[int, int]]] = {lab.spawn(cpu=0): [] for _ in range(2)}
    for pid, area in areas.items():
        area.append((lab.mapped(pid, 12, shared=bool(pid % 2)), 12))
    for _ in range(steps):
        pid = rng.choice(list(areas))
        start, pages = rng.choice(areas[pid])
        at, count = start + rng.randrange(pages), 1
        match rng.randrange(7):
            case 0 if len(areas) < 6:
                areas[lab.fork(pid)] = list(areas[pid])
            case 1:
                lab.call(Mprotect(pid, at * PAGE, count * PAGE, rng.choice([PROT_READ, RW])))
            case 2:
                lab.call(Munmap(pid, at * PAGE, count * PAGE))
            case 3:
                nodes = rng.sample(range(4), 3)
                lab.migrate(pid, nodes[:2], nodes[2])
            case 4:
                lab.move(pid, [at], [rng.randrange(4)], flags=4)
            case 5 if len(areas) > 2:
                lab.exit(pid)
                del areas[pid]
            case _:
                lab.fault(pid, start, pages, access=rng.randrange(2), cpu=rng.randrange(4))


@pytest.mark.parametrize("seed", range(12))
def test_the_journal_gives_back_what_the_coordinator_knows(seed: int) -> None:
    lab = Lab()
    live_for_a_while(lab, random.Random(seed), steps=40)
    lab.validate()
    assert told(lab) == []


@pytest.mark.parametrize("entry", [PagesMapped, PagesCommitted, EntriesChanged])
def test_an_entry_that_is_missing_shows(entry: type) -> None:
    lab = Lab()
    pid = lab.spawn()
    start = lab.mapped(pid, 4)
    lab.exit(lab.fork(pid))
    lab.fault(pid, start, 4)
    lab.migrate(pid, 0, 1)
    assert told(lab) == []
    missing = next(raw for raw in lab.records if isinstance(decode_entry(raw), entry))
    lab.records.remove(missing)
    try:
        assert told(lab) != []
    except (AssertionError, KeyError):
        # Entries after it do not even fit any more.
        return


def test_a_migration_of_neighbours_costs_the_journal_few_bytes() -> None:
    lab = Lab(frames=2048, chunk_pages=1024)
    pid = lab.spawn()
    lab.mapped(pid, 1024)
    before = sum(map(len, lab.records))
    assert lab.migrate(pid, 0, 1) == 0
    assert sum(map(len, lab.records)) - before < 400


def test_the_commit_is_recorded_before_anything_that_depends_on_it_is_sent(lab: Lab) -> None:
    pid = lab.spawn()
    lab.mapped(pid, 1)
    lab.hold_back(PutbackLruPages)
    before = len(lab.records)
    lab.start(migration(0, pid, (0,), (1,)))
    lab.run()
    (pages,) = lab.memory.page_lists
    assert pages.count(State.SETTLING) == 1
    recorded = [type(decode_entry(entry)) for entry in lab.records[before:]]
    assert recorded == [AllocationsCounted, PagesCommitted]
    lab.let_go(PutbackLruPages)
