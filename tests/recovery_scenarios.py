"""Short stories of crashes, each of which can fail; ``recovery_claims.py`` says what they show."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest

import nodes.__main__ as node_process
from coordinator.poison import EHWPOISON
from nodes import layout
from nodes.__main__ import NodeConfiguration, open_zone
from nodes.flags import FREEING
from nodes.zone import Zone
from protocol.bulk import land_pages
from protocol.core import ConfigurationError, Frames, Send
from protocol.messages import (
    CopyPages,
    Done,
    LandPages,
    MigratePrep,
    NewPages,
    PutbackLruPages,
    PutPages,
    RecoverFrames,
    StoreBytes,
    UnlockPages,
)
from protocol.notes import StaleRefused
from protocol.schema import Message, node_name
from protocol.syscalls import DescribeHardware, Fault, Hardware, Munmap
from tests.calls import migration
from tests.crashes import CrashLab
from tests.lab import PAGE, READ, WRITE, pages_from
from tests.wire import Wire, copying, stamps, touched
from tests.zones import u32

PAGES = 4


def letters(wire: Wire, nid: int, message: Message) -> list[Frames]:
    """The question as it would leave; it does not."""
    wire.ask(nid, message)
    return [sent.frames for sent in wire.coordinator.take_effects() if isinstance(sent, Send)]


def written(lab: CrashLab, *, shared: bool = False) -> tuple[int, int]:
    pid = lab.spawn()
    start = lab.mapped(pid, PAGES, shared=shared)
    for page in range(PAGES):
        lab.write(pid, start + page, 50 + page)
    return pid, start


def contents(lab: CrashLab, pid: int, start: int) -> list[int]:
    return [lab.read(pid, start + page) - 50 for page in range(PAGES)]


def moving(stops_at: type[Message], target: str = "") -> tuple[CrashLab, int, int]:
    """Pages are on their way from node 0 to node 1 until this question."""
    lab = CrashLab()
    pid, start = written(lab)
    lab.hold_back(stops_at, target)
    lab.start(migration(0, pid, (0,), (1,)))
    lab.run()
    assert lab.held(stops_at)
    return lab, pid, start


# ---- boot_id and epoch -----------------------------------------------------------------------


def a_question_for_a_dead_process_is_refused_by_its_successor() -> None:
    wire = Wire()
    pfn, generation = touched(wire, 1)
    late = letters(wire, 0, PutPages(pfn, generation))
    wire.restart(0)
    wire.deliver(node_name(0), late[0])
    assert wire.zones[0].count()["free"] == wire.frames - 1
    assert wire.noted(StaleRefused)


def a_restart_of_the_peer_ends_what_it_was_asked() -> None:
    wire = Wire()
    wire.loses = lambda message: isinstance(message, MigratePrep)
    ticket = wire.ask(0, MigratePrep())
    wire.settle()
    wire.restart(0)
    wire.loses = lambda message: False
    wire.now += 1.0
    wire.coordinator.tick(now=wire.now)
    wire.settle()
    assert ticket in wire.answers and wire.answers[ticket].status < 0


def a_node_that_was_stopped_meanwhile_is_refused() -> None:
    """Its batch was under way when it was stopped; it wakes up under another coordinator."""
    lab, pid, start = moving(LandPages)
    lab.recover()
    refused = len([n for n in lab.noted(StaleRefused) if n.reason == "epoch"])
    lab.let_go(LandPages)
    assert len([n for n in lab.noted(StaleRefused) if n.reason == "epoch"]) > refused
    assert contents(lab, pid, start) == list(range(PAGES))


def the_epoch_outlives_the_process_of_a_node() -> None:
    wire = Wire()
    wire.coordinator = wire.rule(epoch=5)
    wire.recover(0)
    wire.restart(0)
    wire.coordinator = wire.rule(epoch=4)
    with pytest.raises(AssertionError, match="deposed"):
        wire.asked(0, MigratePrep())


def a_coordinator_has_the_epoch_after_its_predecessors() -> None:
    lab = CrashLab()
    for epoch in (1, 2, 3):
        assert lab.ask(DescribeHardware(), Hardware).epoch == epoch
        lab.failover()
        lab.wait(5.0)


# ---- zones -----------------------------------------------------------------------------------


def a_node_that_restarts_has_all_its_pages() -> None:
    lab = CrashLab()
    pid, start = written(lab)
    lab.restart(0)
    lab.wait(5.0)
    assert contents(lab, pid, start) == list(range(PAGES))


def pages_of_a_lost_zone_are_poisoned() -> None:
    lab = CrashLab()
    pid, start = written(lab)
    lab.replace_zone(0)
    lab.wait(5.0)
    lab.recover()
    assert lab.fault(pid, start, PAGES).status.tolist() == [-EHWPOISON] * PAGES
    lab.validate()


def a_zone_that_is_lost_between_commit_and_service_costs_no_page() -> None:
    lab, pid, start = moving(PutbackLruPages, "node1")
    lab.replace_zone(1)
    lab.wait(5.0)
    lab.recover()
    lab.drop_held()
    assert contents(lab, pid, start) == list(range(PAGES))


def a_zone_in_use_is_refused() -> None:
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(node_process, "LOCK_SECONDS", 0.0)
        configuration = NodeConfiguration(
            bind="",
            peers={},
            key="0" * 32,
            nids=(0,),
            nid=0,
            zone=str(Path(directory) / "zone"),
            page_size=PAGE,
            frames=8,
        )
        refused = pytest.raises(ConfigurationError, match="in use")
        with open_zone(configuration), refused, open_zone(configuration):
            pass


def a_free_that_was_cut_is_finished() -> None:
    buffer = bytearray(Zone.size_of(8, PAGE))
    zone = Zone.format(buffer, nid=0, page_size=PAGE, frames=8, uuid=bytes(16))
    _, pfn, generation = zone.new_pages(1, u32(1), u32(1))
    layout.read(buffer).flags[pfn[0]] = FREEING
    opened = Zone.open(buffer)
    assert opened.count()["free"] == 8
    assert opened.new_pages(1, u32(1), u32(1))[2][0] != generation[0]


# ---- commands and transfers ------------------------------------------------------------------


def a_put_that_comes_again_frees_nobody_elses_frame() -> None:
    wire = Wire(frames=1)
    pfn, generation = touched(wire, 1)
    assert wire.statuses(0, PutPages(pfn, generation)) == [0]
    touched(wire, 1)
    assert wire.statuses(0, PutPages(pfn, generation)) == [0]
    assert wire.zones[0].count()["free"] == 0


def unlocking_ends_the_transfer() -> None:
    wire = Wire()
    source = touched(wire, 2)
    wire.loses = lambda message: isinstance(message, LandPages)
    ticket = wire.ask(0, copying(wire, source))
    wire.settle()
    assert ticket not in wire.answers
    wire.statuses(0, UnlockPages(77, *source, source[1] + np.uint32(1)))
    assert ticket in wire.answers


def a_late_batch_lands_nowhere() -> None:
    wire = Wire()
    order = copying(wire, touched(wire, 1))
    late = LandPages(
        77, order.target_pfn, order.target_generation, np.zeros(1, np.uint8), b"\xff" * PAGE
    )
    wire.statuses(1, PutPages(order.target_pfn, order.target_generation))
    # The frame is another page's by now, and that has its contents already.
    other = copying(wire, touched(wire, 2))
    assert other.target_pfn[0] == order.target_pfn[0]
    assert wire.statuses(0, other) == [0, 0]
    land_pages(wire.zones[1], late)
    assert stamps(wire, 1, other.target_pfn[1:], other.target_generation[1:]) == [1]
    assert stamps(wire, 1, other.target_pfn[:1], other.target_generation[:1]) == [0]


def a_new_coordinator_ends_transfers() -> None:
    """As soon as the node hears of it, and not when the batch is given up."""
    lab, pid, start = moving(LandPages)
    lab.failover()
    lab.wait(0.5)
    assert not lab.cores[node_name(0)]._transfers  # type: ignore[attr-defined]
    lab.drop_held()
    lab.wait(5.0)
    assert contents(lab, pid, start) == list(range(PAGES))


# ---- the journal -----------------------------------------------------------------------------


def what_was_touched_is_there_after_a_failover() -> None:
    lab = CrashLab()
    pid, start = written(lab)
    lab.recover()
    assert contents(lab, pid, start) == list(range(PAGES))


def a_committed_move_is_finished() -> None:
    lab, pid, start = moving(PutbackLruPages, "node1")
    lab.recover()
    lab.drop_held()
    assert lab.where(pid, start, PAGES) == [1] * PAGES
    assert contents(lab, pid, start) == list(range(PAGES))


def orphans_are_freed() -> None:
    lab = CrashLab()
    pid = lab.spawn()
    start = lab.mmap(pid, PAGES)
    lab.hold_back(NewPages)
    lab.start(Fault(pid, 0, WRITE, pages_from(start, PAGES)))
    lab.run()
    lab.let_pass(NewPages, answered=False)
    lab.recover()
    assert lab.free() == [256] * 4


# ---- who waits -------------------------------------------------------------------------------


def calls_wait_until_every_node_has_settled() -> None:
    """A node that has not heard of the new epoch may serve what was taken away by now."""
    lab = CrashLab()
    pid, start = written(lab)
    lab.hold_back(RecoverFrames, "node2")
    lab.failover()
    lab.wait(3.0)
    assert lab.ask(DescribeHardware(), Hardware).up.tolist() == [1, 1, 0, 1]
    munmap = lab.start(Munmap(pid, start * PAGE, PAGE))
    lab.wait(3.0)
    assert lab.answer_to(munmap) is None
    lab.let_go(RecoverFrames)
    lab.wait(3.0)
    assert isinstance(lab.answer_to(munmap), Done)


def a_node_waits_for_its_recovery() -> None:
    """munmap is in the journal, and the node has not heard of it: nobody may store there."""
    lab = CrashLab()
    pid, start = written(lab)
    where = lab.fault(pid, start)
    lab.hold_back(PutPages)
    lab.start(Munmap(pid, start * PAGE, PAGE))
    lab.run()
    lab.hold_back(RecoverFrames, "node0")
    lab.failover()
    lab.wait(3.0)
    zero, data = np.zeros(1, np.uint32), bytes(8)
    store = lab.start(StoreBytes(8, where.pfn, where.generation, zero, data), "node0")
    assert lab.answer_to(store) is None


def what_waits_for_a_dead_coordinator_is_dropped() -> None:
    """The node had restarted, and what it was asked again waited when the coordinator died."""
    lab = CrashLab()
    pid = lab.spawn()
    start = lab.mmap(pid, PAGES)
    lab.hold_back(NewPages)
    lab.start(Fault(pid, 0, WRITE, pages_from(start, PAGES)))
    lab.run()
    lab.restart(0)
    lab.hold_back(RecoverFrames, "node0")
    lab.let_go(NewPages)
    lab.wait(3.0)
    lab.failover()
    lab.wait(1.0)
    lab.let_go(RecoverFrames)
    lab.wait(5.0)
    assert lab.free() == [256] * 4


def rights_taken_and_not_told_stay_taken() -> None:
    """A copy-on-write is recorded, and whoever read the original has still to ask again."""
    lab = CrashLab()
    pid, start = written(lab)
    lab.fork(pid)
    reader = lab.fault(pid, start, access=READ)
    lab.hold_back(PutbackLruPages)
    lab.start(Fault(pid, 0, WRITE, pages_from(start, 1)))
    lab.run()
    lab.recover()
    lab.drop_held()
    lab.write(pid, start, 99)
    assert lab.load(reader, 0)[0] != 0


def rights_taken_from_a_page_on_its_way_stay_taken() -> None:
    lab = CrashLab()
    pid, start = written(lab, shared=True)
    child = lab.fork(pid)
    where = lab.fault(child, start)
    lab.hold_back(CopyPages)
    lab.start(migration(0, pid, (0,), (1,)))
    lab.run()
    lab.start(Munmap(child, start * PAGE, PAGE))
    lab.recover()
    lab.drop_held()
    assert lab.store(where, 0, 99) != 0
    assert lab.read(pid, start) == 50
