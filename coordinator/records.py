"""TABLE: the entries of the journal: every change of a mapping, as a message to our later self.

Entries are declared like messages (in a table of their own) and never cross a wire.
``coordinator/replay.py`` rebuilds tasks, vmas and page tables from them.
"""

from __future__ import annotations

from protocol.schema import U8, U32, U64, Message, Nodes, Text, Unsigned, Word, message


@message(0x80, "journal")
class TaskSpawned(Message):
    """A task with an empty mm."""

    pid: Word
    ppid: Word
    uid: Unsigned
    cpu: Unsigned
    capable: Unsigned
    client: Text
    comm: Text


@message(0x81, "journal")
class VmaMapped(Message):
    """A vma of a new object; page numbers."""

    pid: Word
    start: Unsigned
    end: Unsigned
    prot: Unsigned
    flags: Unsigned
    name: Text
    pgoff: Unsigned
    mapping: Unsigned


@message(0x82, "journal")
class RangeUnmapped(Message):
    """Every entry of these pages is dropped; frames that nobody maps any more are freed."""

    pid: Word
    start: Unsigned
    end: Unsigned


@message(0x83, "journal")
class RangeProtected(Message):
    """The vmas of these pages have another protection."""

    pid: Word
    start: Unsigned
    end: Unsigned
    prot: Unsigned


@message(0x84, "journal")
class TaskForked(Message):
    """The child has the parent's vmas and entries; private writable ones are read-only in both."""

    pid: Word
    child: Word
    cpu: Unsigned
    client: Text


@message(0x85, "journal")
class TaskExited(Message):
    """The task is gone (its mm was unmapped before)."""

    pid: Word


@message(0x86, "journal")
class PagesMapped(Message):
    """First touch: page numbers of one mm, the new frames, the bits of the entries."""

    pid: Word
    nid: Unsigned
    page: U64
    pfn: U32
    generation: U32
    bits: U8


@message(0x87, "journal")
class PagesCopied(Message):
    """Copy-on-write: these pages of one mm have frames of their own now."""

    pid: Word
    nid: Unsigned
    page: U64
    pfn: U32
    generation: U32


@message(0x88, "journal")
class EntriesChanged(Message):
    """Existing frames: entries of one mm get these bits (a write fault, a shared object's page).

    Without PRESENT there is no frame: the zero page is mapped (K 3.9).
    """

    pid: Word
    page: U64
    nid: U8
    pfn: U32
    bits: U8


@message(0x89, "journal")
class PagesCommitted(Message):
    """The commit of a migration: whoever mapped the old frame maps the new one."""

    source: Unsigned
    target: Unsigned
    pfn: U32
    target_pfn: U32
    target_generation: U32


@message(0x8A, "journal")
class GenerationsSet(Message):
    """Rights were taken away: these frames are served under a new generation only."""

    nid: Unsigned
    pfn: U32
    generation: U32


@message(0x8B, "journal")
class FramesFreed(Message):
    """The node has these frames back."""

    nid: Unsigned
    pfn: U32


@message(0x8C, "journal")
class PolicySet(Message):
    """mbind: the vmas of these pages have this policy (mode 0: none)."""

    pid: Word
    start: Unsigned
    end: Unsigned
    mode: Unsigned
    nodes: Nodes
    flags: Unsigned
    user_nodes: tuple[Unsigned, ...]
    mems_allowed: Nodes
    home_node: Word


@message(0x8D, "journal")
class TaskPolicySet(Message):
    """The task has this policy (mode 0: none), and this was its last turn of interleaving."""

    pid: Word
    mode: Unsigned
    nodes: Nodes
    flags: Unsigned
    user_nodes: tuple[Unsigned, ...]
    mems_allowed: Nodes
    home_node: Word
    il_prev: Word
    il_weight: Unsigned


@message(0x92, "journal")
class InterleaveWeightSet(Message):
    """WEIGHTED_INTERLEAVE puts so many pages on this node in a round."""

    node: Unsigned
    weight: Unsigned


@message(0x93, "journal")
class AnonVmaPrepared(Message):
    """The vma at ``start`` has its first anonymous page: its anon_vma, and the object it is in."""

    pid: Word
    start: Unsigned
    anon_vma: Unsigned
    anon_root: Unsigned
    mapping: Unsigned
    pgoff: Unsigned


@message(0x94, "journal")
class VmasMerged(Message):
    """The two vmas that met at ``page`` are one."""

    pid: Word
    page: Unsigned


