"""TABLE: the labels of the metrics, and the values of each that are known at the start.

No label has values without end: no page, no pid, no address, no name of a client.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import NamedTuple

from protocol.faults import Fault, Lack
from protocol.schema import COORDINATOR, MESSAGES, node_name
from protocol.status import STATUSES


class Role(StrEnum):
    """Which process."""

    NODE = "node"
    COORDINATOR = "coordinator"
    CLIENT = "client"


class Label(NamedTuple):
    """A label, and the values of it that are known when a process starts.

    ``values(role, nids)``: a series for each is there from the start, or the first increment of
    a rate would be missed.  Another value that a note brings makes its series when it comes.
    """

    name: str
    values: Callable[[Role, Sequence[int]], tuple[str, ...]]


_NODE_NAME = re.compile(r"node(25[0-4]|2[0-4]\d|1\d\d|\d{1,2})")


def peer_label(name: str) -> str:
    """A peer as a label value: clients come and go, so all of them are one."""
    return name if name == COORDINATOR or _NODE_NAME.fullmatch(name) else Role.CLIENT.value


def nid_label(name: str) -> str:
    """A node's session name as a label value."""
    return name.removeprefix("node")


def errno_label(status: int) -> str:
    """``EAGAIN`` for -11."""
    return errno.errorcode.get(-status, str(-status))


def message_label(opcode: int) -> str:
    """The name of a message."""
    return MESSAGES[opcode].name if opcode in MESSAGES else hex(opcode)


def _fixed(name: str, *values: str) -> Label:
    return Label(name, lambda role, nids: values)


def _of_nodes(name: str) -> Label:
    return Label(name, lambda role, nids: tuple(str(nid) for nid in nids))


NUMA_NODE = _of_nodes("numa_node")
SOURCE = _of_nodes("source")
TARGET = _of_nodes("target")
PEER = Label(
    "peer",
    lambda role, nids: (*(node_name(nid) for nid in nids), COORDINATOR, Role.CLIENT.value),
)
MESSAGE = Label(
    "message",
    lambda role, nids: tuple(
        row.name for row in MESSAGES.values() if row.answer and row.asker in (role.value, "any")
    ),
)
WIRE_ERROR = _fixed(
    "reason",
    *("frames", "head", "checksum", "envelope", "version", "key", "fields", "opcode"),
    *("target", "boot", "question", "xid", "answer"),
)
INCARNATION = _fixed("reason", "boot", "epoch")
INDEFINITE = _fixed("errno", "ENODEV", "EAGAIN")
FAULT = _fixed("fault", *Fault, Lack.SLOW_DISK, Lack.FULL_DISK)
ACCESS = _fixed("access", "load", "store")
WORK = _fixed("work", "load", "store", "fault", "migration")
ERRNO = _fixed("errno", *(row.name for row in STATUSES if row.number < 0))
ERRNO_OF_CALL = _fixed("errno")
PASS = _fixed("pass", *(str(number) for number in range(10)))
MIGRATE_REASON = _fixed("reason", "syscall_or_cpuset", "mempolicy_mbind", "memory_hotplug")
CALL = _fixed(
    "call",
    *("mmap", "munmap", "mprotect", "fork", "exit", "fault", "migrate_pages", "move_pages"),
)
JOB_STATE = _fixed("state", "running", "paused", "waiting")
JOB_END = _fixed("state", "done", "failed", "cancelled")
END = _fixed("reason", "exit", "lease")
PLACE = _fixed("place", "local", "remote")
#: The states of coordinator/life.py in which a question about a page is outstanding.
STEP = _fixed(
    "step",
    *("taking", "isolating", "allocating", "copying", "unlocking", "restoring", "settling"),
    *("releasing", "putting_back"),
)
LOSS = _fixed("reason", "full", "unknown", "closed")
REFUSAL = _fixed("reason", "no_key", "unknown_key", "wrong_name", "too_many")
