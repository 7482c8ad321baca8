"""What nodes do for who asks them: an ordinary course, and all that can go wrong on the way."""

from __future__ import annotations

import errno
from dataclasses import replace

import numpy as np
import pytest

from nodes.node import LAND_SECONDS, Node
from nodes.zone import Zone
from protocol.bulk import BATCH_PAGES, CREDIT
from protocol.core import Command, Send
from protocol.messages import (
    CopyPages,
    CountZone,
    Describe,
    Done,
    FrameInventory,
    Inventory,
    LandPages,
    LoadBytes,
    MigratePrep,
    NewPages,
    NodeDescription,
    PutPages,
    SetGeneration,
    Statuses,
    StoreBytes,
    UnlockPages,
    ZoneCount,
)
from protocol.notes import (
    AccessRefused,
    AccessServed,
    FrameDropped,
    PagesLanded,
    PagesSent,
    ZoneCounted,
)
from protocol.schema import Message
from protocol.session import Session
from protocol.syscalls import Fault
from tests.wire import AGAIN, KEY, Wire, copying, hold, stamps, touched
from tests.zones import PAGE, u32


@pytest.fixture
def wire() -> Wire:
    return Wire()


# ---- the ordinary course -------------------------------------------------------------------


def test_pages_go_straight_from_one_node_to_the_other(wire: Wire) -> None:
    pages = 5 * BATCH_PAGES + 3
    source = touched(wire, pages)
    order = copying(wire, source)
    wire.passed.clear()
    assert not any(wire.statuses(0, order))
    assert wire.passed.count(LandPages) == 6
    assert stamps(wire, 1, order.target_pfn, order.target_generation) == list(range(pages))
    assert sum(note.pages for note in wire.noted(PagesSent)) == pages  # type: ignore[attr-defined]
    landed = wire.noted(PagesLanded)[0]
    assert landed == PagesLanded("node0", BATCH_PAGES, BATCH_PAGES * PAGE)


def test_the_copied_pages_stay_locked_until_they_are_put(wire: Wire) -> None:
    source = touched(wire, 3)
    assert not any(wire.statuses(0, copying(wire, source)))
    load = LoadBytes(4, *source, u32(0, 0, 0))
    assert wire.asked(0, load).status.tolist() == [AGAIN] * 3  # type: ignore[attr-defined]
    assert wire.zones[0].count()["locked"] == 3
    assert not any(wire.statuses(0, PutPages(*source)))
    assert wire.zones[0].count()["free"] == wire.frames


def test_no_more_than_the_credit_is_in_flight_for_all_transfers_of_a_node(wire: Wire) -> None:
    source = touched(wire, 6 * BATCH_PAGES)
    order = copying(wire, source)
    half = 3 * BATCH_PAGES
    columns = (order.pfn, order.generation, order.target_pfn, order.target_generation)
    sent: list[int] = []

    def no_landing(message: Message | None) -> bool:
        if isinstance(message, LandPages):
            sent.append(message.transfer)
        return isinstance(message, LandPages)

    wire.loses = no_landing
    wire.ask(0, CopyPages(1, 1, 1, 0, *(column[:half] for column in columns)))
    wire.ask(0, CopyPages(2, 1, 1, 0, *(column[half:] for column in columns)))
    wire.settle()
    assert sent == [1, 1, 1, 2]
    assert len(sent) == CREDIT
    wire.loses = lambda message: False
    wire.pass_time(1)
    assert stamps(wire, 1, order.target_pfn, order.target_generation) == list(range(2 * half))


def test_a_copy_to_the_same_node_needs_no_message(wire: Wire) -> None:
    source = touched(wire, 300)
    order = copying(wire, source, target=0)
    wire.passed.clear()
    assert not any(wire.statuses(0, order))
    assert wire.passed == [CopyPages, Statuses]
    assert stamps(wire, 0, order.target_pfn, order.target_generation) == list(range(300))


@pytest.mark.parametrize("target", [0, 1])
def test_a_copy_without_the_lock_leaves_the_pages_readable(wire: Wire, target: int) -> None:
    source = touched(wire, 4)
    order = copying(wire, source, target=target, lock=0)
    assert not any(wire.statuses(0, order))
    assert wire.zones[0].count()["locked"] == 0
    assert stamps(wire, target, order.target_pfn, order.target_generation) == [0, 1, 2, 3]


