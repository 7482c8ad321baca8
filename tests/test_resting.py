"""To wait for a message in place: without a turn of the loop, and keeping nobody from his."""

from __future__ import annotations

import trio
import trio.testing

from protocol.live.transport import open_transport
from tests.test_transport import ANYWHERE, deliver


async def test_what_comes_within_a_moment_is_found_in_place() -> None:
    with trio.fail_after(5):
        async with open_transport("node0", bind=ANYWHERE, peers={}) as node:
            peers = {"node0": node.bound_address}
            async with open_transport("client", bind=None, peers=peers) as client:
                await deliver(client, "node0", (b"first",))
                assert await node.receive() == (b"first",)
                await trio.testing.wait_all_tasks_blocked()
                assert node.receive_nowait() is None
                assert not node.rest(0)
                assert client.send("node0", (b"second",))
                while not node.rest(1):
                    pass
                assert node.receive_nowait() == (b"second",)
                assert node.receive_nowait() is None


async def test_nobody_rests_in_place_while_somebody_else_of_the_loop_may_go_on() -> None:
    went_on = trio.Event()

    async def go_on() -> None:
        went_on.set()

    with trio.fail_after(5):
        async with open_transport("node0", bind=ANYWHERE, peers={}) as node:
            async with trio.open_nursery() as nursery:
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(go_on)
                assert not node.rest(60_000)
                await went_on.wait()
