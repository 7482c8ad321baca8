"""numalab: a NUMA machine made of processes."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numalab.cluster import local_cluster
    from numalab.constants import (
        CAP_SETUID,
        CAP_SYS_NICE,
        CAP_SYS_PTRACE,
        MADV_DONTNEED,
        MADV_POPULATE_READ,
        MADV_POPULATE_WRITE,
        MAP_ANONYMOUS,
        MAP_FIXED,
        MAP_GROWSDOWN,
        MAP_LOCKED,
        MAP_PRIVATE,
        MAP_SHARED,
        MPOL_BIND,
        MPOL_DEFAULT,
        MPOL_F_ADDR,
        MPOL_F_MEMS_ALLOWED,
        MPOL_F_NODE,
        MPOL_F_NUMA_BALANCING,
        MPOL_F_RELATIVE_NODES,
        MPOL_F_STATIC_NODES,
        MPOL_INTERLEAVE,
        MPOL_LOCAL,
        MPOL_MF_MOVE,
        MPOL_MF_MOVE_ALL,
        MPOL_MF_STRICT,
        MPOL_PREFERRED,
        MPOL_PREFERRED_MANY,
        MPOL_WEIGHTED_INTERLEAVE,
        PROT_EXEC,
        PROT_NONE,
        PROT_READ,
        PROT_WRITE,
    )
    from numalab.locate import MachineUnreachable
    from numalab.machine import Machine, connect
    from numalab.orders import IndefiniteError
    from numalab.task import Task

__all__ = [
    "CAP_SETUID",
    "CAP_SYS_NICE",
    "CAP_SYS_PTRACE",
    "MADV_DONTNEED",
    "MADV_POPULATE_READ",
    "MADV_POPULATE_WRITE",
    "MAP_ANONYMOUS",
    "MAP_FIXED",
    "MAP_GROWSDOWN",
    "MAP_LOCKED",
    "MAP_PRIVATE",
    "MAP_SHARED",
    "MPOL_BIND",
    "MPOL_DEFAULT",
    "MPOL_F_ADDR",
    "MPOL_F_MEMS_ALLOWED",
    "MPOL_F_NODE",
    "MPOL_F_NUMA_BALANCING",
    "MPOL_F_RELATIVE_NODES",
    "MPOL_F_STATIC_NODES",
    "MPOL_INTERLEAVE",
    "MPOL_LOCAL",
    "MPOL_MF_MOVE",
    "MPOL_MF_MOVE_ALL",
    "MPOL_MF_STRICT",
    "MPOL_PREFERRED",
    "MPOL_PREFERRED_MANY",
    "MPOL_WEIGHTED_INTERLEAVE",
    "PROT_EXEC",
    "PROT_NONE",
    "PROT_READ",
    "PROT_WRITE",
    "IndefiniteError",
    "Machine",
    "MachineUnreachable",
    "Task",
    "connect",
    "local_cluster",
]

#: A module is loaded with the first of its names that is used, so that small programs stay small.
_MODULES = ("constants", "locate", "orders", "task", "machine", "cluster")


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in _MODULES:
            found = vars(importlib.import_module(f"numalab.{module}")).get(name)
            if found is not None:
                return found
    raise AttributeError(f"module 'numalab' has no attribute '{name}'")
