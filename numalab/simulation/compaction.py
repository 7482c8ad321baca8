"""The coordinator's journal is replaced by a snapshot of its memory, as the live driver does.

At moments that the seed chooses, whatever is under way; later entries follow the snapshot.
"""

from __future__ import annotations

import random

from coordinator.memory import Memory
from coordinator.snapshot import snapshot
from protocol.codec import encode_entry

#: Events of the coordinator between two compactions, at most; a run has some hundreds.
EVENTS_MAX = 120


def entries_of(memory: Memory) -> list[bytes]:
    """A snapshot as it stands in a journal."""
    return [encode_entry(entry) for entry in snapshot(memory)]


class Compaction:
    """Compacts in every second run; in the others the journal tells all from the beginning."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(f"compaction {seed}")
        self._wait = self._draw.randrange(EVENTS_MAX) if seed % 2 else -1

    def watch(self, memory: Memory, journal: list[bytes]) -> None:
        """An event of the coordinator has been carried out."""
        if self._wait == 0:
            journal[:] = entries_of(memory)
            self._wait = self._draw.randrange(EVENTS_MAX) + 1
        self._wait -= 1
