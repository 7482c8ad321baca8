"""Emulated time as a user reads it: by task, by node, by migration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protocol.observe import EmulatedTime


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of emulated time by what they were spent on; ``wall``: on the clock meanwhile.

    ``wall`` is what accesses and migrations of the task took, as far as it is known, and of a node
    it is 0.
    """

    load: float = 0.0
    store: float = 0.0
    fault: float = 0.0
    migration: float = 0.0
    wall: float = 0.0

    @property
    def total(self) -> float:
        """All of the emulated time."""
        return self.load + self.store + self.fault + self.migration


@dataclass(frozen=True, slots=True)
class MigrationTime:
    """One migrate_pages() of the kernel: pages that moved, and seconds."""

    pid: int
    pages: int
    emulated: float
    wall: float


@dataclass(frozen=True, slots=True)
class Emulated:
    """All of a machine since its coordinator started; the last 256 migrations."""

    tasks: Mapping[int, Spent]
    nodes: Mapping[int, Spent]
    migrations: tuple[MigrationTime, ...]


def read_emulated(told: EmulatedTime) -> Emulated:
    """The answer of the coordinator."""
    rows = (told.migration_pid, told.migration_pages, told.migration_ns, told.migration_wall_ns)
    return Emulated(
        _table(told.columns, told.pid, told.task_ns),
        _table(told.columns, told.nid, told.node_ns),
        tuple(
            MigrationTime(pid, pages, ns / 1e9, wall / 1e9)
            for pid, pages, ns, wall in zip(*(row.tolist() for row in rows), strict=True)
        ),
    )


def _table(
    columns: tuple[str, ...], keys: npt.NDArray[np.int32], ns: npt.NDArray[np.uint64]
) -> dict[int, Spent]:
    table = ns.reshape(-1, len(columns)) / 1e9
    return {
        key: Spent(**dict(zip(columns, row, strict=True)))
        for key, row in zip(keys.tolist(), table.tolist(), strict=True)
    }
