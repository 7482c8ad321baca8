"""Few pages by one question: what both nodes do, and what becomes of it when one does not."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from coordinator.pagelist import FEW_PAGES
from nodes.node import LAND_SECONDS
from nodes.taking import UNDECIDED, Givings
from nodes.zone import Zone
from protocol.codec import decode
from protocol.core import Effect, Event, Send
from protocol.hotplug import OfflinePages
from protocol.messages import (
    CopyPages,
    Done,
    LandNewPages,
    NewPageFrames,
    PutbackLruPages,
    PutPages,
    PutTransfer,
    Statuses,
    TakePages,
)
from protocol.observe import PageActive
from protocol.profile import MODERN
from protocol.schema import COORDINATOR, node_name
from protocol.syscalls import Fault, Translations
from tests.crashes import RECOVERY_SECONDS, CrashLab
from tests.few import SHORT, MakeLab, short, told, value
from tests.lab import KEY, READ, Lab, pages_from

PAGE, FRAMES = 64, 256


@pytest.fixture
def zone() -> Zone:
    buffer = bytearray(Zone.size_of(FRAMES, PAGE))
    return Zone.format(buffer, nid=0, page_size=PAGE, frames=FRAMES, uuid=bytes(16))


def pages_of(transfer: int, pages: int) -> LandNewPages:
    column = np.arange(pages, dtype=np.uint32)
    active = np.zeros(pages, np.uint8)
    return LandNewPages(transfer, column, column, active, bytes([transfer]) * PAGE * pages)


def test_contents_are_in_frames_that_no_page_maps(zone: Zone) -> None:
    answer = Givings(zone).land(pages_of(7, 3))
    assert not answer.status.any() and zone.count()["free"] == FRAMES - 3
    assert bytes(zone.gather(answer.pfn)) == bytes([7]) * PAGE * 3
    assert zone.mapped(answer.pfn, answer.generation).tolist() == [-errno.EAGAIN] * 3


def test_there_are_frames_for_all_or_for_none(zone: Zone) -> None:
    givings = Givings(zone)
    givings.land(pages_of(1, FRAMES - 2))
    assert givings.land(pages_of(2, 3)).status.tolist() == [-errno.ENOMEM] * 3
    assert zone.count()["free"] == 2


def test_a_transfer_that_was_put_is_given_nothing_any_more(zone: Zone) -> None:
    givings = Givings(zone)
    givings.land(pages_of(7, 3))
    givings.put(7)
    assert zone.count()["free"] == FRAMES
    assert givings.land(pages_of(7, 3)).status.tolist() == [-errno.EAGAIN] * 3
    assert zone.count()["free"] == FRAMES
    assert not givings.land(pages_of(8, 3)).status.any()


def test_a_new_coordinator_counts_its_transfers_anew(zone: Zone) -> None:
    givings = Givings(zone)
    givings.put(7)
    givings.restart()
    assert not givings.land(pages_of(7, 3)).status.any()


def test_what_has_moved_is_forgotten_and_what_is_open_is_not(zone: Zone) -> None:
    givings = Givings(zone)
    givings.land(pages_of(0, 2))
    for transfer in range(1, 2 * UNDECIDED):
        answer = givings.land(pages_of(transfer, 1))
        zone.putback_lru_pages(answer.pfn, answer.generation)
        assert len(givings) <= UNDECIDED
    givings.put(0)
    assert zone.count()["free"] == FRAMES - (2 * UNDECIDED - 1)


def test_contents_that_are_no_whole_pages_get_no_frame(zone: Zone) -> None:
    message = pages_of(7, 3)
    torn = LandNewPages(7, message.owner, message.index, message.active, bytes(1))
    assert Givings(zone).land(torn).status.tolist() == [-errno.EAGAIN] * 3
    assert zone.count()["free"] == FRAMES


# ---- both nodes and the coordinator -----------------------------------------------------------


def test_one_question_moves_pages_that_go_from_one_node_to_one_other(make_lab: MakeLab) -> None:
    lab = short(make_lab)
    pid = lab.spawn()
    start = lab.mapped(pid, 3)
    lab.write(pid, start + 2, 7)
    lab.delivered.clear()
    assert value(lab, told(lab, pid, 0, 1)) == 0
    until_the_call_ended = [
        (source, target, name)
        for source, target, name in lab.delivered
        if name in ("TakePages", "LandNewPages", "NewPageFrames", "IsolateLruPage", "NewPages")
    ]
    assert until_the_call_ended == [
        ("coordinator", "node0", "TakePages"),
        ("node0", "node1", "LandNewPages"),
        ("node1", "node0", "NewPageFrames"),
        ("node0", "coordinator", "NewPageFrames"),
    ]
    assert lab.read(pid, start + 2) == 7


def test_the_caller_has_its_answer_before_what_is_left_is_even_put_together(
    make_lab: MakeLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = short(make_lab)
    pid = lab.spawn()
    lab.mapped(pid, 3)
    core, turns, calls = lab.cores[COORDINATOR], [], []
    handle = core.handle

    def watched(event: Event, *, now: float) -> Sequence[Effect]:
        effects = handle(event, now=now)
        sent = [decode(effect.frames, KEY)[1] for effect in effects if isinstance(effect, Send)]
        turns.append({type(message) for message in sent})
        calls.append(lab.coordinator.calls)
        return effects

    monkeypatch.setattr(core, "handle", watched)
    assert value(lab, told(lab, pid, 0, 1)) == 0
    answered = turns.index({Done})
    assert turns[answered + 1] == {PutbackLruPages}
    # Meanwhile it is a call under way: tables and zones need not agree.
    assert calls[answered] > 0 == calls[-1]


def test_a_page_waits_as_a_migration_entry_while_it_is_taken(make_lab: MakeLab) -> None:
    lab = short(make_lab)
    pid = lab.spawn()
    start = lab.mapped(pid, 1)
    lab.write(pid, start, 7)
    lab.hold_back(LandNewPages)
    call = told(lab, pid, 0, 1)
    fault = lab.start(Fault(pid, 0, READ, pages_from(start, 1)))
    assert lab.answer_to(fault) is None, "the page is under migration"
    lab.let_go(LandNewPages)
    assert value(lab, call) == 0
    served = lab.answer_to(fault)
    assert isinstance(served, Translations) and served.nid.tolist() == [1]
    assert lab.load(served, 0) == (0, 7)


def test_while_the_target_is_silent_pages_are_served_where_they_are(make_lab: MakeLab) -> None:
    lab = short(make_lab)
    pid = lab.spawn()
    start = lab.mapped(pid, 2)
    lab.write(pid, start, 7)
    before = lab.free()
    for asked in (LandNewPages, PutTransfer):
        lab.hold_back(asked)
    call = told(lab, pid, 0, 1)
    lab.wait(LAND_SECONDS + 1.0)
    assert lab.read(pid, start) == 7 and lab.where(pid, start, 2) == [0, 0]
    assert lab.answer_to(call) is None, "a call waits for a node that is away"
    # Late contents come to frames that are put right after.
    for asked in (LandNewPages, PutTransfer):
        lab.let_go(asked)
    assert value(lab, call) == 0 and lab.where(pid, start, 2) == [1, 1]
    assert lab.free() == [before[0] + 2, before[1] - 2, *before[2:]]


def test_an_answer_from_before_the_target_recovered_is_not_believed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lab = CrashLab(**SHORT)
    pid = lab.spawn()
    start = lab.mapped(pid, 2)
    lab.write(pid, start, 7)
    before, deliver, loses = lab.free(), lab._deliver, True

    def lossy(envelope: Any, message: Any, target: str, frames: Any) -> None:
        is_lost = loses and target == COORDINATOR and isinstance(message, NewPageFrames)
        if not is_lost:
            deliver(envelope, message, target, frames)

    monkeypatch.setattr(lab, "_deliver", lossy)
    call = told(lab, pid, 0, 1)
    # It frees what nobody has told the coordinator of.
    lab.restart(1)
    lab.wait(RECOVERY_SECONDS)
    loses = False
    lab.wait(RECOVERY_SECONDS)
    assert value(lab, call) == 0
    assert lab.where(pid, start, 2) == [1, 1] and lab.read(pid, start) == 7
    assert lab.free() == [before[0] + 2, before[1] - 2, *before[2:]]


def test_contents_that_come_when_all_is_over_leave_no_frame(make_lab: MakeLab) -> None:
    lab = short(make_lab)
    pid = lab.spawn()
    start = lab.mapped(pid, 2)
    lab.write(pid, start, 7)
    before = lab.free()
    lab.hold_back(LandNewPages)
    call = told(lab, pid, 0, 1)
    lab.wait(LAND_SECONDS + 1.0)
    assert value(lab, call) == 0 and lab.read(pid, start) == 7
    lab.let_go(LandNewPages)
    assert lab.free() == [before[0] + 2, before[1] - 2, *before[2:]]


def test_what_is_taken_for_a_coordinator_that_is_gone_is_given_to_nobody() -> None:
    lab = CrashLab(**SHORT)
    pid = lab.spawn()
    start = lab.mapped(pid, 2)
    lab.write(pid, start, 7)
    lab.hold_back(LandNewPages)
    told(lab, pid, 0, 1)
    lab.recover()
    lab.let_go(LandNewPages)
    lab.wait(LAND_SECONDS + 1.0)
    assert lab.where(pid, start, 2) == [0, 0] and lab.read(pid, start) == 7
    lab.validate()


def test_a_node_is_not_empty_while_pages_are_on_their_way_to_it(make_lab: MakeLab) -> None:
    lab = short(make_lab)
    pid = lab.spawn()
    start = lab.mapped(pid, 2)
    lab.hold_back(LandNewPages)
    call = told(lab, pid, 0, 1)
    assert lab.call(OfflinePages(1)) == 2
    lab.let_go(LandNewPages)
    assert value(lab, call) == 0
    assert lab.call(OfflinePages(1)) == 0
    assert 1 not in lab.where(pid, start, 2)


@pytest.mark.parametrize("few_pages", [0, FEW_PAGES])
def test_a_page_without_a_frame_on_the_target_is_as_young_as_before(few_pages: int) -> None:
    # K 1.35: it is not unmapped before it has a frame.
    lab = Lab(nodes=2, frames=8, profile=MODERN, few_pages=few_pages)
    lab.mapped(lab.spawn(cpu=1), 8, cpu=1)
    pid = lab.spawn()
    start = lab.mapped(pid, 1, shared=True)
    readers = [lab.fork(pid), lab.fork(pid)]
    for reader in readers:
        lab.fault(reader, start, access=READ)
    assert lab.migrate(pid, 0, 1) == -errno.ENOMEM
    for reader in readers:
        lab.exit(reader)
    where = lab.fault(pid, start, access=READ)
    active = lab.ask(PageActive(where.pfn), Statuses, node_name(0)).status.tolist()
    assert active == [1], "both who read it have left, and neither was seen to have read it"


def test_a_frame_that_was_put_and_given_again_unheard_is_freed_by_a_restart() -> None:
    lab = CrashLab(**SHORT)
    there, here = lab.spawn(cpu=1), lab.spawn()
    lab.mapped(there, 2, cpu=1)
    lab.mapped(here, 2)
    lab.hold_back(PutPages, node_name(1))
    assert value(lab, told(lab, there, 1, 2)) == 0
    lab.hold_back(LandNewPages)
    call = told(lab, here, 0, 1)
    # Both are carried out; for all that the coordinator knows, the frames are still being put.
    for asked in (PutPages, LandNewPages):
        lab.let_pass(asked, answered=False)
    lab.restart(1)
    lab.drop_held()
    lab.wait(LAND_SECONDS + RECOVERY_SECONDS)
    assert value(lab, call) == 0
    assert lab.exit(there) == lab.exit(here) == 0
    assert lab.free() == [256] * 4


def test_pages_that_a_source_may_have_isolated_when_it_died_are_isolated_before_they_move() -> None:
    # K 1.13: nobody else takes a page that is being moved.
    lab = CrashLab(**SHORT)
    pid = lab.spawn()
    start = lab.mapped(pid, 2)
    lab.hold_back(TakePages)
    call = told(lab, pid, 0, 1)
    lab.restart(0)
    lab.drop_held()
    lab.hold_back(CopyPages)
    lab.wait(RECOVERY_SECONDS)
    assert lab.held(CopyPages) and lab.zone(0).isolated == 2
    lab.let_go(CopyPages)
    assert value(lab, call) == 0 and lab.where(pid, start, 2) == [1, 1]


def test_a_take_for_the_node_itself_is_refused(make_lab: MakeLab) -> None:
    lab = short(make_lab)
    one = np.zeros(1, np.uint32)
    answer = lab.ask(TakePages(1, 0, one, one, one, one), NewPageFrames, node_name(0))
    assert answer.status.tolist() == [-errno.EINVAL]
