"""The Python API without async, for notebooks and scripts: one trio thread is behind it.

    import numalab.blocking

    with numalab.blocking.local_cluster(nodes=2, memory="64M") as machine:
        task = machine.spawn()
        address = task.mmap(1 << 20)
        task.store(address, b"hello")
        not_moved = task.migrate_pages(task.pid, "0", "1")

In a notebook, ``machine = numalab.blocking.connect()`` in one cell and ``machine.close()`` in
another do the same.  Any number of threads may use one machine.  Every method is that of the same
name in ``numalab``, with its arguments, results and errors; one that is interrupted is cancelled.
"""

from __future__ import annotations

from numalab.blocking.machine import Machine, connect, local_cluster
from numalab.blocking.parts import Cpusets, File, Jobs, RawCalls, Weights
from numalab.blocking.portal import Closed
from numalab.blocking.task import Task

__all__ = [
    "Closed",
    "Cpusets",
    "File",
    "Jobs",
    "Machine",
    "RawCalls",
    "Task",
    "Weights",
    "connect",
    "local_cluster",
]
