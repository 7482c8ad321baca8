"""Which pages of a task are present, however many there are."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from protocol.syscalls import AddressSpace, DescribeMm

if TYPE_CHECKING:
    from numalab.machine import Machine


async def read_address_space(machine: Machine, pid: int) -> AddressSpace:
    """What it takes to read it in pieces; the vmas are those of the last one."""
    pieces = [await machine.expect(DescribeMm(pid), AddressSpace)]
    while pieces[-1].value:
        pieces.append(await machine.expect(DescribeMm(pid, pieces[-1].value), AddressSpace))
    return replace(
        pieces[-1],
        page=np.concatenate([piece.page for piece in pieces]),
        page_node=np.concatenate([piece.page_node for piece in pieces]),
        written=np.concatenate([piece.written for piece in pieces]),
    )
