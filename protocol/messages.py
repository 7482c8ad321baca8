"""TABLE: every message: number, who asks whom, typed fields, the answer, what it means.

A message is a frozen dataclass.  Scalar fields travel in the msgpack body; array fields
(``U32`` ...) and page contents (``Data``) travel as zmq frames of their own, in field order,
little endian.  All arrays of one message that are annotated with a *column* type (``U8`` ...) have
the same length, a row for each page; ``Plain...`` arrays may have any length.

Numbers are never reused: a removed message leaves its number in ``RETIRED``.
The generated table in ``docs/messages.md`` is this file's.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Annotated, Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from msgspec import Meta

Node = Annotated[int, Meta(ge=0, le=254)]
Word = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Unsigned = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Text = Annotated[str, Meta(max_length=1 << 22)]
Nodes = Annotated[tuple[Node, ...], Meta(max_length=255)]


class ArrayTag(NamedTuple):
    """How an array field travels: its numpy type, and whether it is a column of the page table."""

    dtype: str
    column: bool


U8 = Annotated[npt.NDArray[np.uint8], ArrayTag("|u1", True)]
U16 = Annotated[npt.NDArray[np.uint16], ArrayTag("<u2", True)]
U32 = Annotated[npt.NDArray[np.uint32], ArrayTag("<u4", True)]
U64 = Annotated[npt.NDArray[np.uint64], ArrayTag("<u8", True)]
I32 = Annotated[npt.NDArray[np.int32], ArrayTag("<i4", True)]
PlainU32 = Annotated[npt.NDArray[np.uint32], ArrayTag("<u4", False)]
PlainU64 = Annotated[npt.NDArray[np.uint64], ArrayTag("<u8", False)]
PlainI32 = Annotated[npt.NDArray[np.int32], ArrayTag("<i4", False)]
#: Page contents: one contiguous buffer, copied by nobody on the way.  A message has at most one,
#: and it is the last field.
Data = Annotated[bytes | bytearray | memoryview, "data"]


class Message:
    """Base of all messages, so that one type can be named; the table is ``MESSAGES``."""

    __slots__ = ()


class Row(NamedTuple):
    """One line of the table."""

    opcode: int
    name: str
    cls: type[Message]
    asker: str
    answerer: str
    answer: str | None
    idempotent: bool
    scalars: tuple[tuple[str, Any], ...]
    arrays: tuple[tuple[str, ArrayTag], ...]
    data: str | None
    meaning: str
    #: The type that the scalar fields are checked against; None if there are none.
    checked: Any


MESSAGES: dict[int, Row] = {}
#: Entries of the coordinator's journal (coordinator/records.py): written like messages, never sent.
ENTRIES: dict[int, Row] = {}
RETIRED: frozenset[int] = frozenset()
ROWS: dict[type[Message], Row] = {}

_C = TypeVar("_C", bound=type[Message])


@typing.dataclass_transform(frozen_default=True, eq_default=False)
def message(
    opcode: int,
    route: str,
    *,
    answer: str | None = None,
    idempotent: bool = False,
) -> Callable[[_C], _C]:
    """Enter a message into the table.

    ``route`` is ``"asker>answerer"``, or ``"journal"`` for an entry of the journal.
    ``idempotent`` means that executing it twice is harmless and cheap, so its answer is not kept:
    a repeated question is executed again.
    """

    def enter(cls: _C) -> _C:
        table = ENTRIES if route == "journal" else MESSAGES
        assert opcode not in table and opcode not in RETIRED, f"opcode {opcode:#x} is taken"
        cls = typing.cast(_C, dataclass(frozen=True, slots=True, eq=False)(cls))
        asker, _, answerer = route.partition(">")
        hints = typing.get_type_hints(cls, include_extras=True)
        scalars: list[tuple[str, Any]] = []
        arrays: list[tuple[str, ArrayTag]] = []
        data: str | None = None
        for field in fields(cls):  # type: ignore[arg-type]
            hint = hints[field.name]
            tag = getattr(hint, "__metadata__", (None,))[0]
            if isinstance(tag, ArrayTag):
                arrays.append((field.name, tag))
            elif tag == "data":
                data = field.name
            else:
                scalars.append((field.name, hint))
        meaning = " ".join((cls.__doc__ or "").split())
        row = Row(
            opcode,
            cls.__name__,
            cls,
            asker,
            answerer,
            answer,
            idempotent,
            tuple(scalars),
            tuple(arrays),
            data,
            meaning,
            tuple[tuple(hint for _, hint in scalars)] if scalars else None,  # type: ignore[misc]
        )
        table[opcode] = row
        ROWS[cls] = row
        return cls

    return enter


def node_name(nid: int) -> str:
    """The session name of node ``nid``."""
    return f"node{nid}"


def snake_case(name: str) -> str:
    """``migrate_pages`` for ``MigratePages``: the kernel's spelling of a message's name."""
    return re.sub("(?<!^)([A-Z])", r"_\1", name).lower()


COORDINATOR = "coordinator"

# ---- answers -------------------------------------------------------------------------------


@message(0x01, "any>any")
class Done(Message):
    """Done, or -errno: the answer when there is one number to say."""

    value: Word


@message(0x02, "node>any")
class Statuses(Message):
    """One status for each page asked about, in the order asked (0 or -errno)."""

    status: I32


@message(0x03, "any>any")
class Hello(Message):
    """The first question to a peer whose boot_id is unknown; the answer's envelope tells it."""


