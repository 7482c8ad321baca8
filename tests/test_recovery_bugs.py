"""Recovery is checked sharply: bugs put into it, one at a time, and who catches each.

As in test_deliberate_bugs.py, but processes die: seed after seed is run until one fails with the
sentence that the bug deserves, and the same seed without the bug to see that it is the bug's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from coordinator import coordinator as coordinator_module
from coordinator import recovery
from coordinator.coordinator import Coordinator
from coordinator.members import Members
from coordinator.memory import Memory
from coordinator.records import GenerationsSet, PagesCommitted, PagesMapped
from nodes import node as node_module
from nodes import recovery as node_recovery
from nodes.node import Node
from nodes.recovery import Gate
from nodes.zone import Zone
from numalab.access import Access
from numalab.simulation.seeds import run_seed
from protocol.core import Record
from protocol.messages import RecoveredFrames
from protocol.session import Session
from tests.deliberate import CORE, HISTORY, JOURNAL, TABLES, Patch, wrap

SEEDS_MAX = 120


# ---- the journal -----------------------------------------------------------------------------


def records_come_after_the_messages(patch: Patch) -> None:
    def effects(original: Any, core: Coordinator) -> Any:
        return sorted(original(core), key=lambda effect: isinstance(effect, Record))

    wrap(patch, Coordinator, "_effects", effects)


def _forgets(kind: type) -> Callable[[Patch], None]:
    def bug(patch: Patch) -> None:
        def effects(original: Any, core: Coordinator) -> Any:
            core.memory.records = [e for e in core.memory.records if not isinstance(e, kind)]
            return original(core)

        wrap(patch, Coordinator, "_effects", effects)

    return bug


def a_first_touch_is_not_recorded(patch: Patch) -> None:
    _forgets(PagesMapped)(patch)


def a_commit_is_not_recorded(patch: Patch) -> None:
    _forgets(PagesCommitted)(patch)


def new_generations_are_not_recorded(patch: Patch) -> None:
    _forgets(GenerationsSet)(patch)


# ---- epochs and boot_ids ---------------------------------------------------------------------


def the_epoch_stays_the_same(patch: Patch) -> None:
    def begin(original: Any, memory: Memory, epoch: int) -> None:
        original(memory, 0)

    wrap(patch, recovery, "begin_epoch", begin)


def nodes_do_not_heed_a_new_epoch(patch: Patch) -> None:
    patch.setattr(Node, "_heed_epoch", lambda self: None)


def questions_for_a_dead_process_are_executed(patch: Patch) -> None:
    """The cache of answers died with it: a delayed question must not run on its successor."""

    def questioned(original: Any, session: Session, peer: Any, envelope: Any, message: Any) -> Any:
        return original(session, peer, envelope._replace(target_boot=session._boot), message)

    wrap(patch, Session, "_questioned", questioned)


def transfers_go_on_under_a_new_coordinator(patch: Patch) -> None:
    patch.setattr(Node, "_cancel", lambda self, transfer: None)


# ---- the recovery of a node ------------------------------------------------------------------


def orphans_are_kept(patch: Patch) -> None:
    def recover(original: Any, zone: Zone, asked: Any, *, free: bool) -> Any:
        return original(zone, asked, free=False)

    wrap(patch, node_module, "recover_frames", recover)


def a_node_serves_before_it_is_recovered(patch: Patch) -> None:
    patch.setattr(Gate, "keeps", lambda self, question: False)


def what_a_dead_coordinator_asked_is_done(patch: Patch) -> None:
    patch.setattr(node_recovery, "_is_of_task", lambda message: True)


def locked_pages_stay_locked(patch: Patch) -> None:
    patch.setattr(node_recovery, "_settle", lambda zone, pfn, flags, now, known: now)


def cut_migrations_leave_the_generation(patch: Patch) -> None:
    def settle(original: Any, zone: Zone, pfn: Any, flags: Any, now: Any, known: Any) -> Any:
        later = np.where((now - known).view(np.int32) >= 0, now, known)
        original(zone, pfn, np.zeros_like(flags), now, known)
        zone.putback_lru_pages(pfn, later)
        return later

    wrap(patch, node_recovery, "_settle", settle)


# ---- the recovery of the coordinator ---------------------------------------------------------


def calls_do_not_wait_for_recovery(patch: Patch) -> None:
    def asked(original: Any, core: Coordinator, question: Any) -> None:
        waiting, core.recovering = core.recovering, set()
        original(core, question)
        core.recovering = waiting

    wrap(patch, Coordinator, "_asked", asked)


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
                node.due = due[name]
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
    (a_first_touch_is_not_recorded, f"{HISTORY}|{CORE}|{JOURNAL}"),
    (a_commit_is_not_recorded, f"{HISTORY}|{CORE}|{JOURNAL}|{TABLES}"),
    (new_generations_are_not_recorded, f"{HISTORY}|{TABLES}|{CORE}|{JOURNAL}"),
    (the_epoch_stays_the_same, f"{HISTORY}|{TABLES}|{CORE}|{STUCK}"),
    (nodes_do_not_heed_a_new_epoch, f"{HISTORY}|{TABLES}|{CORE}"),
    (questions_for_a_dead_process_are_executed, f"{HISTORY}|{TABLES}|{CORE}"),
    (transfers_go_on_under_a_new_coordinator, f"{HISTORY}|{TABLES}|{CORE}|{STUCK}"),
    (orphans_are_kept, TABLES),
    (a_node_serves_before_it_is_recovered, f"{HISTORY}|{TABLES}|{CORE}"),
    (what_a_dead_coordinator_asked_is_done, f"{HISTORY}|{TABLES}|{CORE}"),
    (locked_pages_stay_locked, f"{TABLES}|{STUCK}"),
    (cut_migrations_leave_the_generation, f"{HISTORY}|{TABLES}"),
    (calls_do_not_wait_for_recovery, f"{HISTORY}|{TABLES}|{CORE}"),
    (frames_that_moves_left_behind_are_kept, TABLES),
    (generations_of_nodes_are_not_taken_over, f"{TABLES}|{STUCK}|{HISTORY}"),
    (the_journal_is_not_read, f"{HISTORY}|{TABLES}|{CORE}|{JOURNAL}"),
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
