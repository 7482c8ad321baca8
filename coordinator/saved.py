"""TABLE: entries of the journal that only a snapshot has: what memory is, not what became of it.

``coordinator/snapshot.py`` writes them, ``replay_snapshot.py`` reads them back.  What an entry of
``records.py`` says as well is said by that.
"""

from __future__ import annotations

from protocol.schema import U8, U32, U64, Message, Nodes, Text, Unsigned, Word, message


@message(0xA4, "journal")
class CountersSaved(Message):
    """A snapshot begins: the numbers given next, the events counted, and the trace.

    The columns are those of numastat, a row for each nid.
    """

    next_mapping: Unsigned
    next_pid: Unsigned
    next_anon_vma: Unsigned
    pgmigrate_success: Unsigned
    pgmigrate_fail: Unsigned
    trace_next: Unsigned
    lines: tuple[Text, ...]
    numa_hit: U64
    numa_miss: U64
    numa_foreign: U64
    interleave_hit: U64
    local_node: U64
    other_node: U64


@message(0xA5, "journal")
class MappingSaved(Message):
    """An object: an anon_vma (``shared`` 0), or one with a cache of ``pages`` pages.

    With a ``path`` it is a file's, and the path leads to it while it is ``linked``.
    """

    mapping: Unsigned
    shared: Unsigned
    pages: Unsigned
    path: Text
    kind: Text
    writeback_seconds: float
    linked: Unsigned
    device: Unsigned
    writepages: Unsigned


@message(0xA6, "journal")
class PagesCached(Message):
    """Pages of an object's cache: their frames and their tags."""

    mapping: Unsigned
    index: U32
    nid: U8
    pfn: U32
    generation: U32
    tags: U8


@message(0xA7, "journal")
class SharedPolicySet(Message):
    """Pages ``start`` .. ``end`` of a shared object have this policy."""

    mapping: Unsigned
    start: Unsigned
    end: Unsigned
    mode: Unsigned
    nodes: Nodes
    flags: Unsigned
    user_nodes: tuple[Unsigned, ...]
    mems_allowed: Nodes
    home_node: Word


@message(0xA8, "journal")
class VmaSaved(Message):
    """A vma without its entries; ``file`` is the object whose cache it reads, 0 for none.

    ``opened_pid``, ``opened_start``: the first vma with the same struct file, which may be itself.
    The columns of its policy are those of the other entries; mode 0: none.
    """

    pid: Word
    start: Unsigned
    end: Unsigned
    prot: Unsigned
    map_flags: Unsigned
    name: Text
    pgoff: Unsigned
    mapping: Unsigned
    file: Unsigned
    opened_pid: Word
    opened_start: Unsigned
    vm_flags: Unsigned
    anon_vma: Unsigned
    anon_root: Unsigned
    mode: Unsigned
    nodes: Nodes
    flags: Unsigned
    user_nodes: tuple[Unsigned, ...]
    mems_allowed: Nodes
    home_node: Word


@message(0xA9, "journal")
class EntriesSaved(Message):
    """Entries of one vma.  Without PRESENT the zero page is mapped, and there is no frame."""

    pid: Word
    page: U64
    nid: U8
    pfn: U32
    generation: U32
    bits: U8


@message(0xAA, "journal")
class CachePoisoned(Message):
    """The contents of these pages of an object's cache are gone."""

    mapping: Unsigned
    index: U32
