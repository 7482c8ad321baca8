"""Acknowledged entries are there after any death; a journal that cannot be used says so."""

from __future__ import annotations

import errno
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from protocol.core import ConfigurationError, JournalError
from protocol.live.journal import Journal
from protocol.live.journal_file import Synchronous

APPEND_AND_WAIT = """
import sys, trio
from protocol.live.journal import Journal

async def main():
    async with Journal(sys.argv[1]) as journal:
        for number in range(3):
            await journal.append([b"entry %d" % number])
        print("durable", flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


async def test_entries_come_back_in_their_order(tmp_path: Path) -> None:
    with trio.fail_after(5):
        async with Journal(tmp_path / "journal") as journal:
            assert await journal.read_all() == []
            await journal.append([b"first", b""])
            await journal.append([])
            await journal.append([b"third\0"])
        async with Journal(tmp_path / "journal") as journal:
            await journal.append([b"fourth"])
            assert await journal.read_all() == [b"first", b"", b"third\0", b"fourth"]


async def test_what_was_appended_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    command = [sys.executable, "-c", APPEND_AND_WAIT, str(path)]
    with trio.fail_after(20):
        process = await trio.lowlevel.open_process(
            command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]
        )
        assert process.stdout is not None
        said = b""
        while said != b"durable\n":
            said += await process.stdout.receive_some()
        process.send_signal(signal.SIGKILL)
        async with Journal(path) as journal:
            assert await journal.read_all() == [b"entry 0", b"entry 1", b"entry 2"]
        await process.wait()


async def test_a_cancelled_append_is_durable_all_the_same(tmp_path: Path) -> None:
    with trio.fail_after(5):
        async with Journal(tmp_path / "journal") as journal:
            with trio.CancelScope() as scope:
                scope.cancel()
                await journal.append([b"decided"])
                returned = True
            assert returned
            assert await journal.read_all() == [b"decided"]


async def test_a_commit_waits_for_the_disk_if_told_to(tmp_path: Path) -> None:
    with trio.fail_after(5):
        async with Journal(tmp_path / "journal", synchronous=Synchronous.FULL) as journal:
            assert await journal._run(lambda: _pragma(journal, "synchronous")) == 2  # FULL
            assert await journal._run(lambda: _pragma(journal, "journal_mode")) == "wal"


async def test_otherwise_the_log_is_synced_behind_many_commits_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    sync = os.fsync

    def fsync(file: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{file}"))
        sync(file)

    path = tmp_path / "journal"
    with trio.fail_after(5):
        async with Journal(path) as journal:
            monkeypatch.setattr("protocol.live.sync.os.fsync", fsync)
            for number in range(20):
                await journal.append([b"entry %d" % number])
            written = len(synced)
        assert written < 20, "every commit waited for a sync of its own"
        assert synced[-1] == f"{path}-wal"


async def test_a_sync_that_fails_ends_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(file: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    path = tmp_path / "journal"
    with trio.fail_after(5):
        async with Journal(path) as journal:
            monkeypatch.setattr("protocol.live.sync.os.fsync", fsync)
            with pytest.raises(JournalError, match=f"{path} cannot be written .*Input/output"):
                while True:
                    await journal.append([b"entry"])


def _pragma(journal: Journal, name: str) -> object:
    assert journal._connection is not None
    (value,) = journal._connection.execute(f"PRAGMA {name}").fetchone()
    return value


def modes(directory: Path) -> dict[str, int]:
    return {entry.name: entry.stat().st_mode & 0o777 for entry in os.scandir(directory)}


async def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    mask = os.umask(0)
    try:
        with trio.fail_after(5):
            async with Journal(path):
                assert modes(tmp_path)["journal"] == 0o600
            path.chmod(0o644)
            async with Journal(path) as journal:
                await journal.append([b"secret"])
                assert modes(tmp_path) == {"journal": 0o600, "journal-wal": 0o600}
    finally:
        os.umask(mask)


async def test_two_never_write_one_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocol.live.journal_file._LOCK_SECONDS", 0.0)
    path = tmp_path / "journal"
    with trio.fail_after(5):
        async with Journal(path):
            with pytest.raises(ConfigurationError) as caught:
                async with Journal(path):
                    pass
    assert str(caught.value) == (
        f"the journal {path} is in use by another process: stop it, or give another path"
    )


async def test_a_path_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    for path in (tmp_path / "missing" / "journal", Path("/proc/journal")):
        with trio.fail_after(5), pytest.raises(ConfigurationError) as caught:
            async with Journal(path):
                pass
        assert str(caught.value) == (
            f"the journal {path} cannot be made (No such file or directory): "
            f"give a path in a directory that this user may write"
        )


async def test_a_file_of_another_kind_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "letter"
    path.write_bytes(b"Dear Sir or Madam, " * 100)
    with trio.fail_after(5), pytest.raises(ConfigurationError, match="the file is no journal"):
        async with Journal(path):
            pass
    assert path.read_bytes() == b"Dear Sir or Madam, " * 100


async def test_a_full_disk_is_one_sentence_and_loses_nothing_older(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with trio.fail_after(5):
            async with Journal(path) as journal:
                await journal.append([b"older"])
                resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, old[1]))
                with pytest.raises(JournalError, match=f"{path} cannot be written .*make room"):
                    await journal.append([bytes(1 << 17)])
                resource.setrlimit(resource.RLIMIT_FSIZE, old)
            async with Journal(path) as journal:
                assert await journal.read_all() == [b"older"]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)


async def test_it_is_a_plain_table_for_other_tools(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with trio.fail_after(5):
        async with Journal(path) as journal:
            await journal.append([b"a", b"b"])
    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT seq, entry FROM entries").fetchall()
        assert rows == [(1, b"a"), (2, b"b")]
    connection.close()
