"""TABLE: entries of the journal about which nodes there are (hotplug.py, leases.py)."""

from __future__ import annotations

from protocol.schema import Message, Text, Unsigned, message


@message(0xB0, "journal")
class NodeOnline(Message):
    """Whether frames of this node are given out (1) or not (0)."""

    nid: Unsigned
    online: Unsigned


@message(0xAC, "journal")
class NodeLet(Message):
    """The node is that of the process with this identity, which takes questions there."""

    nid: Unsigned
    identity: Text
    address: Text
