"""Messages between processes of one host, past TCP.

Most transports here know each other by an address at which no zmq socket listens: what arrives has
come by a unix socket or a pipe.
"""

from __future__ import annotations

import errno
import os
import random
import socket
import struct
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

import numalab
from numalab import cluster
from numalab.locate import ProcessRow, read_machine
from protocol.core import ConfigurationError, Frames
from protocol.live import guard, unix
from protocol.live import local as local_module
from protocol.live.local import SHORT_BYTES, Local
from protocol.live.pipes import WAITING_MAX
from protocol.live.process import Configuration
from protocol.live.scrape import fetch_page
from protocol.live.transport import Transport, open_transport
from protocol.live.unix import abstract
from protocol.topology import Topology
from tests.test_transport import ANYWHERE, deliver, plain

LONG_BYTES = 4 << 20
#: Nobody's zmq socket is bound to these; the names in the kernel are only ours.
HERE, THERE = (f"tcp://local-{os.getpid()}:{port}" for port in (1, 2))
assert LONG_BYTES > SHORT_BYTES


@asynccontextmanager
async def listening(name: str, address: str, **peers: str) -> AsyncIterator[Transport]:
    """A transport that can be reached past TCP alone, by an address of no zmq socket."""
    local = Local(name)
    local.listen(address)
    async with open_transport(name, bind=None, peers={}, local=local) as transport:
        for peer, where in peers.items():
            transport._addresses[peer] = where
        yield transport


def short(number: int) -> Frames:
    return (b"head", number.to_bytes(4, "little"), b"", b"x" * 1000)


def long(number: int) -> Frames:
    return (b"head", random.Random(number).randbytes(LONG_BYTES), number.to_bytes(4, "little"))


async def test_a_short_message_is_answered_by_the_way_that_it_came() -> None:
    with trio.fail_after(5):
        async with listening("node0", HERE) as node, listening("c", THERE, node0=HERE) as client:
            assert client.send("node0", short(1))
            assert await node.receive() == short(1)
            assert node.send("c", (b"answer",))
            assert await client.receive() == (b"answer",)
            counts = node.statistics()
            assert counts.sent == counts.local == counts.received == 1


async def test_a_long_message_comes_whole_and_its_contents_are_a_view() -> None:
    with trio.fail_after(5):
        async with listening("node0", HERE) as node, listening("c", THERE, node0=HERE) as client:
            assert client.send("node0", long(1))
            got = await node.receive()
    assert [type(frame) for frame in got] == [bytes, memoryview, bytes]
    assert plain(got) == plain(long(1))


@pytest.mark.parametrize("make", [short, long])
async def test_both_ways_at_once_block_nobody(make: object) -> None:
    assert callable(make)
    count = 12 * WAITING_MAX
    with trio.fail_after(20):
        async with listening("a", HERE, b=THERE) as a, listening("b", THERE, a=HERE) as b:
            for number in range(count):
                assert a.send("b", make(number)) and b.send("a", make(number))
            for number in range(count):
                assert plain(await a.receive()) == plain(await b.receive()) == plain(make(number))


async def test_where_nobody_listens_zmq_carries_it() -> None:
    with trio.fail_after(5):
        async with open_transport("node0", bind=ANYWHERE, peers={}) as node:
            peers = {"node0": node.bound_address}
            async with open_transport("c", bind=None, peers=peers, local=Local("c")) as client:
                for message in (short(1), long(2)):
                    await deliver(client, "node0", message)
                    assert plain(await node.receive()) == plain(message)
                assert node.send("c", (b"answer",))
                assert await client.receive() == (b"answer",)


