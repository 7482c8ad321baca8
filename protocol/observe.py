"""TABLE: what one reads of a machine beside its tasks: counters, traces, emulated time.

As ``messages.py``, which has the rest.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from protocol.schema import (
    I32,
    U32,
    U64,
    Message,
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
