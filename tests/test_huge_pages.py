"""The file of a zone: its space is there from the start, on huge pages where they are given."""

from __future__ import annotations

import multiprocessing
import os
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from nodes.__main__ import NodeConfiguration, open_zone, touch
from protocol.core import ConfigurationError

FRAMES, PAGE = 4096, 4096


def mapped(path: Path, kind: str) -> int:
    """Bytes of this kind (of /proc/PID/smaps) in the mappings of a file by this process."""
    found, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            ours = line.endswith(str(path))
        elif ours and line.startswith(f"{kind}:"):
            found += int(line.split()[1]) << 10
    return found


@contextmanager
def mounted(path: Path, options: str) -> Iterator[Path]:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no such tmpfs can be mounted here: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture
def giving(tmp_path: Path) -> Iterator[Path]:
    """A file system in memory that gives huge pages to who asks."""
    with mounted(tmp_path, "huge=advise,size=64m") as path:
        yield path


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
        return mapped(path, "ShmemPmdMapped")


def test_a_new_zone_and_one_that_was_there_lie_on_huge_pages(giving: Path) -> None:
    for _ in range(2):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            huge = pool.submit(open_and_look, giving / "zone").result()
        # What does not fill a huge page at the end may lie on small ones.
        assert huge >= FRAMES * PAGE - (2 << 20)


def test_a_new_zone_without_huge_pages_has_its_space_and_is_touched_later(tmp_path: Path) -> None:
    path = tmp_path / "zone"
    with mounted(tmp_path, "size=64m"), open_zone(configured(path)) as (_, file):
        assert os.stat(path).st_blocks * 512 >= FRAMES * PAGE
        # A start would have to wait for that.
        assert mapped(path, "Rss") < FRAMES * PAGE // 4

        async def in_a_thread() -> None:
            await trio.to_thread.run_sync(touch, file)

        trio.run(in_a_thread)
        assert mapped(path, "Rss") >= FRAMES * PAGE


def test_a_zone_on_a_disk_has_its_space(tmp_path: Path) -> None:
    path = tmp_path / "zone"
    with open_zone(configured(path)):
        assert os.stat(path).st_blocks * 512 >= FRAMES * PAGE


@pytest.mark.parametrize("options", ["size=8m", "size=8m,huge=advise"])
def test_a_full_file_system_is_a_sentence_and_leaves_nothing(tmp_path: Path, options: str) -> None:
    with mounted(tmp_path, options):
        full = pytest.raises(ConfigurationError, match="There is no room for the 16 MiB of")
        with full, open_zone(configured(tmp_path / "zone")):
            pass
        assert not list(tmp_path.iterdir())
