"""TABLE: memory hot-remove and hot-add, as the coordinator is asked for them."""

from __future__ import annotations

from protocol.schema import Message, Node, message


@message(0x21, "client>coordinator", answer="Done")
class OfflinePages(Message):
    """offline_pages(): give out no frame of the node any more, and move off what can be moved.

    Frames that are still in use, 0: the node is offline; ask again for those that could not be
    moved this time.  -EINVAL: there is no such node; -EBUSY: it is the last one.
    """

    nid: Node


@message(0x22, "client>coordinator", answer="Done")
class OnlinePages(Message):
    """online_pages(): frames of the node are given out again; 0 or -EINVAL."""

    nid: Node