# ---- the coordinator asks a node -----------------------------------------------------------


@message(0x10, "coordinator>node", answer="NodeDescription", idempotent=True)
class Describe(Message):
    """What are you?"""


@message(0x11, "node>coordinator")
class NodeDescription(Message):
    """Id, page size in bytes, frames in all and free, UUID of the zone."""

    nid: Node
    page_size: Unsigned
    frames: Unsigned
    free: Unsigned
    uuid: Text


@message(0x12, "coordinator>node", answer="Done")
class MigratePrep(Message):
    """migrate_prep(): drain the pending LRU adds, so that their pages can be isolated (K 1.13)."""


@message(0x13, "coordinator>node", answer="Statuses")
class IsolateLruPage(Message):
    """isolate_lru_page(): take pages off the LRU and hold them; 0 or -EBUSY (K 1.16)."""

    pfn: U32
    generation: U32


@message(0x14, "coordinator>node", answer="Statuses")
class PutbackLruPages(Message):
    """putback_lru_pages(): absolute: mapped, unlocked, not isolated, on the LRU (K 1.22)."""

    pfn: U32
    generation: U32


@message(0x15, "coordinator>node", answer="NewPageFrames")
class NewPages(Message):
    """Allocate a frame for each row.

    ``owner`` and ``index`` say for which object and at which page of it (page->mapping, ->index).
    ``mapped``: 1 = a first touch: zero it, it is mapped and pending for the LRU at once;
    0 = a migration target: contents come by LandPages, mapped by PutbackLruPages.
    """

    mapped: Annotated[int, Meta(ge=0, le=1)]
    owner: U32
    index: U32


@message(0x16, "node>coordinator")
class NewPageFrames(Message):
    """The frames: status 0 or -ENOMEM; pfn and generation count where status is 0."""

    status: I32
    pfn: U32
    generation: U32


@message(0x17, "coordinator>node", answer="Statuses")
class CopyPages(Message):
    """Lock the frames (unless ``lock`` is 0) and copy them straight to node ``target``.

    Answered when the target has acknowledged every page or refused it.  A pinned frame is -EAGAIN;
    a frame that somebody else has locked is -EAGAIN, or with ``force`` waited for (K 1.28).
    A frame with an OK or -EAGAIN stays locked until UnlockPages or PutPages.
    """

    transfer: Unsigned
    target: Node
    lock: Annotated[int, Meta(ge=0, le=1)]
    force: Annotated[int, Meta(ge=0, le=1)]
    pfn: U32
    generation: U32
    target_pfn: U32
    target_generation: U32


@message(0x18, "coordinator>node", answer="Statuses")
class UnlockPages(Message):
    """Stop what is left of the transfer; absolute: unlocked, and of generation new_generation.

    The frames stay isolated.  A frame that has new_generation already answers OK.
    """

    transfer: Unsigned
    pfn: U32
    generation: U32
    new_generation: U32


@message(0x19, "coordinator>node", answer="Statuses")
class PutPages(Message):
    """put_page(): absolute: free.  A generation that is gone answers OK."""

    pfn: U32
    generation: U32


@message(0x1A, "coordinator>node", answer="Statuses")
class SetGeneration(Message):
    """Take rights away: absolute: of generation new_generation; old translations are stale."""

    pfn: U32
    generation: U32
    new_generation: U32


@message(0x1B, "any>node", answer="FrameInventory", idempotent=True)
class Inventory(Message):
    """Every frame that is not free."""


@message(0x1C, "node>any")
class FrameInventory(Message):
    """The frames in use: flags as in nodes/zone.py, owner object and index."""

    pfn: U32
    flags: U16
    generation: U32
    owner: U32
    index: U32


@message(0x1D, "any>node", answer="ZoneCount", idempotent=True)
class CountZone(Message):
    """How many frames are in which condition?"""


