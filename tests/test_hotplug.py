"""A node is taken offline and brought back, as memory hot-remove and hot-add do."""

from __future__ import annotations

import errno

import pytest

from protocol.hotplug import OfflinePages, OnlinePages
from tests.crashes import CrashLab

PAGES = 6


@pytest.fixture
def lab() -> CrashLab:
    return CrashLab()


def test_everything_moves_to_the_nearest_node_with_its_contents(lab: CrashLab) -> None:
    pid = lab.spawn()
    start, shared = lab.mapped(pid, PAGES), lab.mapped(pid, PAGES, shared=True)
    lab.write(pid, start, 7)
    lab.write(pid, shared, 8)
    child = lab.fork(pid)
    assert lab.call(OfflinePages(0)) == 0
    assert 0 not in lab.where(pid, start, PAGES) and 0 not in lab.where(child, shared, PAGES)
    assert (lab.read(child, start), lab.read(child, shared)) == (7, 8)
    assert lab.free()[0] == 256
    lab.validate()


def test_pages_that_only_a_cache_has_move_as_well(lab: CrashLab) -> None:
    pid = lab.spawn()
    start = lab.mapped(pid, PAGES, shared=True)
    lab.write(pid, start, 8)
    child = lab.fork(pid)
    lab.exit(pid)
    assert lab.call(OfflinePages(0)) == 0
    assert lab.read(child, start) == 8 and lab.free()[0] == 256


def test_nothing_is_allocated_on_it_until_it_is_online_again(lab: CrashLab) -> None:
    assert lab.call(OfflinePages(0)) == 0
    pid = lab.spawn()
    assert lab.where(pid, lab.mapped(pid, 1, cpu=0)) != [0]
    assert lab.call(OnlinePages(0)) == 0
    assert lab.where(pid, lab.mapped(pid, 1, cpu=0)) == [0]


def test_a_pinned_page_stays_until_it_is_let_go(lab: CrashLab) -> None:
    pid = lab.spawn()
    start = lab.mapped(pid, PAGES)
    where = lab.fault(pid, start)
    lab.hold_pages(where, pinned=1)
    assert lab.call(OfflinePages(0)) == 1
    assert lab.where(pid, start, PAGES).count(0) == 1
    lab.hold_pages(where, pinned=0)
    assert lab.call(OfflinePages(0)) == 0
    lab.validate()


def test_it_stays_offline_over_a_restart_of_the_coordinator(lab: CrashLab) -> None:
    assert lab.call(OfflinePages(2)) == 0
    lab.recover()
    assert lab.memory.offline == {2}


def test_a_node_that_is_offline_can_be_lost_without_any_loss(lab: CrashLab) -> None:
    pid = lab.spawn()
    start = lab.mapped(pid, PAGES)
    lab.write(pid, start, 7)
    assert lab.call(OfflinePages(0)) == 0
    lab.replace_zone(0)
    lab.wait(5.0)
    assert lab.read(pid, start) == 7
    lab.validate()


def test_the_last_node_stays_online(lab: CrashLab) -> None:
    assert [lab.call(OfflinePages(nid)) for nid in range(4)] == [0, 0, 0, -errno.EBUSY]
    assert lab.call(OfflinePages(9)) == lab.call(OnlinePages(9)) == -errno.EINVAL
