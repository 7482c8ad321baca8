"""Counters of the machine: numastat, vmstat, pages by kind, and that the journal keeps them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from coordinator.mm import PROT_READ, VmFlag
from coordinator.replay import differences, replay
from protocol.observe import CountLru, LruCount, ReadVmstat, Vmstat
from protocol.profile import MODERN, SEED, Profile
from protocol.schema import node_name
from protocol.syscalls import Munmap
from tests.filing import create, map_file, touched
from tests.lab import PAGE, READ, WRITE, Lab

MakeLab = Callable[..., Lab]
POPULATE_FILE = 3
PROFILES = pytest.mark.parametrize("profile", [SEED, MODERN], ids=lambda profile: profile.name)


def vmstat(lab: Lab) -> Vmstat:
    return lab.ask(ReadVmstat(), Vmstat)


def events(lab: Lab) -> dict[str, int]:
    told = vmstat(lab)
    return dict(zip(told.names, told.counts.tolist(), strict=True))


def test_pages_that_moved_and_pages_that_could_not_are_counted_once(lab: Lab) -> None:
    """K 6.11: final failures, however often they were tried."""
    pid = lab.spawn()
    start = lab.mapped(pid, 10)
    lab.hold_pages(lab.fault(pid, start, 3), pinned=1)
    assert lab.migrate(pid, 0, 2) == 3
    assert (events(lab)["pgmigrate_success"], events(lab)["pgmigrate_fail"]) == (7, 3)
    assert lab.migrate(pid, 2, 0) == 0
    assert (events(lab)["pgmigrate_success"], events(lab)["pgmigrate_fail"]) == (14, 3)


def test_what_is_not_isolated_is_no_failure(lab: Lab) -> None:
    """K 6.11: a page that two tasks map is left alone by who may not move it for both."""
    pid = lab.spawn(uid=7, capable=False)
    lab.mapped(pid, 4)
    lab.fork(pid)
    assert lab.migrate(pid, 0, 1, caller=pid) == 0
    assert (events(lab)["pgmigrate_success"], events(lab)["pgmigrate_fail"]) == (0, 0)


@PROFILES
def test_a_migration_is_an_allocation_on_its_target(make_lab: MakeLab, profile: Profile) -> None:
    """K 6.7: numa_hit there, and other_node, as the caller runs elsewhere."""
    lab = make_lab(profile=profile)
    pid = lab.spawn()
    lab.mapped(pid, 5)
    before = events(lab)
    assert lab.migrate(pid, 0, 3) == 0
    after = events(lab)
    grown = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    assert grown == {"numa_hit": 5, "numa_other": 5, "pgmigrate_success": 5}


def test_what_some_nodes_missed_is_what_others_gave(make_lab: MakeLab) -> None:
    """K 6.6: sum(miss) = sum(foreign), and every page is local or other, a hit or a miss."""
    lab = make_lab(nodes=3, frames=20)
    pid = lab.spawn()
    lab.mapped(pid, 50)
    lab.migrate(pid, (0, 1), (1, 0))
    stat = lab.memory.numastat
    assert stat.numa_miss.sum() == stat.numa_foreign.sum() > 0
    given = stat.numa_hit + stat.numa_miss
    assert (given == stat.local_node + stat.other_node).all()


@PROFILES
def test_pages_are_counted_by_kind_and_each_once(make_lab: MakeLab, profile: Profile) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn()
    lab.mapped(pid, 5)
    lab.mapped(pid, 3, shared=True, cpu=1)
    file = lab.mmap(pid, 4, prot=PROT_READ, name="/bin/true")
    lab.fault(pid, file, 4, access=POPULATE_FILE, cpu=1)
    lab.fork(pid)
    told = vmstat(lab)
    assert told.anon.tolist() == [5, 0, 0, 0]
    assert told.shmem.tolist() == [0, 3, 0, 0]
    assert told.file.tolist() == told.mapped.tolist() == [0, 7, 0, 0]
    assert told.mlocked.tolist() == [0, 0, 0, 0]
    lab.vma(pid, file).vm_flags |= VmFlag.LOCKED
    assert vmstat(lab).mlocked.tolist() == [0, 4, 0, 0]
    lab.vma(pid, file).vm_flags = VmFlag(0)


def test_pages_of_a_file_stay_file_pages_when_nobody_maps_them(lab: Lab) -> None:
    """And they are dirty when an entry that was dirty has gone (K 1.38)."""
    create(lab, "ext3", pages=5)
    pid = lab.spawn()
    start = touched(lab, pid, 5)
    assert vmstat(lab).dirty.tolist() == [0, 0, 0, 0]
    assert lab.call(Munmap(pid, start * PAGE, 5 * PAGE)) == 0
    told = vmstat(lab)
    assert told.file.tolist() == told.dirty.tolist() == [5, 0, 0, 0]
    assert told.mapped.tolist() == told.shmem.tolist() == [0, 0, 0, 0]
    create(lab, "shmem", pages=2, path="/dev/shm/segment")
    map_file(lab, pid, 2, path="/dev/shm/segment")
    assert vmstat(lab).shmem.tolist() == [0, 0, 0, 0], "nothing is in its cache yet"
    lab.fault(pid, map_file(lab, pid, 2, path="/dev/shm/segment"), 2)
    assert vmstat(lab).shmem.tolist() == [2, 0, 0, 0]


def test_kinds_and_the_free_pages_are_all_there_is(lab: Lab) -> None:
    pid = lab.spawn()
    lab.mapped(pid, 5)
    lab.mapped(pid, 30, shared=True, cpu=2)
    lab.fault(pid, lab.mmap(pid, 9), 9, access=READ)
    lab.migrate(pid, 0, 1)
    told = vmstat(lab)
    assert (told.anon + told.file).tolist() == [256 - free for free in lab.free()]


@PROFILES
def test_the_lists_of_a_node_tell_files_from_the_rest(make_lab: MakeLab, profile: Profile) -> None:
    """New anonymous pages are active until 5.9; pages of files are not before they are used."""
    lab = make_lab(profile=profile)
    pid = lab.spawn()
    lab.mapped(pid, 20)
    file = lab.mmap(pid, 6, prot=PROT_READ, name="/bin/true")
    lab.fault(pid, file, 6, access=POPULATE_FILE)
    lab.migrate(pid, 3, 2)
    asked = CountLru(vmstat(lab).file_objects)
    told = lab.ask(asked, LruCount, node_name(0))
    anon = (told.active_anon, told.inactive_anon)
    assert anon == ((20, 0) if profile is SEED else (0, 20))
    assert (told.active_file, told.inactive_file) == (0, 6)


@PROFILES
def test_numa_maps_says_what_the_lists_say(make_lab: MakeLab, profile: Profile) -> None:
    """K 6.1: active only if not all are; the size of a page at the end since 3.x."""
    lab = make_lab(profile=profile)
    pid = lab.spawn()
    lab.mapped(pid, 3)
    (line,) = lab.numa_maps(pid)
    ends = {"seed": "dirty=3 N0=3", "modern": "dirty=3 active=0 N0=3 kernelpagesize_kB=0"}
    assert line.endswith(ends[profile.name])


@PROFILES
def test_a_page_that_moves_or_is_copied_keeps_its_list(make_lab: MakeLab, profile: Profile) -> None:
    """K 1.50.  A copy is a new anonymous page."""
    lab = make_lab(profile=profile)
    pid = lab.spawn()
    start = lab.mapped(pid, 20)
    file = lab.mmap(pid, 6, prot=PROT_READ, name="/bin/true")
    lab.fault(pid, file, 6, access=POPULATE_FILE)
    for source, target in ((0, 1), (1, 2), (2, 0)):
        assert lab.migrate(pid, source, target) == 0
        anon, of_file = lab.numa_maps(pid)
        assert ("active=0" in anon) == (profile is MODERN)
        assert "mapped=6 active=0" in of_file
    child = lab.fork(pid)
    lab.fault(child, start, 20)
    assert ("active=0" in lab.numa_maps(child)[0]) == (profile is MODERN)


@PROFILES
def test_counters_and_trace_outlive_the_coordinator(make_lab: MakeLab, profile: Profile) -> None:
    lab = make_lab(nodes=3, frames=20, profile=profile)
    pid = lab.spawn()
    start = lab.mapped(pid, 30)
    lab.hold_pages(lab.fault(pid, start, 1, WRITE), pinned=1)
    lab.migrate(pid, (0, 1), (1, 2))
    told = replay(lab.topology, lab.records)
    assert not list(differences(told, lab.memory))
    assert told.counters.events() == lab.memory.counters.events()
    for name in ("numa_hit", "numa_miss", "numa_foreign", "local_node", "other_node"):
        assert np.array_equal(getattr(told.numastat, name), getattr(lab.memory.numastat, name))
    assert told.counters.trace.since(0) == lab.memory.counters.trace.since(0) != ""
