"""The process of a node: ``python -m nodes CONFIGURATION``."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import trio

from nodes.node import Node
from nodes.zone import Zone
from protocol.bulk import BATCH_PAGES, CREDIT, Batching
from protocol.core import ConfigurationError
from protocol.labels import Role
from protocol.live.buffers import Mapped, Staging
from protocol.live.driver import Driver
from protocol.live.exposition import Exposition
from protocol.live.landing import Grounds
from protocol.live.process import (
    Configuration,
    keep_freed_memory,
    run_process,
    serving_metrics,
    take_turns_often,
    tell_health,
)
from protocol.live.transport import open_transport
from protocol.notes import NodeRecovered, Note, PeersTold
from protocol.schema import node_name

#: madvise(2), Linux 5.14.
_MADV_POPULATE_READ = 22
#: Of st_blocks.
_BLOCK_BYTES = 512
#: So much is touched at a time: meanwhile nobody else of the process can map memory.
_TOUCHED_BYTES = 1 << 20
#: A predecessor that was killed a moment ago may still be giving its memory back.
LOCK_SECONDS = 5.0


class NodeConfiguration(Configuration, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """nid, and the zone: its file, page size in bytes, and number of page frames.

    batch_pages, credit: of the transport of pages (protocol/bulk.py).
    """

    nid: int
    zone: str
    page_size: int
    frames: int
    batch_pages: int = BATCH_PAGES
    credit: int = CREDIT


@contextmanager
def open_zone(configuration: NodeConfiguration) -> Iterator[tuple[Zone, Mapped]]:
    """The zone and its file, which is made if it is missing, and is locked for as long.

    Raises ConfigurationError: no room, in use, or not the zone of this node.
    """
    path = Path(configuration.zone)
    is_new = not path.exists()
    # A new file gets its real name when it holds a zone.
    name = _unfinished(path) if is_new else path
    try:
        size = Zone.size_of(configuration.frames, configuration.page_size)
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if is_new else 0)
        descriptor = os.open(name, flags, 0o600)
    except ValueError as error:
        raise ConfigurationError(f"Node {configuration.nid} cannot be so: {error}.") from None
    except OSError as error:
        raise ConfigurationError(
            f"The zone file {path} cannot be opened ({error.strerror}): give a path in a "
            "directory that this user may write."
        ) from None
    try:
        _lock(descriptor, name)
        is_cleared = not is_new or _allocate(descriptor, size, name)
        if os.fstat(descriptor).st_size != size:
            raise ConfigurationError(
                f"The zone file {path} has {os.fstat(descriptor).st_size} bytes where node "
                f"{configuration.nid} needs {size}: remove it, or give the node its old size."
            )
        # Never unmapped: views of it may still be on their way out when the process ends.
        shared = _map(descriptor, size)
        if is_cleared:
            with suppress(OSError):
                shared.madvise(_MADV_POPULATE_READ)
        make = _format if is_new else _open
        buffer = memoryview(shared)
        yield make(buffer, configuration, path), Mapped.of(descriptor, buffer)
    finally:
        os.close(descriptor)


def _allocate(descriptor: int, size: int, name: Path) -> bool:
    """All its space now: a full file system is a sentence at the start, not a SIGBUS later.

    Whether all of it is cleared as well, as it is on huge pages only.
    """
    try:
        os.ftruncate(descriptor, 0)
        os.ftruncate(descriptor, size)
        is_huge = _take_huge_pages(descriptor, size)
        # The pages are there then, and not cleared yet: a fifth of the time of touching them.
        os.posix_fallocate(descriptor, 0, size)
        return is_huge
    except OSError as error:
        name.unlink(missing_ok=True)
        raise ConfigurationError(
            f"There is no room for the {size >> 20} MiB of {name} ({error.strerror}): make room "
            f"in {name.parent}, or give the nodes less memory."
        ) from None


def _take_huge_pages(descriptor: int, size: int) -> bool:
    """The space of the file on huge pages, where its file system gives them; whether it does.

    A tmpfs does that for who asks and then touches, if it was mounted with ``huge=advise``.
    """
    with _map(descriptor, size) as shared, suppress(OSError):
        # Who touches one page and finds more than that in the file has got a huge one.
        shared.madvise(_MADV_POPULATE_READ, 0, mmap.PAGESIZE)
        if os.fstat(descriptor).st_blocks * _BLOCK_BYTES > mmap.PAGESIZE:
            shared.madvise(_MADV_POPULATE_READ)
            return True
    return False


def _map(descriptor: int, size: int) -> mmap.mmap:
    """The file in memory."""
    shared = mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED)
    with suppress(OSError):
        shared.madvise(mmap.MADV_HUGEPAGE)
    return shared


def _unfinished(path: Path) -> Path:
    return path.with_name(f"{path.name}.new")


def _lock(descriptor: int, path: Path) -> None:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.02)
                continue
        else:
            # It may have been renamed by who held the lock.
            if path.exists() and os.path.samestat(path.stat(), os.fstat(descriptor)):
                return
        raise ConfigurationError(
            f"The zone file {path} is in use by another process: stop that one first."
        )


def _format(buffer: memoryview, configuration: NodeConfiguration, path: Path) -> Zone:
    zone = Zone.format(
        buffer,
        nid=configuration.nid,
        page_size=configuration.page_size,
        frames=configuration.frames,
        uuid=uuid.uuid4().bytes,
    )
    _unfinished(path).rename(path)
    return zone


def _open(buffer: memoryview, configuration: NodeConfiguration, path: Path) -> Zone:
    try:
        zone = Zone.open(buffer)
    except ValueError as error:
        raise ConfigurationError(f"The zone file {path} is of no use: {error}.") from None
    found = (zone.nid, zone.page_size, zone.frames)
    wanted = (configuration.nid, configuration.page_size, configuration.frames)
    if found != wanted:
        raise ConfigurationError(
            f"The zone file {path} is of node {found[0]} with {found[2]} pages of {found[1]} bytes "
            f"where node {wanted[0]} with {wanted[2]} of {wanted[1]} is to start: remove it, or "
            "give the right path."
        )
    return zone


async def serve(configuration: NodeConfiguration) -> None:
    """Be node ``nid`` until cancelled."""
    take_turns_often()
    key = configuration.secret
    name = node_name(configuration.nid)
    keys = configuration.keys(name)
    with open_zone(configuration) as (zone, mapped):
        # Not what opening the zone took for a moment.
        keep_freed_memory()
        batching = Batching(configuration.batch_pages, configuration.credit)
        staging = Staging(mapped)
        zone.room = staging.room
        boot_id = time.time_ns()
        node = Node(configuration.nid, zone, boot_id=boot_id, key=key, batching=batching)
        interference = configuration.interference(name)
        grounds = Grounds(partial(zone.landings.expect, key=key))
        zone.landings.guard = grounds.lock
        async with open_transport(
            name,
            bind=configuration.bind,
            peers=configuration.peers,
            interference=interference,
            keys=keys,
            local=configuration.ways(name, staging.mapped, grounds),
        ) as transport:
            exposition = Exposition(Role.NODE, configuration.nids, statistics=transport.statistics)
            if interference is not None:
                interference.on_note = exposition.feed
            serves = trio.Event()

            def on_note(note: Note) -> None:
                exposition.feed(note)
                if isinstance(note, PeersTold):
                    transport.meet(note)
                if isinstance(note, NodeRecovered):
                    serves.set()

            driver = Driver(node, transport, on_note=on_note)
            with serving_metrics(exposition, configuration.metrics):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_touch_after, serves, mapped)
                    nursery.start_soon(tell_health, configuration.health, lambda: node.gate.is_open)
                    nursery.start_soon(driver.run)


async def _touch_after(event: trio.Event, mapped: Mapped) -> None:
    """Touch every page of the zone, so that whoever comes to use it does not have to wait for it
    to be cleared: that takes longer than all else of a start.
    """
    await event.wait()
    await trio.to_thread.run_sync(touch, mapped)


def touch(mapped: Mapped) -> None:
    """Have every page of this memory there.  In a thread of trio's, until that is cancelled."""
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int)
    for at in range(0, mapped.size, _TOUCHED_BYTES):
        trio.from_thread.check_cancelled()
        # Not by the mmap's own method, which lets no other thread go on.
        size = min(_TOUCHED_BYTES, mapped.size - at)
        if madvise(mapped.address + at, size, _MADV_POPULATE_READ):
            return


def remove_zone(configuration: NodeConfiguration) -> None:
    """With the process gone that would have taken the machine down, its memory goes as well."""
    path = Path(configuration.zone)
    path.unlink(missing_ok=True)
    with suppress(OSError):
        path.parent.rmdir()


if __name__ == "__main__":
    sys.exit(run_process(sys.argv, NodeConfiguration, serve, remove_zone))
