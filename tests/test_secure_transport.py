"""CURVE between real sockets on the loopback: who is let in, who is not, and that it is counted."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import trio

from protocol.codec import source_of
from protocol.core import Frames
from protocol.live import guard, transport
from protocol.live.keys import Keys, open_keys
from protocol.live.transport import Transport, open_transport
from tests.strangers import Pair, hello, stranger

ANYWHERE = "tcp://127.0.0.1:0"
KEY = b"k" * 16
SECONDS = 20.0


class Site:
    """Where the keys of a few processes are."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.public = directory / "public"

    def keys(self, name: str) -> Keys:
        return open_keys(name, self.directory / f"{name}.key_secret", self.public)

    def opened(
        self, name: str, *, address: str = ANYWHERE, **peers: str
    ) -> AbstractAsyncContextManager[Transport]:
        """A process of this name that listens."""
        return open_transport(name, bind=address, peers=peers, keys=self.keys(name))

    def rotate(self, name: str) -> None:
        (self.directory / f"{name}.key_secret").unlink()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


async def until(true: Callable[[], bool]) -> None:
    with trio.fail_after(SECONDS):
        while True:
            if true():
                return
            await trio.sleep(0.01)


async def count(process: Transport, reason: str, times: int = 1) -> None:
    """Wait until so many were refused, and nothing was heard meanwhile."""

    def enough() -> bool:
        assert process.receive_nowait() is None
        return refused(process).get(reason, 0) >= times

    await until(enough)


async def deliver(sender: Transport, target: str, frames: Frames) -> None:
    await until(lambda: sender.send(target, frames))


def refused(process: Transport) -> dict[str, int]:
    return dict(process.statistics().refused)


async def test_two_processes_and_a_client_talk_as_without_keys(site: Site) -> None:
    with trio.fail_after(SECONDS):
        async with (
            site.opened("node0") as zero,
            site.opened("node1", node0=zero.bound_address) as one,
            open_transport(
                "client-1-ab",
                bind=None,
                peers={"node0": zero.bound_address},
                keys=site.keys("client"),
            ) as client,
        ):
            zero.connect("node1", one.bound_address)
            page = bytes(range(256)) * 4096
            for sender, target, receiver in (
                (one, "node0", zero),
                (zero, "node1", one),
                (client, "node0", zero),
                (zero, "client-1-ab", client),
            ):
                frames = (hello(KEY, sender.name, target)[0], page)
                await deliver(sender, target, frames)
                received = await receiver.receive()
                assert tuple(bytes(frame) for frame in received) == frames
            assert refused(zero) == refused(one) == refused(client) == {}


async def test_nothing_readable_is_on_the_wire(site: Site) -> None:
    """A listener in between sees none of the words that it sees without keys."""
    seen: list[bytes] = []
    with trio.fail_after(SECONDS):
        async with site.opened("node0") as zero, trio.open_nursery() as nursery:
            port = int(zero.bound_address.rpartition(":")[2])

            async def pass_on(near: trio.SocketStream, far: trio.SocketStream) -> None:
                async for part in near:
                    seen.append(bytes(part))
                    await far.send_all(part)

            async def tap(near: trio.SocketStream) -> None:
                far = await trio.open_tcp_stream("127.0.0.1", port)
                async with trio.open_nursery() as both:
                    both.start_soon(pass_on, near, far)
                    both.start_soon(pass_on, far, near)

            listeners = await nursery.start(trio.serve_tcp, tap, 0)
            address = f"tcp://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
            async with site.opened("node1", node0=address) as one:
                await deliver(one, "node0", (*hello(KEY, "node1", "node0"), b"the contents"))
                assert b"the contents" in [bytes(frame) for frame in await zero.receive()]
            nursery.cancel_scope.cancel()
    assert b"CURVE" in b"".join(seen)
    for word in (b"the contents", b"node1", KEY):
        assert word not in b"".join(seen)


async def test_a_stranger_without_a_key_is_refused(site: Site) -> None:
    with trio.fail_after(SECONDS):
        async with site.opened("node0") as zero:
            with stranger(zero.bound_address, b"node1") as bare:
                bare.send_multipart(hello(KEY, "node1", "node0"))
                await count(zero, "no_key")


