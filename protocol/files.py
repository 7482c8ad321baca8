"""TABLE: what a client asks about files.  As ``messages.py``, which has the rest."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from protocol.schema import Message, Text, Unsigned, message


@message(0x7C, "client>coordinator", answer="Done")
class CreateFile(Message):
    """A file of so many pages with an empty page cache; 0 or -errno.

    ``kind``: its address_space_operations (coordinator/address_space.py).  ``writeback_seconds``:
    how long a page is under writeback.
    """

    path: Text
    pages: Unsigned
    kind: Text
    writeback_seconds: float


@message(0x7D, "client>coordinator", answer="Done")
class Unlink(Message):
    """unlink(2): 0 or -errno; the page cache goes when nobody maps it any more."""

    path: Text


@message(0x7E, "client>coordinator", answer="Done")
class SetDevice(Message):
    """Absolute: how the device beneath a file behaves (Device in coordinator/mm.py); 0 or -errno.

    1 writeback does not end, 2 writepage fails, 4 buffers are not released, 8 buffers are locked.
    ``sync`` 1: then writeback of all its dirty pages starts.
    """

    path: Text
    device: Unsigned
    sync: Annotated[int, Meta(ge=0, le=1)]


@message(0x7F, "client>coordinator", answer="Description", idempotent=True)
class DescribeFile(Message):
    """A file's kind, pages cached, dirty and so on, calls of writepage: lines of text."""

    path: Text
