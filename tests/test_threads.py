"""Threads: tasks that share an mm, each with a cpu and a policy of its own."""

from __future__ import annotations

import errno

import pytest

from coordinator.mm import PROT_READ
from coordinator.mpol import Mode
from coordinator.replay import differences, replay
from protocol.messages import CopyPages, Done, PutPages, SetGeneration
from protocol.profile import MODERN
from protocol.syscalls import (
    Attach,
    Attached,
    Exit,
    Fault,
    Fork,
    ListTasks,
    Mprotect,
    Progress,
    ProgressMade,
    TaskList,
    Translations,
)
from protocol.task_calls import Clone, Mlock, SchedSetaffinity, Setresuid
from tests.calls import migration, setting
from tests.cpusets import cpuset, rmdir, write
from tests.filing import create, map_file
from tests.lab import PAGE, WRITE, Lab, pages_from


def clone(lab: Lab, pid: int, cpu: int = 0, *, leased: bool = False) -> int:
    return lab.call(Clone(pid, cpu, int(leased)))


def journal_agrees(lab: Lab) -> bool:
    return list(differences(replay(lab.topology, lab.records), lab.memory)) == []


def test_threads_see_one_memory_and_each_allocates_by_its_own_cpu_and_policy(lab: Lab) -> None:
    leader = lab.spawn(cpu=0)
    thread = clone(lab, leader, cpu=2)
    start = lab.mmap(leader, 4)
    lab.fault(leader, start, cpu=0)
    lab.fault(thread, start + 1, cpu=2)
    assert lab.call(setting(thread, Mode.PREFERRED, (3,))) == 0
    lab.fault(thread, start + 2, cpu=2)
    lab.fault(leader, start + 3, cpu=0)
    assert lab.where(leader, start, 4) == lab.where(thread, start, 4) == [0, 2, 3, 0]
    lab.write(leader, start, 41)
    assert lab.read(thread, start) == 41
    assert lab.memory.mem_map[0].mapcount.max() == 1
    assert journal_agrees(lab)


def test_a_page_of_two_threads_is_not_shared_so_move_takes_it(lab: Lab) -> None:
    """mapcount counts entries, not tasks (K 3.2)."""
    leader = lab.spawn(uid=1, capable=False)
    thread = clone(lab, leader)
    start = lab.mapped(leader, 2)
    assert lab.migrate(thread, 0, 1, caller=leader) == 0
    assert lab.where(leader, start, 2) == [1, 1]
    assert lab.move(thread, [start], [2], caller=thread).value == 0


def test_exit_of_one_thread_leaves_the_mm_and_the_last_one_drops_it(lab: Lab) -> None:
    leader = lab.spawn()
    thread = clone(lab, leader)
    start = lab.mapped(leader, 3)
    lab.write(leader, start, 7)
    assert lab.exit(leader) == 0
    assert lab.read(thread, start) == 7 and sum(lab.free()) == 4 * 256 - 3
    assert lab.call(Clone(leader, 0, 0)) == -errno.ESRCH
    more = lab.mapped(thread, 1)
    lab.migrate(thread, 0, 1)
    assert lab.where(thread, more) == [1]
    assert journal_agrees(lab)
    assert lab.exit(thread) == 0 and lab.free() == [256] * 4
    assert journal_agrees(lab)


def test_a_thread_leaves_while_the_process_is_being_migrated(lab: Lab) -> None:
    """Only the last one has to wait for mmap_sem."""
    leader = lab.spawn()
    thread = clone(lab, leader)
    lab.mapped(leader, 2)
    lab.hold_back(CopyPages)
    call = lab.start(migration(0, leader, (0,), (1,)))
    lab.run()
    assert lab.ask(Progress(thread), ProgressMade).listed == 2
    assert lab.exit(thread) == 0
    last = lab.start(Exit(leader))
    assert lab.answer_to(last) is None and lab.answer_to(call) is None
    lab.let_go(CopyPages)
    assert lab.answer_to(last) is not None and lab.free() == [256] * 4


def test_no_thread_is_made_in_an_mm_that_is_being_taken_down(lab: Lab) -> None:
    pid = lab.spawn()
    lab.mapped(pid, 1)
    lab.hold_back(PutPages)
    ending = lab.start(Exit(pid))
    lab.run()
    assert clone(lab, pid) == -errno.ESRCH
    lab.let_go(PutPages)
    assert lab.answer_to(ending) is not None


def test_fork_by_a_thread_copies_the_mm_and_what_is_the_thread_s_own(lab: Lab) -> None:
    leader = lab.spawn(uid=0)
    thread = clone(lab, leader, cpu=3)
    assert lab.call(setting(thread, Mode.BIND, (2,))) == 0
    assert lab.call(Setresuid(thread, 5, 5, 5)) == 0
    start = lab.mapped(leader, 1)
    child = lab.fork(thread)
    task = lab.memory.tasks[child]
    assert (task.ppid, task.tgid, task.cpu, task.uid) == (leader, child, 3, 5)
    assert task.policy == lab.memory.tasks[thread].policy
    assert lab.memory.tasks[leader].policy is None and lab.memory.tasks[leader].uid == 0
    lab.write(child, start, 1)
    assert lab.where(child, start) == [2] and lab.where(leader, start) == [0]
    assert journal_agrees(lab)


