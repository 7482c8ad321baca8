"""Migration jobs of 200,000 pages on real processes, by the console program and the Python API.

Pages are small, so that their number costs little; each test starts from wherever they are.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from numalab import IndefiniteError, Machine, Task, cluster, connect
from numalab.console import Exit
from numalab.job_rows import JobRow
from protocol.jobs import JobState
from protocol.schema import COORDINATOR
from protocol.topology import Topology
from tests.live import Numalab, Said
from tests.test_recovery_live import killed

PAGE = 64
PAGES = 200_000
#: Bytes a second: the whole takes 4 s then, a good deal longer than without a limit.
RATE = PAGES * PAGE // 4
SECONDS = 60.0

Cli = Callable[..., Said]


@pytest.fixture(scope="module")
def machine_of_small_pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("jobs") / "machine"
    topology = Topology.uniform(2, (PAGES + 8192) * PAGE, page_size=PAGE)
    settings = cluster.Settings(topology, lease=SECONDS)
    trio.run(partial(cluster.up, settings, directory, parent=os.getpid()))
    yield directory
    trio.run(cluster.down, directory)


@pytest.fixture(scope="module")
def pid(machine_of_small_pages: Path) -> int:
    """A task with all those pages."""

    async def fill() -> int:
        async with connect(machine_of_small_pages) as machine:
            task = await machine.spawn(leased=False, comm="busy")
            base = await task.mmap(PAGES * PAGE)
            # Of these two only the first has to wait for pages, and they may move afterwards.
            await task.mlock(base, PAGES * PAGE)
            await task.munlock(base, PAGES * PAGE)
            await task.store(base, b"first")
            await task.store(base + (PAGES - 1) * PAGE, b"last!")
            return task.pid

    return trio.run(fill)


@pytest.fixture
def cli(numalab: Numalab, machine_of_small_pages: Path) -> Cli:
    return lambda *words: numalab(*words, "--run-directory", machine_of_small_pages)


def pages_of(cli: Cli, pid: int) -> list[int]:
    """How many pages are on each node."""
    told: list[int] = cli("numastat", "-p", pid, "--json").document["pages"]
    return told


def way(cli: Cli, pid: int) -> tuple[int, int]:
    """From the node with all the pages to the other."""
    pages = pages_of(cli, pid)
    assert sorted(pages) == [0, PAGES]
    return (0, 1) if pages[0] else (1, 0)


def job_of(cli: Cli, job: int) -> dict[str, Any]:
    rows = cli("jobs", "--json").document["jobs"]
    row: dict[str, Any] = next(row for row in rows if row["job"] == job)
    return row


def until(cli: Cli, job: int, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The row of the job as soon as this is so."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        row = job_of(cli, job)
        if condition(row):
            return row
        time.sleep(0.02)
    raise AssertionError(f"it never came to that: {row}")


def in_machine(directory: Path, do: Callable[[Machine], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        with trio.fail_after(SECONDS):
            async with connect(directory) as machine:
                return await do(machine)

    return trio.run(main)


def test_a_dry_run_says_what_would_move_and_moves_nothing(cli: Cli, pid: int) -> None:
    source, target = way(cli, pid)
    said = cli("migratepages", pid, source, target, "--dry-run", "--rate-limit", "1MB/s")
    assert said.code == Exit.DONE, said.err
    assert said.out.splitlines()[1].split()[1:] == [str(source), str(target), str(PAGES), "move"]
    total = f"in all {PAGES} pages would move, 12.8 MB, in about 12.8 s; nothing was changed.\n"
    assert said.out.endswith(total)
    told = cli("migratepages", pid, source, target, "--dry-run", "--json").document
    assert (told["pages"], told["bytes"], told["staying"]) == (PAGES, PAGES * PAGE, 0)
    assert [(row["fate"], row["pages"]) for row in told["rows"]] == [("moves", PAGES)]
    assert way(cli, pid) == (source, target)


def test_the_rate_limit_holds_and_a_tenth_tells_when_it_ends(
    cli: Cli, pid: int, machine_of_small_pages: Path
) -> None:
    """The limit is a third of what this host can.  A host that is kept busy by others for the time
    of one job says nothing about a lower bound, so there are three attempts at that.
    """
    source, target = way(cli, pid)

    async def measure(machine: Machine) -> None:
        job = await machine.jobs.start(pid, [source], [target])
        assert await machine.jobs.wait(job) == 0
        limit = int((await row_of(machine, job)).rate / 3)
        ends = [target, source]
        for _ in range(3):
            ends.reverse()
            early, rest, whole = await at_rate(machine, pid, ends[1], ends[0], limit)
            rate = PAGES * PAGE / whole
            print(f"ETA {early.eta} s, it took {rest:.2f} s; {rate:.0f} B/s, limit {limit}")
            assert rate < 1.1 * limit
            assert early.eta is not None
            if rate > 0.9 * limit and abs(early.eta - rest) <= 0.25 * rest:
                return
        raise AssertionError("three times it was too slow, or took another time than was said")

    in_machine(machine_of_small_pages, measure)


async def row_of(machine: Machine, job: int) -> JobRow:
    (row,) = [row for row in await machine.jobs() if row.job == job]
    return row


async def at_rate(
    machine: Machine, pid: int, source: int, target: int, limit: int
) -> tuple[JobRow, float, float]:
    """The job when a tenth was done; the seconds that it took from then, and in all."""
    began = trio.current_time()
    job = await machine.jobs.start(pid, [source], [target], rate_limit=limit)
    early = await row_of(machine, job)
    while early.settled < PAGES // 10:
        await trio.sleep(0.01)
        early = await row_of(machine, job)
    then = trio.current_time()
    assert await machine.jobs.wait(job) == 0
    ended = trio.current_time()
    last = await row_of(machine, job)
    assert (last.state, last.moved, last.result) == (JobState.DONE, PAGES, 0)
    assert last.rate == pytest.approx(PAGES * PAGE / (ended - began), rel=0.1)
    return early, ended - then, ended - began


def test_a_job_is_paused_munmap_and_fork_go_on_and_then_it_does(
    cli: Cli, pid: int, machine_of_small_pages: Path
) -> None:
    source, target = way(cli, pid)
    asked = ("--rate-limit", f"{RATE}B/s", "--background")
    begun = cli("migratepages", pid, source, target, *asked)
    assert begun.code == Exit.DONE, begun.err
    job = int(begun.out)
    until(cli, job, lambda row: row["settled"] > PAGES // 20)
    assert cli("pause", job) == Said(Exit.DONE, f"Job {job} is paused.\n", "")
    paused = job_of(cli, job)
    assert paused["state"] == "paused" and 0 < paused["settled"] < PAGES

    async def others(machine: Machine) -> None:
        task = await machine.attach(pid)
        extra = await task.mmap(16 * PAGE)
        await task.store(extra, bytes(16 * PAGE))
        await task.munmap(extra, 16 * PAGE)
        child = await task.fork(leased=True)
        await child.exit()

    in_machine(machine_of_small_pages, others)
    assert job_of(cli, job)["settled"] == paused["settled"]
    listed = cli("jobs").out.splitlines()
    assert all(len(line) <= 80 for line in listed)
    assert listed[-1].split()[:4] == [str(job), str(pid), "paused", f"{source}>{target}"]
    assert cli("resume", job).out == f"Job {job} goes on.\n"
    until(cli, job, lambda row: row["state"] == "done")
    assert way(cli, pid) == (target, source)
    late = cli("pause", job)
    assert (late.code, late.err) == (Exit.FAILED, f"Job {job} has ended: it is done.\n")


def test_a_cancelled_job_leaves_what_moved_and_nothing_is_lost(
    cli: Cli, pid: int, machine_of_small_pages: Path
) -> None:
    source, target = way(cli, pid)
    asked = ("--rate-limit", f"{RATE}B/s", "--background", "--json")
    job = cli("migratepages", pid, source, target, *asked).document["job"]
    until(cli, job, lambda row: row["settled"] > PAGES // 20)
    assert cli("cancel", job).out == f"Job {job} is cancelled.\n"
    ended = job_of(cli, job)
    assert ended["state"] == "cancelled" and ended["result"] == -errno.ECANCELED
    pages = pages_of(cli, pid)
    assert pages[target] == ended["moved"] and sum(pages) == PAGES and min(pages) > 0
    checked = cli("verify", pid)
    assert checked.code == Exit.DONE and "verdict: valid" in checked.out, checked
    assert cli("migratepages", pid, target, source) == Said(Exit.DONE, "", "")

    async def ends(machine: Machine) -> tuple[bytes, bytes]:
        task = await machine.attach(pid)
        (vma,) = (await machine.address_space(pid)).start.tolist()
        first, last = vma * PAGE, (vma + PAGES - 1) * PAGE
        return await task.load(first, 5), await task.load(last, 5)

    assert in_machine(machine_of_small_pages, ends) == (b"first", b"last!")


@pytest.mark.parametrize("interrupted", [True, False], ids=["SIGINT", "numalab cancel"])
def test_a_job_in_the_foreground_is_cancelled_by_ctrl_c_and_from_elsewhere(
    cli: Cli, pid: int, machine_of_small_pages: Path, interrupted: bool
) -> None:
    source, target = way(cli, pid)
    before = [row["job"] for row in cli("jobs", "--json").document["jobs"]]
    words = ("migratepages", pid, source, target, "--rate-limit", "100KB/s")
    command = [sys.executable, "-m", "numalab.cli", *map(str, words)]
    command += ["--run-directory", str(machine_of_small_pages)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        job = max(before, default=0) + 1
        end = time.monotonic() + SECONDS
        while job not in [row["job"] for row in cli("jobs", "--json").document["jobs"]]:
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.02)
        if interrupted:
            process.send_signal(signal.SIGINT)
        else:
            assert cli("cancel", job).code == Exit.DONE
        assert process.stderr is not None
        said = process.stderr.read().decode()
    row = job_of(cli, job)
    assert row["state"] == "cancelled"
    if interrupted:
        assert (process.returncode, said) == (Exit.INTERRUPTED, "Interrupted.\n")
    else:
        moved = f"{row['moved']} of {PAGES} pages had moved, and stay moved"
        assert (process.returncode, said) == (
            Exit.PARTLY,
            f"Job {job} was cancelled: {moved}.\n",
        )
    assert cli("migratepages", pid, target, source) == Said(Exit.DONE, "", "")


def test_a_task_moves_pages_at_a_rate_and_whoever_waits_hears_that_it_was_cancelled(
    cli: Cli, pid: int, machine_of_small_pages: Path
) -> None:
    async def scenario(machine: Machine) -> None:
        task = await machine.spawn()
        base = await task.mmap(100 * PAGE)
        await task.store(base, bytes(100 * PAGE))
        assert await task.migrate_pages(0, "0", "1", rate_limit="1MB/s") == 0
        assert await task.move_pages(task.pid, [base], None) == [1]
        with pytest.raises(OSError, match="is no rate") as caught:
            await task.migrate_pages(0, "1", "0", rate_limit=0)
        assert caught.value.errno == errno.EINVAL

        with trio.move_on_after(0.3):
            await task.migrate_pages(0, "1", "0", rate_limit=PAGE)
        (row,) = [
            row for row in await machine.jobs() if row.caller == task.pid and row.rate_limit == PAGE
        ]
        assert row.state == JobState.CANCELLED, "who no longer waits has cancelled it"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_hears_of_the_cancel, machine, task)

    in_machine(machine_of_small_pages, scenario)


async def _hears_of_the_cancel(machine: Machine, task: Task) -> None:
    job = await task.start_migration(task.pid, "1", "0", rate_limit=PAGE)
    await machine.jobs.cancel(job)
    with pytest.raises(OSError) as caught:
        await machine.jobs.wait(job)
    assert caught.value.errno == errno.ECANCELED


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("pause", 99), Exit.FAILED, "There is no job 99 in this machine: 'numalab jobs' lists "),
        (("resume", "x"), Exit.USAGE, "'x' is no job: write a number, as 'numalab jobs' prints it"),
        (("cancel", -1), Exit.USAGE, "neither a pid nor"),
        (("--rate-limit", "100"), Exit.USAGE, "'100' is no rate: write a number and its unit, "),
        (("--rate-limit", "-1MB/s"), Exit.USAGE, "'-1MB/s' is no rate: write a number "),
        (("--rate-limit", "fast"), Exit.USAGE, "'fast' is no rate: write a number and its unit, "),
        (("--rate-limit", "0MB/s"), Exit.USAGE, "it must be 1B/s or more"),
        (("--background", "--time"), Exit.USAGE, "--background and --time contradict each other"),
        (("--background", "--dry-run"), Exit.USAGE, "--background and --dry-run contradict "),
    ],
)
def test_wrong_words_are_a_sentence(
    cli: Cli, pid: int, words: tuple[object, ...], code: int, sentence: str
) -> None:
    if str(words[0]).startswith("-"):
        words = ("migratepages", pid, 0, 1, *words)
    said = cli(*words)
    assert said.code == code and sentence in said.err and not said.out
    assert len(said.err.splitlines()) == 1


def test_whoever_is_not_there_cannot_be_planned_for(cli: Cli) -> None:
    for option in ("--dry-run", "--background"):
        said = cli("migratepages", 77, 0, 1, option)
        assert (said.code, said.out) == (Exit.FAILED, "")
        assert said.err.startswith("There is no task 77 in this machine: ")


def test_a_job_dies_with_its_coordinator_and_the_next_one_says_so(
    cli: Cli, pid: int, machine_of_small_pages: Path
) -> None:
    source, target = way(cli, pid)

    async def scenario(machine: Machine) -> int:
        job = await machine.jobs.start(pid, [source], [target], rate_limit=RATE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_is_left_alone, machine, job)
            await trio.sleep(0.5)
            await killed(machine_of_small_pages, COORDINATOR)
            cluster.restart(machine_of_small_pages, COORDINATOR)
        return job

    lost = job_of(cli, in_machine(machine_of_small_pages, scenario))
    assert (lost["state"], lost["eta"]) == ("lost", 0.0)
    assert sum(pages_of(cli, pid)) == PAGES
    assert cli("migratepages", pid, source, target).code == Exit.DONE
    assert way(cli, pid) == (target, source)


async def _is_left_alone(machine: Machine, job: int) -> None:
    with pytest.raises(IndefiniteError):
        await machine.jobs.wait(job)
    with pytest.raises(IndefiniteError, match="the coordinator died with job"):
        await machine.jobs.wait(job)
