"""``migration = off``: the stubs of include/linux/migrate.h for CONFIG_MIGRATION=n (K 0.3).

They are not uniformly -ENOSYS, and three of them are no functions at all: an object whose
migratepage is NULL simply has no such method.
"""

from __future__ import annotations

from coordinator.mm import Mm
from coordinator.pagelist import PageList

ENOSYS = 38


def isolate_lru_page(page: int, pagelist: PageList) -> int:
    """-ENOSYS; the page stays on its LRU."""
    return -ENOSYS


def putback_lru_pages(pagelist: PageList) -> int:
    """0: nothing was put back, as nothing can be isolated."""
    return 0


def migrate_pages(pagelist: PageList, get_new_page: object, private: object) -> int:
    """-ENOSYS; no page moves."""
    return -ENOSYS


def migrate_pages_to(pagelist: PageList, vma: object, dest: int) -> int:
    """0: a left-over of the header; its real twin was gone already."""
    return 0


def migrate_prep() -> int:
    """-ENOSYS."""
    return -ENOSYS


def migrate_vmas(
    mm: Mm, *, from_nodes: frozenset[int], to_nodes: frozenset[int], flags: int
) -> int:
    """-ENOSYS; no hook is called."""
    return -ENOSYS


migrate_page = None
fail_migrate_page = None
