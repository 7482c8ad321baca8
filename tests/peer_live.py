"""Live machines of both profiles for the peers' cases, started for the first who asks."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import trio

import numalab as api
from numalab import cluster
from numalab.machine import Machine
from protocol.profile import Profile
from protocol.topology import Topology, TopologyNode, uniform_distances

PAGE = 4096
NODES, NODE_PAGES = 3, 4096
#: Has memory alone.
DEVICE = 2
TOPOLOGY = Topology(
    (
        TopologyNode(0, NODE_PAGES, (0,)),
        TopologyNode(1, NODE_PAGES, (1,)),
        TopologyNode(DEVICE, NODE_PAGES, ()),
    ),
    uniform_distances(NODES),
    PAGE,
)


@pytest.fixture(scope="session")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Profile], Path]]:
    """Where a machine of this profile runs; it is started for the first who asks."""
    running: dict[str, Path] = {}

    def directory_of(profile: Profile) -> Path:
        if profile.name not in running:
            directory = tmp_path_factory.mktemp(profile.name) / "machine"
            settings = cluster.Settings(TOPOLOGY, profile=profile.name, lease=60.0, metrics=False)
            trio.run(partial(cluster.up, settings, directory, parent=os.getpid()))
            running[profile.name] = directory
        return running[profile.name]

    yield directory_of
    for directory in running.values():
        trio.run(cluster.down, directory)


@pytest.fixture
def run_directory(machines: Callable[[Profile], Path], profile: Profile) -> Path:
    """In the place of the machine that other tests share: ``numalab`` finds it."""
    return machines(profile)


@pytest.fixture
async def machine(run_directory: Path) -> AsyncIterator[Machine]:
    """At the end of the test no frame is in use, isolated or locked."""
    async with api.connect(run_directory) as machine:
        with trio.fail_after(60):
            yield machine
        for pid in (await machine.tasks()).pid.tolist():
            await (await machine.attach(pid)).exit()
        for nid in machine.nids:
            zone = await machine.count_zone(nid)
            assert (zone.frames - zone.free, zone.isolated, zone.locked) == (0, 0, 0)
