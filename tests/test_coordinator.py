"""The coordinator as a whole: calls side by side, lost messages, leases, and that nothing leaks."""

from __future__ import annotations

import errno
from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest

from coordinator.desk import HANDLERS
from protocol.core import Command, Received, Record, Report, Send
from protocol.messages import CopyPages, Done, IsolateLruPage, NewPages, PutbackLruPages, PutPages
from protocol.notes import FrameDropped, MachineCounted, NodeUp, SyscallEnded, TaskEnded
from protocol.schema import COORDINATOR, MESSAGES, Message
from protocol.syscalls import (
    AddressSpace,
    Attach,
    Attached,
    DescribeHardware,
    DescribeMm,
    Fault,
    Fork,
    Hardware,
    ListTasks,
    Progress,
    ProgressMade,
    Renew,
    Spawn,
    TaskList,
)
from tests.calls import migration
from tests.lab import WRITE, Lab, pages_from

MakeLab = Callable[..., Lab]
CALLS = ["write", "migrate", "move", "fork", "exit"]
OF_A_MIGRATION = (IsolateLruPage, NewPages, CopyPages, PutbackLruPages, PutPages)


def value(lab: Lab, ticket: int) -> int:
    answer = lab.answer_to(ticket)
    assert isinstance(answer, Done), f"no value, but {answer}"
    return answer.value


# ---- what it answers -----------------------------------------------------------------------


def test_every_question_to_the_coordinator_has_a_handler() -> None:
    asked = {row.cls for row in MESSAGES.values() if row.answerer == COORDINATOR and row.answer}
    assert asked == set(HANDLERS)


def test_the_machine_is_described_with_what_is_free(lab: Lab) -> None:
    lab.mapped(lab.spawn(), 6, cpu=2)
    hardware = lab.ask(DescribeHardware(), Hardware)
    assert (hardware.page_size, hardware.migration) == (64, 1)
    assert hardware.cpus == ((0,), (1,), (2,), (3,))
    assert hardware.free.tolist() == [256, 256, 250, 256] and hardware.up.all()
    assert hardware.numa_hit.tolist() == [0, 0, 6, 0]
    assert hardware.distance.reshape(4, 4).diagonal().tolist() == [10] * 4


def test_numastat_counts_who_gave_and_who_should_have(make_lab: MakeLab) -> None:
    # K 5.7.
    """K 6.6: system-wide, misses are as many as foreign ones."""
    lab = make_lab(nodes=2, frames=4)
    pid = lab.spawn()
    lab.mapped(pid, 6)
    lab.ask(migration(0, pid, (1,), (0,)), Done)
    hardware = lab.ask(DescribeHardware(), Hardware)
    assert hardware.numa_hit[0] == 4 and hardware.numa_miss[1] >= 2
    assert hardware.numa_miss.sum() == hardware.numa_foreign.sum()
    given = hardware.numa_hit + hardware.numa_miss
    assert given.tolist() == (hardware.local_node + hardware.other_node).tolist()


def test_tasks_and_their_pages_are_listed(lab: Lab) -> None:
    parent = lab.spawn(cpu=1, uid=7)
    start = lab.mapped(parent, 3)
    lab.mmap(parent, 2)
    child = lab.fork(parent)
    tasks = lab.ask(ListTasks(), TaskList)
    assert tasks.pid.tolist() == [parent, child] and tasks.ppid.tolist() == [0, parent]
    assert tasks.present.tolist() == [3, 3] and tasks.mapped.tolist() == [5, 5]
    space = lab.ask(DescribeMm(parent), AddressSpace)
    assert space.page.tolist() == [start, start + 1, start + 2]
    assert space.page_node.tolist() == [0] * 3 and space.written.tolist() == [1] * 3
    assert lab.ask(DescribeMm(99), AddressSpace).value == -errno.ESRCH


