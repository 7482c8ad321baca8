"""The process of the coordinator: ``python -m coordinator CONFIGURATION``."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator

import trio

from coordinator.coordinator import Coordinator
from coordinator.vm_operations import new_extensions
from protocol.core import ConfigurationError
from protocol.labels import Role
from protocol.live.driver import Driver
from protocol.live.exposition import Exposition
from protocol.live.extension import load_extension
from protocol.live.journal import Journal
from protocol.live.journal_file import Synchronous
from protocol.live.process import (
    Configuration,
    give_back_freed_memory,
    run_process,
    serving_metrics,
    tell_health,
)
from protocol.live.transport import open_transport
from protocol.notes import ExtensionFailed, Note, PeersTold, ZoneReplaced
from protocol.profile import PROFILES, adjusted
from protocol.schema import COORDINATOR, node_name
from protocol.topology_text import parse_topology


class CoordinatorConfiguration(
    Configuration, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """topology: TOML (``protocol/topology.py``).  journal: path of its file.

    addresses: where clients reach the nodes, by name.  migration: as CONFIG_MIGRATION.
    profile: whose behaviour (``protocol/profile.py``), but for ``behaviours``.  chunk_pages: pages
    that are copied together.  strict_order: node pairs one after the other, always.  lease: seconds
    a silent client's tasks live.  pace: seconds that a second of emulated time lasts.  load: paths
    of users' Python files (coordinator/extensions.py).
    leased: nodes without an address are whoever leases one (coordinator/leases.py).
    synchronous: of the journal, normal or full (protocol/live/journal.py).
    """

    topology: str
    journal: str
    addresses: dict[str, str]
    migration: bool = True
    profile: str = "seed"
    behaviours: dict[str, bool] = {}
    chunk_pages: int = 4096
    strict_order: bool = False
    lease: float = 10.0
    pace: float = 0.0
    load: tuple[str, ...] = ()
    leased: bool = False
    synchronous: Synchronous = Synchronous.NORMAL


async def serve(configuration: CoordinatorConfiguration) -> None:
    """Be the coordinator until cancelled, or until this one has to make way for its successor."""
    give_back_freed_memory()
    with trio.CancelScope() as reign:
        await _reign(configuration, reign)
    if reign.cancelled_caught:
        # What is under way cannot be sorted out here: a new process starts from the journal.
        os.execv(sys.executable, sys.orig_argv)


async def _reign(configuration: CoordinatorConfiguration, reign: trio.CancelScope) -> None:
    make = _maker(configuration)
    interference = configuration.interference(COORDINATOR)
    async with (
        Journal(configuration.journal, synchronous=configuration.synchronous) as journal,
        open_transport(
            COORDINATOR,
            bind=configuration.bind,
            peers=configuration.peers,
            interference=interference,
            keys=configuration.keys(COORDINATOR),
            local=configuration.ways(COORDINATOR),
        ) as transport,
    ):
        # In the thread of the journal, entry by entry.
        coordinator = await journal.read(make)
        for lease in coordinator.leases:
            transport.connect(node_name(lease.nid), lease.address)
        exposition = Exposition(
            Role.COORDINATOR, configuration.nids, statistics=transport.statistics
        )
        if interference is not None:
            interference.on_note = exposition.feed

        def on_note(note: Note) -> None:
            exposition.feed(note)
            if isinstance(note, PeersTold):
                transport.meet(note)
            if isinstance(note, ZoneReplaced):
                _say(
                    f"node{note.node} came back with another zone: its pages are lost, and the "
                    "coordinator starts again from its journal"
                )
                reign.cancel()
            if isinstance(note, ExtensionFailed):
                _say(f"{note.method} failed at {note.where}: {note.error}")

        driver = Driver(
            coordinator,
            transport,
            journal=journal,
            snapshot=coordinator.snapshot,
            on_note=on_note,
            interference=interference,
        )
        with serving_metrics(exposition, configuration.metrics):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(tell_health, configuration.health, lambda: coordinator.serves)
                nursery.start_soon(driver.run)


def _maker(configuration: CoordinatorConfiguration) -> Callable[[Iterator[bytes]], Coordinator]:
    """What makes a coordinator of a journal's entries.  Raises ConfigurationError."""
    key, topology = configuration.secret, parse_topology(configuration.topology)
    profile = PROFILES.get(configuration.profile)
    if profile is None:
        raise ConfigurationError(
            f"There is no profile '{configuration.profile}': choose {' or '.join(PROFILES)}."
        )
    extensions = new_extensions(topology)
    for path in configuration.load:
        load_extension(path, extensions)
    return lambda entries: Coordinator(
        topology,
        boot_id=time.time_ns(),
        key=key,
        journal=entries,
        migration=configuration.migration,
        profile=adjusted(profile, configuration.behaviours),
        chunk_pages=configuration.chunk_pages,
        strict_order=configuration.strict_order,
        lease=configuration.lease,
        pace=configuration.pace,
        addresses=configuration.addresses,
        extensions=extensions,
        leased=configuration.leased,
    )


def _say(sentence: str) -> None:
    sys.stderr.write(f"{sentence}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(run_process(sys.argv, CoordinatorConfiguration, serve))