def test_a_page_that_is_not_locked_may_change_while_its_copy_is_under_way(wire: Wire) -> None:
    source = touched(wire, 2)
    order = copying(wire, source, lock=0)
    wire.loses = lambda message: isinstance(message, LandPages)
    wire.ask(0, order)
    wire.settle()
    wire.loses = lambda message: False
    wire.statuses(0, StoreBytes(4, *source, u32(0, 0), b"\xff" * 8))
    wire.pass_time(1)
    assert wire.noted(FrameDropped) == []
    assert stamps(wire, 1, order.target_pfn, order.target_generation) == [0, 1]


# ---- pages that cannot go ------------------------------------------------------------------


def test_each_page_has_its_own_status(wire: Wire) -> None:
    source = touched(wire, 5)
    order = copying(wire, source)
    hold(wire, source, [0], locked=1, pinned=0)
    hold(wire, source, [1], locked=0, pinned=1)
    order = replace(order, generation=order.generation + u32(0, 0, 1, 0, 0))
    wire.statuses(1, PutPages(order.target_pfn[3:4], order.target_generation[3:4]))
    assert wire.statuses(0, order) == [AGAIN, AGAIN, -errno.ESTALE, -errno.ESTALE, 0]


def test_force_waits_for_who_holds_the_page_lock(wire: Wire) -> None:
    source = touched(wire, 3)
    order = copying(wire, source, force=1)
    hold(wire, source, [0, 2], locked=1, pinned=0)
    ticket = wire.ask(0, order)
    wire.settle()
    assert ticket not in wire.answers
    hold(wire, source, [0], locked=0, pinned=0)
    assert ticket not in wire.answers
    hold(wire, source, [2], locked=0, pinned=1)
    answer = wire.answers[ticket].message
    assert isinstance(answer, Statuses)
    assert answer.status.tolist() == [0, 0, AGAIN]


def test_a_page_that_waits_and_is_put_is_stale(wire: Wire) -> None:
    source = touched(wire, 1)
    order = copying(wire, source, force=1)
    hold(wire, source, [0], locked=1, pinned=0)
    ticket = wire.ask(0, order)
    wire.statuses(0, PutPages(*source))
    answer = wire.answers[ticket].message
    assert isinstance(answer, Statuses)
    assert answer.status.tolist() == [-errno.ESTALE]


def test_a_target_that_is_silent_gives_eagain_after_a_while(wire: Wire) -> None:
    source = touched(wire, 2)
    order = copying(wire, source)
    wire.loses = lambda message: isinstance(message, LandPages)
    ticket = wire.ask(0, order)
    wire.settle()
    wire.pass_time(LAND_SECONDS - 0.1)
    assert ticket not in wire.answers
    wire.pass_time(0.2)
    assert wire.answers[ticket].message.status.tolist() == [AGAIN] * 2  # type: ignore[union-attr]
    assert wire.noted(PagesSent) == []


def test_a_target_that_restarts_gives_eagain(wire: Wire) -> None:
    source = touched(wire, 2)
    order = copying(wire, source)
    wire.loses = lambda message: isinstance(message, LandPages)
    ticket = wire.ask(0, order)
    wire.settle()
    wire.loses = lambda message: False
    wire.restart(1)
    wire.pass_time(1)
    assert wire.answers[ticket].message.status.tolist() == [AGAIN] * 2  # type: ignore[union-attr]


def test_unlocking_ends_the_transfer_and_its_late_pages_harm_nobody(wire: Wire) -> None:
    source = touched(wire, BATCH_PAGES + 2)
    order = copying(wire, source)
    late: list[Message] = []

    def hold_back(message: Message | None) -> bool:
        if isinstance(message, LandPages):
            late.append(message)
        return isinstance(message, LandPages)

    wire.loses = hold_back
    ticket = wire.ask(0, order)
    wire.settle()
    assert len(late) == 2
    unlock = UnlockPages(order.transfer, *source, source[1] + np.uint32(1))
    assert not any(wire.statuses(0, unlock))
    answer = wire.answers[ticket].message
    assert isinstance(answer, Statuses)
    assert set(answer.status.tolist()) == {AGAIN}
    assert wire.zones[0].count()["locked"] == 0
    wire.pass_time(2 * LAND_SECONDS)
    assert len(late) == 2
    wire.loses = lambda message: False
    wire.statuses(1, PutPages(order.target_pfn, order.target_generation))
    before = bytes(wire.buffers[1])
    assert set(wire.statuses(1, late[0])) == {-errno.ESTALE}
    assert bytes(wire.buffers[1]) == before


