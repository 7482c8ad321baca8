"""A secure machine of real processes: it works, and what strangers get from it is a count."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import trio
import zmq

import numalab as numalab_api
from numalab import cluster
from numalab.console import Exit
from numalab.locate import MachineFile, MachineUnreachable, read_machine
from protocol.live.keys import open_client_keys
from protocol.schema import COORDINATOR
from protocol.topology import Topology
from tests.live import Numalab, program
from tests.strangers import Pair, hello, stranger

NODES = 3
GARBAGE = 100_000
SECONDS = 60.0


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where a secure machine runs, for as long as these tests do."""
    directory = tmp_path_factory.mktemp("secure") / "machine"
    settings = cluster.Settings(Topology.uniform(NODES, "96M"), lease=60.0, secure=True)
    trio.run(partial(cluster.up, settings, directory, parent=os.getpid()))
    yield directory
    trio.run(cluster.down, directory)


@pytest.fixture
def machine(run_directory: Path) -> MachineFile:
    return read_machine(run_directory)


def counted(url: str, metric: str) -> float:
    """The sum of a counter over its labels, or the series that is named with its labels."""
    with urllib.request.urlopen(url, timeout=10) as page:
        text = page.read().decode()
    series = re.escape(metric) if "{" in metric else re.escape(metric) + r"(?:\{.*\})?"
    return sum(float(value) for value in re.findall(rf"^{series} (\S+)$", text, re.M))


def refused(url: str, reason: str) -> float:
    return counted(url, f'numalab_transport_refused_total{{reason="{reason}"}}')


def wait_for(true: Callable[[], bool], what: str) -> None:
    limit = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < limit, what


def wait_for_refusal(url: str, reason: str, before: float = 0.0) -> None:
    wait_for(lambda: refused(url, reason) > before, f"{url} refused nobody for {reason}")


def secret_of(run_directory: Path, name: str) -> Pair:
    return Pair.stolen(str(run_directory / f"keys/{name}.key_secret"))


def public_of(machine: MachineFile, name: str) -> bytes:
    keys = machine.client_keys()
    assert keys is not None
    key = keys.of(name)
    assert key is not None
    return key


def assert_works(numalab: Numalab) -> None:
    """Import a process, migrate it, and verify that every page is as it was."""
    said: list[str] = []

    def imports() -> bool:
        # A node whose connection somebody took a moment ago may still count as away.
        answer = numalab("import", child, "--node", "0")
        said[:] = [answer.out.strip()]
        return bool(answer.code == Exit.DONE)

    with program() as child:
        wait_for(imports, "no import succeeds")
    (pid,) = said
    moved = numalab("migratepages", pid, "0", "1")
    assert moved.code == Exit.DONE, moved.err
    verified = numalab("verify", pid)
    assert verified.code == Exit.DONE, verified.err


# ---- it works ------------------------------------------------------------------------------


def test_a_secure_machine_works(numalab: Numalab) -> None:
    assert_works(numalab)


async def test_a_killed_process_comes_back_with_its_key(run_directory: Path) -> None:
    contents = bytes(range(256)) * 1024
    async with numalab_api.connect(run_directory, within=SECONDS) as machine:
        task = await machine.spawn()
        address = await task.mmap(len(contents))
        await task.store(address, contents)
        await task.migrate_pages(task.pid, [0], [1])
        for name in ("node1", COORDINATOR):
            key = (run_directory / f"keys/public/{name}.key").read_bytes()
            process = cluster.running(run_directory)[name]
            process.signal(signal.SIGKILL)
            with trio.fail_after(SECONDS):
                while process.alive:
                    await trio.lowlevel.checkpoint()
                cluster.restart(run_directory, name)
                assert await task.load(address, len(contents)) == contents
                assert await task.migrate_pages(task.pid, [1], [2]) == 0
                assert await task.migrate_pages(task.pid, [2], [1]) == 0
                assert await task.load(address, len(contents)) == contents
            assert (run_directory / f"keys/public/{name}.key").read_bytes() == key
        await task.exit()


# ---- strangers -----------------------------------------------------------------------------