@message(0x1E, "node>any")
class ZoneCount(Message):
    """In frames; ``free`` + the rest that is in use = the zone."""

    frames: Unsigned
    free: Unsigned
    active: Unsigned
    inactive: Unsigned
    pending: Unsigned
    isolated: Unsigned
    locked: Unsigned


@message(0x1F, "coordinator>node", answer="Done")
class DropHolds(Message):
    """A client died: the page locks and extra references that it took are let go."""

    client: Text


# ---- a node asks a node --------------------------------------------------------------------


@message(0x30, "node>node", answer="Statuses")
class LandPages(Message):
    """Contents for frames that no page maps yet; -ESTALE if the generation is another by now."""

    transfer: Unsigned
    pfn: U32
    generation: U32
    data: Data


# ---- a client asks a node ------------------------------------------------------------------


@message(0x40, "client>node", answer="LoadedBytes", idempotent=True)
class LoadBytes(Message):
    """Read ``size`` bytes at ``start`` of each frame; -ESTALE or -EAGAIN: fault and try again."""

    size: Unsigned
    pfn: U32
    generation: U32
    start: U32


@message(0x41, "node>client")
class LoadedBytes(Message):
    """Status of each row, and ``size`` bytes for each row (zeros where the status is not 0)."""

    status: I32
    data: Data


@message(0x42, "client>node", answer="Statuses")
class StoreBytes(Message):
    """Write ``size`` bytes at ``start`` of each frame: rows of ``data``, whole or not at all."""

    size: Unsigned
    pfn: U32
    generation: U32
    start: U32
    data: Data


@message(0x43, "client>node", answer="Statuses")
class HoldPages(Message):
    """Play another user of the frame: absolute: page lock held, extra references (1 or 0 each).

    Whoever takes nothing that is not held already may name any generation of the frame's
    incarnation (nodes/generation.py).
    """

    pfn: U32
    generation: U32
    locked: U8
    pinned: U8


# ---- a client asks the coordinator ---------------------------------------------------------


@message(0x50, "client>coordinator", answer="Attached")
class Attach(Message):
    """Who is there?  Starts the client's lease; Renew keeps it (a dead client's tasks exit)."""


@message(0x51, "coordinator>client")
class Attached(Message):
    """Addresses of the nodes by name, page size, seconds of a lease."""

    names: tuple[Text, ...]
    addresses: tuple[Text, ...]
    page_size: Unsigned
    lease: float


@message(0x52, "client>coordinator", answer="Done")
class Renew(Message):
    """I live."""


@message(0x53, "client>coordinator", answer="Done")
class Spawn(Message):
    """A new task with an empty mm; its pid or -errno.  ``leased`` 0: it outlives its client."""

    cpu: Unsigned
    uid: Unsigned
    capable: Annotated[int, Meta(ge=0, le=1)]
    leased: Annotated[int, Meta(ge=0, le=1)]
    comm: Text


@message(0x54, "client>coordinator", answer="Done")
class Mmap(Message):
    """mmap(2): the address or -errno.  ``name`` is the file, ``[heap]``, ``[stack]`` or empty."""

    pid: Word
    address: Unsigned
    length: Unsigned
    prot: Unsigned
    flags: Unsigned
    name: Text
    offset: Unsigned


@message(0x55, "client>coordinator", answer="Done")
class Munmap(Message):
    """munmap(2); answered when no cached translation of the range is served any more."""

    pid: Word
    address: Unsigned
    length: Unsigned


@message(0x56, "client>coordinator", answer="Done")
class Mprotect(Message):
    """mprotect(2); answered when no cached translation grants what was taken away."""

    pid: Word
    address: Unsigned
    length: Unsigned
    prot: Unsigned


@message(0x57, "client>coordinator", answer="Done")
class Fork(Message):
    """fork(2): the child's pid or -errno; answered when the parent's pages are write-protected."""

    pid: Word
    leased: Annotated[int, Meta(ge=0, le=1)]


@message(0x58, "client>coordinator", answer="Done")
class Exit(Message):
    """exit(2): the mm is dropped and every frame of it that nobody else maps is freed."""

    pid: Word


@message(0x59, "client>coordinator", answer="Translations")
class Fault(Message):
    """Translate pages (virtual page numbers) for an access by ``cpu``.

    access: 0 read, 1 write, 2 populate anonymous, 3 populate file pages (2 and 3 ignore the
    protection: an image is being filled in).  Parks while a page is a migration entry (K 1.45).
    """

    pid: Word
    cpu: Unsigned
    access: Annotated[int, Meta(ge=0, le=3)]
    page: U64


