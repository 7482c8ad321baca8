"""What must survive the process: Records in SQLite, durable when ``append`` returns.

WAL with synchronous=FULL: a commit is on the disk itself, not in a cache, when it returns.  One
connection, made and used in one thread, which has no other work: the loop never waits for the disk.
The database is locked for as long as it is open, so that two processes never write one journal.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import trio

from protocol.core import ConfigurationError

_MODE = 0o600
#: A predecessor that was killed a moment ago may still hold the lock.
_LOCK_SECONDS = 2.0

_SCHEMA = "CREATE TABLE IF NOT EXISTS entries (seq INTEGER PRIMARY KEY, entry BLOB NOT NULL)"

_T = TypeVar("_T")


class JournalError(Exception):
    """A Record could not be made durable: one sentence; the process must not go on."""


class Journal:
    """The entries of one process, in the order they were appended.

    ``async with Journal(path) as journal:`` opens the file, made with mode 0600 if it is missing.
    Raises ConfigurationError if it cannot be written, is no journal, or is in use.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        self._connection: sqlite3.Connection | None = None

    async def __aenter__(self) -> Self:
        try:
            self._connection = await self._run(self._open)
        except BaseException:
            self._thread.shutdown(wait=False)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def append(self, entries: Sequence[bytes]) -> None:
        """Add entries in one transaction; returns when they are durable, cancelled or not.

        Raises JournalError if the disk refuses.
        """
        await self._run(lambda: self._write(entries))

    async def read_all(self) -> list[bytes]:
        """Every entry, oldest first."""
        return await self._run(self._read)

    async def close(self) -> None:
        """Wait for what is being written, and let the file go; harmless when repeated."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await self._run(connection.close)
            self._thread.shutdown(wait=False)

    async def _run(self, work: Callable[[], _T]) -> _T:
        """Run one piece of work in the thread, and wait for its end even when cancelled."""
        token = trio.lowlevel.current_trio_token()
        ended = trio.Event()

        def wake(_: Future[_T]) -> None:
            token.run_sync_soon(ended.set)

        future = self._thread.submit(work)
        future.add_done_callback(wake)
        with trio.CancelScope(shield=True):
            await ended.wait()
        return future.result()

    def _open(self) -> sqlite3.Connection:
        connection = None
        try:
            _create(self.path)
            connection = sqlite3.connect(
                self.path, timeout=_LOCK_SECONDS, isolation_level=None, check_same_thread=True
            )
            # The order matters: an exclusive WAL needs no shared memory beside the file.
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(_SCHEMA)
            connection.execute("COMMIT")
        except (OSError, sqlite3.Error) as error:
            if connection is not None:
                connection.close()
            raise ConfigurationError(_sentence(self.path, error)) from None
        return connection

    def _write(self, entries: Sequence[bytes]) -> None:
        assert self._connection is not None, "the journal is not open"
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(
                "INSERT INTO entries (entry) VALUES (?)", ((entry,) for entry in entries)
            )
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise JournalError(
                f"the journal {self.path} cannot be written ({error}): "
                f"make room on its disk, then start again"
            ) from error

    def _read(self) -> list[bytes]:
        assert self._connection is not None, "the journal is not open"
        rows = self._connection.execute("SELECT entry FROM entries ORDER BY seq")
        return [entry for (entry,) in rows]


def _create(path: Path) -> None:
    """Make the file, for its owner alone, before SQLite makes it for everybody."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, _MODE))
    except FileExistsError:
        # Opening and closing it would release the locks that this process may have on it.
        os.chmod(path, _MODE)
        return
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _sentence(path: Path, error: OSError | sqlite3.Error) -> str:
    if isinstance(error, OSError):
        return (
            f"the journal {path} cannot be made ({error.strerror}): "
            f"give a path in a directory that this user may write"
        )
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
        return f"the journal {path} is in use by another process: stop it, or give another path"
    return f"the journal {path} cannot be used ({error}): give another path, or remove the file"
