"""A user's file is loaded into a machine of real processes, or refused with one sentence."""

from __future__ import annotations

import errno
import os
import re
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.lowlevel

import numalab
from coordinator.mm import MAP_SHARED
from numalab import cluster
from numalab.constants import MAP_ANONYMOUS
from protocol.core import ConfigurationError
from protocol.topology import Topology
from tests.live import Numalab, program

ROOT = Path(__file__).parent.parent
RING = ROOT / "docs" / "examples" / "ring.py"
PAGE = 4096

BROKEN = """\
def register(machine):
    machine.vm_ops("[broken]", migrate=migrate)


def migrate(memory, vma, from_nodes, to_nodes, flags):
    return vma.pages / 0
"""


def test_the_example_of_the_page_does_what_the_page_says() -> None:
    async def scenario() -> None:
        with trio.fail_after(60):
            async with numalab.local_cluster(3, "1M", load=[RING]) as machine:
                task = await machine.spawn(cpu=0)
                base = await task.mmap(9 * PAGE, address=0x300000)
                data = os.urandom(9 * PAGE)
                await task.store(base, data)
                assert await task.migrate_pages(task.pid, "0", "1", new_page="ring") == 0
                addresses = [base + page * PAGE for page in range(9)]
                nodes = await task.move_pages(task.pid, addresses, None)
                assert nodes == [(base // PAGE + page) % 3 for page in range(9)]
                assert await task.load(base, len(data)) == data

                stays = await task.mmap(PAGE, name="[stubborn]")
                await task.store(stays, b"here")
                assert await task.migrate_pages(task.pid, "0", "2") == 1
                careful = await task.mmap(200 * PAGE, name="[careful]")
                await task.store(careful, bytes(200 * PAGE))
                other = await machine.spawn(cpu=2)
                filler = await other.mmap(100 * PAGE)
                await other.store(filler, bytes(100 * PAGE))
                with pytest.raises(OSError) as failed:
                    await task.migrate_pages(task.pid, "0", "2")
                assert failed.value.errno == errno.ENOMEM

    trio.run(scenario)


def test_the_page_shows_the_example_as_it_is() -> None:
    assert RING.read_text() in (ROOT / "docs" / "extending.md").read_text()


def test_a_method_that_raises_is_eio_and_the_log_names_its_line(tmp_path: Path) -> None:
    file, run = tmp_path / "broken.py", tmp_path / "run"
    file.write_text(BROKEN)

    async def scenario() -> None:
        with trio.fail_after(60):
            async with numalab.local_cluster(
                2, "1M", load=[file], run_directory=run, metrics=False
            ) as machine:
                task = await machine.spawn(cpu=0)
                await task.mmap(PAGE, name="[broken]")
                with pytest.raises(OSError) as failed:
                    await task.migrate_pages(task.pid, "0", "1")
                assert failed.value.errno == errno.EIO
                assert await machine.hardware(), "the coordinator serves on"
                said = (run / "coordinator.log").read_text()
                assert f"vm_ops->migrate of '[broken]' failed at {file}, line 6" in said

    trio.run(scenario)


def test_uncached_memory_moves_while_a_task_reads_it_on_a_live_machine() -> None:
    pages, rounds = 40, 6

    async def scenario() -> None:
        with trio.fail_after(90):
            async with numalab.local_cluster(3, "1M") as machine:
                task = await machine.spawn(cpu=0)
                flags = MAP_SHARED | MAP_ANONYMOUS
                base = await task.mmap(pages * PAGE, flags=flags, name="[uncached]")
                data = os.urandom(pages * PAGE)
                await task.store(base, data)
                child = await task.fork()
                reads = 0
                async with trio.open_nursery() as nursery:

                    async def read() -> None:
                        nonlocal reads
                        while True:
                            assert await child.load(base, len(data)) == data
                            reads += 1

                    nursery.start_soon(read)
                    for turn in range(rounds):
                        source, target = str(turn % 3), str((turn + 1) % 3)
                        before = reads
                        assert await task.migrate_pages(0, source, target) == 0
                        free = (await machine.hardware()).free.tolist()
                        assert free[int(target)] == 256 - pages, free
                        while reads <= before + 1:
                            await trio.lowlevel.checkpoint()
                    nursery.cancel_scope.cancel()
                assert await task.load(base, len(data)) == data
                assert "N0=" not in await machine.numa_maps(task.pid)

    trio.run(scenario)


# ---- files that cannot be loaded -----------------------------------------------------------

REFUSED = {
    "def register(machine):\n    x = = 1\n": "line 2 .*invalid syntax",
    "import numpy\n\nimport no_such_thing\n": "line 3 .*no_such_thing",
    "x = 1\n": "no function register",
    "def register(machine):\n    machine.vm_ops('a')\n": "line 2 .*migrate",
    "def register(machine):\n\n    machine.vm_ops('', migrate=print)\n": "line 3 .*not empty",
    "def register(machine):\n    machine.a_ops('[migrate_page]', migratepage=print)\n": (
        "line 2 .*there already"
    ),
    "def register(machine):\n    machine.new_page('a', lambda rows: rows)\n": (
        "line 2 .*3 arguments"
    ),
    "def register(machine):\n    machine.new_page('a', 5)\n": "line 2 .*give a function",
    "def f(n):\n    return 1 // n\ndef register(machine):\n    f(0)\n": "line 2 .*ZeroDiv",
    "raise SystemExit(0)\n": "line 1 .*SystemExit",
}


@pytest.mark.parametrize("source", REFUSED)
def test_a_file_that_is_wrong_is_one_sentence_and_nothing_starts(
    source: str, tmp_path: Path
) -> None:
    file, run = tmp_path / "mine.py", tmp_path / "run"
    file.write_text(source)
    settings = cluster.Settings(Topology.uniform(2, "1M"), load=[file])
    with pytest.raises(ConfigurationError) as refused:
        trio.run(partial(cluster.up, settings, run))
    sentence = str(refused.value)
    assert re.fullmatch(rf"{re.escape(str(file))}, .*{REFUSED[source]}.*\.", sentence), sentence
    assert "\n" not in sentence and not run.exists()


def test_the_console_program_says_so_and_fails(numalab: Numalab, tmp_path: Path) -> None:
    run = tmp_path / "run"
    said = numalab("up", "--run-directory", run, "--load", tmp_path / "not there.py")
    assert said.code == 1 and said.out == "" and not run.exists()
    assert "cannot be loaded (No such file or directory)" in said.err


def test_a_new_page_that_was_not_loaded_is_a_sentence(numalab: Numalab) -> None:
    said = numalab("migratepages", 99, 0, 1, "--new-page", "ring")
    assert said.code == 1 and "no task 99" in said.err
    with program() as source:
        pid = numalab("import", source, "--json").document["pid"]
    said = numalab("migratepages", pid, 0, 1, "--new-page", "ring")
    assert said.code == 1 and "load a file that registers it" in said.err
