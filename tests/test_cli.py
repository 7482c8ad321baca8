"""The console program on a live machine: it shows, imports, moves, and says if all is right."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import trio

from numalab import cluster, commands, connect
from numalab.cluster import running
from numalab.commands import Place
from numalab.console import Answer, Exit
from numalab.hardware import COUNTERS, hardware_text, numastat_text, process_numastat_text
from numalab.importer import digests_path
from numalab.processes import Process
from protocol.nodemask import format_nodes
from protocol.syscalls import Hardware
from protocol.topology import Topology
from tests.live import Numalab, Said, program

MIB = 1 << 20
NIDS = (0, 2, 10, 11)
CPUS: tuple[tuple[int, ...], ...] = ((0, 1), (2,), (), (3, 5))


def machine_with_gaps() -> Hardware:
    """Nodes with gaps between them, one without a cpu, and one distance of three digits."""
    distance = np.full((4, 4), 21, np.uint32)
    np.fill_diagonal(distance, 10)
    distance[0, 3] = distance[3, 0] = 120
    counters = {
        name: np.arange(4, dtype=np.uint64) * 10**power for power, name in enumerate(COUNTERS)
    }
    return Hardware(
        4096,
        1,
        1,
        CPUS,
        np.array(NIDS, np.int32),
        np.ones(4, np.uint8),
        np.full(4, 65536, np.uint64),
        np.array([65000, 300, 1, 65536], np.uint64),
        **counters,
        distance=distance.ravel(),
    )


def as_sysfs(hardware: Hardware, root: Path) -> None:
    """The files that the real tools read it from."""
    distance = hardware.distance.reshape(4, 4)
    for row, nid in enumerate(NIDS):
        files = {
            "cpulist": format_nodes(CPUS[row]),
            "cpumap": f"{sum(1 << cpu for cpu in CPUS[row]):08x}",
            "distance": " ".join(map(str, distance[row])),
            "meminfo": f"Node {nid} MemTotal: {hardware.frames[row] * 4} kB\n"
            f"Node {nid} MemFree: {hardware.free[row] * 4} kB",
            "numastat": "\n".join(f"{name} {getattr(hardware, name)[row]}" for name in COUNTERS),
        }
        (root / f"node{nid}").mkdir()
        for name, text in files.items():
            (root / f"node{nid}" / name).write_text(f"{text}\n")
    for name in ("online", "possible", "has_cpu", "has_memory", "has_normal_memory"):
        (root / name).write_text(f"{format_nodes(NIDS)}\n")


def of_the_real_tool(root: Path, *command: str) -> str:
    """What a tool says that sees ``root`` in place of this host's nodes."""
    mount = f"mount --bind {root} /sys/devices/system/node && exec {' '.join(command)}"
    try:
        said = subprocess.run(
            ["unshare", "-rm", "sh", "-c", mount], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"the real {command[0]} cannot be shown other nodes here: {error}")
    return said.stdout


def test_nodes_are_shown_as_the_real_numactl_shows_them(tmp_path: Path) -> None:
    hardware = machine_with_gaps()
    as_sysfs(hardware, tmp_path)
    assert hardware_text(hardware) == of_the_real_tool(tmp_path, "numactl", "--hardware")


def test_counters_are_shown_as_the_real_numastat_shows_them(tmp_path: Path) -> None:
    hardware = machine_with_gaps()
    as_sysfs(hardware, tmp_path)
    assert numastat_text(hardware) == of_the_real_tool(tmp_path, "numastat")


def test_a_task_is_shown_as_numastat_shows_a_process() -> None:
    maps = (
        "00400000 default file=/bin/heap mapped=2 active=0 N0=2\n"
        "01000000 default heap anon=512 dirty=512 N0=256 N1=256\n"
        "7ffe0000 default stack anon=3 dirty=3 N1=3\n"
    )
    assert process_numastat_text(7, "cat", maps, (0, 1), 4096).splitlines() == [
        "",
        "Per-node process memory usage (in MBs) for PID 7 (cat)",
        "                           Node 0          Node 1           Total",
        "                  --------------- --------------- ---------------",
        "Huge                         0.00            0.00            0.00",
        "Heap                         1.00            1.00            2.00",
        "Stack                        0.00            0.01            0.01",
        "Private                      0.01            0.00            0.01",
        "----------------  --------------- --------------- ---------------",
        "Total                        1.01            1.01            2.02",
    ]


