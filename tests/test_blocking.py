"""``numalab.blocking``: the Python API without async, which is generated."""

from __future__ import annotations

import asyncio
import errno
import inspect
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import numalab.blocking
from numalab import blocking, blocking_source, cpusets, files, jobs, machine, raw, task, weights
from numalab.locate import MachineUnreachable

PAGE = 4096
PAIRS = (
    (machine.Machine, blocking.Machine),
    (task.Task, blocking.Task),
    (files.File, blocking.File),
    (cpusets.Cpusets, blocking.Cpusets),
    (weights.Weights, blocking.Weights),
    (jobs.Jobs, blocking.Jobs),
    (raw.RawCalls, blocking.RawCalls),
)


@pytest.mark.parametrize("name", sorted(blocking_source.sources()))
def test_the_files_are_what_is_generated(name: str) -> None:
    text = (blocking_source.HERE / name).read_text()
    assert text == blocking_source.sources()[name], "run: make docs"


@pytest.mark.parametrize(("awaited", "waiting"), PAIRS, ids=lambda cls: cls.__name__)
def test_every_async_method_is_there(awaited: type, waiting: type) -> None:
    names = [
        name
        for name, method in vars(awaited).items()
        if inspect.iscoroutinefunction(method) and not name.startswith("_")
    ]
    assert names
    for name in names:
        method, mine = getattr(awaited, name), getattr(waiting, name)
        assert not inspect.iscoroutinefunction(mine)
        assert inspect.signature(mine) == inspect.signature(method), name
        assert mine.__doc__ == method.__doc__


def test_the_functions_take_what_those_of_the_api_take() -> None:
    for mine, theirs in (
        (blocking.connect, machine.connect),
        (blocking.local_cluster, numalab.local_cluster),
    ):
        assert inspect.signature(mine).parameters == inspect.signature(theirs).parameters


def test_pages_move_and_come_back(run_directory: Path) -> None:
    with blocking.connect(run_directory) as here:
        assert here.nids == (0, 1, 2, 3) and here.page_size == PAGE
        worker = here.spawn(comm="notebook")
        address = worker.mmap(8 * PAGE)
        worker.store(address, b"hello" * PAGE)
        assert worker.migrate_pages(worker.pid, "0", "1") == 0
        assert worker.load(address, 5) == b"hello"
        assert worker.move_pages(worker.pid, [address], None) == [1]
        child = worker.fork(cpu=1)
        assert isinstance(child, blocking.Task) and (child.cpu, child.load(address, 1)) == (1, b"h")
        assert "/" in here.cpusets.walk()
        assert worker.raw.migrate_pages(worker.pid, 5, b"\2" + bytes(7), b"\1" + bytes(7)) == 0
        job = worker.start_migration(worker.pid, "0", "1")
        assert here.jobs.wait(job) == 0 and job in [row.job for row in here.jobs.rows()]
        file = here.create_file("/blocking", 4)
        assert here.file("/blocking").state().pages == 4
        file.unlink()


def test_errors_are_the_same(run_directory: Path) -> None:
    with blocking.connect(run_directory) as here:
        with pytest.raises(OSError) as nobody:
            here.attach(99_999)
        assert nobody.value.errno == errno.ESRCH
        with pytest.raises(OSError) as wrong:
            here.spawn().munmap(1, 1)
        assert wrong.value.errno == errno.EINVAL


def test_nobody_answers(tmp_path: Path) -> None:
    with pytest.raises(MachineUnreachable):
        blocking.connect(tmp_path)


def test_without_a_block_and_after_its_end(run_directory: Path) -> None:
    here = blocking.connect(run_directory)
    worker = here.spawn()
    here.close()
    here.close()
    with pytest.raises(blocking.Closed, match="connect to it again"):
        worker.mmap(PAGE)


