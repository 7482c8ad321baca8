"""Peers that die, as a transport sees it: who is left lives on, and notices in time."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys

import pytest
import trio
import zmq

from protocol.live.transport import open_transport

#: From linux/tcp.h.  A socket under repair is closed without a word to the other end.
_TCP_REPAIR = 19

#: A node that is busy until it is told to go on, and by then has more messages than it queues.
BUSY = """
import sys, trio
from protocol.live.transport import open_transport

async def main():
    async with open_transport("node0", bind="tcp://127.0.0.1:0", peers={}, high_water=8) as node:
        print(node.bound_address, flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)
        while await node.receive() != (b"the last",):
            pass

trio.run(main)
"""


def fill(address: str) -> None:
    """Send for as long as anything is taken, and die."""
    context = zmq.Context()
    peer = context.socket(zmq.DEALER)
    peer.setsockopt(zmq.SNDHWM, 8)
    peer.setsockopt(zmq.SNDTIMEO, 300)
    peer.connect(address)
    with pytest.raises(zmq.Again):
        while True:
            peer.send(bytes(20_000))
    context.destroy(linger=0)


def test_who_is_full_when_a_peer_dies_lives_on() -> None:
    node = subprocess.Popen(
        (sys.executable, "-c", BUSY), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with node, zmq.Context() as context:
        assert node.stdin is not None and node.stdout is not None
        address = node.stdout.readline().strip()
        fill(address)
        # Long enough for a heartbeat of libzmq, if it had one.
        with pytest.raises(subprocess.TimeoutExpired):
            node.wait(1.0)
        other = context.socket(zmq.DEALER)
        other.connect(address)
        other.send(b"the last")
        node.stdin.close()
        assert node.wait(10) == 0


async def carry(source: trio.SocketStream, target: trio.SocketStream) -> None:
    async for some in source:
        await target.send_all(some)


def unacknowledged(connection: trio.SocketStream) -> int:
    """Segments that the other end has not said to have: tcpi_unacked of tcp(7)."""
    what = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int(struct.unpack_from("=I", what, 24)[0])


def vanish(connection: trio.SocketStream) -> None:
    """Close a connection as a host does that loses its power: no FIN, no RST."""
    try:
        connection.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)
    except PermissionError:
        pytest.skip("only who may administrate the network can let a connection vanish")
    connection.socket.close()


async def test_a_peer_that_vanishes_without_a_word_is_connected_to_anew() -> None:
    """Nobody sends anything meanwhile: who only waits for an answer has to notice as well."""
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
                # What were still to be acknowledged would find out soon that nobody is there.
                while unacknowledged(near):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            vanish(near)
            vanish(far)
            async with await door.accept():
                pass
