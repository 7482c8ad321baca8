"""A journal that is not what was written is refused in one sentence, and left as it is."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import trio

from protocol.core import ConfigurationError, JournalError
from protocol.live.journal import Journal
from protocol.live.journal_file import LAYOUT
from tests.test_journal import APPEND_AND_WAIT

KIB = 1 << 10
ENTRIES = [bytes([number]) * 700 for number in range(200)]
RESTORE = "restore it from a copy, or take the machine down and start a new one"


async def written(path: Path) -> None:
    """A journal that was closed."""
    async with Journal(path) as journal:
        for first in range(0, len(ENTRIES), 20):
            await journal.append(ENTRIES[first : first + 20])


async def killed(path: Path) -> None:
    """A journal whose process was killed: the last entries are in the log alone."""
    command = [sys.executable, "-c", APPEND_AND_WAIT, str(path)]
    process = await trio.lowlevel.open_process(
        command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]
    )
    assert process.stdout is not None
    assert await process.stdout.receive_some()
    process.send_signal(signal.SIGKILL)
    await process.wait()


async def refusal(path: Path) -> str:
    """The sentence with which a journal is refused, on opening or on reading; "" if it is not."""
    try:
        async with Journal(path) as journal:
            await journal.read_all()
    except ConfigurationError as error:
        assert "\n" not in str(error) and str(path) in str(error)
        return str(error)
    return ""


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x10
    path.write_bytes(content)


def bytes_in(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


async def test_a_flipped_byte_of_an_entry_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with trio.fail_after(20):
        await written(path)
        flip(path, path.read_bytes().index(ENTRIES[120]) + 300)
        before = bytes_in(tmp_path)
        assert await refusal(path) == (
            f"the journal {path} is damaged (entry 121 is not what was written): {RESTORE}"
        )
        assert bytes_in(tmp_path) == before


async def test_a_flipped_byte_anywhere_is_seen_or_does_no_harm(tmp_path: Path) -> None:
    path, draw = tmp_path / "journal", random.Random(3)
    with trio.fail_after(60):
        await written(path)
        whole, refused = path.read_bytes(), 0
        for at in [*range(0, 100, 7), *(draw.randrange(len(whole)) for _ in range(60))]:
            path.write_bytes(whole)
            flip(path, at)
            if await refusal(path):
                refused += 1
                continue
            async with Journal(path) as journal:
                assert await journal.read_all() == ENTRIES, f"byte {at}"
    assert refused > 50


async def test_a_flipped_byte_of_the_log_is_seen(tmp_path: Path) -> None:
    path, draw = tmp_path / "journal", random.Random(4)
    with trio.fail_after(60):
        await killed(path)
        log = tmp_path / "journal-wal"
        whole = bytes_in(tmp_path)
        for at in (8, 40, *(draw.randrange(len(whole[log.name])) for _ in range(40))):
            for name, content in whole.items():
                (tmp_path / name).write_bytes(content)
            flip(log, at)
            before = bytes_in(tmp_path)
            assert await refusal(path) == (
                f"the journal {path} is damaged (a frame of its write-ahead log): {RESTORE}"
            )
            assert bytes_in(tmp_path) == before


async def test_half_a_frame_at_the_end_of_the_log_was_never_committed(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with trio.fail_after(20):
        await killed(path)
        with (tmp_path / "journal-wal").open("ab") as log:
            log.write(bytes(3000))
        async with Journal(path) as journal:
            assert await journal.read_all() == [b"entry 0", b"entry 1", b"entry 2"]


@pytest.mark.parametrize("left", [0, 50, 3000, 4096, 40_960, 100_000])
async def test_a_truncated_file_is_not_taken_for_a_new_one(tmp_path: Path, left: int) -> None:
    path = tmp_path / "journal"
    with trio.fail_after(20):
        await written(path)
        os.truncate(path, left)
        before = bytes_in(tmp_path)
        assert RESTORE in await refusal(path)
        assert bytes_in(tmp_path) == before


async def test_an_entry_that_is_missing_is_named(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with trio.fail_after(20):
        await written(path)
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("DELETE FROM entries WHERE seq = 77")
        assert await refusal(path) == (
            f"the journal {path} is damaged (entry 77 is missing): {RESTORE}"
        )


async def test_entries_that_changed_places_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with trio.fail_after(20):
        await written(path)
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            for old, new in ((5, 1000), (6, 5), (1000, 6)):
                connection.execute("UPDATE entries SET seq = ? WHERE seq = ?", (new, old))
        assert "entry 5 is not what was written" in await refusal(path)


async def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "photos"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE entries (seq INTEGER PRIMARY KEY, entry, digest)")
        (tmp_path / "copy").write_bytes(path.read_bytes())
        path_wal = tmp_path / "photos-wal"
        (tmp_path / "copy-wal").write_bytes(path_wal.read_bytes())
    before = bytes_in(tmp_path)
    with trio.fail_after(20):
        assert await refusal(tmp_path / "copy") == (
            f"the journal {tmp_path / 'copy'} cannot be used (it is a database of another "
            "program): give another path"
        )
    assert bytes_in(tmp_path) == before


async def test_a_journal_of_a_later_version_says_so(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with trio.fail_after(20):
        await written(path)
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute(f"PRAGMA user_version={LAYOUT + 1}")
        before = bytes_in(tmp_path)
        assert await refusal(path) == (
            f"the journal {path} has layout {LAYOUT + 1}, and this program knows layout {LAYOUT}: "
            "use the version of numalab that wrote it, or give another path"
        )
        assert bytes_in(tmp_path) == before


async def test_who_was_killed_while_making_one_has_left_nothing(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    (tmp_path / "journal.new").write_bytes(b"half")
    (tmp_path / "journal.new-journal").write_bytes(b"half of that too")
    with trio.fail_after(20):
        await written(path)
        assert await refusal(path) == ""
    assert sorted(bytes_in(tmp_path)) == ["journal"]


# ---- the disk ------------------------------------------------------------------------------


async def test_a_full_disk_loses_nothing_that_was_acknowledged(small_disk: Path) -> None:
    path = small_disk / "journal"
    filler = small_disk / "filler"
    filler.write_bytes(bytes(128 * KIB))
    acknowledged = 0
    with trio.fail_after(30):
        async with Journal(path) as journal:
            with pytest.raises(JournalError) as caught:
                while True:
                    await journal.append([b"%d " % acknowledged + bytes(2 * KIB)])
                    acknowledged += 1
        assert str(caught.value).startswith(f"the journal {path} cannot be written (")
        assert str(caught.value).endswith("make room on its disk, then start again")
        assert acknowledged
        filler.unlink()
        async with Journal(path) as journal:
            told = await journal.read_all()
            assert [int(entry.split()[0]) for entry in told] == list(range(acknowledged))
            await journal.append([b"there is room again"])


async def test_a_disk_that_is_full_from_the_start_is_one_sentence(small_disk: Path) -> None:
    with pytest.raises(OSError), (small_disk / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4 * KIB))
    with trio.fail_after(20):
        said = await refusal(small_disk / "journal")
    assert "make room" in said or "cannot be made" in said


async def test_a_directory_that_cannot_be_written_is_one_sentence(
    read_only: Path,
) -> None:
    with trio.fail_after(20):
        for name in ("old", "new"):
            said = await refusal(read_only / name)
            assert said.endswith("give a path in a directory that this user may write"), name
