"""Cpusets against real processes: the Python API, the console program, the files."""

from __future__ import annotations

import errno
import json
from contextlib import closing
from pathlib import Path

import pytest
import trio

import numalab as nl
from numalab.console import Exit
from numalab.sysfs_files import Tree, describe
from tests.live import Numalab

PAGE = 4096


def test_memory_and_cpu_of_a_task_follow_its_cpuset() -> None:
    async def scenario() -> None:
        with trio.fail_after(60):
            async with nl.local_cluster(nodes=3, memory="8M") as machine:
                task = await machine.spawn(cpu=0)
                base = await task.mmap(4 * PAGE)
                await task.store(base, b"numalab!" * (4 * PAGE // 8))
                cpusets = machine.cpusets
                await cpusets.mkdir("/batch")
                for file, text in (("cpus", "1-2"), ("mems", "1"), ("memory_migrate", 1)):
                    await cpusets.write("/batch", file, text)
                with pytest.raises(OSError) as refused:
                    await cpusets.attach("/batch", 4711)
                assert refused.value.errno == errno.ESRCH
                await cpusets.attach("/batch", task.pid)
                assert await cpusets.of(task.pid) == "/batch"
                assert task.cpu == 1
                addresses = [base + page * PAGE for page in range(4)]
                assert await task.move_pages(task.pid, addresses, None) == [1] * 4
                await cpusets.write("/batch", "mems", "2")
                assert await task.move_pages(task.pid, addresses, None) == [2] * 4
                assert await task.load(base, 8) == b"numalab!"
                with pytest.raises(OSError) as busy:
                    await cpusets.rmdir("/batch")
                assert busy.value.errno == errno.EBUSY

    trio.run(scenario)


def test_the_console_program_makes_fills_and_removes_cpusets(
    numalab: Numalab, run_directory: Path
) -> None:
    async def scenario() -> int:
        async with nl.connect(run_directory) as machine:
            return (await machine.spawn(cpu=0, leased=False)).pid

    pid = trio.run(scenario)
    assert numalab("cpuset", "mkdir", "/night").code == 0
    said = numalab("cpuset", "attach", "/night", pid)
    assert said.code == Exit.FAILED
    assert said.err == (
        "Cpuset /night: it needs at least one cpu and one node: write both cpus and mems.\n"
    )
    assert numalab("cpuset", "set", "/night", "cpus", "2-3").code == 0
    assert numalab("cpuset", "set", "/night", "mems", "1,3").code == 0
    assert numalab("cpuset", "attach", "/night", pid).code == 0
    assert numalab("cpuset", "get", "/night", "mems").out == "1,3\n"
    assert numalab("cpuset", "get", "/night").out.splitlines() == [
        "cpus: 2-3",
        "mems: 1,3",
        "cpu_exclusive: 0",
        "mem_exclusive: 0",
        "memory_migrate: 0",
        f"tasks: {pid}",
    ]
    assert "/night 2-3  1,3  0       -         1" in numalab("cpuset", "list").out.splitlines()
    listed = json.loads(numalab("cpuset", "list", "--json").out)["cpusets"]
    assert [entry["path"] for entry in listed] == ["/", "/night"]
    assert "has tasks or children" in numalab("cpuset", "rmdir", "/night").err
    assert numalab("cpuset", "attach", "/", pid).code == 0
    assert numalab("cpuset", "rmdir", "/night").code == 0
    for words in (("get", "/night"), ("rmdir", "/night"), ("mkdir", "/a/b"), ("mkdir", "x")):
        said = numalab("cpuset", *words)
        assert said.code == Exit.FAILED
        assert said.err.startswith(f"Cpuset {words[1]}: ")


def test_the_files_show_the_tree_while_it_is_there(run_directory: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        with trio.fail_after(60), closing(Tree(tmp_path / "machine")) as files:
            async with nl.connect(run_directory) as machine:
                task = await machine.spawn(cpu=0)
                await machine.cpusets.mkdir("/day")
                await machine.cpusets.write("/day", "cpus", "0")
                await machine.cpusets.write("/day", "mems", "0-1")
                await machine.cpusets.attach("/day", task.pid)
                files.write(await describe(machine))
                day = files.directory / "dev/cpuset/day"
                proc = files.directory / f"proc/{task.pid}"
                assert (day / "mems").read_text() == "0-1\n"
                assert (day / "tasks").read_text() == f"{task.pid}\n"
                assert (files.directory / "dev/cpuset/cpus").read_text() == "0-3\n"
                assert (proc / "cpuset").read_text() == "/day\n"
                assert "Mems_allowed_list:\t0-1\n" in (proc / "status").read_text()
                await task.exit()
                await machine.cpusets.rmdir("/day")
                files.write(await describe(machine))
                assert not day.exists()
                assert not proc.exists()

    trio.run(scenario)