async def test_a_key_that_is_not_on_the_list_waits_until_it_is(site: Site) -> None:
    with trio.fail_after(SECONDS):
        async with site.opened("node0") as zero:
            server, elsewhere = site.keys("node0").public, Site(site.directory / "elsewhere")
            pair = Pair.of(elsewhere.keys("node1"))
            with stranger(zero.bound_address, b"node1", server, pair) as bare:
                bare.send_multipart(hello(KEY, "node1", "node0"))
                await count(zero, "unknown_key")
            async with open_transport(
                "node1",
                bind=None,
                peers={"node0": zero.bound_address},
                keys=Keys("node1", pair.public, pair.secret, site.public),
            ) as one:
                await count(zero, "unknown_key", refused(zero)["unknown_key"] + 1)
                (elsewhere.public / "node1.key").rename(site.public / "node1.key")
                await deliver(one, "node0", tuple(hello(KEY, "node1", "node0")))
                assert source_of((await zero.receive())[0]) == "node1"


async def test_nobody_is_another_one_with_a_key_of_his_own(site: Site) -> None:
    """As the identity of a socket, and as the source of a message."""
    with trio.fail_after(SECONDS):
        async with site.opened("node0") as zero:
            server = site.keys("node0").public
            lies = [
                ("node1", "coordinator", "coordinator"),
                ("node1", "node2", "node1"),
                ("node1", "node1", "coordinator"),
                ("node1", "node1", "client-1-ab"),
                ("node1", "client-1-ab", "client-1-ab"),
                ("client", "node1", "node1"),
                ("client", "client-1-ab", "coordinator"),
                ("client", "client-1-ab", "x" * 2000),
            ]
            for number, (key, identity, source) in enumerate(lies, 1):
                pair = Pair.of(site.keys(key))
                with stranger(zero.bound_address, identity.encode(), server, pair) as bare:
                    bare.send_multipart(hello(KEY, source, "node0"))
                    await count(zero, "wrong_name", number)
            with stranger(zero.bound_address, b"any", server, Pair.of(site.keys("client"))) as bare:
                bare.send_multipart(hello(KEY, "any", "node0"))
                assert source_of((await zero.receive())[0]) == "any"
            assert refused(zero) == {"wrong_name": len(lies)}


async def test_a_peer_answers_in_no_other_name(site: Site) -> None:
    with trio.fail_after(SECONDS):
        async with (
            site.opened("node0") as zero,
            open_transport(
                "client-1-ab",
                bind=None,
                peers={"node0": zero.bound_address},
                keys=site.keys("client"),
            ) as client,
        ):
            await deliver(client, "node0", tuple(hello(KEY, "client-1-ab", "node0")))
            await zero.receive()
            await deliver(zero, "client-1-ab", tuple(hello(KEY, "coordinator", "client-1-ab")))
            await deliver(zero, "client-1-ab", tuple(hello(KEY, "node0", "client-1-ab")))
            assert source_of((await client.receive())[0]) == "node0"
            assert refused(client) == {"wrong_name": 1}


async def test_nobody_stands_in_for_a_process(site: Site) -> None:
    """Who listens at its address without its key is told nothing."""
    impostor = Site(site.directory / "elsewhere")
    with trio.fail_after(SECONDS):
        site.keys("node0")
        impostor.keys("node1")
        async with impostor.opened("node0") as false:
            async with site.opened("node1", node0=false.bound_address) as one:
                await count(false, "no_key")
                assert not one.send("node0", (b"secret",))


async def test_whose_key_is_missing_is_connected_to_when_it_is_there(site: Site) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    with trio.fail_after(SECONDS):
        async with site.opened("node0", node1=address) as zero:
            assert not zero.send("node1", (b"too early",))
            async with site.opened("node1", address=address) as one:
                await deliver(zero, "node1", tuple(hello(KEY, "node0", "node1")))
                assert source_of((await one.receive())[0]) == "node0"


