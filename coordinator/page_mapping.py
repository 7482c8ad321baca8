"""page_mapping(): of which objects the pages of a list are, and what these objects say of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from coordinator.inode import PageTag
from coordinator.mem_map import Pfns, Rows, grouped
from coordinator.memory import Memory
from coordinator.mm import LOCKED, Mapping
from coordinator.pagelist import PageList
from coordinator.rows import portions, span


def objects_of(memory: Memory, pages: PageList, rows: Rows) -> tuple[Pfns, Pfns]:
    """Of which object these pages are, and which page of it each (page->mapping, ->index)."""
    owner = np.zeros(rows.size, np.uint32)
    index = np.zeros(rows.size, np.uint32)
    for source, mine in memory.by_node(pages.source[rows]):
        pfn = pages.pfn[rows[mine]]
        owner[mine] = memory.mem_map[source].mapping[span(pfn)]
        index[mine] = memory.mem_map[source].index[span(pfn)]
    return owner, index


def by_object(memory: Memory, pages: PageList, rows: Rows) -> Iterator[tuple[Mapping, Rows, Rows]]:
    """The objects of pages: (object, indexes, places in ``rows``); not those gone."""
    for source, mine in memory.by_node(pages.source[rows]):
        frames, pfn = memory.mem_map[source], pages.pfn[rows[mine]]
        for number, of_object in grouped(frames.mapping[span(pfn)]):
            mapping = memory.mappings.get(number)
            if mapping is not None:
                index = frames.index[pfn[of_object]].astype(np.intp)
                yield mapping, index, mine[of_object]


def has_files(memory: Memory, pages: PageList) -> bool:
    """Some page of the list is of a file."""
    return any(
        mapping.host is not None
        for rows in portions(pages.rows)
        for mapping, _, _ in by_object(memory, pages, rows)
    )


def has_mlocked(memory: Memory, mapping: Mapping) -> bool:
    """Whether try_to_unmap may refuse a page of this object (K 1.31)."""
    stay = memory.profile.mlocked_pages_stay
    return stay and any(int(vma.vm_flags) & LOCKED for vma in mapping.vmas)


def under_writeback(memory: Memory, pages: PageList, rows: Rows) -> npt.NDArray[np.bool_]:
    """Which of these pages are being written back (K 1.29)."""
    result = np.zeros(rows.size, np.bool_)
    for mapping, index, of_object in by_object(memory, pages, rows):
        if mapping.shared:
            result[of_object] = (mapping.tags[index] & PageTag.WRITEBACK) != 0
    return result
