"""How a program ends whose metrics page may be being read: at once, and with its exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
#: Run by every interpreter before anything else; what it registers runs when one is taken down.
CUSTOM = "import atexit, os; atexit.register(os.write, 2, b'taken down')"


def run(directory: Path, *words: str, out: int = subprocess.PIPE) -> tuple[int, str, str]:
    (directory / "sitecustomize.py").write_text(CUSTOM)
    done = subprocess.run(
        [sys.executable, *words],
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join([str(directory), str(ROOT)]), "PYTHONUNBUFFERED": ""},
        cwd=directory,
        stdout=out,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_an_interpreter_is_taken_down_where_nobody_leaves(tmp_path: Path) -> None:
    assert run(tmp_path, "-c", "import sys; sys.exit(3)") == (3, "", "taken down")


@pytest.mark.parametrize(
    "words, code, said",
    [
        (("nodes", "/nowhere.json"), 1, "/nowhere.json"),
        (("coordinator", "/nowhere.json"), 1, "/nowhere.json"),
        (("numalab.cli", "frobnicate"), 2, "frobnicate"),
    ],
)
def test_no_program_with_a_metrics_page_takes_its_interpreter_down(
    tmp_path: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    left, out, err = run(tmp_path, "-m", *words)
    assert (left, out) == (code, "")
    assert said in err and "taken down" not in err


LEAVES = "import sys; from protocol.live.leave import leave; print('data'); leave({})"


def test_what_was_said_is_written_first(tmp_path: Path) -> None:
    assert run(tmp_path, "-c", LEAVES.format(3)) == (3, "data\n", "")


@pytest.mark.parametrize("code, ends_with", [(0, 1), (3, 3)])
def test_what_nobody_takes_is_a_failure(tmp_path: Path, code: int, ends_with: int) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        assert run(tmp_path, "-c", LEAVES.format(code), out=full)[0] == ends_with
    finally:
        os.close(full)


def test_nobody_needs_a_stdout(tmp_path: Path) -> None:
    closed = "import os; os.close(1); os.execv({0!r}, [{0!r}, '-c', {1!r}])"
    told = closed.format(sys.executable, LEAVES.format(4))
    assert run(tmp_path, "-c", told) == (4, "", "")
