"""Draw the dashboards as they look when a machine is at work: ``make pictures``.

A machine is started and harmed for about a minute, a real Prometheus watches it, and what that
answers to the expressions of the committed dashboards is drawn by matplotlib.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from grafana.asking import macros_of, without_macros
from grafana.contents import MARK_STEP, Answers, Mark, Seen, Shown, marks_of
from grafana.generate import DASHBOARDS, path_of
from grafana.observed import Course, machine_with_faults, work
from grafana.panel import Json
from grafana.prometheus import LACKING, ROOT, Prometheus, installed, prometheus

FOLDER = ROOT / "docs/pictures"
#: Slow enough to see the pages of a task arrive at one node after the other.
COURSE = Course(quiet=20.0, pause=2.0, faults=(20.0, 50.0))


def picture_of(page: Json) -> Path:
    """The committed file of a dashboard."""
    return FOLDER / f"{page['uid'].removeprefix('numalab-')}.png"


def say(text: str) -> None:
    print(text, file=sys.stderr)


async def observed(directory: Path) -> list[Seen]:
    """Every dashboard with what Prometheus has to say after a minute of work."""
    async with machine_with_faults(directory, COURSE) as (machine, run):
        with prometheus(directory, run) as seen:
            await work(machine, run, COURSE, say)
            end = time.time()
            pages = [json.loads(path_of(board).read_text()) for board in DASHBOARDS]
            return [asked(seen, page, end) for page in pages]


def asked(seen: Prometheus, page: Json, end: float) -> Seen:
    """A dashboard with all that was answered to it."""
    macros = macros_of(seen, page, end)
    answers: dict[int, Answers] = {
        panel["id"]: [
            seen.values(without_macros(row["expr"], macros), end, instant=row["instant"])
            for row in panel["targets"]
        ]
        for panel in page["panels"]
        if panel["type"] != "row"
    }
    return Seen(page, Shown(seen.start, end), answers, tuple(_marks(seen, page, macros, end)))


def _marks(seen: Prometheus, page: Json, macros: dict[str, str], end: float) -> Iterator[Mark]:
    for row in page["annotations"]["list"]:
        expr = without_macros(row["expr"], macros)
        yield from marks_of(row, seen.values(expr, end, step=MARK_STEP))


def main() -> None:
    if find_spec("matplotlib") is None:
        raise SystemExit("matplotlib is not installed: say `make pictures`, which installs it.")
    if not installed():
        raise SystemExit(f"{LACKING}.")
    from grafana import drawing

    with TemporaryDirectory(prefix="numalab-pictures-") as directory:
        boards = trio.run(observed, Path(directory))
    FOLDER.mkdir(exist_ok=True)
    for board in boards:
        path = picture_of(board.page)
        drawing.write(board, path)
        empty = [panel["title"] for panel, content in board.panels() if not content]
        without = f", without data: {', '.join(empty)}" if empty else ""
        say(f"{path.relative_to(ROOT)}{without}")


if __name__ == "__main__":
    main()
