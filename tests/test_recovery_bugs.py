"""Recovery is checked sharply: bugs put into it, one at a time, and who catches each.

As in test_deliberate_bugs.py, but processes die: seed after seed is run until one fails with the
sentence that the bug deserves, and the same seed without the bug to see that it is the bug's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from coordinator import coordinator as coordinator_module
from coordinator import recovery
from coordinator.coordinator import Coordinator
from coordinator.members import Members
from coordinator.memory import Memory
from coordinator.records import GenerationsSet, PagesCommitted, PagesMapped
from nodes import recovery as node_recovery
from numalab.access import Access
from numalab.simulation.seeds import run_seed
from protocol.core import Record
from protocol.messages import RecoveredFrames
from tests.deliberate import CORE, HISTORY, JOURNAL, TABLES, Patch, wrap
from tests.recovery_claims import forgets, orphans_are_kept

SEEDS_MAX = 120


# ---- the journal -----------------------------------------------------------------------------


def records_come_after_the_messages(patch: Patch) -> None:
    def effects(original: Any, core: Coordinator) -> Any:
        return sorted(original(core), key=lambda effect: isinstance(effect, Record))

    wrap(patch, Coordinator, "_effects", effects)


# ---- the recovery of a node ------------------------------------------------------------------


def locked_pages_stay_locked(patch: Patch) -> None:
    patch.setattr(node_recovery, "_settle", lambda zone, pfn, flags, now, known: now)


# ---- the recovery of the coordinator ---------------------------------------------------------


def frames_that_moves_left_behind_are_kept(patch: Patch) -> None:
    patch.setattr(recovery, "free_unused", lambda memory, nid: None)


def generations_of_nodes_are_not_taken_over(patch: Patch) -> None:
    def take(original: Any, memory: Memory, nid: int, asked: Any, answer: Any) -> int:
        same = RecoveredFrames(answer.status, asked.generation, answer.freed)
        return int(original(memory, nid, asked, same))

    wrap(patch, recovery, "_take", take)


def the_journal_is_not_read(patch: Patch) -> None:
    patch.setattr(coordinator_module, "restore", lambda memory, entries: None)


def restarted_nodes_are_not_asked_what_they_are(patch: Patch) -> None:
    def answered(original: Any, members: Members, answer: Any, now: float) -> bool:
        due = {name: node.due for name, node in members._nodes.items()}
        result = bool(original(members, answer, now))
        for name, node in members._nodes.items():
            node.settled = node.settled or node.fits
            if answer.status < 0:
                members._ask_at(node, due[name])
        return result

    wrap(patch, Members, "answered", answered)


# ---- clients ---------------------------------------------------------------------------------


def a_store_that_nobody_answered_is_called_done(patch: Patch) -> None:
    def lose(access: Access, asked: Any) -> None:
        access._serve(asked.rows)

    patch.setattr(Access, "_lose", lose)


STUCK = "Stuck"
BUGS = [
    (records_come_after_the_messages, f"{HISTORY}|{TABLES}|{CORE}"),
    (forgets(PagesMapped), f"{HISTORY}|{CORE}|{JOURNAL}"),
    (forgets(PagesCommitted), f"{HISTORY}|{CORE}|{JOURNAL}|{TABLES}"),
    (forgets(GenerationsSet), f"{HISTORY}|{TABLES}|{CORE}|{JOURNAL}"),
    (orphans_are_kept, TABLES),
    (locked_pages_stay_locked, f"{TABLES}|{STUCK}"),
    (frames_that_moves_left_behind_are_kept, TABLES),
    (generations_of_nodes_are_not_taken_over, f"{TABLES}|{STUCK}|{HISTORY}"),
    (the_journal_is_not_read, "said ESRCH, but task .* lives"),
    (restarted_nodes_are_not_asked_what_they_are, STUCK),
    (a_store_that_nobody_answered_is_called_done, HISTORY),
]


@pytest.mark.parametrize(("bug", "says"), BUGS, ids=lambda part: getattr(part, "__name__", ""))
def test_the_bug_is_caught(bug: Callable[[Patch], None], says: str) -> None:
    assert any(caught(bug, says, seed) for seed in range(SEEDS_MAX)), (
        f"no seed below {SEEDS_MAX} says {says}"
    )


def caught(bug: Callable[[Patch], None], says: str, seed: int) -> bool:
    with pytest.MonkeyPatch.context() as patch:
        bug(patch)
        sentence = run_seed(seed, crashes=True).sentence
    return re.search(says, sentence) is not None and run_seed(seed, crashes=True).ok
