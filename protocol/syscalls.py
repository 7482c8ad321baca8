"""TABLE: what a client asks the coordinator: system calls, and what one reads.

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
    Word,
    message,
)
from protocol.user_mask import UserMask

#: Pages of a Fault that need not be answered.
WISHED_MAX = 4096

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
    """I live.  How many nodes can be reached: of another number Attach tells more."""


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
    """fork(2): the child's pid or -errno; answered when the parent's pages are write-protected.

    cpu: where the child runs, -1 where its parent does.
    """

    pid: Word
    cpu: Word
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
    wished: so many pages at the end of ``page`` are told if that takes nothing, and else -EAGAIN.
    """

    pid: Word
    cpu: Unsigned
    access: Annotated[int, Meta(ge=0, le=3)]
    page: U64
    wished: Annotated[int, Meta(ge=0, le=WISHED_MAX)] = 0


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
    """migrate_pages(2) by task ``caller``: pages NOT moved, or -errno (K 4.5).

    A mask is the bytes at the pointer, nil for NULL; bytes that are missing cannot be read.
    ``new_page`` names a new_page_t that was loaded; empty: pages go to the node of their pair.
    """

    caller: Word
    pid: Word
    maxnode: Unsigned
    old_nodes: UserMask
    new_nodes: UserMask
    new_page: Text = ""


@message(0x5C, "client>coordinator", answer="MovedPages")
class MovePages(Message):
    """move_pages(2): byte addresses; without nodes it is a query (``query`` 1, node ignored).

    The arrays are what can be read at the pointers, and ``status`` what can be written, with what
    the caller has put there: an array of less than ``count`` elements ends in -EFAULT (K 4.12).
    """

    caller: Word
    pid: Word
    count: Unsigned
    flags: Unsigned
    query: Annotated[int, Meta(ge=0, le=1)]
    address: PlainU64
    node: PlainI32
    status: PlainI32


@message(0x5D, "coordinator>client")
class MovedPages(Message):
    """The value and the caller's status array: what was not written is as it was (K 4.16)."""

    value: Word
    status: I32


@message(0x5E, "client>coordinator", answer="Description", idempotent=True)
class NumaMaps(Message):
    """/proc/PID/numa_maps (K 6.1), from address ``start`` on, as much as fits into an answer.

    The value of the answer is the address from which to go on, 0 at the end, or -errno.
    """

    pid: Word
    start: Unsigned = 0


@message(0x5F, "coordinator>client")
class Description(Message):
    """-errno, or 0 or what the question says, and text."""

    value: Word
    text: Text


@message(0x60, "client>coordinator", answer="TaskList", idempotent=True)
class ListTasks(Message):
    """The tasks."""


@message(0x61, "coordinator>client")
class TaskList(Message):
    """A row for each task: ids, cpu, present pages, mapped pages; name of each.

    Threads of one process have its ``tgid``, and each of them counts the pages of their one mm.
    """

    names: tuple[Text, ...]
    pid: I32
    ppid: I32
    uid: U32
    cpu: U32
    present: U64
    mapped: U64
    tgid: I32


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
    """The vmas of a task and which pages are present, from page ``start`` on.

    The value of the answer is the page from which to go on, 0 at the end, or -errno.
    """

    pid: Word
    start: Unsigned = 0


@message(0x67, "coordinator>client")
class AddressSpace(Message):
    """Rows of vmas (page numbers), then plain arrays of present pages: number and node.

    ``file``: the object whose page cache the vma maps from page ``pgoff`` of it on; 0: none.
    ``written`` is 1 where a task was ever granted a writable translation: any of those that share
    the page.
    """

    value: Word
    names: tuple[Text, ...]
    start: U64
    end: U64
    prot: U32
    flags: U32
    file: U32
    pgoff: U64
    page: PlainU64
    page_node: PlainI32
    written: PlainU32


@message(0x68, "client>coordinator", answer="Done")
class SetMempolicy(Message):
    """set_mempolicy(2) of a task: MPOL_* and its nodes (K 4.33)."""

    pid: Word
    mode: Unsigned
    nodes: UserMask
    maxnode: Unsigned


@message(0x69, "client>coordinator", answer="PolicyTold")
class GetMempolicy(Message):
    """get_mempolicy(2) of a task: byte address and MPOL_F_* (K 4.35).

    ``room``: bytes that can be written at the pointer of the mask; nil: it is NULL.
    """

    pid: Word
    room: Unsigned | None
    maxnode: Unsigned
    address: Unsigned
    flags: Unsigned


@message(0x6A, "coordinator>client")
class PolicyTold(Message):
    """0 or -errno; the mode, or with MPOL_F_NODE a node; the mask, nil where none was wanted.

    An error of the mask comes when the mode is written already (K 4.4).
    """

    value: Word
    mode: Unsigned
    nodes: UserMask


@message(0x6B, "client>coordinator", answer="Done")
class Mbind(Message):
    """mbind(2) of a task: bytes, MPOL_*, its nodes, MPOL_MF_* (K 4.22)."""

    pid: Word
    address: Unsigned
    length: Unsigned
    mode: Unsigned
    nodes: UserMask
    maxnode: Unsigned
    flags: Unsigned


# ---- the cpuset file system ------------------------------------------------------------------


@message(0x78, "client>coordinator", answer="Done")
class CpusetDirectory(Message):
    """mkdir(2) of a cpuset, or rmdir(2) with ``remove`` 1, by task ``caller`` (0: the operator)."""

    caller: Word
    path: Text
    remove: Annotated[int, Meta(ge=0, le=1)]


@message(0x79, "client>coordinator", answer="CpusetWritten")
class CpusetWrite(Message):
    """write(2) of a text to an attribute file of a cpuset (K 5.13)."""

    caller: Word
    path: Text
    file: Text
    text: Text


@message(0x7A, "coordinator>client")
class CpusetWritten(Message):
    """0 or -errno, when all that follows is done; the tasks whose cpus were set, and their cpu now.

    ``allowed``: the cpus that they may run on.
    """

    value: Word
    pid: I32
    cpu: U32
    allowed: PlainU32


@message(0x7B, "client>coordinator", answer="Description", idempotent=True)
class CpusetRead(Message):
    """read(2) of an attribute file; of the directory itself, with ``file`` empty: its entries."""

    path: Text
    file: Text
