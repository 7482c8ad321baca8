"""What must survive the process: Records in SQLite, written when ``append`` returns.

What is written survives the death of any process.  That of the host loses what is not synced yet,
and the zones of the nodes with it, which are memory; so by default nobody waits for the disk: all
commits of a moment are synced together, behind (sync.py).  With ``synchronous`` FULL a commit is on
the disk itself when it returns.

One connection, used in one thread, which has no other work, so that the loop waits for no disk; but
for a small commit that nothing waits to be synced for: to write it takes less time than to wake a
thread and be woken.  The database is locked for as long as it is open: two processes never write
one journal.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import trio

from protocol.core import JournalError
from protocol.live import journal_file
from protocol.live.journal_file import Synchronous
from protocol.live.sync import Syncer

#: So much may be written before a snapshot is worth its while, however small that would be.
COMPACT_BYTES = 4 << 20
#: So many times as much as the last snapshot may be written before the next.
COMPACT_FACTOR = 2
#: The log is emptied when it is longer.
_LOG_BYTES = 4 << 20
#: A commit of fewer bytes may be written in the loop.
_SMALL_BYTES = 64 << 10

_T = TypeVar("_T")


class Journal:
    """The entries of one process, in the order they were appended.

    ``async with Journal(path) as journal:`` opens the file, made with mode 0600 if it is missing.
    Raises ConfigurationError if it cannot be written, is no journal, is damaged or is in use.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        compact_bytes: int = COMPACT_BYTES,
        synchronous: Synchronous = Synchronous.NORMAL,
    ) -> None:
        self.path = Path(path)
        self._synchronous = synchronous
        self._syncer: Syncer | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        self._connection: sqlite3.Connection | None = None
        self._compact_bytes = compact_bytes
        self._last = 0
        self._log = self.path.with_name(f"{self.path.name}-wal")
        #: Bytes of the last snapshot, and of what was written since.
        self._snapshot = self._written = 0
        self._works = 0

    async def __aenter__(self) -> Self:
        try:
            await self._run(self._open)
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

    @property
    def outgrown(self) -> bool:
        """Whether so much was written since the last snapshot that another one is due."""
        return self._written > max(self._compact_bytes, COMPACT_FACTOR * self._snapshot)

    async def append(self, entries: Sequence[bytes]) -> None:
        """Add entries in one transaction; returns when they are written, cancelled or not.

        Raises JournalError if the disk refuses.
        """
        await self._run(lambda: self._append(entries))

    def append_small(self, entries: Sequence[bytes]) -> bool:
        """``append`` in the loop, if it is quick; False: it is not, and nothing was done.

        Raises JournalError if the disk refuses.
        """
        if self._works or self._syncer is None or self.outgrown:
            return False
        if sum(map(len, entries)) > _SMALL_BYTES:
            return False
        # Not the one after which the log is emptied: that waits for the disk.
        if self._log.stat().st_size > _LOG_BYTES - 4 * _SMALL_BYTES:
            return False
        self._append(entries)
        return True

    async def replace(self, entries: Iterable[bytes]) -> int:
        """These entries, a snapshot, take the place of all; on the disk when this returns.

        They are drawn in the thread of the journal.  Whoever dies meanwhile leaves either the old
        ones or these.  Gives their size in bytes.  Raises JournalError if the disk refuses.
        """
        return await self._run(lambda: self._replace(entries))

    async def read(self, use: Callable[[Iterator[bytes]], _T]) -> _T:
        """What ``use`` makes of all entries, oldest first, in the thread of the journal.

        It draws them one by one.  Raises ConfigurationError at the first that is not what was
        written.
        """
        return await self._run(lambda: use(entry for _, entry in self._rows()))

    async def read_all(self) -> list[bytes]:
        """Every entry, oldest first; ``read`` needs less memory."""
        return await self.read(list)

    async def close(self) -> None:
        """Wait for what is being written, and let the file go; harmless when repeated."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await self._run(lambda: self._close(connection))
            self._thread.shutdown(wait=False)

    async def _run(self, work: Callable[[], _T]) -> _T:
        """Run one piece of work in the thread, and wait for its end even when cancelled."""
        token = trio.lowlevel.current_trio_token()
        ended = trio.Event()
        self._works += 1

        def wake(_: Future[_T]) -> None:
            token.run_sync_soon(ended.set)

        future = self._thread.submit(work)
        future.add_done_callback(wake)
        with trio.CancelScope(shield=True):
            await ended.wait()
        self._works -= 1
        return future.result()

    # ---- in the thread, or in the loop while the thread has nothing to do ------------------

    def _open(self) -> None:
        self._connection, self._last = journal_file.open_file(self.path, self._synchronous)
        if self._synchronous == Synchronous.NORMAL:
            self._syncer = Syncer(self._log)
        # How much of it is a snapshot is not known any more: a long one is made anew.
        self._written = self.path.stat().st_size

    def _close(self, connection: sqlite3.Connection) -> None:
        if self._syncer is not None:
            self._syncer.close()
        connection.close()

    def _rows(self) -> Iterator[tuple[int, bytes]]:
        assert self._connection is not None, "the journal is not open"
        return journal_file.read_rows(self._connection, self.path)

    def _append(self, entries: Sequence[bytes]) -> None:
        self._written += self._commit(entries, replace=False)

    def _replace(self, entries: Iterable[bytes]) -> int:
        self._snapshot = self._commit(entries, replace=True)
        self._written = 0
        return self._snapshot

    def _commit(self, entries: Iterable[bytes], *, replace: bool) -> int:
        assert self._connection is not None, "the journal is not open"
        try:
            if self._syncer is not None:
                self._syncer.check()
            self._connection.execute("BEGIN IMMEDIATE")
            if replace:
                self._connection.execute("DELETE FROM entries")
            last, size = journal_file.write_rows(self._connection, self._last, entries)
            self._connection.execute("COMMIT")
            if self._syncer is not None:
                self._syncer.wrote()
            self._last = last
            if replace:
                journal_file.shrink(self._connection)
            if replace or self._log.stat().st_size > _LOG_BYTES:
                journal_file.checkpoint(self._connection)
        except (OSError, sqlite3.Error) as error:
            raise JournalError(
                f"the journal {self.path} cannot be written ({error}): "
                f"make room on its disk, then start again"
            ) from error
        return size