def test_in_an_event_loop_of_asyncio(run_directory: Path) -> None:
    async def cell() -> int:
        with blocking.connect(run_directory) as here:
            return here.spawn().mmap(PAGE)

    assert asyncio.run(cell()) > 0


def test_many_threads_use_one_machine(run_directory: Path) -> None:
    with blocking.connect(run_directory) as here, ThreadPoolExecutor(8) as threads:
        worker = here.spawn()
        base = worker.mmap(64 * PAGE)

        def store_and_load(page: int) -> bytes:
            worker.store(base + page * PAGE, bytes([page]) * 8)
            return worker.load(base + page * PAGE, 1)

        assert list(threads.map(store_and_load, range(64))) == [bytes([n]) for n in range(64)]


def interrupt_when_under_way(here: blocking.Machine) -> None:
    """SIGINT for the main thread as soon as an order of this connection is waited for."""
    limit = time.monotonic() + 20
    while not here._inner._outcomes and time.monotonic() < limit:
        time.sleep(0.001)
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGINT)


def test_an_interrupted_call_is_cancelled_and_the_machine_is_usable(run_directory: Path) -> None:
    with blocking.connect(run_directory) as here:
        worker = here.spawn()
        address = worker.mmap(2 * PAGE)
        worker.store(address, b"before")
        worker.lock_page(address)
        interrupter = threading.Thread(target=interrupt_when_under_way, args=(here,))
        interrupter.start()
        with pytest.raises(KeyboardInterrupt):
            worker.store(address, b"waits for the page lock")
        interrupter.join()
        worker.unlock_page(address)
        worker.store(address + PAGE, b"after")
        assert worker.load(address + PAGE, 5) == b"after"
        assert not here._inner._outcomes


def test_a_call_under_way_when_the_machine_is_closed_is_told(run_directory: Path) -> None:
    here = blocking.connect(run_directory)
    worker = here.spawn()
    address = worker.mmap(PAGE)
    worker.store(address, b"before")
    worker.lock_page(address)
    with ThreadPoolExecutor(1) as threads:
        stored = threads.submit(worker.store, address, b"waits for ever")
        limit = time.monotonic() + 20
        while not here._inner._outcomes and time.monotonic() < limit:
            time.sleep(0.001)
        here.close()
        with pytest.raises(blocking.Closed):
            stored.result(20)


PROGRAM = """
import numalab.blocking
machine = numalab.blocking.local_cluster(nodes=2, memory="8M")
task = machine.spawn()
address = task.mmap(1 << 20)
task.store(address, b"hello")
print(machine.run_directory, task.migrate_pages(task.pid, "0", "1"), task.load(address, 5))
"""


@pytest.mark.slow
def test_a_script_that_closes_nothing_ends_and_leaves_nothing() -> None:
    said = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60
    )
    assert said.returncode == 0, said.stderr
    where, moved, data = said.stdout.split()
    assert (moved, data) == ("0", "b'hello'") and not Path(where).exists()


@pytest.mark.slow
def test_an_interrupt_while_a_machine_starts_leaves_nothing(tmp_path: Path) -> None:
    place = tmp_path / "machine"

    def interrupt() -> None:
        limit = time.monotonic() + 20
        while not list(place.glob("*.pid")) and time.monotonic() < limit:
            time.sleep(0.001)
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        blocking.local_cluster(nodes=2, memory="8M", run_directory=place)
    interrupter.join()
    assert not place.exists()
    with blocking.local_cluster(nodes=1, memory="8M", run_directory=place) as here:
        assert here.nids == (0,)


@pytest.mark.slow
def test_the_example_of_the_documentation_prints_what_it_says() -> None:
    page = (blocking_source.ROOT / "docs/terminal.md").read_text()
    example, _, rest = page.partition("```python\n")[2].partition("```")
    printed = rest.partition("```\n")[2].partition("```")[0]
    said = subprocess.run(
        [sys.executable, "-c", example], capture_output=True, text=True, timeout=60
    )
    assert said.stdout == printed, said.stderr
