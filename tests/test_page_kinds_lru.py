"""Pages that are not on the LRU, special vmas, and the zero page (K 1.13 - 1.16, 3.6 - 3.10)."""

from __future__ import annotations

import errno
from collections.abc import Callable

import numpy as np
import pytest

from coordinator.mm import PROT_READ, VmFlag
from coordinator.replay import replay
from protocol.messages import DropHolds, HoldPages, IsolatePages, Statuses
from protocol.profile import MODERN, SEED, Profile
from protocol.schema import node_name
from protocol.syscalls import Mprotect, Translations
from tests.filing import assert_journal_tells_all
from tests.lab import CLIENT, PAGE, READ, Lab

MakeLab = Callable[..., Lab]
BOTH = pytest.mark.parametrize("profile", [SEED, MODERN], ids=lambda profile: profile.name)
SPECIAL = {"[io]": VmFlag.IO, "[pfnmap]": VmFlag.PFNMAP, "[reserved]": VmFlag.RESERVED}


def isolate(lab: Lab, where: Translations, isolated: int) -> list[int]:
    """Take pages, all of node 0, off the LRU or put them back; the statuses."""
    generation = lab.memory.mem_map[0].generation[where.pfn]
    column = np.full(where.pfn.size, isolated, np.uint8)
    asked = IsolatePages(where.pfn, generation, column)
    return [int(status) for status in lab.ask(asked, Statuses, node_name(0)).status]


# ---- the LRU -------------------------------------------------------------------------------


@BOTH
def test_a_page_that_somebody_took_off_the_lru_stays(make_lab: MakeLab, profile: Profile) -> None:
    """K 1.15, 1.16, 3.10."""
    lab = make_lab(profile=profile)
    pid = lab.spawn()
    start = lab.mapped(pid, 3)
    where = lab.fault(pid, start, 1)
    assert isolate(lab, where, 1) == [0]
    assert lab.zone(0).isolated == 1
    lab.migrate(pid, 0, 1)
    assert lab.where(pid, start, 3) == [0, 1, 1]
    lab.write(pid, start, 5)
    assert isolate(lab, where, 0) == [0]
    assert lab.zone(0).isolated == 0
    assert lab.migrate(pid, 0, 1) == 0
    assert lab.where(pid, start) == [1] and lab.read(pid, start) == 5


def test_move_pages_says_ebusy_for_it(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mapped(pid, 2)
    where = lab.fault(pid, start, 1)
    isolate(lab, where, 1)
    assert lab.move(pid, [start, start + 1], [1, 1]).status.tolist() == [-errno.EBUSY, 1]
    isolate(lab, where, 0)


def test_isolating_is_absolute_for_one_client_and_survives_a_revocation(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mapped(pid, 1)
    where = lab.fault(pid, start)
    assert isolate(lab, where, 0) == [0], "what was not taken is not put back"
    assert isolate(lab, where, 1) == isolate(lab, where, 1) == [0]
    child = lab.fork(pid)
    assert isolate(lab, where, 0) == [0] and lab.zone(0).isolated == 0
    assert lab.migrate(child, 0, 1) == 0 and lab.where(pid, start) == [1]


def test_what_a_dead_client_took_off_the_lru_is_put_back(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mapped(pid, 2)
    isolate(lab, lab.fault(pid, start, 2), 1)
    lab.fork(pid)
    node = lab.cores[node_name(0)]
    node.on_drop_holds(None, DropHolds(CLIENT))  # type: ignore[attr-defined]
    assert lab.zone(0).isolated == 0
    assert lab.migrate(pid, 0, 1) == 0


def test_pending_lru_adds_are_drained_before_the_scan(lab: Lab) -> None:
    """K 1.13: pages touched a moment ago wait in a pagevec, and move all the same."""
    pid = lab.spawn()
    start = lab.mapped(pid, 5)
    assert lab.zone(0).pending == 5
    assert lab.migrate(pid, 0, 1) == 0
    assert lab.where(pid, start, 5) == [1] * 5


def test_a_second_page_list_finds_the_page_taken(lab: Lab) -> None:
    """K 4.17: the same page twice in one call."""
    pid = lab.spawn()
    start = lab.mapped(pid, 1)
    assert lab.move(pid, [start, start], [1, 2]).status.tolist() == [1, -errno.EBUSY]


def test_a_pin_is_no_isolation(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mapped(pid, 1)
    held = lab.hold_of(lab.fault(pid, start), pinned=1)
    assert isinstance(held, HoldPages)
    assert not lab.ask(held, Statuses, node_name(0)).status.any()
    assert lab.move(pid, [start], [1]).status.tolist() == [-errno.EAGAIN]
    lab.hold_pages(lab.fault(pid, start))


# ---- the zero page (K 3.9) -----------------------------------------------------------------


def test_the_zero_page_does_not_move_and_is_not_shown(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mmap(pid, 2)
    assert lab.fault(pid, start, 2, access=READ).nid.tolist() == [-1, -1]
    assert lab.migrate(pid, 0, 1) == 0
    assert lab.numa_maps(pid)[0].endswith(" default")
    assert lab.free() == [256] * 4


# ---- special vmas (K 3.6) ------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("name", SPECIAL)
def test_the_scan_leaves_special_vmas_alone(make_lab: MakeLab, profile: Profile, name: str) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn()
    special, ordinary = lab.mapped(pid, 2, name=name), lab.mapped(pid, 2)
    assert lab.vma(pid, special).vm_flags == SPECIAL[name] | VmFlag.ACCOUNT
    assert lab.migrate(pid, 0, 1) == 0, "what is left alone is not counted (K 1.15)"
    assert set(lab.vma(pid, special).nid.tolist()) == {0}
    assert lab.where(pid, ordinary, 2) == [1, 1]
    assert_journal_tells_all(lab)


@pytest.mark.parametrize("name", ["[io]", "[reserved]"])
def test_move_pages_of_the_seed_does_not_look_at_the_vma(lab: Lab, name: str) -> None:
    """K 3.7."""
    pid = lab.spawn()
    start = lab.mapped(pid, 1, name=name)
    assert lab.move(pid, [start], [1]).status.tolist() == [1]


@pytest.mark.parametrize("name", SPECIAL)
def test_move_pages_of_today_answers_efault(make_lab: MakeLab, name: str) -> None:
    """K 4.17."""
    lab = make_lab(profile=MODERN)
    pid = lab.spawn()
    special, ordinary = lab.mapped(pid, 1, name=name), lab.mapped(pid, 1)
    status = lab.move(pid, [special, ordinary], [1, 1]).status.tolist()
    assert status == [-errno.EFAULT, 1]


@pytest.mark.parametrize("name", SPECIAL)
def test_the_flags_survive_fork_split_and_the_journal(lab: Lab, name: str) -> None:
    pid = lab.spawn()
    start = lab.mapped(pid, 3, name=name)
    child = lab.fork(pid)
    assert lab.call(Mprotect(child, (start + 1) * PAGE, PAGE, PROT_READ)) == 0
    told = replay(lab.topology, lab.records)
    for memory in (lab.memory, told):
        flags = [vma.vm_flags for vma in memory.tasks[child].mm.vmas]
        assert flags == [SPECIAL[name] | VmFlag.ACCOUNT] * 3
    assert_journal_tells_all(lab)