def test_progress_says_how_many_pages_are_settled(make_lab: MakeLab) -> None:
    lab = make_lab(chunk_pages=4)
    pid = lab.spawn()
    lab.mapped(pid, 16)
    lab.hold_back(CopyPages)
    lab.start(migration(0, pid, (0,), (1,)))
    lab.run()
    seen = []
    for _ in range(2):
        progress = lab.ask(Progress(pid), ProgressMade)
        seen.append((progress.listed, progress.settled))
        lab.let_pass(CopyPages)
    # Two chunks are copied at a time.
    assert seen == [(16, 0), (16, 8)]
    done = lab.ask(Progress(pid), ProgressMade)
    assert (done.listed, done.settled) == (0, 0)
    lab.let_go(CopyPages)


def test_a_cpu_that_is_not_there_runs_no_task(lab: Lab) -> None:
    assert lab.call(Spawn(4, 0, 1, 0, "x")) == -errno.EINVAL


# ---- as a Core -----------------------------------------------------------------------------


def test_bytes_of_a_stranger_are_counted_and_dropped(lab: Lab) -> None:
    for frames in ((), (b"",), (b"x" * 40,), (b"x" * 40, b"y")):
        effects = lab.coordinator.handle(Received(frames), now=lab.now)
        reasons = [effect.note for effect in effects if isinstance(effect, Report)]
        assert len(reasons) == 1 and isinstance(reasons[0], FrameDropped)
        assert not [effect for effect in effects if isinstance(effect, Send | Record)]


def test_nobody_gives_the_coordinator_orders(lab: Lab) -> None:
    with pytest.raises(AssertionError, match="orders"):
        lab.coordinator.handle(Command("work"), now=lab.now)


