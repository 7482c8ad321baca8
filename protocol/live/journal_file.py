"""The file of a journal: how it is made, told from other files, and read with every sum checked.

A SQLite file with one table, ``entries``: seq (no number is left out), entry, and digest, the
xxh3_64 of the entry seeded with its seq, as SQLite itself would not see a flipped byte.  The header
has our application_id, and the version of the layout as its user_version.
"""

from __future__ import annotations

import os
import sqlite3
import struct
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path

import xxhash

from protocol.core import ConfigurationError
from protocol.live.wal import is_whole

#: Of what is written here; another one means that older programs cannot read it.
LAYOUT = 1
APPLICATION_ID = 0x6E756D61
_MODE = 0o600
#: A predecessor that was killed a moment ago may still hold the lock.
_LOCK_SECONDS = 2.0

_SCHEMA = (
    "CREATE TABLE entries (seq INTEGER PRIMARY KEY, entry BLOB NOT NULL, digest INTEGER NOT NULL)"
)
_INSERT = "INSERT INTO entries (seq, entry, digest) VALUES (?, ?, ?)"
_MAGIC = b"SQLite format 3\0"
#: Of the header of a SQLite file: user_version, what we do not need, application_id.
_NUMBERS = struct.Struct(">60xI4xI")

_RESTORE = "restore it from a copy, or take the machine down and start a new one"


class Synchronous(StrEnum):
    """PRAGMA synchronous of a WAL: each commit is synced (FULL), or each checkpoint (NORMAL)."""

    FULL = "full"
    NORMAL = "normal"


def open_file(
    path: Path, synchronous: Synchronous = Synchronous.NORMAL
) -> tuple[sqlite3.Connection, int]:
    """Open a journal, and lock it for as long as it is open; made with mode 0600 if it is missing.

    Gives the number of its last entry too, 0 if there is none.

    Raises ConfigurationError if it cannot be written, is no journal, is damaged or is in use.
    """
    connection = None
    try:
        if not path.exists():
            _create(path)
        path.chmod(_MODE)
        check_kind(path)
        connection = sqlite3.connect(
            path, timeout=_LOCK_SECONDS, isolation_level=None, check_same_thread=False
        )
        # The order matters: an exclusive WAL needs no shared memory beside the file.
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={synchronous}")
        # What wal.py relies on: a frame is written by a commit, and after the last one.
        connection.execute("PRAGMA cache_spill=OFF")
        connection.execute("PRAGMA wal_autocheckpoint=0")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("COMMIT")
        checkpoint(connection)
        found = [row for (row,) in connection.execute("PRAGMA quick_check(1)")]
        if found != ["ok"]:
            raise ConfigurationError(_damaged(path, found[0].splitlines()[-1]))
        ((last,),) = connection.execute("SELECT max(seq) FROM entries")
    except (OSError, sqlite3.Error) as error:
        _close(connection)
        raise ConfigurationError(_sentence(path, error)) from None
    except ConfigurationError:
        _close(connection)
        raise
    return connection, last or 0


def _close(connection: sqlite3.Connection | None) -> None:
    if connection is not None:
        connection.close()


def _create(path: Path) -> None:
    """Make the file under another name: it is whole from the moment that it has its own."""
    new = path.with_name(f"{path.name}.new")
    for left in (new, new.with_name(f"{new.name}-journal")):
        left.unlink(missing_ok=True)
    # For its owner alone, before SQLite makes it for everybody.
    os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, _MODE))
    connection = sqlite3.connect(new, isolation_level=None)
    try:
        # So that a journal that has become small gives its disk back.
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version={LAYOUT}")
        connection.execute(_SCHEMA)
        connection.execute("COMMIT")
    finally:
        connection.close()
    os.rename(new, path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def check_kind(path: Path, called: Path | None = None) -> None:
    """Raise ConfigurationError for what is no journal of ours, or was damaged; changes nothing.

    By the bytes alone: SQLite, when it closes a file, writes to it.  ``called``: what the sentence
    calls it, if that is not its path.
    """
    log = path.with_name(f"{path.name}-wal")
    with path.open("rb") as file:
        head = file.read(_NUMBERS.size)
    path = called or path
    if not head.startswith(_MAGIC) or len(head) < _NUMBERS.size:
        what = "is empty" if not head else "is no journal"
        raise ConfigurationError(
            f"the journal {path} cannot be used (the file {what}): {_RESTORE}, or give another path"
        )
    layout, application = _NUMBERS.unpack(head)
    if application != APPLICATION_ID:
        raise ConfigurationError(
            f"the journal {path} cannot be used (it is a database of another program): "
            "give another path"
        )
    if layout != LAYOUT:
        raise ConfigurationError(
            f"the journal {path} has layout {layout}, and this program knows layout {LAYOUT}: "
            "use the version of numalab that wrote it, or give another path"
        )
    if not is_whole(log):
        raise ConfigurationError(_damaged(path, "a frame of its write-ahead log"))


def checkpoint(connection: sqlite3.Connection) -> None:
    """What is in the log goes to the file, and the log is empty."""
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def shrink(connection: sqlite3.Connection) -> None:
    """Pages of the file that nothing uses go back to the disk."""
    # execute() would end after the first of them, as this statement has rows without columns.
    connection.executescript("PRAGMA incremental_vacuum")


def write_rows(
    connection: sqlite3.Connection, last: int, entries: Iterable[bytes]
) -> tuple[int, int]:
    """Add entries after number ``last``; gives the number of the last of them, and their bytes."""
    size = 0

    def rows() -> Iterator[tuple[int, bytes, int]]:
        nonlocal last, size
        for entry in entries:
            last += 1
            size += len(entry)
            yield last, entry, _digest(last, entry)

    connection.executemany(_INSERT, rows())
    return last, size


def read_rows(connection: sqlite3.Connection, path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbers and entries, oldest first.  Raises ConfigurationError at the first damaged one."""
    expected = None
    try:
        for seq, entry, digest in connection.execute(
            "SELECT seq, entry, digest FROM entries ORDER BY seq"
        ):
            if expected not in (None, seq):
                raise ConfigurationError(_damaged(path, f"entry {expected} is missing"))
            if not isinstance(entry, bytes) or digest != _digest(seq, entry):
                raise ConfigurationError(_damaged(path, f"entry {seq} is not what was written"))
            yield seq, entry
            expected = seq + 1
    except sqlite3.Error as error:
        raise ConfigurationError(_damaged(path, str(error))) from None


def _digest(seq: int, entry: bytes) -> int:
    """Signed, as the integers of SQLite are."""
    digest = xxhash.xxh3_64_intdigest(entry, seed=seq)
    return digest - (1 << 64) if digest >> 63 else digest


def _damaged(path: Path, what: str) -> str:
    return f"the journal {path} is damaged ({what}): {_RESTORE}"


def _sentence(path: Path, error: OSError | sqlite3.Error) -> str:
    if isinstance(error, OSError):
        return (
            f"the journal {path} cannot be made ({error.strerror}): "
            f"give a path in a directory that this user may write"
        )
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_BUSY:
        return f"the journal {path} is in use by another process: stop it, or give another path"
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):
        return _damaged(path, str(error))
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
        return (
            f"the journal {path} cannot be written ({error}): "
            "give a path in a directory that this user may write"
        )
    return f"the journal {path} cannot be written ({error}): make room on its disk"
