"""A file as the page cache knows it: its inode, its device, what is true of its pages."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag

from protocol.values import at_hand

#: Bytes of a path with its end.
PATH_MAX = 4096


@at_hand
class PageTag(IntFlag):
    """What is true of a page of a page cache, whichever frame it is in (PageDirty and so on).

    Tags belong to the index, as those of the kernel's radix tree: a page that moves keeps them
    (K 1.50).
    """

    DIRTY = 1
    WRITEBACK = 2
    #: It has buffers, and its refcount counts them (K 1.48).
    PRIVATE = 4


@at_hand
class Device(IntFlag):
    """How the device beneath a file behaves, for as long as the flag is set."""

    #: Writeback that starts now ends when the flag is cleared.
    HOLD_WRITEBACK = 1
    FAIL_WRITEPAGE = 2
    #: try_to_release_page() refuses.
    KEEP_BUFFERS = 4
    LOCK_BUFFERS = 8


@dataclass(eq=False, slots=True)
class Inode:
    """struct inode: a file that was created by name.  ``kind``: see address_space.py."""

    path: str
    kind: str
    #: Its pages get buffers (PagePrivate).
    buffers: bool
    writeback_seconds: float = 0.0
    linked: bool = True
    device: Device = Device(0)
    #: How often writepage was called.
    writepages: int = 0
