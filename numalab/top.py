"""``numalab top``: a live view of a machine in the terminal, which never ends by itself.

Who does not answer is shown as away.  ``top_rates.py`` has the numbers, ``top_picture.py`` the
lines; here are the machine, the clock, the keys and the screen.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING

import trio
from rich.console import Console
from rich.live import Live
from rich.text import Text

from numalab.console import SCHEMA, Answer, Exit, say
from numalab.locate import MachineUnreachable, ProcessRow, read_machine
from numalab.machine import Machine, connect
from numalab.top_picture import picture
from numalab.top_rates import Moved, Sample, View, view_of
from protocol.live.scrape import MetricsPage, fetch_page
from protocol.syscalls import (
    DescribeHardware,
    Hardware,
    ListTasks,
    Progress,
    ProgressMade,
    TaskList,
)

if TYPE_CHECKING:
    from numalab.commands import Place

#: After so long who has not answered is away.
ANSWER_SECONDS = 1.0
#: Of so many samples without a coordinator, before the machine is looked for anew.
PATIENCE = 3
#: Tasks that are asked how far their migrations are; the largest.
TASKS_ASKED = 32
#: Where a picture is no screen.
PLAIN_WIDTH, PLAIN_HEIGHT = 80, 200

#: Told each sample; True: that was the last.
Heed = Callable[[Sample], bool]


async def top(place: Place, interval: float, *, once: bool, as_json: bool) -> Answer:
    """Show it until q is pressed; ``once``: one frame, of two samples, as plain text.

    as_json: a document a line, for each interval.  Raises MachineUnreachable if no machine is
    described in the run directory.
    """
    if place.address is None:
        read_machine(place.run_directory)
    title = place.address or place.run_directory.name
    if once or not (as_json or sys.stdout.isatty()):
        view = await _first_view(place, interval)
        code = Exit.DONE if view.epoch else Exit.UNREACHABLE
        text = picture(view, PLAIN_WIDTH, PLAIN_HEIGHT, title).plain
        lines = "".join(f"{line.rstrip()}\n" for line in text.splitlines())
        return Answer(lines, asdict(view), code, "" if view.epoch else view.notes[0])
    views = _Views(_say_document if as_json else None)
    if as_json:
        await watch(place, interval, views.heed)
    else:
        await _on_screen(place, interval, title, views)
    return Answer("")


class _Views:
    """Samples become views; ``show`` is told each."""

    def __init__(self, show: Callable[[View], None] | None) -> None:
        self.show = show
        self.last: View | None = None
        self._before: Sample | None = None

    def heed(self, sample: Sample) -> bool:
        before, self._before = self._before, sample
        self.last = view_of(before, sample)
        if self.show is not None:
            self.show(self.last)
        return False


def _say_document(view: View) -> None:
    say(json.dumps({"schema": SCHEMA, **asdict(view)}) + "\n")


async def _first_view(place: Place, interval: float) -> View:
    samples: list[Sample] = []

    def heed(sample: Sample) -> bool:
        samples.append(sample)
        return len(samples) == 2

    await watch(place, interval, heed)
    return view_of(*samples)


# ---- the screen ----------------------------------------------------------------------------


async def _on_screen(place: Place, interval: float, title: str, views: _Views) -> None:
    console = Console(highlight=False)
    waiting = Text("numalab top: the first numbers are on their way")
    with (
        _one_key_at_a_time(sys.stdin.fileno()) as keys,
        Live(waiting, console=console, screen=True, auto_refresh=False) as live,
    ):

        def draw(view: View) -> None:
            width, height = console.size
            live.update(picture(view, width, height, f"{title} (q quits)"), refresh=True)

        views.show = draw
        async with trio.open_nursery() as nursery:

            async def quit_at_key() -> None:
                await _until_q(keys)
                nursery.cancel_scope.cancel()

            async def follow_size() -> None:
                with trio.open_signal_receiver(signal.SIGWINCH) as resized:
                    async for _ in resized:
                        if views.last is not None:
                            draw(views.last)

            if keys is not None:
                nursery.start_soon(quit_at_key)
            nursery.start_soon(follow_size)
            await watch(place, interval, views.heed)


@contextmanager
def _one_key_at_a_time(descriptor: int) -> Iterator[int | None]:
    """The terminal gives keys as they are pressed, and echoes none; None: it is no terminal."""
    if not os.isatty(descriptor):
        yield None
        return
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        # A program that is stopped would leave its screen behind.
        now = termios.tcgetattr(descriptor)
        now[6][termios.VSUSP] = b"\0"
        termios.tcsetattr(descriptor, termios.TCSANOW, now)
        yield descriptor
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


async def _until_q(keys: int | None) -> None:
    assert keys is not None
    while True:
        await trio.lowlevel.wait_readable(keys)
        pressed = os.read(keys, 64)
        # Nothing: the terminal is gone.
        if not pressed or b"q" in pressed.lower():
            return


# ---- the machine ---------------------------------------------------------------------------


async def watch(place: Place, interval: float, heed: Heed) -> None:
    """A sample each ``interval`` seconds until ``heed`` says that it is enough."""
    while True:
        try:
            rows = () if place.address else read_machine(place.run_directory).processes
        except MachineUnreachable as error:
            rows, why = (), str(error)
        else:
            try:
                where = place.address or place.run_directory
                async with connect(where, within=ANSWER_SECONDS) as machine:
                    if await _watch_connected(machine, rows, interval, heed):
                        return
                continue
            except MachineUnreachable:
                why = ""
        if heed(await _take(None, rows, why)):
            return
        await trio.sleep(interval)


async def _watch_connected(
    machine: Machine, rows: Sequence[ProcessRow], interval: float, heed: Heed
) -> bool:
    """Until that is enough (True), or until the coordinator is away for long."""
    silent = 0
    while silent < PATIENCE:
        sample = await _take(machine, rows)
        silent = silent + 1 if sample.hardware is None else 0
        if heed(sample):
            return True
        await trio.sleep(interval)
    return False


async def _take(machine: Machine | None, rows: Sequence[ProcessRow], why: str = "") -> Sample:
    """Everybody is asked at once."""
    pages: dict[str, MetricsPage | None] = {row.name: None for row in rows if row.metrics}
    found: list[Hardware] = []
    moved: list[Moved] = []
    async with trio.open_nursery() as nursery:

        async def fetch(row: ProcessRow) -> None:
            pages[row.name] = await trio.to_thread.run_sync(
                fetch_page, row.metrics, ANSWER_SECONDS, abandon_on_cancel=True
            )

        for row in rows:
            if row.metrics:
                nursery.start_soon(fetch, row)
        if machine is not None:
            nursery.start_soon(_ask, machine, found, moved)
    return Sample(trio.current_time(), found[0] if found else None, pages, moved, why)


async def _ask(machine: Machine, found: list[Hardware], moved: list[Moved]) -> None:
    with suppress(OSError):
        within = ANSWER_SECONDS
        found.append(await machine.expect(DescribeHardware(), Hardware, within=within))
        tasks = await machine.expect(ListTasks(), TaskList, within=within)
        rows = zip(tasks.present.tolist(), tasks.pid.tolist(), tasks.names, strict=True)
        async with trio.open_nursery() as nursery:
            for _, pid, comm in sorted(rows, reverse=True)[:TASKS_ASKED]:
                nursery.start_soon(_ask_progress, machine, pid, comm, moved)


async def _ask_progress(machine: Machine, pid: int, comm: str, moved: list[Moved]) -> None:
    with suppress(OSError):
        made = await machine.expect(Progress(pid), ProgressMade, within=ANSWER_SECONDS)
        if made.listed:
            moved.append(Moved(pid, comm, made.listed, made.settled))