def test_a_client_without_a_key_gets_no_answer(machine: MachineFile) -> None:
    for row in machine.processes:
        with stranger(row.address) as bare:
            bare.send_multipart(hello(bytes.fromhex(machine.key), "stranger", row.name))
            wait_for_refusal(row.metrics, "no_key")
            assert not bare.poll(0)


def test_a_client_with_an_unknown_key_gets_no_answer(machine: MachineFile) -> None:
    for row in machine.processes:
        with stranger(row.address, b"", public_of(machine, row.name), Pair.new()) as bare:
            bare.send_multipart(hello(bytes.fromhex(machine.key), "stranger", row.name))
            wait_for_refusal(row.metrics, "unknown_key")
            assert not bare.poll(0)


def test_the_key_of_a_node_is_good_for_no_other_name(
    machine: MachineFile, run_directory: Path, numalab: Numalab
) -> None:
    """Neither for the identity of a socket nor for the source of a message."""
    pair, key = secret_of(run_directory, "node0"), bytes.fromhex(machine.key)
    for row in machine.processes:
        for identity in (b"node1", b"node0", b"coordinator"):
            before, lie = refused(row.metrics, "wrong_name"), hello(key, "node2", row.name)
            with stranger(row.address, identity, public_of(machine, row.name), pair) as bare:

                def counted_now(
                    bare: zmq.Socket[bytes] = bare,
                    lie: Sequence[bytes] = lie,
                    url: str = row.metrics,
                    before: float = before,
                ) -> bool:
                    # The real one takes its name back, and what is on the way then is lost.
                    with suppress(zmq.Again):
                        bare.send_multipart(lie, zmq.DONTWAIT)
                    return refused(url, "wrong_name") > before

                wait_for(counted_now, f"{row.name} believes that node0 is {identity!r}")
                assert not bare.poll(0)
    assert_works(numalab)


def test_garbage_of_one_without_a_key_never_arrives(machine: MachineFile, numalab: Numalab) -> None:
    rows = machine.processes
    before = [counted(row.metrics, "numalab_wire_errors_total") for row in rows]
    for row in rows:
        host, _, port = row.address.removeprefix("tcp://").rpartition(":")
        # What a zmq peer without CURVE says first, and then frames without end.
        greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16) + bytes(32)
        garbage = b"\x00\x20garbage and more of it, 32 bytes" * GARBAGE
        knocked = refused(row.metrics, "no_key")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            # The end comes while we still talk, or when we listen.
            with suppress(ConnectionError):
                connection.sendall(greeting + garbage)
                while connection.recv(1 << 16):
                    pass
        wait_for_refusal(row.metrics, "no_key", knocked)
    assert [counted(row.metrics, "numalab_wire_errors_total") for row in rows] == before
    assert_works(numalab)


async def test_garbage_of_one_with_a_key_is_counted_and_keeps_nobody_waiting(
    machine: MachineFile, run_directory: Path
) -> None:
    """A client that has gone mad, at the coordinator and at a node, while another one works."""
    rows = [row for row in machine.processes if row.name in ("node0", COORDINATOR)]
    metric = 'numalab_wire_errors_total{reason="checksum"}'
    before = [counted(row.metrics, metric) for row in rows]
    pair, frame = secret_of(run_directory, "client"), b"garbage" * 3

    def throw(address: str, server: bytes, url: str, goal: float) -> None:
        with stranger(address, b"mad", server, pair) as bare:
            for _ in range(GARBAGE):
                bare.send(frame)
            wait_for(lambda: counted(url, metric) >= goal, address)

    async with numalab_api.connect(run_directory, within=SECONDS) as connected:
        task = await connected.spawn()
        address = await task.mmap(1 << 16)
        calls = 0
        with trio.fail_after(2 * SECONDS):
            async with trio.open_nursery() as nursery:

                async def work() -> None:
                    nonlocal calls
                    while True:
                        await task.store(address, calls.to_bytes(8, "little") * 8192)
                        assert await task.migrate_pages(task.pid, [0, 1], [1, 0]) == 0
                        assert await task.load(address, 8) == calls.to_bytes(8, "little")
                        calls += 1

                nursery.start_soon(work)
                async with trio.open_nursery() as throwers:
                    for row, count in zip(rows, before, strict=True):
                        server = public_of(machine, row.name)
                        goal = count + GARBAGE
                        throwers.start_soon(
                            trio.to_thread.run_sync, throw, row.address, server, row.metrics, goal
                        )
                nursery.cancel_scope.cancel()
    assert calls > 3
    assert [counted(row.metrics, metric) for row in rows] == [n + GARBAGE for n in before]


