"""A live machine that tests share, and the console program run in this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from numalab import cli, cluster
from protocol.topology import Topology

NODES = 4
NODE_MEMORY = "32M"
#: A program with 4 MiB of its own, which lives until its stdin is closed.
PROGRAM = (
    "import sys; data = bytearray(b'numalab!' * (1 << 19)); "
    "sys.stdout.write('ready\\n'); sys.stdout.flush(); sys.stdin.read()"
)


@dataclass(frozen=True)
class Said:
    """What the console program said before it ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Of --json."""
        return json.loads(self.out)


Numalab = Callable[..., Said]


@pytest.fixture(scope="session")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where a machine of 4 nodes runs, for as long as the tests do."""
    directory = tmp_path_factory.mktemp("live") / "machine"
    settings = cluster.Settings(Topology.uniform(NODES, NODE_MEMORY), lease=60.0)
    trio.run(partial(cluster.up, settings, directory, parent=os.getpid()))
    yield directory
    trio.run(cluster.down, directory)


@pytest.fixture
def numalab(
    run_directory: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Numalab:
    """Run the console program; it finds the shared machine where nothing else is said."""
    monkeypatch.setenv("NUMALAB_RUN_DIRECTORY", str(run_directory))

    def run(*words: object) -> Said:
        capfd.readouterr()
        code = cli.run([str(word) for word in words])
        said = capfd.readouterr()
        return Said(code, said.out, said.err)

    return run


@contextmanager
def program(source: str = PROGRAM) -> Iterator[int]:
    """The pid of a Python program that has said a line and now waits."""
    pipe = subprocess.PIPE
    arguments = [sys.executable, "-c", source]
    with subprocess.Popen(arguments, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        yield process.pid
