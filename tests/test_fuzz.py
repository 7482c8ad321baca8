"""Whatever a client asks, the coordinator answers it, stays sound, and its journal tells it all."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from coordinator.inode import Device
from coordinator.replay import differences, replay
from protocol.files import SetDevice
from protocol.profile import MODERN, SEED, Profile
from protocol.schema import node_name
from tests.cpusets import cpuset
from tests.fuzz import Fuzz
from tests.lab import Lab

STEPS = 250


WEIGHTED = replace(MODERN, weighted_interleave=True)


def started(seed: int, profile: Profile) -> Fuzz:
    """A small machine with a task and two cpusets."""
    lab = Lab(frames=64, profile=profile)
    lab.spawn()
    cpuset(lab, "/a", mems="0-2", migrate=True)
    cpuset(lab, "/b", mems="1,3")
    return Fuzz(lab, random.Random(seed))


def settled(lab: Lab) -> None:
    """Devices behave again, so that what waits for them ends."""
    for path in list(lab.memory.files):
        lab.call(SetDevice(path, int(Device(0)), 0))
    lab.wait(2.0)


@pytest.mark.parametrize("profile", [SEED, WEIGHTED], ids=["seed", "modern"])
@pytest.mark.parametrize("seed", range(20))
def test_no_question_of_a_client_ends_the_coordinator(seed: int, profile: Profile) -> None:
    print(f"seed {seed}")
    fuzz = started(seed, profile)
    lab = fuzz.lab
    for _ in range(STEPS):
        asked = fuzz.question("coordinator")
        lab.start(asked)
        if fuzz.rng.random() < 0.7:
            lab.run()
    settled(lab)
    lab.validate()
    assert list(differences(replay(lab.topology, lab.records), lab.memory)) == []


@pytest.mark.parametrize("seed", range(4))
def test_no_question_of_a_client_ends_a_node(seed: int) -> None:
    print(f"seed {seed}")
    fuzz = started(seed, SEED)
    lab = fuzz.lab
    start = lab.mapped(1, 8)
    for _ in range(STEPS):
        asked = fuzz.question("node")
        assert lab.answer_to(lab.start(asked, node_name(fuzz.rng.randrange(4)))) is not None
    assert len(lab.where(1, start, 8)) == 8
    for nid in range(4):
        lab.cores[node_name(nid)].validate()
