"""TABLE: memory hot-remove and hot-add, as the coordinator is asked for them."""

from __future__ import annotations

from protocol.schema import Message, Node, Text, Unsigned, Word, message


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


@message(0x28, "client>coordinator", answer="NodeLeased")
class LeaseNode(Message):
    """A process that wants to be a node: which one?

    ``identity`` is its own for ever: whoever comes again with it is the same node.  ``address``:
    where it will take questions.  -EPERM: nodes are not leased here; -EINVAL: one of them is empty;
    -ENOSPC: every node is leased.
    """

    identity: Text
    address: Text


@message(0x29, "coordinator>client")
class NodeLeased(Message):
    """0 or -errno; the node, its frames, and the size of a page in bytes."""

    value: Word
    nid: Node
    frames: Unsigned
    page_size: Unsigned


@message(0x2A, "coordinator>node", answer="Done", idempotent=True)
class PeersAre(Message):
    """These are the nodes that there are, and where they take questions."""

    names: tuple[Text, ...]
    addresses: tuple[Text, ...]
