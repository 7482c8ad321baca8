"""The contents of a zone lie on huge pages where its file system gives them."""

from __future__ import annotations

import multiprocessing
import os
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from nodes.__main__ import NodeConfiguration, open_zone

FRAMES, PAGE = 4096, 4096


def mapped_huge(path: Path) -> int:
    """Bytes of huge pages in the mappings of a file by this process."""
    huge, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            ours = line.endswith(str(path))
        elif ours and line.startswith("ShmemPmdMapped:"):
            huge += int(line.split()[1]) << 10
    return huge


@pytest.fixture
def giving(tmp_path: Path) -> Iterator[Path]:
    """A file system in memory that gives huge pages to who asks."""
    command = ["mount", "-t", "tmpfs", "-o", "huge=advise,size=64m", "tmpfs", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no tmpfs with huge pages can be mounted here: {done.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def configured(path: Path) -> NodeConfiguration:
    return NodeConfiguration(
        bind="tcp://127.0.0.1:0",
        peers={},
        key="00" * 16,
        nids=(0,),
        nid=0,
        zone=str(path),
        page_size=PAGE,
        frames=FRAMES,
    )


def open_and_look(path: Path) -> int:
    """In a process of its own: a zone stays locked for as long as the process lives."""
    with open_zone(configured(path)):
        return mapped_huge(path)


def test_a_new_zone_and_one_that_was_there_lie_on_huge_pages(giving: Path) -> None:
    for _ in range(2):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            huge = pool.submit(open_and_look, giving / "zone").result()
        # What does not fill a huge page at the end may lie on small ones.
        assert huge >= FRAMES * PAGE - (2 << 20)


def test_a_zone_without_huge_pages_is_in_memory_as_well(tmp_path: Path) -> None:
    path = tmp_path / "zone"
    with open_zone(configured(path)):
        assert os.stat(path).st_blocks * 512 >= FRAMES * PAGE