def test_records_stand_before_everything_that_is_sent(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mmap(pid, 1)
    seen: list[list[type]] = []
    handle = lab.coordinator.handle

    def watched(event: object, *, now: float) -> object:
        effects = handle(event, now=now)  # type: ignore[arg-type]
        seen.append([type(effect) for effect in effects])
        return effects

    lab.coordinator.handle = watched  # type: ignore[method-assign, assignment]
    lab.fault(pid, start)
    assert lab.migrate(pid, 0, 1) == 0
    assert any(Record in kinds and Send in kinds for kinds in seen)
    for kinds in seen:
        order = [kinds.index(kind) for kind in (Record, Send) if kind in kinds]
        assert order == sorted(order)
        assert Record not in kinds[kinds.index(Send) :] if Send in kinds else True


def test_nodes_are_up_once_they_have_described_themselves(lab: Lab) -> None:
    assert lab.noted(NodeUp) == [NodeUp(nid) for nid in range(4)]
    assert lab.noted(MachineCounted)[-1].nodes_up == 4


def test_every_call_that_takes_steps_reports_its_end(lab: Lab) -> None:
    pid = lab.spawn()
    lab.mapped(pid, 1)
    lab.migrate(pid, 0, 1)
    assert [note.call for note in lab.noted(SyscallEnded)] == ["mmap", "fault", "migrate_pages"]


# ---- calls side by side --------------------------------------------------------------------


@pytest.mark.parametrize("lag", OF_A_MIGRATION, ids=lambda cls: cls.__name__)
def test_two_nodes_that_migrate_into_each_other_both_finish(lab: Lab, lag: type[Message]) -> None:
    first, second = lab.spawn(), lab.spawn()
    here, there = lab.mapped(first, 20, cpu=0), lab.mapped(second, 20, cpu=1)
    lab.hold_back(lag)
    tickets = [
        lab.start(migration(0, first, (0,), (1,))),
        lab.start(migration(0, second, (1,), (0,))),
    ]
    lab.run()
    lab.let_go(lag)
    assert [value(lab, ticket) for ticket in tickets] == [0, 0]
    assert lab.where(first, here, 20) == [1] * 20 and lab.where(second, there, 20) == [0] * 20


def test_all_pairs_of_four_nodes_at_once_finish(lab: Lab) -> None:
    calls = []
    for source, target in permutations(range(4), 2):
        pid = lab.spawn()
        start = lab.mapped(pid, 9, cpu=source)
        lab.write(pid, start, 10 * source + target)
        calls.append((pid, start, source, target))
    tickets = [lab.start(migration(0, pid, (s,), (t,))) for pid, _, s, t in calls]
    assert [value(lab, ticket) for ticket in tickets] == [0] * 12
    for pid, start, source, target in calls:
        assert lab.where(pid, start, 9) == [target] * 9
        assert lab.read(pid, start) == 10 * source + target
    assert lab.free() == [256 - 27] * 4


def test_nearly_full_nodes_exchange_what_fits(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=2, frames=12)
    first, second = lab.spawn(), lab.spawn()
    lab.mapped(first, 10, cpu=0)
    lab.mapped(second, 10, cpu=1)
    tickets = [
        lab.start(migration(0, first, (0,), (1,))),
        lab.start(migration(0, second, (1,), (0,))),
    ]
    assert all(value(lab, ticket) in (0, -errno.ENOMEM) for ticket in tickets)
    assert sum(lab.free()) == 4


def test_two_migrations_of_one_mm_share_its_pages(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mapped(pid, 10)
    lab.hold_back(CopyPages)
    tickets = [lab.start(migration(0, pid, (0,), (target,))) for target in (1, 2)]
    lab.run()
    lab.let_go(CopyPages)
    assert [value(lab, ticket) for ticket in tickets] == [0, 0]
    assert lab.where(pid, start, 10) == [1] * 10, "what the first has isolated is not there"


def test_a_parent_and_a_child_that_share_pages_can_be_migrated_at_once(lab: Lab) -> None:
    parent = lab.spawn()
    start = lab.mapped(parent, 8)
    lab.write(parent, start, 3)
    child = lab.fork(parent)
    lab.fault(child, start, 4)
    tickets = [
        lab.start(migration(0, parent, (0,), (1,))),
        lab.start(migration(0, child, (0,), (2,))),
        lab.start(Fault(child, 3, WRITE, pages_from(start, 8))),
    ]
    assert [value(lab, ticket) for ticket in tickets[:2]] == [0, 0]
    assert lab.answer_to(tickets[2]) is not None
    assert lab.read(parent, start) == lab.read(child, start) == 3


# ---- nothing leaks (K 8, property 3) -------------------------------------------------------


def test_five_hundred_migrations_there_and_back_lose_no_frame(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=2, frames=32)
    pid = lab.spawn()
    start = lab.mapped(pid, 20)
    for offset in range(20):
        lab.write(pid, start + offset, offset)
    for number in range(500):
        assert lab.migrate(pid, number % 2, 1 - number % 2) == 0
    assert lab.where(pid, start, 20) == [0] * 20
    assert [lab.read(pid, start + offset) for offset in range(20)] == list(range(20))
    assert lab.free() == [12, 32]
    assert lab.memory.mem_map[0].used == 20 and lab.memory.mem_map[1].used == 0


def test_failures_lose_no_frame_either(make_lab: MakeLab) -> None:
    """One page of three is pinned, one must not move: 25 times ten passes."""
    lab = make_lab(nodes=2, frames=8)
    pid = lab.spawn()
    start = lab.mapped(pid, 2)
    lab.mapped(pid, 1, name="[fail_migrate_page]")
    lab.hold_pages(lab.fault(pid, start), pinned=1)
    for _ in range(25):
        assert lab.migrate(pid, 0, 1) == 2
        assert lab.migrate(pid, 1, 0) == 0
    assert lab.free() == [5, 8]


@pytest.mark.parametrize("seed", range(5))
def test_any_mixture_of_calls_conserves_frames_and_contents(make_lab: MakeLab, seed: int) -> None:
    print(f"seed {seed}")
    random = np.random.default_rng(seed)
    lab = make_lab(nodes=3, frames=40)
    root = lab.spawn()
    start = lab.mapped(root, 10)
    pids, model = [root], {root: [0] * 10}
    for step in range(1, 120):
        pid, page = int(random.choice(pids)), int(random.integers(10))
        order = random.choice(CALLS, p=[0.4, 0.2, 0.2, 0.1, 0.1])
        if order == "write":
            lab.write(pid, start + page, step)
            model[pid][page] = step
        elif order == "migrate":
            source, target = random.permutation(3)[:2].tolist()
            assert lab.migrate(pid, source, target) == 0
        elif order == "move":
            lab.move(pid, [start + page], [int(random.integers(3))], int(random.choice([2, 4])))
        elif order == "fork" and len(pids) < 4:
            child = lab.fork(pid)
            pids.append(child)
            model[child] = list(model[pid])
        elif order == "exit" and len(pids) > 1:
            assert lab.exit(pid) == 0
            pids.remove(pid)
    for pid in pids:
        assert [lab.read(pid, start + page) for page in range(10)] == model[pid]
    lab.validate()
    for pid in pids:
        lab.exit(pid)
    assert lab.free() == [40] * 3 and not lab.memory.mappings


# ---- a network that loses ------------------------------------------------------------------


@pytest.mark.parametrize("lost", OF_A_MIGRATION, ids=lambda cls: cls.__name__)
def test_a_lost_question_is_asked_again_and_executed_once(lab: Lab, lost: type[Message]) -> None:
    pid = lab.spawn()
    start = lab.mapped(pid, 5)
    lab.write(pid, start, 9)
    lab.drop(lost)
    call = lab.start(migration(0, pid, (0,), (1,)))
    assert lab.answer_to(call) is None
    lab.wait(1.0)
    assert value(lab, call) == 0
    assert lab.where(pid, start, 5) == [1] * 5 and lab.read(pid, start) == 9


# ---- leases --------------------------------------------------------------------------------


def test_the_tasks_of_a_silent_client_exit(make_lab: MakeLab) -> None:
    lab = make_lab(lease=10.0)
    assert lab.ask(Attach(), Attached).lease == 10.0
    leased, unleased = lab.spawn(leased=True), lab.spawn()
    lab.mapped(leased, 5)
    stays = lab.mapped(unleased, 3)
    lab.wait(9.0)
    assert lab.call(Renew()) == 0
    lab.wait(9.0)
    assert sorted(lab.memory.tasks) == [leased, unleased]
    lab.wait(2.0)
    assert lab.noted(TaskEnded) == [TaskEnded(leased, "lease")]
    assert list(lab.memory.tasks) == [unleased]
    assert lab.free()[0] == 256 - 3 and lab.where(unleased, stays, 3) == [0] * 3


def test_a_lease_that_ends_during_a_migration_ends_after_it(make_lab: MakeLab) -> None:
    lab = make_lab(lease=10.0)
    lab.ask(Attach(), Attached)
    pid = lab.spawn(leased=True)
    lab.mapped(pid, 5)
    lab.hold_back(CopyPages)
    lab.start(migration(0, pid, (0,), (1,)))
    lab.wait(30.0)
    assert list(lab.memory.tasks) == [pid]
    lab.let_go(CopyPages)
    assert not lab.memory.tasks and lab.free() == [256] * 4


def test_who_comes_back_after_its_lease_and_spawns_is_leased_again(make_lab: MakeLab) -> None:
    """Else a client that was stopped for a while could leave a task behind for ever."""
    lab = make_lab(lease=10.0)
    lab.ask(Attach(), Attached)
    lab.wait(11.0)
    parent = lab.spawn(leased=True)
    lab.call(Fork(parent, -1, 1))
    lab.wait(11.0)
    assert not lab.memory.tasks


def test_a_child_is_leased_as_its_fork_says(make_lab: MakeLab) -> None:
    lab = make_lab(lease=10.0)
    lab.ask(Attach(), Attached)
    parent = lab.spawn(leased=True)
    child = lab.fork(parent)
    lab.wait(11.0)
    assert list(lab.memory.tasks) == [child]


def test_the_same_events_give_the_same_bytes(make_lab: MakeLab) -> None:
    records = []
    for _ in range(2):
        lab = make_lab()
        pid = lab.spawn()
        lab.mapped(pid, 8)
        lab.fork(pid)
        lab.migrate(pid, 0, 3)
        records.append(lab.records)
    assert records[0] == records[1]