def test_what_a_task_locks_is_filled_in_where_it_runs_now(lab: Lab) -> None:
    pid = lab.spawn(cpu=0)
    start = lab.mmap(pid, 3)
    assert lab.call(SchedSetaffinity(pid, 2)) == 0
    assert lab.call(Mlock(pid, start * PAGE, PAGE)) == 0
    child = lab.call(Fork(pid, 3, 0))
    assert lab.call(Mlock(child, (start + 1) * PAGE, PAGE)) == 0
    heir = lab.fork(pid)
    assert lab.call(Mlock(heir, (start + 2) * PAGE, PAGE)) == 0
    assert lab.where(pid, start) == [2]
    assert lab.where(child, start + 1) == [3] and lab.where(heir, start + 2) == [2]
    assert journal_agrees(lab)


def test_a_task_runs_on_no_cpu_that_is_not_there_or_not_its_cpuset_s(lab: Lab) -> None:
    pid = lab.spawn(cpu=0)
    assert lab.call(SchedSetaffinity(pid, 9)) == lab.call(Fork(pid, 9, 0)) == -errno.EINVAL
    assert lab.call(SchedSetaffinity(99, 0)) == -errno.ESRCH
    cpuset(lab, "/c", cpus="1-2", mems="0")
    write(lab, "/c", "tasks", str(pid))
    assert lab.memory.tasks[pid].cpu == 1
    assert lab.call(SchedSetaffinity(pid, 0)) == -errno.EINVAL
    # A child begins where it may be.
    assert lab.memory.tasks[lab.call(Fork(pid, 3, 0))].cpu == 1
    assert lab.memory.tasks[lab.call(Fork(pid, 2, 0))].cpu == 2
    assert journal_agrees(lab)


def test_a_list_of_tasks_says_which_are_threads_of_one_process(lab: Lab) -> None:
    first, second = lab.spawn(), lab.spawn()
    thread = clone(lab, first, cpu=1)
    lab.mapped(first, 3)
    tasks = lab.ask(ListTasks(), TaskList)
    assert tasks.pid.tolist() == [first, second, thread]
    assert tasks.tgid.tolist() == [first, second, first]
    assert tasks.present.tolist() == [3, 0, 3]


def test_the_threads_of_a_dead_client_go_and_others_keep_the_mm() -> None:
    lab = Lab(lease=5.0)
    lab.ask(Attach(), Attached)
    leader = lab.spawn(leased=True)
    start = lab.mapped(leader, 2)
    thread = clone(lab, leader)
    clone(lab, leader, leased=True)
    lab.wait(6.0)
    assert list(lab.memory.tasks) == [thread]
    assert lab.where(thread, start, 2) == [0, 0]
    assert lab.exit(thread) == 0 and lab.free() == [256] * 4
    lab.validate()


@pytest.mark.parametrize("cpu", [4, 1 << 40])
def test_there_must_be_such_a_cpu(lab: Lab, cpu: int) -> None:
    assert clone(lab, lab.spawn(), cpu) == -errno.EINVAL
    assert clone(lab, 99) == -errno.ESRCH


def test_k_4_8_a_thread_may_look_into_its_own_process_whoever_it_has_become() -> None:
    lab = Lab(profile=MODERN)
    leader = lab.spawn(uid=0)
    thread = clone(lab, leader)
    assert lab.call(Setresuid(thread, 5, 5, 5)) == 0
    start = lab.mapped(leader, 1)
    assert lab.migrate(leader, 0, 1, caller=thread) == 0
    assert lab.fault(thread, start, access=WRITE).nid.tolist() == [1]


def test_a_fault_outlives_its_thread_and_even_the_cpuset_that_it_was_in(lab: Lab) -> None:
    leader = lab.spawn()
    start = lab.mapped(leader, 1)
    create(lab, "ext3")
    file = map_file(lab, leader)
    thread = clone(lab, leader)
    cpuset(lab, "/gone", mems="1-2")
    assert write(lab, "/gone", "tasks", thread) == 0
    assert lab.call(setting(thread, Mode.INTERLEAVE, (1, 2))) == 0
    lab.hold_back(SetGeneration)
    protecting = lab.start(Mprotect(leader, start * PAGE, PAGE, PROT_READ))
    fault = lab.start(Fault(thread, 0, WRITE, pages_from(file, 3)))
    assert lab.answer_to(fault) is None
    assert lab.exit(thread) == 0 and rmdir(lab, "/gone") == 0
    lab.let_go(SetGeneration)
    done = lab.answer_to(protecting)
    assert isinstance(done, Done) and done.value == 0
    served = lab.answer_to(fault)
    assert isinstance(served, Translations) and not served.status.any()
    lab.validate()
    assert journal_agrees(lab)
