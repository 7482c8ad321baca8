"""Pages of shared objects while they are on the move: who has not mapped them yet must wait."""

from __future__ import annotations

from protocol.messages import CopyPages
from protocol.syscalls import Fault, Translations
from tests.calls import migration
from tests.lab import READ, Lab, pages_from


def test_a_second_mapper_of_a_page_under_migration_waits_for_its_new_place() -> None:
    # 1. A page of a shared object is mapped by the parent alone; the child has the vma, no entry.
    lab = Lab()
    parent = lab.spawn()
    start = lab.mapped(parent, 1, shared=True)
    child = lab.fork(parent)
    lab.write(parent, start, 7)
    # 2. The page is being copied when the child touches it for the first time.
    lab.hold_back(CopyPages)
    moving = lab.start(migration(0, parent, (0,), (1,)))
    lab.run()
    assert len(lab.held(CopyPages)) == 1
    touching = lab.start(Fault(child, 0, READ, pages_from(start, 1)))
    # 3. The child must not get an entry for the frame that is being left.
    assert lab.answer_to(touching) is None
    lab.let_go(CopyPages)
    assert lab.answer_to(moving) is not None
    found = lab.answer_to(touching)
    assert isinstance(found, Translations)
    assert list(found.nid) == [1]
    assert lab.read(child, start) == 7
    lab.validate()
