"""What a newcomer tries on the first day is done, or refused at once and in a sentence."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import trio

from numalab import cli_machine, cluster, console, options, rundirectory
from numalab.commands import Place
from numalab.console import Exit
from numalab.locate import read_machine
from numalab.machine import Machine
from numalab.orders import IndefiniteError
from numalab.processes import Process, ended
from numalab.task import Task
from protocol.core import ConfigurationError
from protocol.distance import PACE_MAX
from protocol.messages import CountZone
from protocol.syscalls import DescribeHardware, Hardware
from protocol.topology import NODES_MAX, Topology
from tests.live import Numalab, program
from tests.test_bad_input import assert_one_sentence
from tests.test_demo import children, demonstration

HUGE = "9" * 23
NUMALAB = f"{sys.executable} -m numalab.cli"


def in_shell(line: str, run_directory: Path) -> subprocess.CompletedProcess[str]:
    """A line of bash, for what only a shell can do to a program."""
    return subprocess.run(
        ["bash", "-c", line],
        env=os.environ | {"NUMALAB_RUN_DIRECTORY": str(run_directory)},
        capture_output=True,
        text=True,
        timeout=30,
    )


# ---- numbers that cannot be ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "about"),
    [
        (("up", "--nodes", 99999), f"99999 is not in the range 1<=x<={NODES_MAX}"),
        (("up", "--nodes", 0), "0 is not in the range"),
        (("up", "--nodes", -1), "-1 is not in the range"),
        (("up", "--memory", 0), "from one page"),
        (("up", "--memory", "-5M"), "'-5M' is not a size"),
        (("up", "--memory", ""), "'' is not a size"),
        (("up", "--within", "nan"), "'nan' is no time"),
        (("up", "--within", 0), "more than 0"),
        (("up", "--pace", "-1"), "'-1' is no pace"),
        (("up", "--pace", "1e308"), "'1e308' is no pace: write a number like 1000, 1e+09 at most"),
        (("up", "--pace", "inf"), "'inf' is no pace"),
        (("up", "--topology", "dram-cxl", "--nodes", 4), "leave out --nodes, or --topology"),
        (("up", "--memory", "1M", "--topology", "x.toml"), "leave out --memory, or --topology"),
        (("up", "--name", "../x"), "'../x' is no name"),
        (("up", "--name", ""), "'' is no name"),
        (("up", "--run-directory", ""), "it is empty"),
        (("import", "abc"), "'abc' is neither a pid nor a file"),
        (("import", ""), "'' is neither a pid nor a file"),
        (("migratepages", "-1", "0", "1"), "'-1' is neither a pid nor a list of nodes"),
        (("migratepages", "1", "0", "-1"), "'-1' is neither a pid nor a list of nodes"),
        (("numastat", "-p", "-1"), "'-1' is no pid"),
        (("demo", "--seconds", -1), "'-1' is no time"),
        (("sim", "--seeds", "5-1"), "write 1-5"),
        (("sim", "--story", "1000"), "name it with --seed"),
        (("bench", "--pages", 1), "1 is not in the range 256"),
        (("ps", "--jsn"), "No such option '--jsn'"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_is_wrong_usage(
    numalab: Numalab, words: tuple[object, ...], about: str
) -> None:
    assert_one_sentence(numalab(*words), Exit.USAGE, about, "--help'")


def test_too_many_nodes_are_refused_before_anything_is_built() -> None:
    assert cli_machine.NODES_MAX == NODES_MAX and options.PACE_MAX == PACE_MAX
    for nodes in (0, NODES_MAX + 1, 10**9):
        with pytest.raises(ConfigurationError, match=f"{nodes} nodes .* to {NODES_MAX}"):
            Topology.uniform(nodes, "1M")


def test_processes_need_memory_too(
    numalab: Numalab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    information = tmp_path / "meminfo"
    information.write_text("MemAvailable: 102400 kB\n")
    monkeypatch.setattr(rundirectory, "MEMORY_INFORMATION", information)
    directory = tmp_path / "machine"
    said = numalab("up", "--run-directory", directory, "--nodes", 4, "--memory", "1M")
    assert_one_sentence(said, Exit.FAILED, "5 processes take 200 MiB")
    assert not directory.exists()


@pytest.mark.parametrize(
    "command",
    [
        ("migratepages", HUGE, "0", "1"),
        ("move-pages", HUGE, "1000"),
        ("numa-maps", HUGE),
        ("numastat", "-p", HUGE),
        ("verify", HUGE),
    ],
    ids=lambda command: str(command[0]),
)
def test_a_pid_beyond_all_bounds_is_nobodys(numalab: Numalab, command: tuple[object, ...]) -> None:
    assert_one_sentence(numalab(*command), Exit.FAILED, f"There is no task {HUGE}")


def test_a_large_number_of_a_node_is_a_number(numalab: Numalab) -> None:
    said = numalab("migratepages", 1, HUGE, 1)
    assert_one_sentence(said, Exit.USAGE, f"There is no node {HUGE}: this machine has nodes 0-3")
    assert_one_sentence(numalab("import", HUGE), Exit.FAILED, f"There is no process {HUGE}")


# ---- where a machine is --------------------------------------------------------------------


def test_the_command_line_counts_before_the_environment(
    numalab: Numalab, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert numalab("status").code == Exit.DONE
    name = f"nobody-{os.getpid()}"
    monkeypatch.setenv("NUMALAB_ADDRESS", "tcp://127.0.0.1:1")
    assert_one_sentence(numalab("ps", "--name", name), Exit.UNREACHABLE, f"/{name}:")


def test_a_directory_that_was_there_before_the_machine_stays(
    numalab: Numalab, tmp_path: Path
) -> None:
    here, made = tmp_path / "here", tmp_path / "made"
    here.mkdir(mode=0o700)
    for directory in (here, made):
        size = ("--nodes", 1, "--memory", "1M", "--no-metrics")
        assert numalab("up", "--run-directory", directory, *size).code == Exit.DONE
        assert numalab("down", "--run-directory", directory).code == Exit.DONE
    assert here.exists() and not list(here.iterdir())
    assert not made.exists()


def test_the_processes_have_no_threads_for_matrices(run_directory: Path) -> None:
    for row in read_machine(run_directory).processes:
        environment = Path(f"/proc/{row.pid}/environ").read_bytes().split(b"\0")
        assert b"OPENBLAS_NUM_THREADS=1" in environment, row.name


# ---- what is said, and to whom -------------------------------------------------------------


def test_a_stdout_that_takes_nothing(run_directory: Path) -> None:
    for command in ("hardware", "--help", "sim --seeds 0-0"):
        said = in_shell(f"{NUMALAB} {command} > /dev/full", run_directory)
        assert (said.returncode, said.stderr) == (
            Exit.FAILED,
            "stdout takes no data: No space left on device.\n",
        )
    closed = in_shell(f"{NUMALAB} hardware >&-", run_directory)
    assert closed.returncode == Exit.FAILED
    assert closed.stderr.startswith("stdout is closed: ") and closed.stderr.count("\n") == 1
    piped = in_shell(f"{NUMALAB} hardware | head -n 1", run_directory)
    assert (piped.stdout, piped.stderr) == ("available: 4 nodes (0-3)\n", "")


def test_a_program_reads_the_error_too(numalab: Numalab) -> None:
    for words in (("verify", 4711, "--json"), ("up", "--nodes", 0, "--json")):
        said = numalab(*words)
        assert said.document == {"schema": 1, "error": said.err.rstrip("\n")}


def test_an_interrupt_is_said_on_a_line_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> console.Answer:
        raise KeyboardInterrupt

    assert console.conclude(interrupted) == Exit.INTERRUPTED
    assert capfd.readouterr() == ("", "Interrupted.\n")


def test_the_simulation_says_one_document(numalab: Numalab) -> None:
    said = numalab("sim", "--seeds", "0-1", "--processes", 1, "--json")
    assert said.code == Exit.DONE, said.err
    assert (said.document["schema"], said.document["seeds"], said.document["failed"]) == (1, 2, [])


def test_what_json_says_of_pages(numalab: Numalab) -> None:
    with program() as child:
        pid = int(numalab("import", child, "--node", 2).out)
    counted = numalab("numastat", "-p", pid, "--json").document
    kinds = [counted[kind] for kind in ("huge", "heap", "stack", "private")]
    assert np.sum(kinds, axis=0).tolist() == counted["pages"]
    assert sum(counted["heap"]) and sum(counted["stack"])

    heap = numalab("numa-maps", pid).out.partition(" default heap")[0].split("\n")[-1]
    twice = numalab("move-pages", pid, heap, heap, "--to", 1, "--json")
    assert twice.code == Exit.DONE, twice.err
    assert twice.document["pages"] == [{"address": heap, "status": 1}] * 2


# ---- what dies -----------------------------------------------------------------------------


def test_a_killed_demonstration_takes_its_children_with_it() -> None:
    with demonstration("--seconds", "60") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("0 -> 1"):
                break
        started = children(process.pid)
        assert len(started) == 8, "a program, two writers, four nodes and a coordinator"
        process.send_signal(signal.SIGKILL)
        process.wait()
    await_end(started)


def await_end(started: list[Process]) -> None:
    async def wait() -> None:
        with trio.fail_after(20):
            for child in started:
                await ended(child)

    trio.run(wait)
    assert not [child.pid for child in started if child.alive]


async def without_node1(self: Machine) -> Hardware:
    told = await self.expect(DescribeHardware(), Hardware)
    return dataclasses.replace(told, up=np.array([1, 0, 1, 1], np.uint8))


def test_a_node_that_is_down_is_named(numalab: Numalab, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(*_: object, **__: object) -> None:
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(Machine, "hardware", without_node1)
    for call in ("migrate_pages", "move_pages"):
        monkeypatch.setattr(Task, call, refused)
    for words in (("migratepages", 1, 0, 1), ("move-pages", 1, 1000, "--to", 1)):
        assert_one_sentence(numalab(*words), Exit.FAILED, "node1 is down", "numalab status")


def test_an_import_without_room_names_the_node_that_is_away(
    numalab: Numalab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been away only when the import began, or only when no frame was found."""

    async def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(Task, "fill", full)
    away, all_up = without_node1, Machine.hardware
    for first, then, why in (
        (away, all_up, "while node 1 did not answer"),
        (all_up, away, "while node 1 did not answer"),
        (all_up, all_up, "more memory"),
    ):
        told = [first, then]
        monkeypatch.setattr(Machine, "hardware", lambda self, told=told: told.pop(0)(self))
        with program() as child:
            assert_one_sentence(numalab("import", child), Exit.FAILED, "ran out of frames", why)


def test_a_silent_node_is_named_and_not_the_message(run_directory: Path) -> None:
    async def ask() -> str:
        with trio.fail_after(20):
            async with Place(run_directory).connected() as machine:
                node = cluster.running(run_directory)["node3"]
                node.signal(signal.SIGSTOP)
                try:
                    with pytest.raises(IndefiniteError) as refused:
                        await machine.ask(CountZone(), "node3", within=0.2)
                finally:
                    node.signal(signal.SIGCONT)
        return console.explain(refused.value)[1]

    said = trio.run(ask)
    assert said == "node3 did not answer: 'numalab status' tells which processes live."
