"""TABLE: what the design promises of crashes, who shows it, and a bug that breaks the promise.

Sentences of docs/recovery.md and docs/design.md about boot_id, UUID, epoch, lock, redo, absolute
commands, the end of transfers and late bulk frames.  ``test_recovery_claims.py`` runs each scenario
as it is, and with its bug, when it must fail.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

import nodes.__main__ as node_process
from coordinator import coordinator as coordinator_module
from coordinator import fault, recovery
from coordinator.coordinator import Coordinator
from coordinator.memory import Memory
from coordinator.poison import poison_zone
from coordinator.records import PagesCommitted, PagesMapped
from nodes import node as node_module
from nodes import recovery as node_recovery
from nodes import zone as zone_module
from nodes.recovery import Gate
from nodes.transfer import Transfers
from nodes.zone import Zone
from protocol.session import Session
from tests import recovery_scenarios as shown
from tests.deliberate import Bug, Patch, wrap

# ---- bugs ------------------------------------------------------------------------------------


def any_boot_id_is_good(patch: Patch) -> None:
    def questioned(original: Any, session: Session, peer: Any, envelope: Any, message: Any) -> Any:
        return original(session, peer, replace(envelope, target_boot=session._boot), message)

    wrap(patch, Session, "_questioned", questioned)


def any_epoch_is_good(patch: Patch) -> None:
    def questioned(original: Any, session: Session, peer: Any, envelope: Any, message: Any) -> Any:
        return original(session, peer, replace(envelope, epoch=session._epoch), message)

    wrap(patch, Session, "_questioned", questioned)


def questions_to_a_dead_process_stay_open(patch: Patch) -> None:
    wrap(patch, Session, "_meet", lambda original, *args: original(*args)[:0])


def a_restart_counts_as_a_loss(patch: Patch) -> None:
    def recover(original: Any, memory: Memory, nid: int, *, revoke: bool) -> Any:
        poison_zone(memory, nid)
        return original(memory, nid, revoke=revoke)

    wrap(patch, recovery, "recover_node", recover)


def another_uuid_is_taken_as_it_is(patch: Patch) -> None:
    def know(original: Any, memory: Memory, nid: int, uuid: str) -> None:
        memory.zones[nid] = uuid

    wrap(patch, recovery, "know_zone", know)


def the_epoch_is_not_kept_in_the_zone(patch: Patch) -> None:
    patch.setattr(Zone, "epoch", property(lambda zone: 0, lambda zone, epoch: None))


def a_zone_is_not_locked(patch: Patch) -> None:
    patch.setattr(node_process, "_lock", lambda descriptor, path: None)


def what_was_cut_is_forgotten(patch: Patch) -> None:
    patch.setattr(zone_module, "next_incarnation", lambda generation: generation)


def a_put_frees_whatever_is_there(patch: Patch) -> None:
    def put(original: Any, zone: Zone, pfn: Any, generation: Any) -> Any:
        return original(zone, pfn, zone._generation[pfn])

    wrap(patch, Zone, "put_pages", put)


def unlocking_does_not_cancel(patch: Patch) -> None:
    patch.setattr(Transfers, "_cancel", lambda transfers, transfer: None)


def a_late_frame_lands_anywhere(patch: Patch) -> None:
    def land(original: Any, zone: Zone, pfn: Any, generation: Any, *rest: Any) -> Any:
        return original(zone, pfn, zone._generation[pfn], *rest)

    wrap(patch, Zone, "land", land)


def forgets(kind: type) -> Bug:
    def bug(patch: Patch) -> None:
        def effects(original: Any, core: Coordinator) -> Any:
            core.memory.records = [e for e in core.memory.records if not isinstance(e, kind)]
            return original(core)

        wrap(patch, Coordinator, "_effects", effects)

    bug.__name__ = f"{kind.__name__}_is_not_recorded"
    return bug


def orphans_are_kept(patch: Patch) -> None:
    def recover(original: Any, zone: Zone, asked: Any, *, free: bool) -> Any:
        return original(zone, asked, free=False)

    wrap(patch, node_module, "recover_frames", recover)


def the_epoch_stays_the_same(patch: Patch) -> None:
    def restore(original: Any, memory: Memory, entries: Any) -> None:
        original(memory, entries)
        memory.epoch = 0

    wrap(patch, coordinator_module, "restore", restore)


def calls_do_not_wait_for_recovery(patch: Patch) -> None:
    def asked(original: Any, core: Coordinator, question: Any) -> None:
        waiting, core.recovering = core.recovering, set()
        original(core, question)
        core.recovering = waiting

    wrap(patch, Coordinator, "_asked", asked)


def a_node_serves_before_it_is_recovered(patch: Patch) -> None:
    patch.setattr(Gate, "keeps", lambda gate, question: False)


def what_a_dead_coordinator_asked_is_done(patch: Patch) -> None:
    patch.setattr(node_recovery, "_is_of_task", lambda message: True)


def translations_outlive_the_coordinator(patch: Patch) -> None:
    def recover(original: Any, memory: Memory, nid: int, *, revoke: bool) -> Any:
        return original(memory, nid, revoke=False)

    wrap(patch, recovery, "recover_node", recover)


def a_cut_migration_leaves_the_generation(patch: Patch) -> None:
    def settle(original: Any, zone: Zone, pfn: Any, flags: Any, now: Any, known: Any) -> Any:
        zone.putback_lru_pages(pfn, now)
        return now

    wrap(patch, node_recovery, "_settle", settle)


def moves_to_a_lost_zone_are_not_reverted(patch: Patch) -> None:
    patch.setattr(coordinator_module, "revert_moves", lambda memory, nid: None)


def poisoned_pages_are_served(patch: Patch) -> None:
    patch.setattr(fault, "poisoned", lambda vma, slot: np.zeros(slot.size, np.bool_))


# ---- the table -------------------------------------------------------------------------------


class Claim(NamedTuple):
    """What is promised, the scenario that shows it, and a bug with which it fails."""

    sentence: str
    scenario: Callable[[], None]
    bug: Bug


CLAIMS = (
    Claim(
        "A question names the boot_id that it is meant for, and no other incarnation executes it.",
        shown.a_question_for_a_dead_process_is_refused_by_its_successor,
        any_boot_id_is_good,
    ),
    Claim(
        "A new boot_id ends every question pending to that peer as -ENODEV, indefinite.",
        shown.a_restart_of_the_peer_ends_what_it_was_asked,
        questions_to_a_dead_process_stay_open,
    ),
    Claim(
        "A lower epoch is refused.",
        shown.a_node_that_was_stopped_meanwhile_is_refused,
        any_epoch_is_good,
    ),
    Claim(
        "Nodes keep the highest epoch in the zone.",
        shown.the_epoch_outlives_the_process_of_a_node,
        the_epoch_is_not_kept_in_the_zone,
    ),
    Claim(
        "A coordinator that starts from a journal has the next epoch.",
        shown.a_coordinator_has_the_epoch_after_its_predecessors,
        the_epoch_stays_the_same,
    ),
    Claim(
        "A new boot_id never proves that pages are lost.",
        shown.a_node_that_restarts_has_all_its_pages,
        a_restart_counts_as_a_loss,
    ),
    Claim(
        "Another UUID proves it: the pages are poisoned.",
        shown.pages_of_a_lost_zone_are_poisoned,
        another_uuid_is_taken_as_it_is,
    ),
    Claim(
        "An access to a poisoned page is -EHWPOISON.",
        shown.pages_of_a_lost_zone_are_poisoned,
        poisoned_pages_are_served,
    ),
    Claim(
        "Moves that were committed and not served before a zone was lost have not happened.",
        shown.a_zone_that_is_lost_between_commit_and_service_costs_no_page,
        moves_to_a_lost_zone_are_not_reverted,
    ),
    Claim(
        "Two processes never map one zone.",
        shown.a_zone_in_use_is_refused,
        a_zone_is_not_locked,
    ),
    Claim(
        "A change of several words that is cut in the middle is finished when the zone is opened.",
        shown.a_free_that_was_cut_is_finished,
        what_was_cut_is_forgotten,
    ),
    Claim(
        "Commands are absolute: a put of a generation that is gone answers OK, and does nothing.",
        shown.a_put_that_comes_again_frees_nobody_elses_frame,
        a_put_frees_whatever_is_there,
    ),
    Claim(
        "A source is unlocked only when its transfer has ended.",
        shown.unlocking_ends_the_transfer,
        unlocking_does_not_cancel,
    ),
    Claim(
        "A late bulk frame never lands in a frame that was given to another page.",
        shown.a_late_batch_lands_nowhere,
        a_late_frame_lands_anywhere,
    ),
    Claim(
        "With a new epoch, nodes end the transfers of the coordinator before.",
        shown.a_new_coordinator_ends_transfers,
        unlocking_does_not_cancel,
    ),
    Claim(
        "Every change of a mapping is recorded before it is answered, first touch included.",
        shown.what_was_touched_is_there_after_a_failover,
        forgets(PagesMapped),
    ),
    Claim(
        "A commit that is in the journal counts.",
        shown.a_committed_move_is_finished,
        forgets(PagesCommitted),
    ),
    Claim(
        "Frames of which nobody was told are freed.",
        shown.orphans_are_freed,
        orphans_are_kept,
    ),
    Claim(
        "Until every node has settled, calls wait.",
        shown.calls_wait_until_every_node_has_settled,
        calls_do_not_wait_for_recovery,
    ),
    Claim(
        "A node that is not recovered executes nothing that tasks ask.",
        shown.a_node_waits_for_its_recovery,
        a_node_serves_before_it_is_recovered,
    ),
    Claim(
        "What a dead coordinator had asked and was not done is forgotten.",
        shown.what_waits_for_a_dead_coordinator_is_dropped,
        what_a_dead_coordinator_asked_is_done,
    ),
    Claim(
        "With a new coordinator, every translation that was given before is void.",
        shown.rights_taken_and_not_told_stay_taken,
        translations_outlive_the_coordinator,
    ),
    Claim(
        "A page whose migration was cut short has another generation.",
        shown.rights_taken_from_a_page_on_its_way_stay_taken,
        a_cut_migration_leaves_the_generation,
    ),
)