async def test_what_a_connection_has_no_room_for_goes_by_zmq() -> None:
    sent = {bytes([number]) * (SHORT_BYTES // 2) for number in range(100)}
    with trio.fail_after(10):
        async with open_transport("node0", bind=ANYWHERE, peers={}, local=Local("node0")) as node:
            peers = {"node0": node.bound_address}
            async with open_transport("c", bind=None, peers=peers, local=Local("c")) as client:
                for one in sent:
                    await deliver(client, "node0", (one,))
                assert {bytes((await node.receive())[0]) for _ in sent} == sent


@pytest.mark.parametrize("make", [short, long])
async def test_a_peer_restarted_on_its_port_is_found_again(make: object) -> None:
    assert callable(make)
    address = ANYWHERE
    with trio.fail_after(20):
        async with open_transport("c", bind=None, peers={}, local=Local("c")) as client:
            for turn in range(3):
                async with open_transport(
                    "node0", bind=address, peers={}, local=Local("node0")
                ) as node:
                    address = node.bound_address
                    client.connect("node0", address)
                    got = None
                    while got is None:
                        client.send("node0", make(turn))
                        with trio.move_on_after(0.1):
                            got = await node.receive()
                    assert plain(got) == plain(make(turn))


async def test_who_claims_the_name_of_a_connection_takes_it_over() -> None:
    with trio.fail_after(5):
        async with listening("node0", HERE) as node:
            for _ in range(2):
                async with listening("c", THERE, node0=HERE) as client:
                    assert client.send("node0", short(1))
                    assert await node.receive() == short(1)
                    assert node.send("c", (b"to the one of now",))
                    assert await client.receive() == (b"to the one of now",)


async def test_another_user_is_not_heard_and_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with trio.fail_after(5):
        async with listening("node0", HERE) as node, listening("c", THERE, node0=HERE) as client:
            mine = os.geteuid()
            monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
            assert not client.send("node0", short(1))
            assert not client.send("node0", long(1))
            with stranger("line", HERE) as bare:
                # Sound in every other way: who is heard is not hung up on.
                bare.sendall(struct.pack("<3I", 2, 14, 1) + b"numalab line 1" + b"x")
                assert await trio.to_thread.run_sync(hung_up, bare)
            reading, writing = os.pipe()
            with stranger("pipe", HERE) as bare:
                socket.send_fds(bare, [b"numalab pipe 1"], [reading])
                os.close(reading)
                assert await trio.to_thread.run_sync(hung_up, bare)
            with pytest.raises(BrokenPipeError):
                os.write(writing, b"?")
            os.close(writing)
            assert node.statistics().received == 0


def stranger(kind: str, address: str) -> socket.socket:
    """A connection of somebody who keeps none of our rules."""
    type_of = {"line": socket.SOCK_SEQPACKET, "pipe": socket.SOCK_STREAM}[kind]
    bare = socket.socket(socket.AF_UNIX, type_of)
    bare.settimeout(5)
    bare.connect(abstract(kind, address))
    return bare


def hung_up(bare: socket.socket) -> bool:
    """Wait for the other end to close."""
    try:
        return bare.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize(
    "nonsense", [b"?", b"\xff" * 64, b"\1\0\0\0\5\0\0\0abc", b"\0" * 8], ids=repr
)
async def test_nonsense_ends_its_connection_and_no_other(nonsense: bytes) -> None:
    with trio.fail_after(5):
        async with listening("node0", HERE) as node, listening("c", THERE, node0=HERE) as client:
            assert client.send("node0", short(1))
            assert await node.receive() == short(1)
            with stranger("line", HERE) as bare:
                bare.sendall(nonsense)
                assert await trio.to_thread.run_sync(hung_up, bare)
            with stranger("pipe", HERE) as bare:
                bare.sendall(nonsense)
                assert await trio.to_thread.run_sync(hung_up, bare)
            for message in (short(2), long(3)):
                assert client.send("node0", message)
                assert plain(await node.receive()) == plain(message)


@pytest.mark.parametrize("make", [short, long])
async def test_who_has_no_descriptor_left_hears_others_later(
    make: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(make)
    accept, refusals = socket.socket.accept, [errno.EMFILE] * 3

    def sometimes(listener: socket.socket) -> object:
        if refusals:
            raise OSError(refusals.pop(), "no descriptor is left")
        return accept(listener)

    monkeypatch.setattr(socket.socket, "accept", sometimes)
    monkeypatch.setattr(unix, "RETRY_SECONDS", 0.01)
    with trio.fail_after(5):
        async with listening("node0", HERE) as node, listening("c", THERE, node0=HERE) as client:
            assert client.send("node0", make(1))
            assert plain(await node.receive()) == plain(make(1))
    assert not refusals


async def test_nothing_is_left_of_a_transport_that_could_not_be_opened() -> None:
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(ConfigurationError):
        async with open_transport(
            "node0", bind=ANYWHERE, peers={"node1": "nonsense"}, local=Local("node0")
        ):
            """Not reached."""
    assert set(os.listdir("/proc/self/fd")) <= before
    assert "pipes" not in {thread.name for thread in threading.enumerate()}


async def test_everything_is_given_back_at_the_end() -> None:
    before = set(os.listdir("/proc/self/fd"))
    with trio.fail_after(5):
        async with listening("node0", HERE) as node, listening("c", THERE, node0=HERE) as client:
            for message in (short(1), long(2)):
                assert client.send("node0", message)
                assert plain(await node.receive()) == plain(message)
        async with listening("node0", HERE):
            """Its name is free again."""
    assert set(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize("local", [True, False])
async def test_a_machine_talks_past_tcp_unless_it_is_told_not_to(
    tmp_path: Path, local: bool
) -> None:
    settings = cluster.Settings(Topology.uniform(2, "16M"), local=local)
    with trio.fail_after(60):
        await cluster.up(settings, tmp_path / "run", parent=os.getpid())
        try:
            async with numalab.connect(tmp_path / "run") as machine:
                task = await machine.spawn()
                address = await task.mmap(LONG_BYTES)
                data = random.Random(1).randbytes(LONG_BYTES)
                await task.store(address, data)
                assert await task.migrate_pages(task.pid, [0], [1]) == 0
                assert await task.load(address, LONG_BYTES) == data
                sent = {row.name: await sent_by(row.metrics) for row in processes(tmp_path / "run")}
        finally:
            await cluster.down(tmp_path / "run")
    for name, (everything, past_tcp) in sent.items():
        assert everything, name
        # By TCP: what is said before the other listens, and long answers to who has no address.
        assert everything / 2 < past_tcp <= everything if local else not past_tcp, name


async def sent_by(url: str) -> tuple[float, float]:
    """Messages that a process has sent, and those of them that went past TCP."""
    page = await trio.to_thread.run_sync(fetch_page, url, 5.0)
    assert page is not None
    names = ("numalab_transport_sent_total", "numalab_transport_local_total")
    everything, past_tcp = (sum(count for _, count in page[name]) for name in names)
    return everything, past_tcp


def processes(directory: Path) -> tuple[ProcessRow, ...]:
    return read_machine(directory).processes


async def test_what_nobody_takes_keeps_nobody_busy() -> None:
    with trio.fail_after(5):
        async with listening("node0", HERE) as node, listening("c", THERE, node0=HERE) as client:
            for number in range(5):
                assert client.send("node0", short(number))
            await trio.testing.wait_all_tasks_blocked(cushion=0.01)
            for number in range(5):
                assert await node.receive() == short(number)
                await trio.testing.wait_all_tasks_blocked()


async def test_who_has_no_descriptor_left_sends_by_zmq(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, "no descriptor is left")

    with trio.fail_after(5):
        async with open_transport("node0", bind=ANYWHERE, peers={}, local=Local("node0")) as node:
            peers = {"node0": node.bound_address}
            async with open_transport("c", bind=None, peers=peers, local=Local("c")) as client:
                monkeypatch.setattr(socket, "socket", none_left)
                for message in (short(1), long(2)):
                    await deliver(client, "node0", message)
                    assert plain(await node.receive()) == plain(message)
                assert client.statistics().local == 0


async def test_what_the_kernel_finds_too_long_goes_by_zmq(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_module, "SHORT_BYTES", 2 * LONG_BYTES)
    with trio.fail_after(5):
        async with open_transport("node0", bind=ANYWHERE, peers={}, local=Local("node0")) as node:
            peers = {"node0": node.bound_address}
            async with open_transport("c", bind=None, peers=peers, local=Local("c")) as client:
                await deliver(client, "node0", long(1))
                assert plain(await node.receive()) == plain(long(1))
                assert client.send("node0", short(2))
                assert await node.receive() == short(2)
                assert client.statistics().local == 1


async def test_clients_are_bounded_by_any_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "CLIENTS_MAX", 2)
    with trio.fail_after(5):
        async with AsyncExitStack() as stack:
            node = await stack.enter_async_context(listening("node0", HERE))
            for name in ("a", "b", "c"):
                there = f"{THERE}{name}"
                client = await stack.enter_async_context(listening(name, there, node0=HERE))
                assert client.send("node0", (name.encode(),))
            heard = {bytes((await node.receive())[0]) for _ in range(2)}
            await trio.testing.wait_all_tasks_blocked(cushion=0.01)
            assert heard == {b"a", b"b"}
            assert node.statistics().refused == {"too_many": 1}


async def test_who_does_not_say_its_name_has_to_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_module, "_INTRODUCTION_SECONDS", 0.01)
    with trio.fail_after(5):
        async with listening("node0", HERE):
            with stranger("line", HERE) as bare:
                assert await trio.to_thread.run_sync(hung_up, bare)


def test_an_address_too_long_for_a_name_is_left_to_zmq() -> None:
    local = Local("node0")
    local.listen("tcp://" + "x" * 200)
    assert not local.send("node1", "tcp://" + "y" * 200, short(1))


def test_who_has_keys_has_no_ways_past_libzmq(tmp_path: Path) -> None:
    told = {"bind": ANYWHERE, "peers": {}, "key": "00" * 16, "nids": (0,)}
    keys = {"secret_key": str(tmp_path / "secret"), "public_keys": str(tmp_path)}
    assert Configuration(**told, **keys).ways("node0") is None  # type: ignore[arg-type]
    assert Configuration(**told, local=False).ways("node0") is None  # type: ignore[arg-type]
