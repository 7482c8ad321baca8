"""A journal read without disturbing who writes it: a copy of its files, at one moment.

The writer holds a lock on the file for as long as it lives, and SQLite would wait for that.  While
nothing is written to the file itself, its bytes and the log beside it are one state, and a log that
was copied while it grew ends with half a frame at most.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from protocol.core import ConfigurationError
from protocol.live.journal_file import check_kind, read_rows

#: How often a journal is copied anew that was compacted meanwhile, or whose log was emptied.
_TRIES = 8


@contextmanager
def copied(path: Path) -> Iterator[Iterator[tuple[int, bytes]]]:
    """Numbers and entries of the journal at ``path``, which may be in use.

    Raises ConfigurationError if there is none, if it is damaged, or if it is written too fast.
    """
    with tempfile.TemporaryDirectory(prefix="numalab-journal-") as directory:
        copy = Path(directory) / path.name
        try:
            _copy(path, copy)
        except OSError as error:
            raise ConfigurationError(
                f"the journal {path} cannot be read ({error.strerror}): give the run directory of "
                "a machine of yours"
            ) from None
        with closing(sqlite3.connect(copy, isolation_level=None)) as connection:
            yield read_rows(connection, path)


def _copy(path: Path, copy: Path) -> None:
    for _ in range(_TRIES):
        before = _state(path)
        shutil.copyfile(path, copy)
        _copy_log(_log_of(path), _log_of(copy))
        damaged = _damage(path, copy)
        if _state(path) == before:
            if damaged is not None:
                raise damaged
            return
    raise ConfigurationError(
        f"the journal {path} is written faster than it can be read: try again when less happens"
    )


def _damage(path: Path, copy: Path) -> ConfigurationError | None:
    try:
        check_kind(copy, called=path)
    except ConfigurationError as error:
        return error
    return None


def _copy_log(log: Path, copy: Path) -> None:
    copy.unlink(missing_ok=True)
    try:
        shutil.copyfile(log, copy)
    except FileNotFoundError:
        # Its writer has closed it: all of it is in the file.
        return


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _state(path: Path) -> tuple[int, ...]:
    """What changes when the file is written, or when its log is begun anew."""
    status = os.stat(path)
    log = _log_of(path)
    try:
        with log.open("rb") as file:
            head = int.from_bytes(file.read(32), "big")
    except FileNotFoundError:
        head = -1
    return status.st_ino, status.st_size, status.st_mtime_ns, head
