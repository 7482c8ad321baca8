"""Registry: methods that a vma or its object has, by the name under which it was mapped.

``vm_ops->migrate`` is offered every migration of the mm before any page moves (K 2.1 - 2.7);
``a_ops->migratepage`` decides for the pages of one object whether they may be copied (K 1.47).
A mapping made with ``name="[fail_migrate_page]"`` has pages that never move (K 1.54).
"""

from __future__ import annotations

from collections.abc import Mapping

from coordinator import uncached
from coordinator.memory import Memory
from coordinator.migrate import fail_migrate_page, migrate_page
from coordinator.mm import UNCACHED, MigratePageMethod, VmOperations

ADDRESS_SPACE_OPERATIONS: dict[str, MigratePageMethod] = {
    "[migrate_page]": migrate_page,
    "[fail_migrate_page]": fail_migrate_page,
}


VM_OPERATIONS: dict[str, VmOperations] = {
    UNCACHED: VmOperations(uncached.migrate),
}


def register(memory: Memory, vm_operations: Mapping[str, VmOperations]) -> None:
    """Give the machine these vm_operations, and the address-space methods that come with it."""
    memory.vm_operations.update({**VM_OPERATIONS, **vm_operations})
    memory.address_space_operations.update(ADDRESS_SPACE_OPERATIONS)
