"""/proc/PID/numa_maps of the seed, token by token (K 6.1 - 6.3)."""

from __future__ import annotations

import numpy as np

from coordinator.inode import PageTag
from coordinator.memory import Memory
from coordinator.mm import Pte, Task, Vma
from coordinator.policy import effective_policy, policy_text


def numa_maps(memory: Memory, task: Task) -> str:
    """One line for each vma, in address order."""
    size = memory.topology.page_size
    return "".join(_line(memory, task, vma, size) + "\n" for vma in task.mm.vmas)


def _line(memory: Memory, task: Task, vma: Vma, page_size: int) -> str:
    tokens = [
        f"{vma.start * page_size:08x}",
        policy_text(effective_policy(task, vma), memory.profile),
    ]
    if vma.name.startswith("/"):
        tokens.append(f"file={_escape(_d_path(vma))}")
    elif vma.name in ("[heap]", "[stack]"):
        tokens.append(vma.name[1:-1])
    slot = vma.present()
    total = slot.size
    if not total:
        return " ".join(tokens)
    bits = vma.bits[slot]
    anon = int(np.count_nonzero(bits & Pte.ANON))
    tags = np.zeros(total, np.uint8)
    if vma.file is not None:
        tags = np.where(bits & Pte.ANON, tags, vma.file.tags[slot + vma.pgoff])
    dirty = int(np.count_nonzero((bits & Pte.DIRTY) | (tags & PageTag.DIRTY)))
    writeback = int(np.count_nonzero(tags & PageTag.WRITEBACK))
    mapmax = int(memory.mapcounts(vma.nid[slot], vma.pfn[slot]).max())
    if anon:
        tokens.append(f"anon={anon}")
    if dirty:
        tokens.append(f"dirty={dirty}")
    if total not in (anon, dirty):
        tokens.append(f"mapped={total}")
    if mapmax > 1:
        tokens.append(f"mapmax={mapmax}")
    if anon < total:
        tokens.append(f"active={anon}")
    if writeback:
        tokens.append(f"writeback={writeback}")
    nodes, counts = np.unique(vma.nid[slot], return_counts=True)
    tokens.extend(f"N{nid}={count}" for nid, count in zip(nodes, counts, strict=True))
    return " ".join(tokens)


def _d_path(vma: Vma) -> str:
    host = None if vma.file is None else vma.file.host
    return vma.name if host is None or host.linked else f"{vma.name} (deleted)"


def _escape(path: str) -> str:
    """As seq_path does it here: newlines, tabs, blanks and equals signs in octal, no backslash."""
    for character in "\n\t =":
        path = path.replace(character, f"\\{ord(character):03o}")
    return path
