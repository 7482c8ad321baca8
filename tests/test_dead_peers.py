"""Peers that die, as a transport sees it: who is left lives on, and notices in time."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trio
import zmq

from protocol.live.transport import open_transport

#: From linux/tcp.h.  A socket under repair is closed without a word to the other end.
_TCP_REPAIR = 19
#: More than sockets and queues of eight messages take of somebody who is busy.
MANY, LONG = 2_000, bytes(20_000)

#: A process that is busy until it is told to go on, and then waits for the last message; with
#: "listening" it is not, and says how long each message is.
PROCESS = """
import sys, trio
from protocol.live.transport import open_transport

async def main(kind, *rest):
    bind, peers = (None, {"node1": rest[0]}) if rest else ("tcp://127.0.0.1:0", {})
    async with open_transport("node0", bind=bind, peers=peers, high_water=8) as process:
        print(process.bound_address if bind else "", flush=True)
        while peers and not process.send("node1", (b"hello",)):
            await trio.lowlevel.checkpoint()
        if kind == "busy":
            await trio.to_thread.run_sync(sys.stdin.readline)
        message = ()
        while message != (b"the last",):
            message = await process.receive()
            if kind == "listening":
                print(len(message[0]), flush=True)

trio.run(main, *sys.argv[1:])
"""


@contextmanager
def running(kind: str, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Such a process, and where it listens."""
    command = (sys.executable, "-c", PROCESS, kind, *arguments)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield process, said(process)
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> str:
    """The next line."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


@contextmanager
def bare(kind: int, identity: bytes = b"") -> Iterator[zmq.Socket[bytes]]:
    """A socket that dies at the end of the block, with all that it has not sent."""
    context = zmq.Context()
    try:
        one = context.socket(kind)
        one.setsockopt(zmq.SNDHWM, 8)
        one.setsockopt(zmq.SNDTIMEO, 300)
        one.setsockopt(zmq.RCVTIMEO, 10_000)
        one.setsockopt(zmq.ROUTER_MANDATORY if kind == zmq.ROUTER else zmq.IMMEDIATE, 1)
        if identity:
            one.setsockopt(zmq.IDENTITY, identity)
        yield one
    finally:
        context.destroy(linger=0)


def flood(one: zmq.Socket[bytes], *before: bytes) -> None:
    """Send as much as is taken."""
    with suppress(zmq.Again):
        for _ in range(MANY):
            one.send_multipart((*before, LONG))


def assert_lives(process: subprocess.Popen[str]) -> None:
    """For longer than it takes until somebody sends two heartbeats to a peer that has died."""
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(2.0)


def assert_goes_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(10) == 0


def test_who_has_no_room_lives_on_when_a_peer_that_asks_dies() -> None:
    with running("busy") as (node, address), bare(zmq.DEALER) as other:
        with bare(zmq.DEALER) as peer:
            peer.connect(address)
            flood(peer)
        assert_lives(node)
        other.connect(address)
        other.send(b"the last")
        assert_goes_on(node)


def test_who_has_no_room_lives_on_when_a_peer_that_answers_dies() -> None:
    with bare(zmq.ROUTER) as peer:
        port = peer.bind_to_random_port("tcp://127.0.0.1")
        address = f"tcp://127.0.0.1:{port}"
        with running("busy", address) as (client, _):
            whose, _ = peer.recv_multipart()
            flood(peer, whose)
            peer.close(linger=0)
            assert_lives(client)
            with bare(zmq.ROUTER) as other:
                other.bind(address)
                assert client.stdin is not None
                client.stdin.close()
                deadline = time.monotonic() + 10
                while client.poll() is None and time.monotonic() < deadline:
                    # Nobody is there until the client has connected anew.
                    with suppress(zmq.ZMQError):
                        other.send_multipart((whose, b"the last"))
                    other.poll(20)
                assert client.returncode == 0


def test_one_whose_name_another_has_taken_harms_nobody_when_it_dies() -> None:
    with running("listening") as (node, address), bare(zmq.DEALER, b"node1") as other:
        with bare(zmq.DEALER, b"node1") as peer:
            for one in (peer, other):
                one.connect(address)
                one.send(b"hello")
                assert said(node) == "5"
            flood(peer)
        assert_lives(node)
        other.send(b"the last")
        assert_goes_on(node)


@pytest.mark.parametrize(
    ("contents", "at_once"), [(b"short", 1), (bytes(1 << 20), 64)], ids=["short", "long"]
)
async def test_one_whose_name_was_taken_is_heard_again(contents: bytes, at_once: int) -> None:
    """Long ones fill the way to a connection that takes nothing in, and heartbeats wait there."""
    with trio.fail_after(20):
        async with open_transport("node0", bind="tcp://127.0.0.1:0", peers={}) as node:
            peers = {"node0": node.bound_address}
            async with open_transport("node1", bind=None, peers=peers, high_water=64) as real:
                while not real.send("node0", (b"hello",)):
                    await trio.lowlevel.checkpoint()
                assert await node.receive() == (b"hello",)
                with bare(zmq.DEALER, b"node1") as false:
                    false.connect(node.bound_address)
                    false.send(b"I am node1")
                    assert await node.receive() == (b"I am node1",)
                heard = trio.Event()

                async def talk() -> None:
                    while not heard.is_set():
                        for _ in range(at_once):
                            real.send("node0", (contents,))
                        await trio.sleep(0.01)

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(talk)
                    (frame,) = await node.receive()
                    assert frame == contents
                    heard.set()


async def carry(source: trio.SocketStream, target: trio.SocketStream) -> None:
    async for some in source:
        await target.send_all(some)


def unacknowledged(connection: trio.SocketStream) -> int:
    """Segments that the other end has not said to have: tcpi_unacked of tcp(7)."""
    what = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int(struct.unpack_from("=I", what, 24)[0])


def vanish(connection: trio.SocketStream) -> None:
    """Close a connection without a word: no FIN, no RST.  What is sent to it later is refused."""
    try:
        connection.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)
    except PermissionError:
        pytest.skip("only who may administrate the network can let a connection vanish")
    connection.socket.close()


def is_there(port: int) -> bool:
    """Whether a connection to this port of the loopback is still established for its other end."""
    tables = [Path(f"/proc/net/{table}").read_text().splitlines()[1:] for table in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table]
    return any(row[2].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


async def test_a_peer_that_vanishes_without_a_word_is_noticed_at_both_ends() -> None:
    """Nobody has anything to send: who only waits for a question or an answer notices as well."""
    with trio.fail_after(10):
        (door,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        where = f"tcp://127.0.0.1:{door.socket.getsockname()[1]}"
        async with (
            door,
            open_transport("node0", bind="tcp://127.0.0.1:0", peers={}) as node,
            open_transport("client", bind=None, peers={"node0": where}) as client,
        ):
            near = await door.accept()
            host, _, port = node.bound_address.removeprefix("tcp://").rpartition(":")
            far = await trio.open_tcp_stream(host, int(port))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(carry, near, far)
                nursery.start_soon(carry, far, near)
                while not client.send("node0", (b"hello",)):
                    await trio.lowlevel.checkpoint()
                assert await node.receive() == (b"hello",)
                assert node.send("client", (b"hello",))
                assert await client.receive() == (b"hello",)
                assert client.send("node0", (b"the last",))
                assert await node.receive() == (b"the last",)
                # Whatever is not acknowledged yet would be sent again, and refused.
                while unacknowledged(near) or unacknowledged(far):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            port = far.socket.getsockname()[1]
            vanish(near)
            vanish(far)
            async with await door.accept():
                pass
            while is_there(port):
                await trio.lowlevel.checkpoint()
