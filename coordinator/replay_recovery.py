"""The journal read back: starts of coordinators, zones, and what was lost with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coordinator.hotplug_records import NodeLet, NodeOnline
from coordinator.mem_map import PageFlag
from coordinator.memory import Memory
from coordinator.poison import poison
from coordinator.records import (
    EpochBegan,
    MovesReverted,
    PagesPoisoned,
    ZoneKnown,
)
from protocol.schema import Message


def _epoch_began(memory: Memory, entry: EpochBegan) -> None:
    memory.epoch = entry.epoch


def _zone_known(memory: Memory, entry: ZoneKnown) -> None:
    memory.zones[entry.nid] = entry.uuid


def _pages_poisoned(memory: Memory, entry: PagesPoisoned) -> None:
    poison(memory, entry.nid, entry.pfn)


def _moves_reverted(memory: Memory, entry: MovesReverted) -> None:
    old, new = memory.mem_map[entry.source], memory.mem_map[entry.target]
    # A snapshot leaves out frames that nothing names.
    gone = ~old.test(entry.pfn, PageFlag.ALLOCATED)
    columns = new.mapping[entry.target_pfn[gone]], new.index[entry.target_pfn[gone]]
    old.allocate(entry.pfn[gone], entry.generation[gone], *columns, PageFlag.ALLOCATED)
    memory.try_to_unmap(entry.target, entry.target_pfn)
    memory.remove_migration_ptes(entry.target, entry.target_pfn, entry.source, entry.pfn)


def _node_online(memory: Memory, entry: NodeOnline) -> None:
    mine = frozenset({entry.nid})
    memory.offline = memory.offline - mine if entry.online else memory.offline | mine


def _node_let(memory: Memory, entry: NodeLet) -> None:
    memory.leases = {**(memory.leases or {}), entry.nid: entry}


#: What ``replay.py`` applies of each of these entries.
RECOVERY_ENTRIES: dict[type[Message], Callable[[Memory, Any], None]] = {
    EpochBegan: _epoch_began,
    ZoneKnown: _zone_known,
    PagesPoisoned: _pages_poisoned,
    MovesReverted: _moves_reverted,
    NodeOnline: _node_online,
    NodeLet: _node_let,
}
