"""What `numalab journal` says: entries in kernel words, of a machine that runs or was killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import trio

from coordinator import records as r
from coordinator.mm import PROT_READ, Pte
from coordinator.mpol import Mode
from coordinator.saved import CountersSaved, EntriesSaved
from numalab.journal_text import describe, document, is_about, runs
from protocol.codec import decode_entry
from protocol.core import ConfigurationError
from protocol.live.journal import Journal
from protocol.live.journal_copy import copied
from protocol.schema import ENTRIES, Message
from tests.lab import Lab
from tests.live import NODES, Numalab
from tests.test_journal_compaction import COUNT_FOR_EVER
from tests.test_snapshot import compacted


def pfns(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.uint32)


def ramp(first: int, pages: int) -> np.ndarray:
    return np.arange(first, first + pages, dtype=np.uint32)


SAID: list[tuple[Message, str]] = [
    (
        r.PagesCommitted(0, 1, ramp(12, 4096), ramp(40, 4096), ramp(7, 4096) * 0 + 3),
        "PagesCommitted node 0 -> 1, 4096 pages, frames 12-4107 -> 40-4135, generation 3",
    ),
    (
        r.PagesMapped(
            7,
            2,
            ramp(0x7000, 2).astype("u8"),
            pfns(9, 4),
            pfns(1, 5),
            _BITS := pfns(Pte.PRESENT | Pte.WRITE, Pte.PRESENT).astype(np.uint8),
        ),
        "PagesMapped pid 7, node 2, 2 pages, at 0x7000-0x7001, frames 9 4, generations 1-5, "
        "present some write",
    ),
    (r.FramesFreed(1, pfns(5)), "FramesFreed node 1, 1 page, frames 5"),
    (r.FramesFreed(1, pfns()), "FramesFreed node 1, 0 pages, frames"),
    (
        r.FramesFreed(0, pfns(1, 3, 5, 7, 8, 20)),
        "FramesFreed node 0, 6 pages, frames 1 3 5 7-8 ... in 5 runs",
    ),
    (r.TaskForked(7, 9, 2, ""), "TaskForked pid 7, child 9, cpu 2"),
    (
        r.PolicySet(7, 16, 32, Mode.BIND, (0, 1, 3), 0, (), (0, 1), -1),
        "PolicySet pid 7, pages 0x10-0x20, policy bind:0-1,3",
    ),
    (
        r.PolicySet(7, 16, 32, Mode.DEFAULT, (), 0, (), (), -1),
        "PolicySet pid 7, pages 0x10-0x20, policy default",
    ),
    (r.RangeProtected(7, 16, 17, PROT_READ), "RangeProtected pid 7, pages 0x10-0x11, r--"),
    (r.CpusetChanged("/a", (0, 1), (2,), 1), "CpusetChanged path /a, cpus 0-1, mems 2, flags 1"),
]


@pytest.mark.parametrize(("entry", "line"), SAID)
def test_an_entry_is_a_line_in_kernel_words(entry: Message, line: str) -> None:
    assert describe(entry) == line


def test_a_column_is_its_runs_for_a_program() -> None:
    entry = r.PagesCommitted(0, 1, ramp(12, 3), pfns(9, 4, 5), pfns(1, 1, 1))
    assert document(41, entry) == {
        "seq": 41,
        "entry": "PagesCommitted",
        "fields": {
            "source": 0,
            "target": 1,
            "pfn": [[12, 14]],
            "target_pfn": [[9, 9], [4, 5]],
            "target_generation": [[1, 1], [1, 1], [1, 1]],
        },
    }
    assert runs(pfns()) == []


def test_every_entry_that_a_machine_writes_can_be_said(lab: Lab) -> None:
    pid = lab.spawn()
    lab.mapped(pid, 4)
    lab.fork(pid)
    lab.migrate(pid, 0, 1)
    whole = list(lab.records)
    compacted(lab)
    for entry in map(decode_entry, [*whole, *lab.records]):
        line = describe(entry)
        assert line.startswith(type(entry).__name__) and "\n" not in line and "array" not in line
        json.dumps(document(1, entry))
    kinds = {type(decode_entry(entry)) for entry in lab.records}
    assert {CountersSaved, EntriesSaved} <= kinds <= {row.cls for row in ENTRIES.values()}


def test_the_command_knows_every_entry_that_a_journal_can_have() -> None:
    script = (
        "import numalab.observing_commands; from protocol.schema import ENTRIES; "
        "before = set(ENTRIES); import coordinator.replay; print(set(ENTRIES) - before)"
    )
    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert said.stdout == "set()\n"


def test_an_entry_is_about_every_task_that_it_names() -> None:
    assert is_about(r.TaskForked(7, 9, 0, ""), 7)
    assert is_about(r.TaskForked(7, 9, 0, ""), 9)
    assert is_about(r.TaskCloned(7, 10, 0, ""), 10)
    assert not is_about(r.FramesFreed(7, pfns(7)), 7)


# ---- of a machine --------------------------------------------------------------------------


async def test_a_journal_is_read_while_it_is_written_and_compacted(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    command = [sys.executable, "-c", COUNT_FOR_EVER, str(path)]
    counts: list[int] = []
    with trio.fail_after(60):
        process = await trio.lowlevel.open_process(
            command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]
        )
        assert process.stdout is not None
        said = b""
        for _ in range(25):
            while True:
                said += await process.stdout.receive_some()
                if said.endswith(b"\n"):
                    break
            least = int(said[: said.rindex(b"\n")].split()[-1])
            with copied(path) as rows:
                counts.append(sum(int(entry.split()[0]) for _, entry in rows))
            assert counts[-1] >= least
        process.send_signal(signal.SIGKILL)
        await process.wait()
        with copied(path) as rows:
            left = list(rows)
        assert sum(int(entry.split()[0]) for _, entry in left) >= counts[-1]
        async with Journal(path) as journal:
            assert await journal.read_all() == [entry for _, entry in left]
    assert counts == sorted(counts)
    assert left[0][0] > 1, "it was never compacted"


def test_a_journal_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with pytest.raises(ConfigurationError) as caught, copied(path):
        pass
    assert str(caught.value) == (
        f"the journal {path} cannot be read (No such file or directory): give the run directory "
        "of a machine of yours"
    )


def test_the_command_shows_the_journal_of_a_running_machine(numalab: Numalab) -> None:
    said = numalab("journal", "--last", 3)
    assert (said.code, said.err) == (0, "")
    assert len(said.out.splitlines()) <= 3
    told = numalab("journal", "--json")
    assert told.code == 0
    numbers = [entry["seq"] for entry in told.document["entries"]]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else NODES
    assert numalab("journal", "--pid", 999_999).out == ""


def test_the_command_where_no_machine_is_says_so(numalab: Numalab, tmp_path: Path) -> None:
    said = numalab("journal", "--run-directory", tmp_path)
    assert (said.code, said.out) == (4, "")
    assert said.err.startswith(f"No machine runs in {tmp_path}")