@message(0x5A, "coordinator>client")
class Translations(Message):
    """Status 0 or -errno of each page; nid -1 is the zero page (read zeros, cache nothing)."""

    status: I32
    nid: I32
    pfn: U32
    generation: U32
    writable: U8


@message(0x5B, "client>coordinator", answer="Done")
class MigratePages(Message):
    """migrate_pages(2) by task ``caller``: pages NOT moved, or -errno (K 4.5)."""

    caller: Word
    pid: Word
    from_nodes: Nodes
    to_nodes: Nodes


@message(0x5C, "client>coordinator", answer="MovedPages")
class MovePages(Message):
    """move_pages(2): byte addresses; without nodes it is a query (``query`` 1, node ignored)."""

    caller: Word
    pid: Word
    flags: Unsigned
    query: Annotated[int, Meta(ge=0, le=1)]
    address: U64
    node: I32


@message(0x5D, "coordinator>client")
class MovedPages(Message):
    """The call's value and the status array (only meaningful when value >= 0, K 4.16)."""

    value: Word
    status: I32


@message(0x5E, "client>coordinator", answer="Description", idempotent=True)
class NumaMaps(Message):
    """/proc/PID/numa_maps (K 6.1)."""

    pid: Word


@message(0x5F, "coordinator>client")
class Description(Message):
    """-errno or 0, and text."""

    value: Word
    text: Text


@message(0x60, "client>coordinator", answer="TaskList", idempotent=True)
class ListTasks(Message):
    """The tasks."""


@message(0x61, "coordinator>client")
class TaskList(Message):
    """A row for each task: ids, cpu, present pages, mapped pages; name of each."""

    names: tuple[Text, ...]
    pid: I32
    ppid: I32
    uid: U32
    cpu: U32
    present: U64
    mapped: U64


@message(0x62, "client>coordinator", answer="Hardware", idempotent=True)
class DescribeHardware(Message):
    """The machine's topology and what is free."""


@message(0x63, "coordinator>client")
class Hardware(Message):
    """A row for each node; ``distance`` is row-major; ``up`` is 1 while the node answers.

    The six counters are those of numastat (K 6.6).
    """

    page_size: Unsigned
    epoch: Unsigned
    migration: Annotated[int, Meta(ge=0, le=1)]
    cpus: tuple[tuple[int, ...], ...]
    nid: I32
    up: U8
    frames: U64
    free: U64
    numa_hit: U64
    numa_miss: U64
    numa_foreign: U64
    interleave_hit: U64
    local_node: U64
    other_node: U64
    distance: PlainU32


@message(0x64, "client>coordinator", answer="ProgressMade", idempotent=True)
class Progress(Message):
    """How far are the migrations of this task?"""

    pid: Word


@message(0x65, "coordinator>client")
class ProgressMade(Message):
    """Pages on the page lists of the calls under way, and how many of them are settled.

    ``longest``: seconds for which some page of the machine was a migration entry, at most, so far.
    """

    listed: Unsigned
    settled: Unsigned
    longest: float


@message(0x66, "client>coordinator", answer="AddressSpace", idempotent=True)
class DescribeMm(Message):
    """The vmas of a task and which pages are present."""

    pid: Word


@message(0x67, "coordinator>client")
class AddressSpace(Message):
    """Rows of vmas (page numbers), then plain arrays of present pages: number and node.

    ``written`` is 1 where a task was ever granted a writable translation.
    """

    value: Word
    names: tuple[Text, ...]
    start: U64
    end: U64
    prot: U32
    flags: U32
    page: PlainU64
    page_node: PlainI32
    written: PlainU32


@message(0x68, "client>coordinator", answer="Done")
class SetMempolicy(Message):
    """set_mempolicy(2) of a task: MPOL_* and its nodes (K 4.33)."""

    pid: Word
    mode: Unsigned
    nodes: Nodes


@message(0x69, "client>coordinator", answer="PolicyTold")
class GetMempolicy(Message):
    """get_mempolicy(2) of a task: byte address and MPOL_F_* (K 4.35)."""

    pid: Word
    address: Unsigned
    flags: Unsigned


@message(0x6A, "coordinator>client")
class PolicyTold(Message):
    """0 or -errno; the mode, or with MPOL_F_NODE a node; the nodes of the policy."""

    value: Word
    mode: Unsigned
    nodes: Nodes


@message(0x6B, "client>coordinator", answer="Done")
class Mbind(Message):
    """mbind(2) of a task: bytes, MPOL_*, its nodes, MPOL_MF_* (K 4.22)."""

    pid: Word
    address: Unsigned
    length: Unsigned
    mode: Unsigned
    nodes: Nodes
    flags: Unsigned
