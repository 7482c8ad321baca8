"""The directory of a local machine: its owner's alone, locked while it changes, emptied at the end.

Beside the files of the processes it holds a mark; nothing is removed from a directory without it.
The mark says whether the directory was made for the machine, and so goes with it.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from protocol.core import ConfigurationError

MARK = ".numalab"
_MADE = b"made\n"
JOURNAL = "journal"
#: Of CURVE: secret keys, and in a directory below them the public ones.
KEYS = "keys"
PUBLIC = "public"
SHARED_MEMORY = Path("/dev/shm")
#: What a process takes beside its zone: an interpreter and its libraries, not shared.
PROCESS_BYTES = 40 << 20
MEMORY_INFORMATION = Path("/proc/meminfo")

_OURS = re.compile(
    r"\.?(?:(?:coordinator|node\d+)\.(?:json|pid|log)|machine\.json|digests-\d+\.npy)(?:\.new)?"
)
_KEY = re.compile(r"(?:(?:coordinator|node\d+|client)\.key(?:_secret)?|\..+\.key(?:_secret)?\..+)")
_JOURNALS = re.compile(JOURNAL + r"(?:\.new)?(?:-wal|-shm|-journal)?")


class _ZoneOf(msgspec.Struct):
    zone: str = ""


def claim(directory: Path) -> None:
    """Make the run directory, or see that it is one.  Raises ConfigurationError."""
    try:
        # Not by parents=True, which makes the parents with another mode.
        for missing in reversed([path for path in directory.parents if not path.exists()]):
            missing.mkdir(mode=0o700, exist_ok=True)
        made = not directory.exists()
        directory.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"The run directory {directory} cannot be made ({error.strerror}): give another one."
        ) from None
    _check_private(directory.parent if directory.parent.name.startswith("numalab-") else directory)
    _check_private(directory)
    if not (directory / MARK).exists():
        if any(directory.iterdir()):
            raise ConfigurationError(
                f"{directory} is not a run directory and has files in it: give an empty one."
            )
        (directory / MARK).touch(mode=0o600)
        if made:
            (directory / MARK).write_bytes(_MADE)


def _check_private(directory: Path) -> None:
    """Nobody else may have made it, or may reach what will be in it."""
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise ConfigurationError(f"{directory} is no directory: remove it, or give another one.")
    if status.st_uid != os.getuid():
        raise ConfigurationError(
            f"The directory {directory} belongs to user {status.st_uid}, not to you: give another "
            "run directory."
        )
    if status.st_mode & 0o077:
        raise ConfigurationError(
            f"The directory {directory} is open to other users: 'chmod 700 {directory}' first, or "
            "give another run directory."
        )


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Nobody else starts or stops a machine here meanwhile.  Raises ConfigurationError."""
    mark = directory / MARK
    busy = ConfigurationError(
        f"Somebody else is starting or stopping a machine in {directory}: wait for that."
    )
    try:
        descriptor = os.open(mark, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise busy from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Who had the lock may have removed the directory with the mark in it.
        if not mark.exists() or not os.path.samestat(mark.stat(), os.fstat(descriptor)):
            raise busy
        yield
    except BlockingIOError:
        raise busy from None
    finally:
        os.close(descriptor)


def zone_directory(run_directory: Path, needed: int, processes: int) -> Path:
    """Where zones of ``needed`` bytes in all have room; the directory is not made yet.

    Raises ConfigurationError if they fit nowhere, or, with so many processes, into no memory.
    """
    available, of_processes = _available(), processes * PROCESS_BYTES
    if needed + of_processes > available:
        raise ConfigurationError(
            f"The nodes need {needed >> 20} MiB of memory and this host has {available >> 20} MiB "
            f"available, of which {processes} processes take {of_processes >> 20} MiB: give the "
            "nodes less, have fewer of them, or take another machine down."
        )
    shared = _free(SHARED_MEMORY) if os.access(SHARED_MEMORY, os.W_OK) else 0
    if needed <= shared:
        return SHARED_MEMORY / f"numalab-{os.getuid()}-{secrets.token_hex(8)}"
    on_disk = _free(run_directory)
    if needed <= on_disk:
        return run_directory / "zones"
    raise ConfigurationError(
        f"The nodes need {needed >> 20} MiB, and {SHARED_MEMORY} has {shared >> 20} MiB free and "
        f"{run_directory} has {on_disk >> 20} MiB: make room, or give the nodes less memory."
    )


def _free(directory: Path) -> int:
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


def _available() -> int:
    """MemAvailable in bytes."""
    match = re.search(r"^MemAvailable:\s+(\d+) kB$", MEMORY_INFORMATION.read_text(), re.MULTILINE)
    return int(match[1]) << 10 if match else 0


def remove(directory: Path) -> None:
    """Remove what a machine left here: zones, keys, journal, logs; and the directory if empty."""
    for configuration in sorted(directory.glob("node*.json")):
        with suppress(OSError, msgspec.MsgspecError):
            zone = msgspec.json.decode(configuration.read_bytes(), type=_ZoneOf).zone
            if zone:
                _remove_zone(Path(zone))
    for path in sorted(directory.iterdir()):
        if _OURS.fullmatch(path.name) or _JOURNALS.fullmatch(path.name):
            path.unlink(missing_ok=True)
    for keys in (directory / KEYS / PUBLIC, directory / KEYS):
        if keys.is_dir():
            for path in sorted(keys.iterdir()):
                if _KEY.fullmatch(path.name):
                    path.unlink(missing_ok=True)
            with suppress(OSError):
                keys.rmdir()


def remove_mark(directory: Path) -> None:
    """The last step: it is no run directory any more.

    It goes itself if it was made for the machine, and if nobody else has files in it.
    """
    made = (directory / MARK).read_bytes() == _MADE
    (directory / MARK).unlink()
    if made:
        with suppress(OSError):
            directory.rmdir()


def _remove_zone(zone: Path) -> None:
    zone.unlink(missing_ok=True)
    zone.with_name(f"{zone.name}.new").unlink(missing_ok=True)
    with suppress(OSError):
        zone.parent.rmdir()


def last_line(log: Path) -> str:
    """The last line of a log that says anything."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - (1 << 16)))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        lines = []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
