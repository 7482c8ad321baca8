"""How a process of a machine begins: nothing is collected while it imports, and then it is."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from protocol.live.process import Configuration, run_process

SAYS = """
import gc, sys
if __name__ == "__main__":
    print(gc.isenabled(), sys.argv[1:], sys.modules["__main__"].__name__)
    sys.exit(3)
"""


def test_the_other_module_is_the_main_one_and_its_imports_are_not_looked_at(tmp_path: Path) -> None:
    (tmp_path / "says.py").write_text(SAYS)
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parent.parent)])
    done = subprocess.run(
        [sys.executable, "-P", "-m", "protocol.live.begin", "says", "a", "b"],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("False ['a', 'b'] __main__\n", 3), done.stderr


def test_who_serves_collects_again(capsys: pytest.CaptureFixture[str]) -> None:
    async def serve(_: Configuration) -> None:
        raise AssertionError("there is no configuration")

    gc.disable()
    try:
        assert run_process(["program", "/nowhere.json"], Configuration, serve) == 1
        assert gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()
    assert "/nowhere.json" in capsys.readouterr().err
