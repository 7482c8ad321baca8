"""System calls as messages, from plain node sets and page numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from protocol.syscalls import GetMempolicy, Mbind, MigratePages, MovePages, SetMempolicy
from protocol.user_mask import MASK_BYTES_MAX, MAXNODE, user_mask

#: What a caller has put into a status array, so that it is seen what was written.
PREFILL = -123


def as_nodes(nodes: int | Iterable[int]) -> tuple[int, ...]:
    """One node, or several."""
    return (nodes,) if isinstance(nodes, int) else tuple(nodes)


def migration(
    caller: int, pid: int, source: Iterable[int], target: Iterable[int], new_page: str = ""
) -> MigratePages:
    """migrate_pages(2) from nodes to nodes; ``new_page`` names a loaded new_page_t."""
    return MigratePages(caller, pid, MAXNODE, user_mask(source), user_mask(target), new_page)


def moving(
    pid: int,
    address: Iterable[int],
    nodes: Sequence[int] | None,
    flags: int = 0,
    caller: int = 0,
) -> MovePages:
    """move_pages(2) of byte addresses; without nodes a query."""
    places = np.array(list(address), np.uint64)
    wanted = np.array([] if nodes is None else nodes, np.int32)
    status = np.full(places.size, PREFILL, np.int32)
    return MovePages(caller, pid, places.size, flags, int(nodes is None), places, wanted, status)


def setting(pid: int, mode: int, nodes: Iterable[int] = ()) -> SetMempolicy:
    """set_mempolicy(2)."""
    return SetMempolicy(pid, mode, user_mask(nodes), MAXNODE)


def getting(pid: int, address: int = 0, flags: int = 0) -> GetMempolicy:
    """get_mempolicy(2) with a mask that is long enough."""
    return GetMempolicy(pid, MASK_BYTES_MAX, MAXNODE, address, flags)


def binding(
    pid: int, address: int, length: int, mode: int, nodes: Iterable[int] = (), flags: int = 0
) -> Mbind:
    """mbind(2)."""
    return Mbind(pid, address, length, mode, user_mask(nodes), MAXNODE, flags)
