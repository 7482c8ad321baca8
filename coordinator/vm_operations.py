"""Registry: methods that a vma or its object has, by the name under which it was mapped.

``vm_ops->migrate`` is offered every migration of the mm before any page moves (K 2.1 - 2.7);
``a_ops->migratepage`` decides for the pages of one object whether they may be copied (K 1.47).
A mapping made with ``name="[fail_migrate_page]"`` has pages that never move (K 1.54).  A user's
file adds its own (extensions.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from coordinator import uncached
from coordinator.extensions import (
    Extensions,
    GuardedMigrate,
    GuardedMigratePage,
    GuardedNewPage,
)
from coordinator.memory import Memory
from coordinator.migrate import fail_migrate_page, migrate_page
from coordinator.mm import UNCACHED, MigratePageMethod, VmOperations
from protocol.topology import Topology

ADDRESS_SPACE_OPERATIONS: dict[str, MigratePageMethod] = {
    "[migrate_page]": migrate_page,
    "[fail_migrate_page]": fail_migrate_page,
}

VM_OPERATIONS: dict[str, VmOperations] = {
    UNCACHED: VmOperations(uncached.migrate),
}


def new_extensions(topology: Topology) -> Extensions:
    """What a user's file is given to register with: the names above are taken."""
    return Extensions(topology, frozenset({*ADDRESS_SPACE_OPERATIONS, *VM_OPERATIONS}))


def register(memory: Memory, vm_operations: Mapping[str, VmOperations]) -> None:
    """Give the machine these vm_operations, and the address-space methods that come with it."""
    memory.vm_operations.update({**VM_OPERATIONS, **vm_operations})
    memory.address_space_operations.update(ADDRESS_SPACE_OPERATIONS)


def register_extensions(memory: Memory, extensions: Extensions) -> None:
    """Give the machine what users' files registered."""
    for name, function in extensions.vm_operations.items():
        what = f"vm_ops->migrate of '{name}'"
        memory.vm_operations[name] = VmOperations(GuardedMigrate(what, memory, function))
    for name, function in extensions.address_spaces.items():
        what = f"a_ops->migratepage of '{name}'"
        method = GuardedMigratePage(what, memory, function)
        memory.address_space_operations[name] = method
    for name, function in extensions.new_pages.items():
        what = f"new_page '{name}'"
        memory.new_pages[name] = partial(GuardedNewPage, what, memory, function)
