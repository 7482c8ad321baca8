"""The fixtures that several files of tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings

from tests.disks import read_only, small_disk
from tests.lab import Lab
from tests.live import numalab, run_directory
from tests.peer import boot, peer
from tests.peer_live import machines

__all__ = [
    "boot",
    "lab",
    "machines",
    "make_lab",
    "numalab",
    "peer",
    "read_only",
    "run_directory",
    "small_disk",
]

# How long an example takes says how busy this host is, and nothing of what is tested.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture
def make_lab() -> Iterator[Callable[..., Lab]]:
    """Labs for one test; at its end every Core of them must be sound."""
    labs: list[Lab] = []

    def make(*arguments: object, **options: object) -> Lab:
        labs.append(Lab(*arguments, **options))  # type: ignore[arg-type]
        return labs[-1]

    yield make
    for lab in labs:
        lab.run()
        lab.validate()


@pytest.fixture
def lab(make_lab: Callable[..., Lab]) -> Lab:
    """Four nodes of 256 frames."""
    return make_lab()
