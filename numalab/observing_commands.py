"""The commands that read counters and the trace, as functions that know nothing of a command line.

Each gives an ``Answer``, or raises what ``console.explain`` makes a sentence of.
"""

from __future__ import annotations

import trio

from numalab.commands import Place
from numalab.console import Answer, say

TRACE_SECONDS = 0.2


async def vmstat(place: Place) -> Answer:
    """The events that are counted; K 6.10 says which kernels have them in /proc/vmstat."""
    async with place.connected() as machine:
        events = await machine.vmstat()
    return Answer("".join(f"{name} {count}\n" for name, count in events.items()), events)


async def trace(place: Place, last: int | None, *, follow: bool) -> Answer:
    """The lines that are kept, the ``last`` of them; then those that come, if ``follow``."""
    async with place.connected() as machine:
        text, number = await machine.trace()
        lines = text.splitlines(keepends=True)
        text = "".join(lines if last is None else lines[len(lines) - min(last, len(lines)) :])
        while follow:
            say(text)
            await trio.sleep(TRACE_SECONDS)
            text, number = await machine.trace(number)
    return Answer(text)
