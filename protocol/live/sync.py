"""Syncing a file behind its writer, in a thread of its own.

What has been written survives the death of every process, for the kernel has it; what has been
synced survives the death of the kernel too.  One sync covers all that was written before it began.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

#: So long after a write, at most, its sync begins.
BEHIND_SECONDS = 0.05


class Syncer:
    """Syncs ``path`` soon after ``wrote``; ``with`` it, or ``close`` it.

    The first OSError of a sync is kept: ``check`` raises it, and nothing is synced after it, as a
    later sync would succeed over pages that the kernel has dropped.
    """

    def __init__(self, path: Path, *, behind: float = BEHIND_SECONDS) -> None:
        self._path, self._behind = path, behind
        self._written, self._ended = threading.Event(), threading.Event()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="sync", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def wrote(self) -> None:
        """Something was written that is to be synced."""
        self._written.set()

    def check(self) -> None:
        """Raise OSError if a sync has failed."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Sync what is left, and end."""
        self._ended.set()
        self._written.set()
        self._thread.join()

    def _run(self) -> None:
        while self._error is None:
            self._written.wait()
            ended = self._ended.wait(self._behind)
            self._written.clear()
            try:
                self._sync()
            except OSError as error:
                self._error = error
            if ended:
                return

    def _sync(self) -> None:
        try:
            file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            # SQLite has emptied the log into the database, which it synced itself.
            return
        try:
            os.fsync(file)
        finally:
            os.close(file)
