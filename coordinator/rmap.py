"""What the reverse map tells about pages: whether a locked vma maps them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from coordinator.mem_map import Nids, Pfns
from coordinator.memory import Memory
from coordinator.mm import VmFlag


def mlocked(memory: Memory, nid: Nids, pfn: Pfns) -> npt.NDArray[np.bool_]:
    """Which of these frames a VM_LOCKED vma maps, in whatever mm (K 1.31)."""
    locked = np.zeros(pfn.size, np.bool_)
    for node, rows in memory.by_node(nid):
        for vma, _, mapped in memory.mappers(node, pfn[rows]):
            if vma.vm_flags & VmFlag.LOCKED:
                locked[rows[mapped]] = True
    return locked
