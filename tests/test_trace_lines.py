"""The trace: a line for each migrate_pages(), as trace_pipe has it (K 6.12 - 6.14)."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import trio

from coordinator.vmstat import TRACE_LINES
from numalab import connect
from numalab.constants import MPOL_BIND, MPOL_MF_MOVE
from protocol.observe import ReadTrace
from protocol.profile import MODERN, SEED, Profile
from protocol.syscalls import Description
from tests.calls import binding
from tests.lab import PAGE, Lab
from tests.live import Numalab

MakeLab = Callable[..., Lab]
LINE = re.compile(r" *(\S.*)-(\d+) +\[(\d{3})\] \.{5} +(\d+\.\d{6}): (\w+): (.*)")


def traced(lab: Lab, first: int = 0) -> list[str]:
    return lab.ask(ReadTrace(first), Description).text.splitlines()


def events(lab: Lab) -> list[tuple[str, str]]:
    found = [LINE.fullmatch(line) for line in traced(lab)]
    return [(line[5], line[6]) for line in found if line]


def moved(lab: Lab, pinned: int = 0) -> int:
    """Seven pages of a new task move from node 0 to node 2, but for those that are pinned."""
    pid = lab.spawn()
    start = lab.mapped(pid, 7)
    if pinned:
        lab.hold_pages(lab.fault(pid, start, pinned), pinned=1)
    assert lab.migrate(pid, 0, 2, caller=pid) == pinned
    return pid


def test_the_fields_of_today(make_lab: MakeLab) -> None:
    lab = make_lab(profile=MODERN)
    moved(lab, pinned=2)
    how = "mode=MIGRATE_SYNC reason=syscall_or_cpuset"
    assert events(lab) == [
        ("mm_migrate_pages_start", how),
        (
            "mm_migrate_pages",
            "nr_succeeded=5 nr_failed=2 nr_thp_succeeded=0 nr_thp_failed=0 nr_thp_split=0 " + how,
        ),
    ]


def test_the_fields_of_the_first_kernel_that_had_them(make_lab: MakeLab) -> None:
    lab = make_lab(profile=SEED)
    moved(lab)
    how = "mode=MIGRATE_SYNC reason=syscall_or_cpuset"
    assert events(lab) == [("mm_migrate_pages", f"nr_succeeded=7 nr_failed=0 {how}")]


def test_a_line_says_who_called_where_and_when(lab: Lab) -> None:
    lab.wait(1.5)
    pid = moved(lab)
    (line,) = traced(lab)
    assert line.startswith(
        f"            task-{pid:<7} [000] .....     1.500000: mm_migrate_pages: "
    )


@pytest.mark.parametrize("profile", [SEED, MODERN], ids=lambda profile: profile.name)
def test_mbind_has_a_reason_of_its_own(make_lab: MakeLab, profile: Profile) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn()
    start = lab.mapped(pid, 3)
    bound = binding(pid, start * PAGE, 3 * PAGE, MPOL_BIND, (1,), MPOL_MF_MOVE)
    assert lab.call(bound) == 0
    assert events(lab)[-1][1].endswith("mode=MIGRATE_SYNC reason=mempolicy_mbind")


def test_a_call_that_finds_nothing_to_move_leaves_no_line(lab: Lab) -> None:
    pid = lab.spawn()
    lab.mapped(pid, 3)
    assert lab.migrate(pid, 1, 2) == 0
    assert traced(lab) == []


def test_the_line_and_the_counters_agree(make_lab: MakeLab) -> None:
    lab = make_lab(profile=MODERN)
    moved(lab, pinned=1)
    moved(lab)
    fields = [re.findall(r"nr_(?:succeeded|failed)=(\d+)", text) for _, text in events(lab)]
    succeeded, failed = (sum(int(row[column]) for row in fields if row) for column in (0, 1))
    counted = lab.memory.counters
    assert (succeeded, failed) == (counted.pgmigrate_success, counted.pgmigrate_fail) == (13, 1)


def test_who_follows_gets_each_line_once_and_old_lines_are_dropped(lab: Lab) -> None:
    pid = lab.spawn()
    lab.mapped(pid, 1)
    for turn in range(3):
        lab.migrate(pid, turn % 2, 1 - turn % 2)
    told = lab.ask(ReadTrace(2), Description)
    assert (len(told.text.splitlines()), told.value) == (1, 3)
    assert lab.ask(ReadTrace(3), Description).text == ""
    for _ in range(TRACE_LINES):
        lab.memory.counters.trace.add("line")
    assert len(traced(lab)) == len(traced(lab, 1)) == TRACE_LINES
    assert lab.ask(ReadTrace(TRACE_LINES + 2), Description).text == "line\n"


def test_the_command_prints_the_last_lines(numalab: Numalab) -> None:
    async def move(directory: str) -> int:
        with trio.fail_after(20):
            async with connect(directory) as machine:
                task = await machine.spawn(comm="mover")
                address = await task.mmap(3 * machine.page_size)
                await task.store(address, b"page" * 3 * 1024)
                # Not always node 0: other tests share the machine, and may have filled it.
                home, *_ = await task.move_pages(task.pid, [address], None)
                before = await machine.vmstat()
                assert await task.migrate_pages(task.pid, [home], [(home + 1) % 4]) == 0
                after = await machine.vmstat()
                assert after["pgmigrate_success"] - before["pgmigrate_success"] == 3
                return task.pid

    pid = trio.run(move, numalab("status", "--json").document["run_directory"])
    said = numalab("trace", "--last", "1")
    assert said.code == 0 and LINE.fullmatch(said.out.rstrip("\n"))
    assert f"mover-{pid} " in said.out and " nr_succeeded=3 nr_failed=0 " in said.out
    counted = numalab("vmstat", "--json").document
    assert f"pgmigrate_success {counted['pgmigrate_success']}\n" in numalab("vmstat").out
