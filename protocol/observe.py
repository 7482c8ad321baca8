"""TABLE: what one reads of a machine beside its tasks: counters, traces, emulated time.

As ``messages.py``, which has the rest.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from protocol.schema import (
    I32,
    U8,
    U32,
    U64,
    Message,
    PlainI32,
    PlainU32,
    PlainU64,
    Text,
    Unsigned,
    message,
)

# ---- the lists of a node -------------------------------------------------------------------


@message(0x44, "coordinator>node", answer="Statuses", idempotent=True)
class PageActive(Message):
    """PageActive() of these frames: status 1 or 0, or -EINVAL for a frame that is not there."""

    pfn: U32


@message(0x4F, "coordinator>node", answer="Statuses", idempotent=True)
class SetPageActive(Message):
    """Active from now on, or not: status 1 for a frame that was otherwise, else 0, or -ESTALE."""

    active: Annotated[int, Meta(ge=0, le=1)]
    pfn: U32
    generation: U32


@message(0x45, "any>node", answer="LruCount", idempotent=True)
class CountLru(Message):
    """How many frames are on each list?  ``file``: the objects whose pages are file pages."""

    file: PlainU32


@message(0x46, "node>any")
class LruCount(Message):
    """In frames, as Active(anon) ... of meminfo (K 6.5)."""

    active_anon: Unsigned
    inactive_anon: Unsigned
    active_file: Unsigned
    inactive_file: Unsigned


# ---- counters ------------------------------------------------------------------------------


@message(0x47, "client>coordinator", answer="Vmstat", idempotent=True)
class ReadVmstat(Message):
    """The counters of the machine, and how its profile shows them."""


@message(0x48, "coordinator>client")
class Vmstat(Message):
    """Events by name; a row for each node, in pages; the objects whose pages are of files.

    ``attributes`` and ``states``: files of nodeN and of the directory above it (K 6.4, 6.9).
    """

    attributes: tuple[Text, ...]
    states: tuple[Text, ...]
    meminfo_splits_lru: Annotated[int, Meta(ge=0, le=1)]
    vmstat_counts_numa: Annotated[int, Meta(ge=0, le=1)]
    names: tuple[Text, ...]
    counts: PlainU64
    file_objects: PlainU32
    nid: I32
    anon: U64
    file: U64
    shmem: U64
    mapped: U64
    dirty: U64
    writeback: U64
    mlocked: U64


@message(0x49, "client>coordinator", answer="Description", idempotent=True)
class ReadTrace(Message):
    """The lines of the trace from number ``first`` on, as far as they are kept.

    The value of the answer is the number that the next line will have.
    """

    first: Unsigned


# ---- emulated time -------------------------------------------------------------------------


@message(0x4A, "client>coordinator", answer="Done")
class Accrue(Message):
    """What tasks of this client have accessed since it told the last time.

    A row for each task, cpu, node of the pages, and kind (``store`` 1 or 0).  ``waited_ns``: how
    long accesses of each ``waiter`` (pid) took on the clock.
    """

    pid: I32
    cpu: U32
    nid: U8
    store: U8
    accesses: U64
    bytes: U64
    waiter: PlainI32
    waited_ns: PlainU64


@message(0x4B, "client>coordinator", answer="EmulatedTime", idempotent=True)
class ReadEmulated(Message):
    """How much emulated time has accrued?"""


@message(0x4C, "coordinator>client")
class EmulatedTime(Message):
    """Nanoseconds: for each task and for each node a row of the ``columns``; the last migrations.

    ``wall`` is the time on the clock that belongs to the emulated one, where it is known.
    """

    columns: tuple[Text, ...]
    pid: PlainI32
    task_ns: PlainU64
    nid: PlainI32
    node_ns: PlainU64
    migration_pid: PlainI32
    migration_pages: PlainU64
    migration_ns: PlainU64
    migration_wall_ns: PlainU64


@message(0x4D, "client>coordinator", answer="Pace", idempotent=True)
class AskPace(Message):
    """Does emulated time pass on the clock, and what do accesses cost?"""


@message(0x4E, "coordinator>client")
class Pace(Message):
    """Seconds that an emulated second lasts (0: none), and the costs of an access.

    ``latency`` (ns) and ``bandwidth`` (bytes a ns) are row-major, from the node of the cpu to that
    of the page, in the order of ``nids``; ``cpus``: of each of these nodes.
    """

    pace: float
    nids: tuple[int, ...]
    cpus: tuple[tuple[int, ...], ...]
    latency: tuple[float, ...]
    bandwidth: tuple[float, ...]
