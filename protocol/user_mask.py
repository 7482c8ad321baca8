"""Node masks as a program passes them to a system call: a length in bits, and bytes at a pointer.

A mask is None for the NULL pointer.  Bytes that are not there are memory that cannot be read or
written: -EFAULT for the call that needs them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from msgspec import Meta

from protocol.nodemask import NodeListError, NodeSet

EFAULT, EINVAL = 14, 22
#: MAX_NUMNODES of a distribution's kernel; our node numbers end at 254.
MAX_NUMNODES = 1024
#: What to pass as ``maxnode`` so that every node can be named: the kernel reads one bit less.
MAXNODE = MAX_NUMNODES + 1
#: The kernel's page, whatever size our pages have: a mask has no more bytes than one (K 4.3).
MASK_BYTES_MAX = 4096
WORD_BITS = 64

#: Bytes at the pointer of a mask; None: NULL.
UserMask = Annotated[bytes, Meta(max_length=2 * MASK_BYTES_MAX)] | None


def user_mask(nodes: Iterable[int]) -> bytes:
    """A mask of MAX_NUMNODES bits with these nodes set.  Raises NodeListError."""
    bits = 0
    for nid in nodes:
        if not 0 <= nid < MAX_NUMNODES:
            raise NodeListError(
                f"There is no node {nid}: give numbers of nodes from 0 to {MAX_NUMNODES - 1}."
            )
        bits |= 1 << nid
    return bits.to_bytes(MAX_NUMNODES // 8, "little")


def nodes_of(mask: bytes) -> NodeSet:
    """The numbers of the bits that are set."""
    return tuple(_set_bits(int.from_bytes(mask, "little")))


def _set_bits(bits: int) -> list[int]:
    return [nid for nid in range(bits.bit_length()) if bits >> nid & 1]


def _get_word(mask: bytes, at: int) -> int | None:
    """The ``at``-th word of 64 bits; None if it cannot be read."""
    word = mask[at * 8 : at * 8 + 8]
    return int.from_bytes(word, "little") if len(word) == 8 else None


def get_nodes(maxnode: int, mask: bytes | None, *, from_the_end: bool) -> frozenset[int] | int:
    """get_nodes() of mm/mempolicy.c: the set that is meant, or -EINVAL, -EFAULT (K 4.1 - 4.3).

    from_the_end: words that are beyond MAX_NUMNODES are looked at from the last one down.
    """
    if maxnode == 1 or mask is None:
        return frozenset()
    bits = maxnode - 1
    if not 0 < bits <= MASK_BYTES_MAX * 8:
        return -EINVAL
    words = -(-bits // WORD_BITS)
    known = MAX_NUMNODES // WORD_BITS
    beyond = range(known, words)
    for at in reversed(beyond) if from_the_end else beyond:
        word = _get_word(mask, at)
        if word is None:
            return -EFAULT
        if word & ((1 << min(bits - at * WORD_BITS, WORD_BITS)) - 1):
            return -EINVAL
    wanted = min(words, known) * 8
    if len(mask) < wanted:
        return -EFAULT
    return frozenset(_set_bits(int.from_bytes(mask[:wanted], "little") & ((1 << bits) - 1)))


def copy_nodes_to_user(nodes: Iterable[int], maxnode: int, room: int) -> bytes | int:
    """What copy_nodes_to_user() writes for a caller that has ``room`` bytes at the pointer.

    Whole words, zero beyond the kernel's own width (K 4.4); -EINVAL for more than a page, -EFAULT
    if the room ends before.
    """
    size = -(-(maxnode - 1) // WORD_BITS) * 8
    if size > MASK_BYTES_MAX:
        return -EINVAL
    return user_mask(nodes)[:size].ljust(size, b"\0") if room >= size else -EFAULT