async def test_who_has_the_machines_key_but_none_of_curve_is_told_what_to_look_at(
    machine: MachineFile, tmp_path: Path
) -> None:
    key = bytes.fromhex(machine.key)
    with pytest.raises(MachineUnreachable, match="is it up"):
        async with numalab_api.connect(machine.coordinator, key=key, within=0.5):
            pass
    keys = open_client_keys(tmp_path / "eve.key_secret", tmp_path / "public")
    with pytest.raises(MachineUnreachable, match=r"no sound coordinator\.key"):
        async with numalab_api.connect(machine.coordinator, key=key, within=0.5, keys=keys):
            pass


def test_a_client_elsewhere_is_told_where_its_key_is(
    machine: MachineFile, numalab: Numalab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It makes itself a key, publishes it, and is let in under its own name."""
    secret = tmp_path / "workload.key_secret"
    monkeypatch.setenv("NUMALAB_KEY", machine.key)
    monkeypatch.setenv("NUMALAB_SECRET_KEY", str(secret))
    said = numalab("hardware", "--address", machine.coordinator)
    assert said.code == Exit.UNREACHABLE and "set both" in said.err
    monkeypatch.setenv("NUMALAB_PUBLIC_KEYS", machine.public_keys)
    public = Path(machine.public_keys) / "workload.key"
    try:
        said = numalab("hardware", "--address", machine.coordinator)
        assert said.code == Exit.DONE, said.err
        assert public.exists() and secret.stat().st_mode & 0o777 == 0o600
    finally:
        public.unlink()


# ---- secrets -------------------------------------------------------------------------------


def test_no_secret_is_in_a_log_a_command_line_or_an_environment(
    machine: MachineFile, run_directory: Path
) -> None:
    names = [*(row.name for row in machine.processes), "client"]
    secrets = [secret_of(run_directory, name).secret for name in names]
    assert len(frozenset(secrets)) == NODES + 2
    places = [Path(row.log) for row in machine.processes]
    places += [*run_directory.glob("*.json"), *run_directory.glob("journal*")]
    places += run_directory.glob("keys/public/*")
    for process in cluster.running(run_directory).values():
        places += [Path(f"/proc/{process.pid}/{file}") for file in ("cmdline", "environ")]
    for place in places:
        contents = place.read_bytes()
        assert not [secret for secret in secrets if secret in contents], place
    for name in names:
        assert (run_directory / f"keys/{name}.key_secret").stat().st_mode & 0o777 == 0o600


def test_a_process_whose_secret_others_may_use_does_not_start(run_directory: Path) -> None:
    secret = run_directory / "keys/node0.key_secret"
    command = [sys.executable, "-m", "nodes", str(run_directory / "node0.json")]
    secret.chmod(0o640)
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=60)
    finally:
        secret.chmod(0o600)
    assert said.returncode == 1
    assert said.stderr.count("\n") == 1 and f"chmod 600 {secret}" in said.stderr


async def test_down_leaves_no_key_behind(tmp_path: Path) -> None:
    directory = tmp_path / "machine"
    async with numalab_api.local_cluster(1, "4M", run_directory=directory, secure=True) as one:
        await one.spawn()
        assert len(list(directory.rglob("*.key_secret"))) == 3
    assert not directory.exists()


def test_the_console_program_starts_a_secure_machine(numalab: Numalab, tmp_path: Path) -> None:
    directory = tmp_path / "machine"
    place = ("--run-directory", directory)
    try:
        said = numalab("up", "--secure", "--nodes", 1, "--memory", "4M", *place)
        assert said.code == Exit.DONE, said.err
        assert read_machine(directory).secret_key == str(directory / "keys/client.key_secret")
        with stranger(read_machine(directory).coordinator) as bare:
            bare.send(b"")
            metrics = next(row.metrics for row in read_machine(directory).processes if not row.zone)
            wait_for_refusal(metrics, "no_key")
        assert numalab("hardware", *place).code == Exit.DONE
    finally:
        numalab("down", *place)
    assert not directory.exists()
