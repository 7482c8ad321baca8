"""A journal that has grown is replaced by a snapshot: the old one is there, or the new, whole."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from protocol.core import JournalError
from protocol.live.journal import COMPACT_FACTOR, Journal

KIB = 1 << 10

#: Appends numbers, compacts now and then; says what is durable after each step.
COUNT_FOR_EVER = """
import sys, trio
from protocol.live.journal import Journal

async def main():
    async with Journal(sys.argv[1], compact_bytes=30_000) as journal:
        told = await journal.read_all()
        count = sum(int(entry.split()[0]) for entry in told)
        while True:
            if journal.outgrown:
                # As many as there are by now, in entries of some size.
                await journal.replace([b"%d snapshot " % count + bytes(9_000), *[b"0"] * 50])
            else:
                await journal.append([b"1 " + bytes(700)] * 5)
                count += 5
            print(count, flush=True)

trio.run(main)
"""


async def test_a_snapshot_takes_the_place_of_everything(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with trio.fail_after(10):
        async with Journal(path) as journal:
            await journal.append([b"one", b"two"])
            assert await journal.replace([b"both"]) == 4
            await journal.append([b"three"])
            assert await journal.read_all() == [b"both", b"three"]
        async with Journal(path) as journal:
            assert await journal.read_all() == [b"both", b"three"]


async def test_numbers_go_on_after_a_snapshot(tmp_path: Path) -> None:
    with trio.fail_after(10):
        async with Journal(tmp_path / "journal") as journal:
            await journal.append([b"one", b"two"])
            await journal.replace([b"both"])
            await journal.append([b"three"])
            assert [seq for seq, _ in await journal._run(lambda: list(journal._rows()))] == [3, 4]


async def test_it_is_due_when_much_more_was_written_than_the_snapshot_has(tmp_path: Path) -> None:
    with trio.fail_after(10):
        async with Journal(tmp_path / "journal", compact_bytes=64 * KIB) as journal:
            assert not journal.outgrown
            await journal.append([bytes(KIB)] * 65)
            assert journal.outgrown
            await journal.replace([bytes(KIB)] * 100)
            assert not journal.outgrown
            await journal.append([bytes(KIB)] * 100 * COMPACT_FACTOR)
            assert not journal.outgrown
            await journal.append([bytes(1)])
            assert journal.outgrown


async def test_a_journal_that_became_small_gives_the_disk_back(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with trio.fail_after(30):
        async with Journal(path) as journal:
            for _ in range(8):
                await journal.append([bytes(KIB)] * 1024)
            await journal.replace([b"small"])
            assert path.stat().st_size < 64 * KIB
            assert path.with_name("journal-wal").stat().st_size == 0
            await journal.append([b"after"])
            assert await journal.read_all() == [b"small", b"after"]


async def test_the_log_is_emptied_as_it_grows(tmp_path: Path) -> None:
    log = tmp_path / "journal-wal"
    with trio.fail_after(30):
        async with Journal(tmp_path / "journal") as journal:
            sizes = []
            for _ in range(200):
                # A commit of a short entry is a page of the log all the same.
                await journal.append([bytes(100)] * 20 + [bytes(KIB)] * 200)
                sizes.append(log.stat().st_size)
    assert max(sizes) < 5 << 20
    assert 0 in sizes


async def test_a_snapshot_that_fails_leaves_the_old_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal"

    def broken() -> Iterator[bytes]:
        yield b"begun"
        raise AssertionError("the page tables are wrong")

    with trio.fail_after(10):
        async with Journal(path) as journal:
            await journal.append([b"one"])
            with pytest.raises(AssertionError, match="page tables"):
                await journal.replace(broken())
        async with Journal(path) as journal:
            assert await journal.read_all() == [b"one"]


async def test_a_kill_leaves_all_that_was_acknowledged(tmp_path: Path) -> None:
    path, draw = tmp_path / "journal", random.Random(7)
    command = [sys.executable, "-c", COUNT_FOR_EVER, str(path)]
    acknowledged, compacted = 0, 0
    with trio.fail_after(60):
        for _ in range(8):
            process = await trio.lowlevel.open_process(
                command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]
            )
            assert process.stdout is not None
            said, wanted = b"", draw.randrange(50, 700)
            while len(said) < wanted:
                said += await process.stdout.receive_some()
            process.send_signal(signal.SIGKILL)
            while more := await process.stdout.receive_some():
                said += more
            await process.wait()
            acknowledged = int(said[: said.rindex(b"\n")].split()[-1])
            async with Journal(path) as journal:
                told = await journal.read_all()
                count = sum(int(entry.split()[0]) for entry in told)
                assert count in (acknowledged, acknowledged + 5)
                compacted += b"snapshot" in told[0]
    assert compacted


async def test_a_snapshot_for_which_there_is_no_room_leaves_the_old_journal(
    small_disk: Path,
) -> None:
    path = small_disk / "journal"
    with trio.fail_after(20):
        async with Journal(path) as journal:
            await journal.append([b"one", b"two"])
            with pytest.raises(JournalError, match=f"{path} cannot be written .*make room"):
                await journal.replace([bytes(64 * KIB)] * 16)
        async with Journal(path) as journal:
            assert await journal.read_all() == [b"one", b"two"]
