"""Whatever a user or a stranger gets wrong: one sentence and an exit code, and everybody lives."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import zmq

from numalab import image, processes, rundirectory
from numalab.console import Exit
from numalab.locate import MachineFile, read_machine
from numalab.processes import Process
from protocol.codec import FRAMES_MAX, Envelope, Kind, encode
from protocol.messages import Hello
from protocol.schema import MESSAGES
from tests.live import Numalab, Said, program

SEED = 20060623
HUNGRY = "import sys; data = b'x' * (160 << 20); print('ready', flush=True); sys.stdin.read()"


def assert_one_sentence(said: Said, code: Exit, *words: str) -> None:
    """It failed with this code, and said one line on stderr, with these words in it."""
    assert said.code == code, said
    assert said.out == ""
    assert re.fullmatch(r"[^\n]+[.?]\n", said.err), said.err
    assert "Traceback" not in said.err
    for word in words:
        assert word in said.err


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


# ---- arguments -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ("0-", "'0-' in the list '0-' is neither a number nor a range"),
        ("2-1", "runs backwards: write 1-2"),
        ("", "The node list is empty"),
        ("7", "There is no node 7: this machine has nodes 0-3"),
        ("+0", "without '+'"),
    ],
)
def test_a_node_list_that_names_no_nodes(numalab: Numalab, nodes: str, words: str) -> None:
    assert_one_sentence(numalab("migratepages", 1, "0", nodes), Exit.USAGE, words)


@pytest.mark.parametrize(
    "command",
    [
        ("migratepages", 4711, "0", "1"),
        ("move-pages", 4711, "7f0000000000"),
        ("numa-maps", 4711),
        ("numastat", "-p", 4711),
        ("verify", 4711),
    ],
    ids=lambda command: str(command[0]),
)
def test_a_pid_that_nobody_has(numalab: Numalab, command: tuple[object, ...]) -> None:
    assert_one_sentence(
        numalab(*command), Exit.FAILED, "There is no task 4711 in this machine", "numalab ps"
    )


@pytest.mark.parametrize(
    ("words", "about"),
    [
        (("move-pages", 1, "heap"), "heap is no address"),
        (("move-pages", 1, "1" + "0" * 16), "at most 64 bits"),
        (("migratepages", 1, "0"), "Missing argument 'TO-NODES'"),
        (("import", "1", "--address", "localhost:5000"), "write tcp://host:port"),
        (("teleport",), "No such command 'teleport'"),
    ],
)
def test_a_command_line_that_means_nothing(
    numalab: Numalab, words: tuple[object, ...], about: str
) -> None:
    assert_one_sentence(numalab(*words), Exit.USAGE, about, "--help'")


def test_two_nodes_where_one_may_be(numalab: Numalab) -> None:
    assert_one_sentence(numalab("import", os.getpid(), "--node", "0,1"), Exit.USAGE, "2 nodes")
    assert_one_sentence(numalab("move-pages", 1, "0", "--to", "all"), Exit.USAGE, "4 nodes")


# ---- images --------------------------------------------------------------------------------


def test_a_process_that_is_not_there(numalab: Numalab) -> None:
    pid_max = int(Path("/proc/sys/kernel/pid_max").read_text())
    assert_one_sentence(numalab("import", pid_max + 1), Exit.FAILED, "There is no process")


def test_a_process_that_may_not_be_read(numalab: Numalab, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, name: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(image, "_open_proc", refuse)
    with program() as child:
        said = numalab("import", child)
        assert_one_sentence(said, Exit.FAILED, f"Process {child} may not be read", "as root")
        assert state_of(child) == "S", "it goes on"


def test_a_core_that_was_cut(numalab: Numalab, tmp_path: Path) -> None:
    # An ELF core of x86-64 whose one program header should stand behind the end of the file.
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    core = tmp_path / "core"
    core.write_bytes(head)
    assert_one_sentence(numalab("import", core), Exit.FAILED, str(core), "cut")


def test_an_image_that_does_not_fit(numalab: Numalab) -> None:
    before = numalab("ps").out
    with program(HUNGRY) as child:
        said = numalab("import", child)
    assert_one_sentence(said, Exit.FAILED, "pages and the machine has", "--memory")
    assert numalab("ps").out == before


# ---- starting a machine --------------------------------------------------------------------

Up = Callable[..., Said]


@pytest.fixture
def up(numalab: Numalab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Up]:
    """Try to start a machine of 2 small nodes; it must fail and leave nothing behind."""
    directory, shared_memory = tmp_path / "machine", tmp_path / "shm"
    # One of its own: other machines come and go in that of this host meanwhile.
    shared_memory.mkdir()
    monkeypatch.setattr(rundirectory, "SHARED_MEMORY", shared_memory)

    def start(*words: object) -> Said:
        size = () if "--topology" in words else ("--nodes", 2, "--memory", "1M")
        return numalab("up", "--run-directory", directory, *size, *words)

    yield start
    assert not directory.exists()
    assert not list(shared_memory.iterdir())


def test_a_topology_with_a_typing_error(up: Up, tmp_path: Path) -> None:
    path = tmp_path / "topology.toml"
    path.write_text('[[node]]\nid = 0\nmemroy = "1M"\ncpus = "0"\n')
    assert_one_sentence(up("--topology", path), Exit.FAILED, str(path), "memroy")
    path.write_text("[[node]\n")
    assert_one_sentence(up("--topology", path), Exit.FAILED, str(path), "not TOML")
    path.unlink()
    assert_one_sentence(up("--topology", path), Exit.FAILED, str(path), "cannot be read")


@pytest.mark.parametrize(
    ("memory", "code", "words"),
    [
        ("1.5M", Exit.USAGE, "is not a size"),
        ("1000", Exit.USAGE, "multiple of the page size"),
        ("4T", Exit.FAILED, "this host has"),
    ],
)
def test_memory_that_cannot_be(up: Up, memory: str, code: Exit, words: str) -> None:
    assert_one_sentence(up("--memory", memory), code, words)


def test_a_port_that_is_in_use(up: Up) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert_one_sentence(up("--port", port), Exit.FAILED, "coordinator", str(port))


def test_a_node_that_never_comes_up(up: Up, monkeypatch: pytest.MonkeyPatch) -> None:
    start = processes.start
    started: list[Process] = []

    def start_and_stop(module: str, configuration: Path, log: Path) -> Process:
        started.append(start(module, configuration, log))
        if configuration.name == "node1.json":
            started[-1].signal(signal.SIGSTOP)
        return started[-1]

    monkeypatch.setattr(processes, "start", start_and_stop)
    said = up("--within", 5)
    assert_one_sentence(said, Exit.FAILED, "node1 did not come up within 5 s")
    assert not [process for process in started if process.alive]


def test_a_machine_where_one_runs_already(numalab: Numalab, run_directory: Path) -> None:
    said = numalab("up")
    assert_one_sentence(said, Exit.FAILED, f"A machine runs in {run_directory} already")
    assert numalab("status").code == Exit.DONE


def test_a_directory_that_is_full_of_something_else(numalab: Numalab, tmp_path: Path) -> None:
    (tmp_path / "thesis").write_text("the only copy")
    said = numalab("up", "--run-directory", tmp_path)
    assert_one_sentence(said, Exit.FAILED, str(tmp_path), "give an empty one")
    assert numalab("down", "--run-directory", tmp_path).code == Exit.UNREACHABLE
    assert (tmp_path / "thesis").read_text() == "the only copy"


def test_a_machine_that_is_not_there(numalab: Numalab, tmp_path: Path) -> None:
    said = numalab("ps", "--run-directory", tmp_path)
    assert_one_sentence(said, Exit.UNREACHABLE, f"No machine runs in {tmp_path}", "numalab up")


# ---- bytes from strangers ------------------------------------------------------------------


def damaged(machine: MachineFile, target: str, rng: random.Random) -> list[Sequence[bytes]]:
    """Messages each of which a process must drop and count."""
    key = bytes.fromhex(machine.key)

    def hello(key: bytes) -> list[bytes]:
        opcode = next(row.opcode for row in MESSAGES.values() if row.cls is Hello)
        envelope = Envelope(key, Kind.QUESTION, opcode, 1, 1, "stranger", target, 1, 0, 0)
        return [bytes(frame) for frame in encode(envelope, Hello())]

    flipped = bytearray(hello(key)[0])
    flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
    noise = [
        [rng.randbytes(rng.randrange(1, 200)) for _ in range(rng.randrange(1, 5))]
        for _ in range(20)
    ]
    return [
        [b""],
        [bytes(flipped)],
        hello(rng.randbytes(16)),
        [*hello(key), b"one frame more"],
        [hello(key)[0][:-1]],
        [b"x" * (1 << 20)],
        *noise,
    ]


def wire_errors(url: str) -> float:
    """How many messages the process has dropped, from its metrics."""
    with urllib.request.urlopen(url, timeout=5) as page:
        text = page.read().decode()
    return sum(float(n) for n in re.findall(r"^numalab_wire_errors_total\{.*\} (\S+)$", text, re.M))


def throw(address: str, messages: Sequence[Sequence[bytes]]) -> None:
    """Send the messages from a socket of nobody's."""
    context: zmq.Context[Any] = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.connect(address)
    for frames in messages:
        dealer.send_multipart(frames)
    dealer.close(linger=5000)
    context.term()


