"""The scenarios on a live machine: real processes, started for them and gone afterwards."""

from __future__ import annotations

import trio

import numalab
from numalab.conformance.arm import Answer, Arm
from numalab.conformance.scenario import Scenario
from numalab.conformance.sim import FAULT_AROUND, TOPOLOGY

#: One scenario takes less than a second.
SECONDS = 30.0


def run_all(scenarios: list[Scenario]) -> list[list[Answer]]:
    """The answers to each scenario, one after the other on one machine."""

    async def run() -> list[list[Answer]]:
        found = []
        async with (
            numalab.local_cluster(topology=TOPOLOGY, profile="modern") as cluster,
            numalab.connect(cluster.run_directory, fault_around=FAULT_AROUND) as machine,
        ):
            for scenario in scenarios:
                with trio.fail_after(SECONDS):
                    found.append(await Arm(machine, scenario).run())
        return found

    return trio.run(run)
