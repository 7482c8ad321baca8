"""A driver that waits in place for what comes within a moment: for itself, or for who ordered."""

from __future__ import annotations

from collections.abc import Sequence

import trio
import trio.testing

from protocol.core import Deadline, Effect, Event, Received
from protocol.live.driver import Driver
from tests.test_driver import Script, Wire, send, word_of


class Dropping(Wire):
    """Messages come for ever, a millisecond apart, and none of them may go on."""

    def __init__(self, clock: trio.testing.MockClock) -> None:
        super().__init__()
        self.clock, self.rests = clock, 0

    def rest(self, milliseconds: int) -> bool:
        self.rests += 1
        assert self.rests < 1_000, "it rests for ever"
        self.clock.jump(milliseconds / 1e3)
        return True


async def test_a_deadline_that_comes_up_in_place_is_heeded_by_who_listens(
    autojump_clock: object,
) -> None:
    def want_a_deadline_soon(event: Event) -> Sequence[Effect]:
        if isinstance(event, Received):
            core.due = start + 1
        return ()

    core, wire, start = Script(want_a_deadline_soon), Wire(), trio.current_time()
    core.due = start + 1_000
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            driver = Driver(core, wire)
            await nursery.start(driver.run)
            await trio.testing.wait_all_tasks_blocked()
            # Nobody unparks who listens: this message is taken by who lingers.
            wire.inbox.append((b"answer",))
            driver.linger()
            await trio.sleep(5)
            nursery.cancel_scope.cancel()
    assert (Deadline(), start + 1) in core.seen


async def test_what_a_core_puts_off_is_done_in_place_when_its_answer_is_on_its_way(
    mock_clock: trio.testing.MockClock,
) -> None:
    def answer_first(event: Event) -> Sequence[Effect]:
        if isinstance(event, Deadline):
            return [send(b"what is left")]
        core.due = core.seen[-1][1]
        return [send(b"answer")]

    core, wire = Script(answer_first), Wire()
    wire.inbox.append((b"question",))
    Driver(core, wire).linger()
    assert [word_of(sent) for sent in wire.sent] == [b"answer", b"what is left"]


async def test_a_flood_of_what_is_dropped_keeps_nobody_in_place(
    mock_clock: trio.testing.MockClock,
) -> None:
    wire = Dropping(mock_clock)
    Driver(Script(), wire).linger()
    assert wire.rests <= 3
