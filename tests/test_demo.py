"""The demonstration ends with a true verdict, and leaves nothing behind, however it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import trio

from numalab import connect
from numalab.demo import check_written
from numalab.processes import Process
from numalab.writer import Report

ROOT = Path(__file__).parent.parent
DEMO = [sys.executable, "-m", "numalab.cli", "demo", "--seed", "2006"]


@contextmanager
def demonstration(*options: str) -> Iterator[subprocess.Popen[str]]:
    """It runs in a process of its own, which is gone when the block ends."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*DEMO, *options], cwd=ROOT, stdout=pipe, stderr=pipe, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def children(pid: int) -> list[Process]:
    """The processes that a process has started, so that each is known again."""
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    found = [child for thread in threads for child in thread.read_text().split()]
    stats = [Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split() for child in found]
    return [Process(int(child), int(stat[19])) for child, stat in zip(found, stats, strict=True)]


def test_the_demonstration_ends_with_a_valid_verdict() -> None:
    with demonstration("--json") as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, f"{out}\n{err}"
    document = json.loads(out)
    assert document["verdict"] == "valid"
    lines = "\n".join(document["lines"])
    assert "from seed 2006" in lines
    for leg in ("0 -> 1", "1 -> 2,3", "2,3 -> 0"):
        assert leg in lines
    assert lines.endswith("verdict: valid")


def test_an_interrupted_demonstration_leaves_nothing_behind() -> None:
    with demonstration("--seconds", "60") as process:
        assert process.stdout is not None
        directory = None
        for line in process.stdout:
            if line.startswith("machine: "):
                directory = Path(line.split(" in ")[1].strip())
            if line.startswith("0 -> 1"):
                break
        assert directory is not None
        zones = Path(json.loads((directory / "node0.json").read_bytes())["zone"]).parent
        started = children(process.pid)
        assert len(started) == 8, "a program, two writers, four nodes and a coordinator"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "Interrupted.\n")
    assert not [child.pid for child in started if child.alive]
    assert not directory.exists()
    assert not zones.exists()


def test_a_lost_store_and_a_changed_byte_are_found(run_directory: Path) -> None:
    """Two pages of zeros, in whose first word a writer says that it has stored 7."""
    wrong = {(7, 7): [], (6, 7): [], (7, 8): [], (8, 8): [0, 4096], (6, 6): [0, 4096]}

    async def play() -> None:
        async with connect(run_directory) as machine:
            task = await machine.spawn()
            address = await task.mmap(2 * 4096)
            pages = np.array([address // 4096, address // 4096 + 1], np.uint64)
            original = np.zeros((2, 4096), np.uint8)
            await task.store_many(pages * np.uint64(4096), 8, np.full(2, 7, np.uint64).tobytes())
            for (acknowledged, attempted), places in wrong.items():
                said = Report((acknowledged,) * 2, (attempted,) * 2, 2, 0.0, ())
                findings = await check_written(task, pages, original, [said])
                assert [finding.address - address for finding in findings] == places

            await task.store(address + 4096 + 800, b"\1")
            findings = await check_written(
                task, pages, original, [Report((7, 7), (7, 7), 2, 0, ())]
            )
            assert [finding.address - address for finding in findings] == [4096 + 800]

    async def in_time() -> None:
        with trio.fail_after(20):
            await play()

    trio.run(in_time)