@message(0x8E, "journal")
class CredentialsSet(Message):
    """The task has these user ids and capabilities; whether its mm is dumpable."""

    pid: Word
    uid: Unsigned
    euid: Unsigned
    suid: Unsigned
    permitted: Unsigned
    effective: Unsigned
    dumpable: Unsigned


@message(0x8F, "journal")
class TaskCloned(Message):
    """A thread: a task with the mm of ``pid``."""

    pid: Word
    tid: Word
    cpu: Unsigned
    client: Text


@message(0x9D, "journal")
class TaskRunsOn(Message):
    """The task has been put on another cpu."""

    pid: Word
    cpu: Unsigned


@message(0x90, "journal")
class VmFlagsSet(Message):
    """mlock, munlock: the vmas of these pages have these vm_flags."""

    pid: Word
    start: Unsigned
    end: Unsigned
    vm_flags: Unsigned


@message(0x91, "journal")
class PagesZapped(Message):
    """madvise: every entry of these pages is dropped, and the vmas stay."""

    pid: Word
    start: Unsigned
    end: Unsigned


@message(0x95, "journal")
class CpusetChanged(Message):
    """A cpuset is new, or has these cpus, mems and flags now."""

    path: Text
    cpus: tuple[Unsigned, ...]
    mems: Nodes
    flags: Unsigned


@message(0x96, "journal")
class CpusetRemoved(Message):
    """rmdir of a cpuset."""

    path: Text


@message(0x97, "journal")
class TaskAttached(Message):
    """The task is in this cpuset, may run on these cpus, and runs on this one."""

    pid: Word
    path: Text
    cpus: tuple[Unsigned, ...]
    cpu: Unsigned


@message(0x98, "journal")
class PoliciesRebound(Message):
    """The task's policy (``task`` 1), or those of the vmas of its mm, follow these nodes (K 5.15).

    ``preferred`` 1: PREFERRED does too.
    """

    pid: Word
    task: Unsigned
    preferred: Unsigned
    mems: Nodes


@message(0x99, "journal")
class FileCreated(Message):
    """A file and its empty page cache; ``mapping`` is the object of the cache."""

    mapping: Unsigned
    path: Text
    kind: Text
    pages: Unsigned
    writeback_seconds: float


@message(0x9A, "journal")
class FileUnlinked(Message):
    """The path leads to no file any more; a cache that no vma maps either is gone."""

    path: Text


@message(0x9B, "journal")
class PagesTagged(Message):
    """Pages of a cache have these tags, and no entry of theirs is dirty.

    ``writepages``: how often the file's writepage has been called by now.
    """

    mapping: Unsigned
    writepages: Unsigned
    index: U32
    tags: U8


@message(0x9C, "journal")
class DeviceSet(Message):
    """The device beneath a file behaves like this."""

    path: Text
    device: Unsigned


@message(0xAB, "journal")
class EpochBegan(Message):
    """A coordinator has started: what follows is its own."""

    epoch: Unsigned


@message(0x9E, "journal")
class ZoneKnown(Message):
    """The zone of this node has this UUID; the frames of another one are gone."""

    nid: Unsigned
    uuid: Text


@message(0xA0, "journal")
class PagesPoisoned(Message):
    """The contents of these frames are gone: who maps them has HWPOISON entries."""

    nid: Unsigned
    pfn: U32


@message(0xA1, "journal")
class MovesReverted(Message):
    """The new frames of a migration are gone before they were served: the old ones count again."""

    source: Unsigned
    target: Unsigned
    pfn: U32
    generation: U32
    target_pfn: U32


@message(0xA2, "journal")
class AllocationsCounted(Message):
    """numastat: pages of ``node`` were given where ``preferred`` was wanted (K 6.6)."""

    node: Unsigned
    preferred: Unsigned
    local: Unsigned
    interleave: Unsigned
    pages: Unsigned


@message(0xA3, "journal")
class MigrationCounted(Message):
    """A call of migrate_pages() has ended: its pages and its lines of the trace (K 6.11, 6.12)."""

    succeeded: Unsigned
    failed: Unsigned
    lines: tuple[Text, ...]


@message(0x9F, "journal")
class GranulesAllocated(Message):
    """Frames of whole granules of an uncached object; no entry maps them yet."""

    mapping: Unsigned
    nid: Unsigned
    index: U32
    pfn: U32
    generation: U32
