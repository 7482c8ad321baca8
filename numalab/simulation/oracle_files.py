"""move_to_new_page() in straight lines: what the methods of a file say (K 1.47 to 1.57)."""

from __future__ import annotations

import errno

from numalab.simulation.oracle_machine import File, Machine, Page


def move_to_new_page(machine: Machine, page: Page) -> int:
    """The page is locked and no entry names it: 0 (it may be copied) or -errno."""
    if page.file is not None:
        machine.met.add(page.file.kind)
    if page.refusal:
        machine.met.add("fail_migrate_page")
        return page.refusal
    if page.file is None or page.file.kind in ("shmem", "ext3"):
        return migrate_page(page)
    if page.file.kind == "xfs-metadata":
        return -errno.EIO
    return fallback_migrate_page(machine, page, page.file)


def migrate_page(page: Page) -> int:
    """Somebody else has a reference: not now (K 1.48)."""
    return -errno.EAGAIN if page.pins else 0


def fallback_migrate_page(machine: Machine, page: Page, file: File) -> int:
    """Dirty: written first, or in 6.1 not moved at all; else without its buffers (K 1.55)."""
    if page.dirty:
        machine.met.add("dirty")
        return -errno.EBUSY if machine.modern else writeout(page, file)
    if page.private:
        machine.met.add("buffers")
        if file.keeps:
            return -errno.EAGAIN
        page.private = False
    return migrate_page(page)


def writeout(page: Page, file: File) -> int:
    """Writeback that has begun is tried again; no writepage and a failing one are for good."""
    if file.kind == "ramfs":
        return -errno.EINVAL
    if file.fails:
        return -errno.EIO
    page.dirty, page.writeback = False, file.slow
    return -errno.EAGAIN
