"""What must hold after every event is seen to be broken, and the sentence says where."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from coordinator.inode import PageTag
from coordinator.invariants import check_memory
from coordinator.mem_map import PageFlag
from coordinator.mm import Pte, Vma
from tests.filing import PATH, create, touched
from tests.lab import Lab


@pytest.fixture
def sound() -> Lab:
    """Task 1 with private, shared and file memory, and its child; nobody looks at it afterwards."""
    lab = Lab()
    pid = lab.spawn()
    lab.mapped(pid, 3)
    lab.mapped(pid, 2, shared=True)
    create(lab)
    touched(lab, pid)
    lab.fork(pid)
    check_memory(lab.memory)
    return lab


def vma(lab: Lab, number: int = 0) -> Vma:
    return lab.memory.tasks[min(lab.memory.tasks)].mm.vmas[number]


def both_kinds_at_once(lab: Lab) -> None:
    vma(lab).bits[1] |= Pte.ENTRY


def an_entry_without_a_migration(lab: Lab) -> None:
    vma(lab).bits[1] ^= Pte.ENTRY | Pte.PRESENT


def an_entry_of_a_free_frame(lab: Lab) -> None:
    where = vma(lab)
    lab.memory.mem_map[where.nid[1]].flags[where.pfn[1]] &= np.uint8(~PageFlag.ALLOCATED & 0xFF)


def an_entry_of_another_frame(lab: Lab) -> None:
    vma(lab).pfn[1] = vma(lab, 1).pfn[0]


def an_entry_of_another_index(lab: Lab) -> None:
    vma(lab).pfn[1] = vma(lab).pfn[0]


def one_entry_too_many(lab: Lab) -> None:
    vma(lab).bits[1] &= np.uint8(~Pte.PRESENT & 0xFF)


def a_used_frame_too_few(lab: Lab) -> None:
    lab.memory.mem_map[0].used -= 1


def a_cached_page_of_another(lab: Lab) -> None:
    file = lab.memory.files[PATH]
    file.pfn[:2] = file.pfn[1::-1]


def an_entry_that_the_cache_has_not(lab: Lab) -> None:
    file = lab.memory.files[PATH]
    file.nid[3] = 255
    file.tags[3] = 0


def tags_of_no_page(lab: Lab) -> None:
    an_entry_that_the_cache_has_not(lab)
    lab.memory.files[PATH].tags[3] = PageTag.DIRTY


def an_object_that_nobody_reaches(lab: Lab) -> None:
    file = lab.memory.files.pop(PATH)
    assert file.host is not None
    file.host.linked = False
    for of_task in lab.memory.tasks.values():
        of_task.mm.vmas = [one for one in of_task.mm.vmas if one.file is not file]
    for nid, frames in lab.memory.mem_map.items():
        frames.mapcount[file.pfn[file.nid == nid]] = 0
    file.vmas.clear()


BROKEN = [
    (both_kinds_at_once, r"pid 1, vma at page 0x\w+: an entry is present and a migration entry"),
    (an_entry_without_a_migration, r"pid 1, vma at page 0x\w+: migration entries, but no migra"),
    (an_entry_of_a_free_frame, r"pid 1, vma at page 0x\w+: maps a free frame"),
    (an_entry_of_another_frame, r"pid 1, vma at page 0x\w+: maps another's frame"),
    (an_entry_of_another_index, r"pid 1, vma at page 0x\w+: maps a frame of another index"),
    (one_entry_too_many, r"node 0 frame \d+: mapcount 2, but 1 entries map it"),
    (a_used_frame_too_few, r"node 0: 13 frames are used, 12 counted"),
    (a_cached_page_of_another, r"object \d+: it caches a frame of another object or index"),
    (an_entry_that_the_cache_has_not, r"object \d+: an entry at 0x\w+ is not what the cache has"),
    (tags_of_no_page, r"object \d+: a page that is not there has tags"),
    (an_object_that_nobody_reaches, r"object \d+: nobody can reach it"),
]


@pytest.mark.parametrize(("damage", "sentence"), BROKEN, ids=lambda p: getattr(p, "__name__", ""))
def test_it_is_seen(sound: Lab, damage: Callable[[Lab], None], sentence: str) -> None:
    with pytest.raises(AssertionError) as error:
        damage(sound)
        check_memory(sound.memory)
    assert re.search(sentence, str(error.value))