def test_help_is_quick_because_it_loads_next_to_nothing() -> None:
    loaded = (
        "import sys, numalab.cli;"
        "print([name for name in ('trio', 'numpy', 'zmq', 'rich') if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", loaded], capture_output=True, check=True)
    assert said.stdout == b"[]\n"


def test_a_process_is_imported_moved_and_found_unharmed(numalab: Numalab) -> None:
    with program() as child:
        imported = numalab("import", child)
        assert Path(f"/proc/{child}").exists()
    assert imported.code == Exit.DONE, imported.err
    pid = imported.out.strip()
    listed = numalab("ps", "--json").document["tasks"]
    present = next(task["present"] for task in listed if task["pid"] == int(pid))
    assert present * 4096 > 4 * MIB

    moved = numalab("migratepages", pid, "0", "3")
    assert moved == Said(Exit.DONE, "", "")
    assert numalab("numastat", "-p", pid, "--json").document["pages"] == [0, 0, 0, present]
    assert " N3=" in numalab("numa-maps", pid).out

    verified = numalab("verify", pid, "--json")
    assert verified.code == Exit.DONE
    assert verified.document["verdict"] == "valid"
    assert verified.document["compared"] == verified.document["read"] == present


def test_verify_tells_a_store_from_a_damaged_page(numalab: Numalab, run_directory: Path) -> None:
    with program() as child:
        pid = int(numalab("import", child).out)
    heap = next(x for x in numalab("numa-maps", pid).out.splitlines() if " heap " in x)
    address = int(heap.split()[0], 16)

    async def store() -> None:
        with trio.fail_after(10):
            async with connect(run_directory) as machine:
                task = await machine.attach(pid)
                await task.store(address, b"written")

    trio.run(store)
    document = numalab("verify", pid, "--json").document
    assert (document["verdict"], document["written"]) == ("valid", 1)

    # The same is found if the page is another one than was imported.
    path = digests_path(run_directory, pid)
    assert path.stat().st_mode & 0o777 == 0o600
    digests = np.load(path)
    digests[1, -1] ^= np.uint64(1)
    np.save(path, digests)
    wrong = numalab("verify", pid)
    assert wrong.code == Exit.FAILED
    assert f"The page at {int(digests[0, -1]) * 4096:#x} of task {pid} differs" in wrong.out
    assert wrong.out.endswith("verdict: invalid\n")


def test_pages_that_stay_are_told_by_exit_code_3(run_directory: Path) -> None:
    async def migrate() -> Answer:
        place = Place(run_directory)
        with trio.fail_after(20):
            async with connect(run_directory) as machine:
                task = await machine.spawn()
                address = await task.mmap(8 * 4096)
                await task.store(address, bytes(8 * 4096))
                await task.pin(address + 4096, address + 3 * 4096)
                return await commands.migratepages(
                    place, task.pid, "0", "1", lambda what, done, total: None
                )

    answer = trio.run(migrate)
    assert answer.code == Exit.PARTLY
    assert answer.document["not_moved"] == 2
    assert answer.sentence.startswith("2 pages of task ")