def test_damaged_messages_are_counted_and_dropped_and_everybody_lives(
    numalab: Numalab, run_directory: Path
) -> None:
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    machine = read_machine(run_directory)
    before = {row.name: wire_errors(row.metrics) for row in machine.processes}
    thrown = {row.name: damaged(machine, row.name, rng) for row in machine.processes}
    for row in machine.processes:
        throw(row.address, [*thrown[row.name], [b"."] * (FRAMES_MAX + 1)])
    limit = time.monotonic() + 20
    for row in machine.processes:
        while (counted := wire_errors(row.metrics) - before[row.name]) < len(thrown[row.name]):
            assert time.monotonic() < limit, f"{row.name} counts only {counted}"
        assert counted == len(thrown[row.name]), row.name

    states = json.loads(numalab("status", "--json").out)["processes"]
    assert {row["state"] for row in states} == {"up"}
    with program() as child:
        imported = numalab("import", child, "--node", "3")
        assert imported.code == Exit.DONE, imported.err
    assert numalab("verify", imported.out.strip()).code == Exit.DONE


def test_bytes_that_are_no_zmq_at_all_harm_nobody(numalab: Numalab, run_directory: Path) -> None:
    rng = random.Random(SEED)
    for row in read_machine(run_directory).processes:
        host, _, port = row.address.removeprefix("tcp://").rpartition(":")
        with socket.create_connection((host, int(port)), timeout=5) as stranger:
            stranger.sendall(rng.randbytes(4096))
    assert numalab("hardware").code == Exit.DONE
    assert numalab("status").code == Exit.DONE


def test_a_reader_who_has_enough_is_no_disaster(run_directory: Path) -> None:
    """numalab hardware | true."""
    command = f"exec 3>&1; {{ {sys.executable} -m numalab.cli hardware; echo $? >&3; }} | true"
    said = subprocess.run(
        ["bash", "-c", command],
        env=os.environ | {"NUMALAB_RUN_DIRECTORY": str(run_directory)},
        capture_output=True,
        text=True,
    )
    assert said.stdout.strip() in ("0", "1")
    assert "Traceback" not in said.stderr
