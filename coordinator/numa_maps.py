"""/proc/PID/numa_maps, token by token (K 6.1 - 6.3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from coordinator.calls import Ask, Steps, ask_all
from coordinator.inode import PageTag
from coordinator.mem_map import Nids, Pfns, Rows
from coordinator.memory import Memory
from coordinator.mm import Mm, Pte, Task, Vma, VmFlag
from coordinator.poison import poisoned_pages
from coordinator.policy import effective_policy, policy_text
from coordinator.rmap import mlocked
from protocol.messages import Statuses
from protocol.observe import PageActive
from protocol.schema import node_name

#: What a message may have of the text, and what a line has at most beside its path.
TEXT_BYTES, _LINE_BYTES = 1 << 20, 8192


def fitting(mm: Mm, start: int) -> tuple[list[Vma], int]:
    """The vmas from page ``start`` on whose lines fit into an answer; where to go on, 0: nowhere.

    As seq_file(5) has it: whoever reads it in several pieces may see a change in between.
    """
    vmas: list[Vma] = []
    left = TEXT_BYTES
    for vma in mm.vmas:
        if vma.end <= start:
            continue
        # One byte of a path is four of an escape at most.
        left -= _LINE_BYTES + 4 * len(vma.name.encode())
        if left < 0 and vmas:
            return vmas, vma.start
        vmas.append(vma)
    return vmas, 0


def numa_maps(memory: Memory, task: Task, vmas: Sequence[Vma]) -> Steps[str]:
    """One line for each of these vmas, in address order.

    Which pages are active their nodes say, all others count as active while a node is lost.
    """
    present = [(vma, _pages(vma)) for vma in vmas]
    lines = [_Line(memory, task, vma, slot) for vma, slot in present]
    nid = np.concatenate([np.zeros(0, np.uint8), *(vma.nid[slot] for vma, slot in present)])
    pfn = np.concatenate([np.zeros(0, np.uint32), *(vma.pfn[slot] for vma, slot in present)])
    inactive = yield from _inactive(memory, nid, pfn)
    ends = np.cumsum([slot.size for _, slot in present])
    return "".join(
        f"{line.text(int(np.count_nonzero(inactive[end - line.total : end])))}\n"
        for line, end in zip(lines, ends, strict=True)
    )


def _pages(vma: Vma) -> Rows:
    """Slots of the pages that are present; those without page structs are none to it (K 1.15)."""
    present = vma.present()
    return present[:0] if vma.vm_flags & VmFlag.PFNMAP else present


def _inactive(memory: Memory, nid: Nids, pfn: Pfns) -> Steps[npt.NDArray[np.bool_]]:
    """Which of these frames do not count as active."""
    inactive = np.zeros(pfn.size, np.bool_)
    parts = [part for part in memory.by_node(nid) if part[0] not in memory.lost]
    answers = yield from ask_all(
        [Ask(node_name(node), PageActive(pfn[rows])) for node, rows in parts]
    )
    for (_, rows), answer in zip(parts, answers, strict=True):
        assert isinstance(answer, Statuses)
        inactive[rows] = answer.status == 0
    if memory.profile.mlocked_is_active:
        inactive &= ~mlocked(memory, nid, pfn)
    return inactive


class _Line:
    """What a vma was when the file was opened; ``text`` when the nodes have answered."""

    def __init__(self, memory: Memory, task: Task, vma: Vma, slot: Rows) -> None:
        self._page_size = memory.topology.page_size
        self._ends_with_page_size = memory.profile.numa_maps_page_size
        self.total = slot.size
        self._head = [
            f"{vma.start * self._page_size:08x}",
            policy_text(effective_policy(task, vma), memory.profile),
        ]
        if vma.name.startswith("/"):
            self._head.append(f"file={_escape(_d_path(vma))}")
        elif vma.name in ("[heap]", "[stack]"):
            self._head.append(vma.name[1:-1])
        if memory.poisoned and (lost := poisoned_pages(vma)):
            # No kernel says so: who looks at a machine that lost a node wants to know.
            self._head.append(f"hwpoison={lost}")
        if self.total:
            self._count(memory, vma, slot)

    def _count(self, memory: Memory, vma: Vma, slot: Rows) -> None:
        bits = vma.bits[slot]
        anon = int(np.count_nonzero(bits & Pte.ANON))
        tags = np.zeros(self.total, np.uint8)
        if vma.file is not None:
            tags = np.where(bits & Pte.ANON, tags, vma.file.tags[slot + vma.pgoff])
        dirty = int(np.count_nonzero((bits & Pte.DIRTY) | (tags & PageTag.DIRTY)))
        writeback = int(np.count_nonzero(tags & PageTag.WRITEBACK))
        mapmax = int(memory.mapcounts(vma.nid[slot], vma.pfn[slot]).max())
        if anon:
            self._head.append(f"anon={anon}")
        if dirty:
            self._head.append(f"dirty={dirty}")
        if self.total not in (anon, dirty):
            self._head.append(f"mapped={self.total}")
        if mapmax > 1:
            self._head.append(f"mapmax={mapmax}")
        self._tail = [f"writeback={writeback}"] if writeback else []
        nodes, counts = np.unique(vma.nid[slot], return_counts=True)
        self._tail += [f"N{nid}={count}" for nid, count in zip(nodes, counts, strict=True)]

    def text(self, inactive: int) -> str:
        """The line; inactive: how many of its pages are."""
        if not self.total:
            return " ".join(self._head)
        active = [f"active={self.total - inactive}"] if inactive else []
        size = [f"kernelpagesize_kB={self._page_size >> 10}"] * self._ends_with_page_size
        return " ".join([*self._head, *active, *self._tail, *size])


def _d_path(vma: Vma) -> str:
    host = None if vma.file is None else vma.file.host
    return vma.name if host is None or host.linked else f"{vma.name} (deleted)"


def _escape(path: str) -> str:
    """As seq_path does it here: newlines, tabs, blanks and equals signs in octal, no backslash."""
    for character in "\n\t =":
        path = path.replace(character, f"\\{ord(character):03o}")
    return path