def test_a_new_coordinator_ends_the_transfers_of_the_one_before(wire: Wire) -> None:
    source = touched(wire, 2)
    order = copying(wire, source, force=1)
    hold(wire, source, [1], locked=1, pinned=0)
    wire.loses = lambda message: isinstance(message, LandPages)
    wire.ask(0, order)
    wire.settle()
    wire.coordinator = wire.rule(epoch=2)
    assert isinstance(wire.asked(0, Describe()), NodeDescription)
    wire.recover(0)
    hold(wire, source, [1], locked=0, pinned=0)
    assert wire.zones[0].count()["locked"] == 1
    assert wire.nodes["node0"].next_deadline() is None
    assert Zone.open(wire.buffers[0]).epoch == 2


def test_a_new_epoch_and_a_restarted_target_may_be_learned_at_once(wire: Wire) -> None:
    order = copying(wire, touched(wire, 2))
    wire.loses = lambda message: isinstance(message, LandPages)
    wire.ask(0, order)
    wire.settle()
    wire.restart(1)
    wire.coordinator = wire.rule(epoch=2)
    wire.asked(1, Describe())
    # Node 1 asks node 0, so that one message tells both.
    peer = Session("node1", boot_id=2, key=KEY, epoch=2)
    peer.ask("node0", Describe(), now=wire.now)
    (frames,) = [effect.frames for effect in peer.take_effects() if isinstance(effect, Send)]
    wire.deliver("node0", frames)
    assert wire.nodes["node0"].next_deadline() is None


# ---- the rest of a node --------------------------------------------------------------------


def test_a_node_says_what_it_is_and_what_it_holds(wire: Wire) -> None:
    pfn, generation = touched(wire, 3)
    told = wire.asked(0, Describe())
    assert isinstance(told, NodeDescription)
    free = wire.frames - 3
    assert (told.nid, told.page_size, told.frames, told.free) == (0, PAGE, wire.frames, free)
    assert told.uuid == "00" * 16
    held = wire.asked(0, Inventory())
    assert isinstance(held, FrameInventory)
    assert held.pfn.tolist() == pfn.tolist()
    assert held.generation.tolist() == generation.tolist()
    assert (held.owner.tolist(), held.index.tolist()) == ([0, 1, 2], [0, 1, 2])
    count = wire.asked(0, CountZone())
    assert isinstance(count, ZoneCount)
    assert (count.frames, count.free, count.isolated, count.active) == (wire.frames, free, 3, 0)


def test_rights_that_are_taken_away_are_gone_at_once(wire: Wire) -> None:
    pfn, generation = touched(wire, 1)
    bump = SetGeneration(pfn, generation, generation + np.uint32(1))
    assert wire.statuses(0, bump) == [0]
    assert wire.statuses(0, StoreBytes(1, pfn, generation, u32(0), b"x")) == [-errno.ESTALE]
    assert wire.noted(AccessRefused) == [AccessRefused("store", 1)]
    assert wire.noted(AccessServed) == [AccessServed("store", 1)]


def test_the_zone_is_counted_once_for_each_event_that_changes_it(wire: Wire) -> None:
    wire.asked(0, Describe())
    wire.notes.clear()
    wire.asked(0, NewPages(1, u32(*range(20)), u32(*range(20))))
    wire.asked(0, Describe())
    assert wire.noted(ZoneCounted) == [
        ZoneCounted(free=wire.frames - 20, active=14, inactive=0, pending=6, isolated=0, locked=0)
    ]


def test_foreign_bytes_and_questions_for_others_are_dropped_and_counted(wire: Wire) -> None:
    wire.deliver("node0", (b"GET / HTTP/1.1",))
    ticket = wire.ask(0, Fault(1, 0, 0, np.zeros(1, np.uint64)))
    wire.settle()
    assert ticket not in wire.answers
    assert wire.noted(FrameDropped) == [FrameDropped("checksum"), FrameDropped("question")]


def test_a_node_takes_no_orders_and_no_zone_of_another(wire: Wire) -> None:
    with pytest.raises(AssertionError, match="takes no orders"):
        wire.nodes["node0"].handle(Command("halt"), now=0.0)
    with pytest.raises(ValueError, match="this is the zone of node 0; start node 1 on its own"):
        Node(1, wire.zones[0], boot_id=1, key=KEY)


def test_the_epoch_in_the_zone_outlives_the_process(wire: Wire) -> None:
    wire.coordinator = wire.rule(epoch=5)
    wire.asked(0, MigratePrep())
    wire.restart(0)
    wire.coordinator = wire.rule(epoch=4)
    with pytest.raises(AssertionError, match="deposed"):
        wire.asked(0, MigratePrep())
    wire.coordinator = wire.rule(epoch=6)
    wire.recover(0)
    assert isinstance(wire.asked(0, MigratePrep()), Done)
