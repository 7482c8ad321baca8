"""TABLE: what nodes are asked: number, who asks whom, typed fields, the answer, what it means.

What a client asks the coordinator is in ``syscalls.py``; how a message is declared, in
``schema.py``.  Numbers are never reused: a removed message leaves its number in
``schema.RETIRED``.  The generated table in ``docs/messages.md`` has both.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from protocol.schema import (
    I32,
    U8,
    U16,
    U32,
    Data,
    Message,
    Node,
    Text,
    Unsigned,
    Word,
    message,
)

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
    """Id, page size in bytes, frames in all and free, UUID of the zone.

    ``recovered`` 0: it waits for RecoverFrames, and answers little else until then.
    """

    nid: Node
    page_size: Unsigned
    frames: Unsigned
    free: Unsigned
    uuid: Text
    recovered: Annotated[int, Meta(ge=0, le=1)]


@message(0x12, "coordinator>node", answer="Done")
class MigratePrep(Message):
    """migrate_prep(): drain the pending LRU adds, so that their pages can be isolated (K 1.13)."""


@message(0x13, "coordinator>node", answer="Statuses")
class IsolateLruPage(Message):
    """isolate_lru_page(): take pages off the LRU and hold them; 0 or -EBUSY (K 1.16).

    ``drain`` 1: after migrate_prep().
    """

    pfn: U32
    generation: U32
    drain: Annotated[int, Meta(ge=0, le=1)] = 0


@message(0x14, "coordinator>node", answer="Statuses")
class PutbackLruPages(Message):
    """putback_lru_pages(): absolute: mapped, unlocked, not isolated, on the LRU (K 1.22)."""

    pfn: U32
    generation: U32


@message(0x15, "coordinator>node", answer="NewPageFrames")
class NewPages(Message):
    """Allocate a frame for each row.

    ``owner`` and ``index`` say for which object and at which page of it (page->mapping, ->index).
    ``mapped``: 1 = a first touch: zero it, it is mapped and pending for the active list at once;
    2 = the same for the inactive list; 0 = a migration target: contents come by LandPages, mapped
    by PutbackLruPages; 3 = the same for a copy that goes to the active list.  ``drain`` 1: after
    migrate_prep().
    """

    mapped: Annotated[int, Meta(ge=0, le=3)]
    owner: U32
    index: U32
    drain: Annotated[int, Meta(ge=0, le=1)] = 0


@message(0x16, "node>any")
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

    The frames stay isolated; with ``isolate`` 1 they are afterwards, whether they were or not.  A
    frame that has new_generation already answers OK.
    """

    transfer: Unsigned
    pfn: U32
    generation: U32
    new_generation: U32
    isolate: Annotated[int, Meta(ge=0, le=1)] = 0


@message(0x19, "coordinator>node", answer="Statuses")
class PutPages(Message):
    """put_page(): absolute: free.  An incarnation that is gone answers OK.

    Rights may have been taken away meanwhile, and the asker not know it: that is no reason to keep.
    """

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


@message(0x20, "client>node", answer="Statuses")
class IsolatePages(Message):
    """Play another isolate_lru_page(): off the LRU (1), or back on it (0), absolute.

    Pending LRU adds are drained first.  -EBUSY: somebody else has taken the page off (K 1.16).
    A client that dies has put back what it took.
    """

    pfn: U32
    generation: U32
    isolated: U8


@message(0x25, "coordinator>node", answer="NewPageFrames")
class NewUncachedPages(Message):
    """NewPages for memory without page structs: the frames are on no LRU, now or later (K 2.7).

    They cannot be isolated (-EBUSY); PutbackLruPages makes them mapped and unlocked, as others.
    """

    mapped: Annotated[int, Meta(ge=0, le=1)]
    owner: U32
    index: U32


@message(0x26, "coordinator>node", answer="RecoveredFrames")
class RecoverFrames(Message):
    """Of the frames ``first`` to ``end`` just these are in use: free all others (design 7).

    The first questions to a node that has opened its zone or heard of a new coordinator; it serves
    nobody before the ``last`` of them.  ``settle`` 1: the coordinator knows of nothing under way,
    so the frame is also mapped, unlocked and put back; if that was not true of it, or with
    ``revoke``, it gets the generation after the one that is named: rights to it may have been taken
    away, and the node not told.
    """

    first: Unsigned
    end: Unsigned
    last: Annotated[int, Meta(ge=0, le=1)]
    revoke: Annotated[int, Meta(ge=0, le=1)]
    pfn: U32
    generation: U32
    settle: U8


@message(0x27, "node>coordinator")
class RecoveredFrames(Message):
    """Status 0, or -ESTALE: the frame is lost; the generations now; how many were freed."""

    status: I32
    generation: U32
    freed: Unsigned


@message(0x2B, "coordinator>node", answer="NewPageFrames")
class TakePages(Message):
    """Few pages by one question: migrate_prep(), isolate_lru_page(), the page lock, and frames with
    the contents at the target by LandNewPages.

    Status 0: the contents are in that frame of ``target``, which no page maps yet, and the old one
    is isolated and locked.  Else there is no new frame: -ENOENT, not on the LRU, and left alone (K
    1.16); -EAGAIN, isolated, and locked or pinned by somebody else; -ENOMEM, isolated and locked,
    but the target has not frames for all.  -ENODEV: isolated and locked, and nobody knows whether
    the target has given a frame.  -EINVAL, in every row: the target is the node itself.
    """

    transfer: Unsigned
    target: Node
    pfn: U32
    generation: U32
    owner: U32
    index: U32


@message(0x2C, "coordinator>node", answer="Done")
class PutTransfer(Message):
    """put_page() of all that LandNewPages gave to this transfer; it is given nothing any more.

    For when nobody knows whether it was given something, and no page of it has moved.
    """

    transfer: Unsigned


# ---- a node asks a node --------------------------------------------------------------------


@message(0x30, "node>node", answer="Statuses")
class LandPages(Message):
    """Contents for frames that no page maps yet; -ESTALE if the generation is another by now.

    ``active``: PageActive, which goes with the contents (K 1.50).
    """

    transfer: Unsigned
    pfn: U32
    generation: U32
    active: U8
    data: Data


@message(0x38, "node>node", answer="NewPageFrames")
class LandNewPages(Message):
    """NewPages for migration targets, and LandPages into them, at one go: for all, or -ENOMEM.

    -EAGAIN: this transfer is given nothing any more (PutTransfer).
    """

    transfer: Unsigned
    owner: U32
    index: U32
    active: U8
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
