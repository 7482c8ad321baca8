"""TABLE: what a client asks the coordinator about memory policies, beyond the three old calls.

As ``messages.py``, which has the rest.
"""

from __future__ import annotations

from protocol.schema import I32, U32, Message, Unsigned, Word, message


@message(0x74, "client>coordinator", answer="Done")
class SetMempolicyHomeNode(Message):
    """set_mempolicy_home_node(2) of a task: bytes, the node to start at, flags 0 (K 5.9)."""

    pid: Word
    address: Unsigned
    length: Unsigned
    home_node: Unsigned
    flags: Unsigned


@message(0x75, "client>coordinator", answer="Done")
class SetInterleaveWeight(Message):
    """A write to weighted_interleave/nodeN: pages of a round that go to the node (K 5.8)."""

    node: Unsigned
    weight: Unsigned


@message(0x76, "client>coordinator", answer="InterleaveWeights", idempotent=True)
class DescribeInterleaveWeights(Message):
    """What weighted_interleave/nodeN read (K 5.8)."""


@message(0x77, "coordinator>client")
class InterleaveWeights(Message):
    """0 or -ENOENT: there are no such files; a row for each node."""

    value: Word
    nid: I32
    weight: U32