async def test_who_waits_for_a_key_in_vain_says_so_once(
    site: Site, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(transport, "KEY_SECONDS", 0.1)
    with trio.fail_after(SECONDS):
        async with site.opened("node0", node1="tcp://127.0.0.1:9", node2="tcp://127.0.0.1:9"):
            said: list[str] = []

            def sentence() -> bool:
                said.append(capfd.readouterr().err)
                return bool(said[-1])

            await until(sentence)
            with trio.move_on_after(0.3):
                await until(sentence)
    assert "node0 still waits for the public key of node1 and node2" in "".join(said)
    assert str(site.public) in "".join(said) and "".join(said).count("\n") == 1


async def test_a_new_key_takes_the_place_of_the_old_one(site: Site) -> None:
    with trio.fail_after(SECONDS):
        async with site.opened("node0") as zero:
            old = Pair.of(site.keys("node1"))
            async with site.opened("node1", node0=zero.bound_address) as one:
                zero.connect("node1", one.bound_address)
                await deliver(zero, "node1", tuple(hello(KEY, "node0", "node1")))
                await one.receive()
                address = one.bound_address
            site.rotate("node1")
            async with site.opened("node1", address=address, node0=zero.bound_address) as one:
                await deliver(one, "node0", tuple(hello(KEY, "node1", "node0")))
                await zero.receive()
                # What is queued for the connection with the old key is lost with it.

                def heard() -> bool:
                    zero.send("node1", tuple(hello(KEY, "node0", "node1")))
                    return one.receive_nowait() is not None

                await until(heard)
                server = site.keys("node0").public
                with stranger(zero.bound_address, b"node1", server, old) as bare:
                    bare.send_multipart(hello(KEY, "node1", "node0"))
                    await count(zero, "unknown_key")


async def test_who_is_removed_from_the_list_is_heard_no_more(site: Site) -> None:
    with trio.fail_after(SECONDS):
        async with (
            site.opened("node0") as zero,
            site.opened("node1", node0=zero.bound_address) as one,
        ):
            await deliver(one, "node0", tuple(hello(KEY, "node1", "node0")))
            await zero.receive()
            (site.public / "node1.key").unlink()

            def unheard() -> bool:
                one.send("node0", tuple(hello(KEY, "node1", "node0")))
                zero.receive_nowait()
                return refused(zero).get("unknown_key", 0) > 0

            await until(unheard)


async def test_clients_are_not_without_number(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no number of them keeps a node out; who was silent for long makes room."""
    monkeypatch.setattr(guard, "CLIENTS_MAX", 3)
    with trio.fail_after(SECONDS):
        async with site.opened("node0") as zero:
            server, pair = site.keys("node0").public, Pair.of(site.keys("client"))

            async def knock(name: str, pair: Pair = pair) -> bool:
                before = refused(zero).get("too_many", 0)
                with stranger(zero.bound_address, name.encode(), server, pair) as bare:
                    bare.send_multipart(hello(KEY, name, "node0"))
                    heard = None
                    while heard is None and refused(zero).get("too_many", 0) == before:
                        await trio.sleep(0.01)
                        heard = zero.receive_nowait()
                return heard is not None

            for number in range(5):
                assert await knock(f"client-{number}") is (number < 3)
            assert await knock("node1", Pair.of(site.keys("node1")))
            assert await knock("client-0")
            monkeypatch.setattr(guard, "SILENT_SECONDS", 0.0)
            assert await knock("client-4")
            assert refused(zero) == {"too_many": 2}


async def test_connections_that_come_to_nothing_are_counted_and_harm_nobody(site: Site) -> None:
    """libzmq tells of those that break off, and not of those that speak something else."""
    with trio.fail_after(SECONDS):
        async with site.opened("node0") as zero:
            place = ("127.0.0.1", int(zero.bound_address.rpartition(":")[2]))
            for _ in range(5):
                with socket.create_connection(place) as connection:
                    connection.sendall(b"GET / HTTP/1.0\r\n\r\n" * 10)
                socket.create_connection(place).close()
            await count(zero, "no_key", 5)
            async with site.opened("node1", node0=zero.bound_address) as one:
                await deliver(one, "node0", tuple(hello(KEY, "node1", "node0")))
                await zero.receive()


async def test_a_flood_of_lies_keeps_nobody_from_being_heard(site: Site) -> None:
    with trio.fail_after(SECONDS * 2):
        async with (
            site.opened("node0") as zero,
            site.opened("node1", node0=zero.bound_address) as one,
        ):
            server, pair = site.keys("node0").public, Pair.of(site.keys("client"))
            lie, heard, done = hello(KEY, "coordinator", "node0"), 0, trio.Event()

            def flood() -> None:
                with stranger(zero.bound_address, b"client-1", server, pair) as bare:
                    for _ in range(20_000):
                        bare.send_multipart(lie)
                    trio.from_thread.run(until, lambda: refused(zero)["wrong_name"] == 20_000)
                trio.from_thread.run_sync(done.set)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, flood)
                while not done.is_set():
                    await deliver(one, "node0", tuple(hello(KEY, "node1", "node0")))
                    await zero.receive()
                    heard += 1
            assert heard > 10
