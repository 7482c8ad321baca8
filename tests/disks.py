"""Disks that are small, or that nobody may write to: file systems of a test's own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from protocol.live.journal import Journal


@contextmanager
def mounted(directory: Path, options: str) -> Iterator[None]:
    """A file system in memory; skips the test where nobody may mount one."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)]
    made = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if made.returncode:
        pytest.skip(f"a file system cannot be mounted here: {made.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], timeout=30, check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory in which 512 KiB are free."""
    directory = tmp_path / "small"
    directory.mkdir()
    with mounted(directory, "size=512k"):
        yield directory


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A directory that nobody can write to, with the journal ``old`` in it."""
    directory = tmp_path / "read-only"
    directory.mkdir()

    async def make() -> None:
        async with Journal(directory / "old") as journal:
            await journal.append([b"one"])

    with mounted(directory, "size=512k"):
        trio.run(make)
        subprocess.run(["mount", "-o", "remount,ro", str(directory)], timeout=30, check=True)
        yield directory
