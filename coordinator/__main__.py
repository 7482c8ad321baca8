"""The process of the coordinator: ``python -m coordinator CONFIGURATION``."""

from __future__ import annotations

import sys
import time

from coordinator.coordinator import Coordinator
from coordinator.vm_operations import new_extensions
from protocol.core import ConfigurationError
from protocol.labels import Role
from protocol.live.driver import Driver
from protocol.live.exposition import Exposition
from protocol.live.extension import load_extension
from protocol.live.journal import Journal
from protocol.live.process import (
    Configuration,
    give_back_freed_memory,
    run_process,
    serve_metrics,
)
from protocol.live.transport import open_transport
from protocol.notes import ExtensionFailed, Note
from protocol.profile import PROFILES, adjusted
from protocol.schema import COORDINATOR
from protocol.topology_text import parse_topology


class CoordinatorConfiguration(
    Configuration, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """topology: TOML (``protocol/topology.py``).  journal: path of its file.

    addresses: where clients reach the nodes, by name.  migration: as CONFIG_MIGRATION.
    profile: whose behaviour (``protocol/profile.py``), but for ``behaviours``.  chunk_pages: pages
    that are copied together.  lease: seconds a silent client's tasks live.  pace: seconds that a
    second of emulated time lasts.  load: paths of users' Python files (coordinator/extensions.py).
    """

    topology: str
    journal: str
    addresses: dict[str, str]
    migration: bool = True
    profile: str = "seed"
    behaviours: dict[str, bool] = {}
    chunk_pages: int = 4096
    lease: float = 10.0
    pace: float = 0.0
    load: tuple[str, ...] = ()


async def serve(configuration: CoordinatorConfiguration) -> None:
    """Be the coordinator until cancelled."""
    give_back_freed_memory()
    key = configuration.secret
    topology = parse_topology(configuration.topology)
    profile = PROFILES.get(configuration.profile)
    if profile is None:
        raise ConfigurationError(
            f"There is no profile '{configuration.profile}': choose {' or '.join(PROFILES)}."
        )
    extensions = new_extensions(topology)
    for path in configuration.load:
        load_extension(path, extensions)
    async with (
        Journal(configuration.journal) as journal,
        open_transport(
            COORDINATOR, bind=configuration.bind, peers=configuration.peers
        ) as transport,
    ):
        coordinator = Coordinator(
            topology,
            boot_id=time.time_ns(),
            key=key,
            epoch=1,
            migration=configuration.migration,
            profile=adjusted(profile, configuration.behaviours),
            chunk_pages=configuration.chunk_pages,
            lease=configuration.lease,
            pace=configuration.pace,
            addresses=configuration.addresses,
            extensions=extensions,
        )
        exposition = Exposition(
            Role.COORDINATOR, configuration.nids, statistics=transport.statistics
        )
        serve_metrics(exposition, configuration.metrics)

        def on_note(note: Note) -> None:
            exposition.feed(note)
            if isinstance(note, ExtensionFailed):
                sys.stderr.write(f"{note.method} failed at {note.where}: {note.error}\n")
                sys.stderr.flush()

        driver = Driver(
            coordinator,
            transport,
            journal=journal,
            snapshot=coordinator.snapshot,
            on_note=on_note,
        )
        await driver.run()


if __name__ == "__main__":
    sys.exit(run_process(sys.argv, CoordinatorConfiguration, serve))
