"""The weights of WEIGHTED_INTERLEAVE: how many pages of a round a node gets (K 5.8)."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from protocol.policies import (
    DescribeInterleaveWeights,
    InterleaveWeights,
    SetInterleaveWeight,
)

if TYPE_CHECKING:
    from numalab.machine import Machine


class Weights:
    """Of one machine: ``machine.weights``; there are none unless weighted_interleave is on."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def write(self, node: int, weight: int) -> None:
        """Give a node a weight, 1 to 255.  Errors: ENOENT (no such node, or no weights), EINVAL."""
        await self._machine.call(SetInterleaveWeight(node, weight))

    async def read(self) -> dict[int, int]:
        """The weight of each node.  Errors: ENOENT."""
        told = await self._machine.expect(DescribeInterleaveWeights(), InterleaveWeights)
        if told.value:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return dict(zip(told.nid.tolist(), told.weight.tolist(), strict=True))
