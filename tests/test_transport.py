"""Messages over real sockets on the loopback: what arrives, what is lost, and that it is said."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio
import trio.testing
import zmq

from protocol.codec import FRAMES_MAX
from protocol.core import Buffer, ConfigurationError, Frames
from protocol.live.line import FRAME_BYTES_MAX
from protocol.live.transport import Transport, open_transport

ANYWHERE = "tcp://127.0.0.1:0"


async def deliver(transport: Transport, target: str, frames: Frames) -> None:
    """Send until the transport takes it: a connection needs a moment to come up."""
    while not transport.send(target, frames):
        await trio.lowlevel.checkpoint()


def plain(frames: Frames) -> tuple[bytes, ...]:
    return tuple(bytes(frame) for frame in frames)


@contextmanager
def raw_socket(
    kind: int, *, identity: bytes = b"", reconnect: int = 50
) -> Iterator[zmq.Socket[bytes]]:
    """A bare zmq socket that plays a peer which keeps none of our rules."""
    context = zmq.Context()
    context.linger = 0
    try:
        bare = context.socket(kind)
        bare.setsockopt(zmq.RCVHWM, 1)
        bare.setsockopt(zmq.RECONNECT_IVL, reconnect)
        if identity:
            bare.setsockopt(zmq.IDENTITY, identity)
        yield bare
    finally:
        context.destroy(linger=0)


async def test_a_client_without_an_address_is_answered() -> None:
    with trio.fail_after(5):
        async with open_transport("node0", bind=ANYWHERE, peers={}) as node:
            peers = {"node0": node.bound_address}
            async with open_transport("client", bind=None, peers=peers) as client:
                await deliver(client, "node0", (b"question", b""))
                assert await node.receive() == (b"question", b"")
                assert node.send("client", (b"answer",))
                assert await client.receive() == (b"answer",)
                assert node.statistics().sent == node.statistics().received == 1


async def test_two_who_know_each_other_talk_both_ways() -> None:
    with trio.fail_after(5):
        async with (
            open_transport("node0", bind=ANYWHERE, peers={}) as zero,
            open_transport("node1", bind=ANYWHERE, peers={"node0": zero.bound_address}) as one,
        ):
            zero.connect("node1", one.bound_address)
            await deliver(zero, "node1", (b"from zero",))
            await deliver(one, "node0", (b"from one",))
            assert await one.receive() == (b"from zero",)
            assert await zero.receive() == (b"from one",)


async def test_page_contents_arrive_as_views_and_words_as_bytes() -> None:
    arena = bytearray(random.Random(1).randbytes(1 << 20))
    message: Frames = (b"head", memoryview(arena), b"x" * 65_535, b"y" * 65_536)
    with trio.fail_after(5):
        async with open_transport("node0", bind=ANYWHERE, peers={}) as node:
            peers = {"node0": node.bound_address}
            async with open_transport("node1", bind=None, peers=peers) as other:
                await deliver(other, "node0", message)
                got = await node.receive()
    assert [type(frame) for frame in got] == [bytes, memoryview, bytes, memoryview]
    assert plain(got) == plain(message)


async def test_a_message_for_nobody_is_refused_and_counted() -> None:
    with trio.fail_after(5):
        async with open_transport("client", bind=None, peers={}) as client:
            assert not client.send("node7", (b"?",))
            assert client.statistics().lost == {"unknown": 1}
        async with open_transport("node0", bind=ANYWHERE, peers={}) as node:
            assert not node.send("node7", (b"?",))
            assert node.statistics().lost == {"unknown": 1}


async def test_a_message_for_a_peer_that_does_not_listen_is_refused() -> None:
    with trio.fail_after(5):
        with socket.create_server(("127.0.0.1", 0)) as closed_soon:
            port = closed_soon.getsockname()[1]
        peers = {"node0": f"tcp://127.0.0.1:{port}"}
        async with open_transport("client", bind=None, peers=peers) as client:
            assert not client.send("node0", (b"?",))
            assert client.statistics().lost == {"full": 1}


async def test_after_the_end_nothing_is_sent_and_a_waiting_receiver_is_told() -> None:
    told = trio.Event()

    async def wait_for_ever(transport: Transport) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await transport.receive()
        told.set()

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            async with open_transport("node0", bind=ANYWHERE, peers={}) as node:
                nursery.start_soon(wait_for_ever, node)
                await trio.testing.wait_all_tasks_blocked()
            await told.wait()
            assert not node.send("client", (b"?",))
            assert node.statistics().lost == {"closed": 1}


async def test_a_port_in_use_is_one_sentence() -> None:
    with trio.fail_after(5):
        async with open_transport("node0", bind=ANYWHERE, peers={}) as node:
            with pytest.raises(ConfigurationError) as caught:
                async with open_transport("node1", bind=node.bound_address, peers={}):
                    pass
    assert str(caught.value) == (
        f"node1 cannot listen at '{node.bound_address}' (Address already in use): "
        f"choose another port, or stop the process that has it"
    )


@pytest.mark.parametrize(
    "address", ["5000", "tcp://127.0.0.1", "tcp:/127.0.0.1:5000", "gopher://x:1"]
)
def test_a_malformed_address_is_one_sentence(address: str) -> None:
    with pytest.raises(ConfigurationError, match="node0 cannot listen at '.*: give"):
        Transport("node0", bind=address, peers={})
    with pytest.raises(ConfigurationError, match="cannot connect to node1 at '.*: write"):
        Transport("node0", bind=None, peers={"node1": address})


async def test_garbage_from_outside_is_dropped_and_the_rest_goes_on() -> None:
    rng = random.Random(7)
    with trio.fail_after(10):
        async with open_transport("node0", bind=ANYWHERE, peers={}) as node:
            port = int(node.bound_address.rpartition(":")[2])
            with raw_socket(zmq.DEALER, identity=b"rude") as rude:
                rude.connect(node.bound_address)
                for _ in range(5):
                    with socket.create_connection(("127.0.0.1", port)) as stray:
                        stray.sendall(rng.randbytes(500))
                rude.send_multipart([b"frame"] * (FRAMES_MAX + 1))
                rude.send_multipart([b"frame"] * 5_000)
                rude.send(b"")
                rude.send_multipart([b"frame"] * FRAMES_MAX)
                # libzmq takes some stray bytes for messages of its first protocol; Cores do not.
                heard = [plain(await node.receive())]
                while heard[-1] != (b"frame",) * FRAMES_MAX:
                    heard.append(plain(await node.receive()))
                assert (b"",) in heard
                assert node.statistics().oversized == 2
                assert node.statistics().received == len(heard)


async def test_a_frame_too_long_ends_its_connection_and_no_other() -> None:
    with trio.fail_after(10):
        async with open_transport("node0", bind=ANYWHERE, peers={}) as node:
            peers = {"node0": node.bound_address}
            async with open_transport("polite", bind=None, peers=peers) as polite:
                await deliver(polite, "node0", (b"before",))
                assert await node.receive() == (b"before",)
                with raw_socket(zmq.DEALER, identity=b"rude") as rude:
                    rude.connect(node.bound_address)
                    rude.send(bytes(FRAME_BYTES_MAX + 1))
                    assert polite.send("node0", (b"meanwhile",))
                    assert await node.receive() == (b"meanwhile",)
                    # The rude peer connects again, and is heard again.
                    while (frames := node.receive_nowait()) is None:
                        rude.send(b"sorry", zmq.DONTWAIT) if rude.poll(1, zmq.POLLOUT) else None
                        await trio.lowlevel.checkpoint()
                    assert frames == (b"sorry",)


async def test_a_peer_restarted_under_its_name_takes_over() -> None:
    with trio.fail_after(10):
        async with open_transport("node0", bind=ANYWHERE, peers={}) as node:
            peers = {"node0": node.bound_address}
            for life in range(10):
                # The life before is not taken down first: a killed host says no goodbye.
                with raw_socket(zmq.DEALER, identity=b"client", reconnect=-1) as old:
                    old.connect(node.bound_address)
                    old.send_multipart([b"old", bytes([life])])
                    assert await node.receive() == (b"old", bytes([life]))
                    async with open_transport("client", bind=None, peers=peers) as new:
                        await deliver(new, "node0", (b"new", bytes([life])))
                        assert await node.receive() == (b"new", bytes([life]))
                        assert node.send("client", (b"who?", bytes([life])))
                        assert await new.receive() == (b"who?", bytes([life]))


async def test_a_peer_restarted_on_its_port_is_found_again() -> None:
    with trio.fail_after(10), raw_socket(zmq.ROUTER) as first:
        address = f"tcp://127.0.0.1:{first.bind_to_random_port('tcp://127.0.0.1')}"
        async with open_transport("client", bind=None, peers={"node0": address}) as client:
            await deliver(client, "node0", (b"first",))
            assert first.recv_multipart() == [b"client", b"first"]
            first.context.destroy(linger=0)
            async with open_transport("node0", bind=address, peers={}) as second:
                while (frames := second.receive_nowait()) is None:
                    client.send("node0", (b"second",))
                    await trio.lowlevel.checkpoint()
                assert frames == (b"second",)


async def test_a_peer_that_moved_is_found_at_its_new_address() -> None:
    with trio.fail_after(5):
        async with (
            open_transport("node0", bind=ANYWHERE, peers={}) as here,
            open_transport("node0", bind=ANYWHERE, peers={}) as there,
            open_transport("client", bind=None, peers={"node0": here.bound_address}) as client,
        ):
            await deliver(client, "node0", (b"here",))
            assert await here.receive() == (b"here",)
            client.connect("node0", ANYWHERE.replace(":0", ":1"))
            client.connect("node0", there.bound_address)
            await deliver(client, "node0", (b"there",))
            assert await there.receive() == (b"there",)
            assert there.send("client", (b"found",))
            assert await client.receive() == (b"found",)


async def test_a_full_peer_makes_no_other_lose() -> None:
    page_contents = bytes(1 << 20)
    with trio.fail_after(20), raw_socket(zmq.DEALER, identity=b"asleep") as asleep:
        async with open_transport("node0", bind=ANYWHERE, peers={}, high_water=5) as node:
            peers = {"node0": node.bound_address}
            asleep.connect(node.bound_address)
            asleep.send(b"good night")
            assert await node.receive() == (b"good night",)
            async with open_transport("awake", bind=None, peers=peers, high_water=5) as awake:
                await deliver(awake, "node0", (b"good morning",))
                assert await node.receive() == (b"good morning",)
                refused = 0
                while refused < 200:
                    refused += not node.send("asleep", (page_contents,))
                    word = refused.to_bytes(2, "little")
                    assert node.send("awake", (word,))
                    assert await awake.receive() == (word,)
                assert node.statistics().lost == {"full": 200}


async def test_two_messages_on_one_edge_wake_two_receivers() -> None:
    got: list[Frames] = []

    async def receive_one(node: Transport) -> None:
        got.append(await node.receive())

    with trio.fail_after(5), raw_socket(zmq.DEALER) as peer:
        async with open_transport("node0", bind=ANYWHERE, peers={}) as node:
            peer.connect(node.bound_address)
            peer.send(b"ready")
            await node.receive()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive_one, node)
                nursery.start_soon(receive_one, node)
                await trio.testing.wait_all_tasks_blocked()
                peer.send(b"one")
                peer.send(b"two")
                be_busy()
    assert sorted(got) == [(b"one",), (b"two",)]


def be_busy() -> None:
    """Keep the loop from running for 5 ms: what is under way arrives meanwhile."""
    end = time.perf_counter() + 0.005
    while time.perf_counter() < end:
        pass


def echo_for_ever(address: list[str], bound: threading.Event, stop: threading.Event) -> None:
    with raw_socket(zmq.ROUTER) as echo:
        echo.setsockopt(zmq.RCVHWM, 1000)
        address.append(f"tcp://127.0.0.1:{echo.bind_to_random_port('tcp://127.0.0.1')}")
        bound.set()
        while not stop.is_set():
            if echo.poll(20):
                echo.send_multipart(echo.recv_multipart())


async def test_a_sender_that_swallows_the_edge_wakes_the_receiver() -> None:
    # libzmq looks into its mailbox at most once in some 3,000,000 ticks: a sender that is busy for
    # longer than that between two sends takes the announcement of a message that it does not read.
    address: list[str] = []
    bound, stop = threading.Event(), threading.Event()
    peer = threading.Thread(target=echo_for_ever, args=(address, bound, stop), daemon=True)
    peer.start()
    try:
        bound.wait(5)
        with trio.fail_after(10):
            async with open_transport("client", bind=None, peers={"echo": address[0]}) as client:
                await deliver(client, "echo", (b"ready?",))
                await client.receive()
                for number in range(10):
                    await two_echoes_around_a_busy_gap(client, bytes([number]))
    finally:
        stop.set()
        peer.join()


async def two_echoes_around_a_busy_gap(client: Transport, word: bytes) -> None:
    got: list[Frames] = []

    async def receive_two() -> None:
        for _ in range(2):
            got.append(await client.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive_two)
        await trio.testing.wait_all_tasks_blocked()
        assert client.send("echo", (word, b"one"))
        be_busy()
        assert client.send("echo", (word, b"two"))
    assert got == [(word, b"one"), (word, b"two")]


class Crowd:
    """Two tasks that send and two that receive at each end, cancelled at random."""

    EACH = 1_000

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.taken: Counter[bytes] = Counter()
        self.got: Counter[bytes] = Counter()
        self.senders = 4
        self.all_here = trio.Event()

    async def say(self, transport: Transport, target: str, who: bytes) -> None:
        for number in range(self.EACH):
            word = who + number.to_bytes(4, "little")
            while not transport.send(target, (word, b"")):
                await trio.lowlevel.checkpoint()
            self.taken[word] += 1
            if self.rng.random() < 0.3:
                await trio.lowlevel.checkpoint()
        self.senders -= 1
        self.look()

    async def hear(self, transport: Transport) -> None:
        while True:
            frames: tuple[Buffer, ...] | None = None
            with trio.move_on_after(self.rng.choice((0, 0.0001, 0.001, 10))):
                frames = await transport.receive()
            if frames is not None:
                self.got[bytes(frames[0])] += 1
                self.look()

    def look(self) -> None:
        if not self.senders and self.got.total() >= self.taken.total():
            self.all_here.set()


@pytest.mark.parametrize("attempt", range(3))
async def test_nothing_is_lost_or_doubled_in_a_crowd(attempt: int) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    crowd = Crowd(seed)
    with trio.move_on_after(20):
        async with open_transport("node0", bind=ANYWHERE, peers={}, high_water=5) as node:
            peers = {"node0": node.bound_address}
            async with open_transport("client", bind=None, peers=peers, high_water=5) as client:
                await deliver(client, "node0", (b"here I am",))
                await node.receive()
                async with trio.open_nursery() as nursery:
                    for who in (b"a", b"b"):
                        nursery.start_soon(crowd.hear, node)
                        nursery.start_soon(crowd.hear, client)
                        nursery.start_soon(crowd.say, client, "node0", who)
                        nursery.start_soon(crowd.say, node, "client", who.upper())
                    await crowd.all_here.wait()
                    nursery.cancel_scope.cancel()
    assert crowd.got == crowd.taken
    assert crowd.taken.total() == 4 * Crowd.EACH