def test_who_waits_for_a_node_is_told_so(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node is stopped when its pages are to move, and goes on when that was said."""
    monkeypatch.setattr(commands, "PATIENCE_SECONDS", 0.1)
    run = tmp_path / "run"
    said = ""

    async def migrate() -> Answer:
        await cluster.up(cluster.Settings(Topology.uniform(2, "8M")), run, parent=os.getpid())
        async with connect(run) as machine:
            task = await machine.spawn()
            await task.store(await task.mmap(8 * 4096), bytes(8 * 4096))
            target = cluster.running(run)["node1"]
            target.signal(signal.SIGSTOP)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(go_on_when_told, target)
                return await commands.migratepages(
                    Place(run), task.pid, "0", "1", lambda what, done, total: None
                )

    async def go_on_when_told(target: Process) -> None:
        nonlocal said
        while not said:
            await trio.sleep(0.05)
            said = capfd.readouterr().err
        target.signal(signal.SIGCONT)

    async def main() -> Answer:
        try:
            with trio.fail_after(60):
                return await migrate()
        finally:
            await cluster.down(run)

    assert trio.run(main).document["not_moved"] == 0
    assert said == (
        "node1 is down, and this waits for an answer: start it again with 'numalab restart'; "
        "'numalab status' tells which processes live.\n"
    )


def test_single_pages_are_found_and_moved(numalab: Numalab, run_directory: Path) -> None:
    with program() as child:
        pid = int(numalab("import", child).out)
    heap = numalab("numa-maps", pid).out.partition(" default heap")[0].split("\n")[-1]
    assert numalab("move-pages", pid, heap).out == f"{heap} node 0\n"
    assert numalab("move-pages", pid, heap, "--to", "2").out == f"{heap} node 2\n"

    again = numalab("move-pages", pid, heap, "--to", "2")
    assert (again.code, again.out) == (Exit.DONE, f"{heap} node 2\n")

    partly = numalab("move-pages", pid, heap, "7fffffff0000", "--to", "1", "--json")
    assert partly.code == Exit.PARTLY
    assert [page["status"] for page in partly.document["pages"]] == [1, -14]


@pytest.mark.parametrize("command", ["hardware", "numastat", "ps", "status"])
def test_programs_read_one_json_document(numalab: Numalab, command: str) -> None:
    said = numalab(command, "--json")
    assert said.code == Exit.DONE, said.err
    assert said.document["schema"] == 1
    assert not numalab(command).out.startswith("{")


def test_a_bar_on_the_terminal_keeps_out_of_the_data(run_directory: Path) -> None:
    terminal, of_child = pty.openpty()
    command = [sys.executable, "-m", "numalab.cli", "import", "--json", "--node", "1"]
    here = os.environ | {"NUMALAB_RUN_DIRECTORY": str(run_directory), "TERM": "xterm"}
    with program() as child:
        said = subprocess.run(
            [*command, str(child)], stdout=subprocess.PIPE, stderr=of_child, env=here
        )
    os.close(of_child)
    assert json.loads(said.stdout)["command"].startswith("python")
    assert "\N{BOX DRAWINGS HEAVY HORIZONTAL}".encode() in os.read(terminal, 1 << 16)
    os.close(terminal)


def test_status_never_shows_the_key(numalab: Numalab, run_directory: Path) -> None:
    key = json.loads((run_directory / "machine.json").read_bytes())["key"]
    said = numalab("status", "--json")
    assert len(key) == 32
    assert key not in said.out + numalab("status").out


def test_a_machine_is_started_loses_its_coordinator_and_is_taken_down(
    numalab: Numalab, tmp_path: Path
) -> None:
    directory = tmp_path / "machine"
    here = ("--run-directory", directory)
    started = numalab("up", "--nodes", 1, "--memory", "1M", "--no-metrics", *here, "--json")
    assert started.code == Exit.DONE, started.err
    assert [row["metrics"] for row in started.document["processes"]] == ["", ""]

    coordinator = running(directory)["coordinator"]
    coordinator.signal(signal.SIGKILL)
    os.waitpid(coordinator.pid, 0)
    status = numalab("status", *here, "--json")
    assert status.code == Exit.UNREACHABLE
    assert {row["name"]: row["state"] for row in status.document["processes"]} == {
        "node0": "silent",
        "coordinator": "down",
    }
    assert numalab("down", *here).code == Exit.DONE
    assert not directory.exists()
    assert numalab("down", *here).code == Exit.UNREACHABLE
