"""Machines of real processes: started, used, broken, mended and taken down."""

from __future__ import annotations

import errno
import os
import signal
import stat
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

import numalab
from numalab import cluster, processes, rundirectory
from numalab.cluster import Settings
from numalab.locate import MachineFile, ProcessRow, read_machine
from numalab.task import Task
from protocol.core import ConfigurationError
from protocol.nodemask import NodeListError
from protocol.topology import Topology

SMALL = Settings(Topology.uniform(2, "4M"))
PAGE = 4096


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One machine for all who only use it: each leaves no task behind."""
    directory = tmp_path_factory.mktemp("shared") / "run"
    trio.run(cluster.up, SMALL, directory)
    yield directory
    assert trio.run(cluster.down, directory)


def zones_of(machine: MachineFile) -> list[Path]:
    return [Path(row.zone) for row in machine.processes if row.zone]


def assert_nothing_is_left(run: Path, machine: MachineFile) -> None:
    assert_gone(run)
    assert not [zone for zone in zones_of(machine) if zone.exists() or zone.parent.exists()]
    assert not [row.name for row in machine.processes if is_alive(row)]


def assert_gone(run: Path) -> None:
    assert not run.exists(), sorted(run.iterdir())


def assert_private(run: Path, machine: MachineFile) -> None:
    assert stat.S_IMODE(run.stat().st_mode) == 0o700
    for path in (*run.iterdir(), *zones_of(machine)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def is_alive(row: ProcessRow) -> bool:
    return processes.Process(row.pid, row.started).alive


# ---- tasks and their pages -----------------------------------------------------------------


async def test_pages_move_and_keep_what_is_in_them(shared: Path) -> None:
    with trio.fail_after(30):
        async with numalab.connect(shared) as machine:
            task = await machine.spawn(cpu=0, comm="mover")
            data = os.urandom(100 * PAGE - 17)
            address = await task.mmap(len(data))
            await task.store(address + 7, data[:-7])
            assert "N0=100" in await machine.numa_maps(task.pid)

            assert await task.migrate_pages(task.pid, "0", [1]) == 0
            assert "N1=100" in await machine.numa_maps(task.pid)
            assert await task.load(address + 7, len(data) - 7) == data[:-7]

            places = [address, address + PAGE]
            assert await task.move_pages(task.pid, places, [0, 1]) == [0, 1]
            assert await task.move_pages(task.pid, places, None) == [0, 1]
            assert await task.load(address + 7, len(data) - 7) == data[:-7]


async def test_calls_that_fail_say_so_in_the_kernels_words(shared: Path) -> None:
    with trio.fail_after(30):
        async with numalab.connect(shared) as machine:
            task = await machine.spawn()
            assert await failing(task.load, 0x1000, 8) == errno.EFAULT
            readable = await task.mmap(PAGE, prot=numalab.PROT_READ)
            assert await task.load(readable, 8) == bytes(8)
            assert await failing(task.store, readable, b"x") == errno.EACCES
            assert await failing(task.migrate_pages, 12345, [0], [1]) == errno.ESRCH
            assert await failing(machine.attach, 12345) == errno.ESRCH
            with pytest.raises(NodeListError, match="7"):
                await task.migrate_pages(task.pid, "0", "7")
            await task.exit()
            assert await failing(task.mmap, PAGE) == errno.ESRCH


async def failing(call: object, *arguments: object) -> int | None:
    with pytest.raises(OSError) as caught:
        await call(*arguments)  # type: ignore[operator]
    return caught.value.errno


async def test_a_fork_shares_until_one_side_writes(shared: Path) -> None:
    with trio.fail_after(30):
        async with numalab.connect(shared) as machine:
            parent = await machine.spawn()
            address = await parent.mmap(2 * PAGE)
            await parent.store(address, b"before")
            child = await parent.fork(cpu=1)
            await parent.store(address, b"parent")
            assert await child.load(address, 6) == b"before"
            await child.store(address, b"child!")
            assert await parent.load(address, 6) == b"parent"
            second = await machine.attach(child.pid)
            assert await second.load(address, 6) == b"child!"
            await child.munmap(address, 2 * PAGE)
            assert await failing(second.load, address, 6) == errno.EFAULT


async def test_many_trio_tasks_use_one_machine_while_pages_move(shared: Path) -> None:
    async def write(task: Task, address: int, rounds: int) -> None:
        for number in range(rounds):
            await task.store(address, number.to_bytes(8, "little"))
            assert await task.load(address, 8) == number.to_bytes(8, "little")

    with trio.fail_after(40):
        async with numalab.connect(shared) as machine:
            task = await machine.spawn()
            address = await task.mmap(64 * PAGE)
            await task.store(address, bytes(64 * PAGE))
            async with trio.open_nursery() as nursery:
                for writer in range(8):
                    nursery.start_soon(write, task, address + 8 * writer * PAGE, 40)
                for _ in range(4):
                    assert await task.migrate_pages(task.pid, "0", "1") == 0
                    assert await task.migrate_pages(task.pid, "1", "0") == 0


async def test_who_loads_without_a_pause_keeps_no_timer_of_the_same_loop_waiting(
    shared: Path,
) -> None:
    late: list[float] = []

    async def tick(scope: trio.CancelScope) -> None:
        for _ in range(40):
            due = trio.current_time() + 0.005
            await trio.sleep_until(due)
            late.append(trio.current_time() - due)
        scope.cancel()

    with trio.fail_after(40):
        async with numalab.connect(shared) as machine, trio.open_nursery() as nursery:
            task = await machine.spawn()
            address = await task.mmap(PAGE)
            await task.store(address, bytes(8))
            nursery.start_soon(tick, nursery.cancel_scope)
            while len(late) < 40:
                await task.load(address, 8)
    assert statistics.median(late) < 0.05


async def test_a_pinned_page_stays_and_a_locked_page_waits(shared: Path) -> None:
    with trio.fail_after(40):
        async with numalab.connect(shared) as machine:
            task = await machine.spawn()
            address = await task.mmap(2 * PAGE)
            await task.store(address, bytes(2 * PAGE))
            await task.pin(address)
            assert await task.migrate_pages(task.pid, [0], [1]) == 1
            await task.unpin(address)
            assert await task.migrate_pages(task.pid, [0], [1]) == 0

            await task.lock_page(address)
            async with trio.open_nursery() as nursery:
                loaded: list[bytes] = []

                async def load() -> None:
                    loaded.append(await task.load(address, 1))

                nursery.start_soon(load)
                await trio.testing.wait_all_tasks_blocked()
                assert not loaded
                await task.unlock_page(address)
            assert loaded == [b"\0"]


async def test_a_cancelled_call_is_forgotten(shared: Path) -> None:
    with trio.fail_after(30):
        async with numalab.connect(shared) as machine:
            task = await machine.spawn()
            address = await task.mmap(PAGE)
            await task.store(address, b"kept")
            await task.lock_page(address)
            with trio.move_on_after(0.1) as scope:
                await task.load(address, 4)
            assert scope.cancelled_caught
            await task.unlock_page(address)
            assert await task.load(address, 4) == b"kept"


async def test_leased_tasks_end_with_their_connection_and_others_do_not(shared: Path) -> None:
    with trio.fail_after(30):
        async with numalab.connect(shared) as machine:
            async with numalab.connect(shared) as other:
                leased = await other.spawn()
                lasting = await other.spawn(leased=False)
            pids = (await machine.tasks()).pid.tolist()
            assert lasting.pid in pids
            assert leased.pid not in pids
            await (await machine.attach(lasting.pid)).exit()


async def test_what_goes_wrong_in_the_block_comes_out_as_it_is(run: Path) -> None:
    with trio.fail_after(30):
        with pytest.raises(ZeroDivisionError):
            async with numalab.local_cluster(2, "4M", run_directory=run):
                raise ZeroDivisionError
    assert_gone(run)


# ---- breaking and mending ------------------------------------------------------------------


async def test_a_killed_node_comes_back_with_its_pages(run: Path) -> None:
    with trio.fail_after(40):
        async with numalab.local_cluster(2, "4M", run_directory=run) as machine:
            task = await machine.spawn(cpu=1)
            address = await task.mmap(4 * PAGE)
            await task.store(address, b"survives")
            with pytest.raises(ConfigurationError, match="node1 .* still runs"):
                cluster.restart(run, "node1")
            victim = cluster.running(run)["node1"]
            victim.signal(signal.SIGKILL)
            await processes.ended(victim)
            assert sorted(cluster.running(run)) == ["coordinator", "node0"]
            cluster.restart(run, "node1")
            assert await task.load(address, 8) == b"survives"
            assert read_machine(run).processes[1].pid == cluster.running(run)["node1"].pid


# ---- starting and stopping -----------------------------------------------------------------


async def test_up_and_down(run: Path) -> None:
    with trio.fail_after(30):
        machine = await cluster.up(SMALL, run)
        try:
            assert_private(run, machine)
            async with numalab.connect(run) as connection:
                assert connection.nids == (0, 1)
                assert connection.page_size == PAGE
            with pytest.raises(ConfigurationError, match="runs in .* already"):
                await cluster.up(SMALL, run)
        finally:
            assert await cluster.down(run)
        assert_nothing_is_left(run, machine)
        assert not await cluster.down(run)
        with pytest.raises(numalab.MachineUnreachable, match="No machine runs in"):
            async with numalab.connect(run):
                pass


async def test_a_machine_of_which_little_is_left_can_be_taken_down(run: Path) -> None:
    with trio.fail_after(30):
        machine = await cluster.up(SMALL, run)
        (run / "machine.json").unlink()
        for name in ("coordinator", "node0"):
            victim = cluster.running(run)[name]
            victim.signal(signal.SIGKILL)
            await processes.ended(victim)
        cluster.running(run)["node1"].signal(signal.SIGSTOP)
        assert await cluster.down(run)
        assert_nothing_is_left(run, machine)


async def test_only_processes_of_the_machine_are_ended(run: Path) -> None:
    """A pid that now belongs to another process: the start times differ."""
    with trio.fail_after(30):
        await cluster.up(SMALL, run)
        stranger = processes.Process(os.getpid(), 1)
        processes.remember(stranger, run / "node7.pid")
        assert "node7" not in cluster.running(run)
        assert await cluster.down(run)


async def test_another_key_is_no_entry(run: Path) -> None:
    with trio.fail_after(30):
        machine = await cluster.up(SMALL, run)
        try:
            with pytest.raises(numalab.MachineUnreachable, match="is this its key"):
                async with numalab.connect(machine.coordinator, key=bytes(16), within=0.5):
                    pass
            async with numalab.connect(machine.coordinator, key=bytes.fromhex(machine.key)) as same:
                assert same.run_directory is None
        finally:
            await cluster.down(run)


async def test_a_machine_dies_with_the_process_that_had_it(run: Path) -> None:
    program = (
        "import sys, trio, numalab\n"
        "async def main():\n"
        "    async with numalab.local_cluster(2, '4M', run_directory=sys.argv[1]):\n"
        "        print('up', flush=True)\n"
        "        await trio.sleep_forever()\n"
        "trio.run(main)\n"
    )
    with trio.fail_after(40):
        owner = await trio.lowlevel.open_process(
            [sys.executable, "-c", program, str(run)], stdout=subprocess.PIPE
        )
        assert owner.stdout is not None
        assert await owner.stdout.receive_some(2) == b"up"
        machine = read_machine(run)
        alive = cluster.running(run)
        assert sorted(alive) == ["coordinator", "node0", "node1"]
        owner.kill()
        for process in alive.values():
            await processes.ended(process)
        assert not [zone for zone in zones_of(machine) if zone.exists()]
        await owner.wait()
        assert await cluster.down(run)
        assert_nothing_is_left(run, machine)


async def test_a_process_that_ends_at_its_start_is_quoted(run: Path) -> None:
    with trio.fail_after(30):
        async with numalab.local_cluster(2, "4M") as other:
            assert other.run_directory is not None
            taken = int(read_machine(other.run_directory).coordinator.rpartition(":")[2])
            with pytest.raises(ConfigurationError, match="node1 ended as soon as .* listen at"):
                await cluster.up(replace(SMALL, ports={"node1": taken}), run)
        assert_gone(run)


async def test_a_node_that_never_comes_up_is_named(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = processes.start

    def start_stopped(module: str, configuration: Path, log: Path) -> processes.Process:
        process = start(module, configuration, log)
        if configuration.stem == "node1":
            process.signal(signal.SIGSTOP)
        return process

    monkeypatch.setattr(processes, "start", start_stopped)
    with trio.fail_after(30):
        with pytest.raises(ConfigurationError, match=r"^node1 did not come up within 4 s"):
            await cluster.up(SMALL, run, within=4)
    assert_gone(run)


def test_a_machine_that_does_not_fit_is_not_begun(run: Path) -> None:
    settings = Settings(Topology.uniform(2, "8T"))
    with pytest.raises(ConfigurationError, match=r"need 1\d{7} MiB of memory and this host has"):
        trio.run(cluster.up, settings, run)
    assert not list(run.glob("*.log")), "no process was started"


def test_a_directory_of_somebody_else_is_refused(run: Path) -> None:
    run.mkdir(mode=0o700)
    (run / "thesis.txt").touch()
    with pytest.raises(ConfigurationError, match="has files in it"):
        rundirectory.claim(run)
    (run / "thesis.txt").unlink()
    run.chmod(0o755)
    with pytest.raises(ConfigurationError, match="open to other users"):
        rundirectory.claim(run)
    run.chmod(0o700)
    if os.getuid() != 0:
        pytest.skip("only root can give a directory away, to see that it is refused")
    os.chown(run, 12345, -1)
    with pytest.raises(ConfigurationError, match="belongs to user 12345"):
        rundirectory.claim(run)
