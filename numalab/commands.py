"""The commands of the console program, as functions that know nothing of a command line."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trio

from numalab import cluster
from numalab.checker import Verdict
from numalab.console import Answer, CommandFailed, Exit, Heed
from numalab.constants import MPOL_MF_MOVE, MPOL_MF_MOVE_ALL
from numalab.hardware import (
    COUNTERS,
    hardware_text,
    numastat_text,
    process_numastat_text,
    process_pages,
)
from numalab.image import Source, open_core, open_process
from numalab.importer import Digests, digests_path, import_image
from numalab.locate import MachineFile, MachineUnreachable, read_machine
from numalab.machine import Machine, connect
from numalab.task import Task
from numalab.verify import verify_task
from protocol.messages import Hardware
from protocol.nodemask import format_nodes
from protocol.status import describe

#: ``caller`` of the operator at the console (coordinator/syscalls.py).
OPERATOR = 0
POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Place:
    """Where the machine is: its run directory, or ``tcp://host:port`` of its coordinator."""

    run_directory: Path
    address: str | None = None

    def connect(self) -> AbstractAsyncMachine:
        """As ``numalab.machine.connect``."""
        return connect(self.address or self.run_directory)
