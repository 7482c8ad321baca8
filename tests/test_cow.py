"""Copy-on-write while others look on: who has copied a page sees nothing of it any more."""

from __future__ import annotations

from protocol.messages import PutbackLruPages, SetGeneration
from protocol.syscalls import Fault, Translations
from tests.lab import READ, WRITE, Lab, pages_from


def test_the_last_who_maps_an_original_writes_to_it_only_when_nobody_is_served_from_it() -> None:
    lab = Lab()
    parent = lab.spawn()
    start = lab.mapped(parent, 1)
    child = lab.fork(parent)
    # A thread of the parent has the page cached for reading while another one copies it.
    cached = lab.fault(parent, start, access=READ)
    lab.hold_back(PutbackLruPages)
    copying = lab.start(Fault(parent, 0, WRITE, pages_from(start, 1)))
    lab.run()
    assert lab.held(PutbackLruPages)
    writing = lab.start(Fault(child, 0, WRITE, pages_from(start, 1)))
    assert lab.answer_to(writing) is None, "the parent is still served from the original"
    lab.let_pass(PutbackLruPages)
    copied, written = lab.answer_to(copying), lab.answer_to(writing)
    assert isinstance(copied, Translations) and isinstance(written, Translations)
    assert written.pfn.tolist() == cached.pfn.tolist() != copied.pfn.tolist()
    assert written.generation.tolist() != cached.generation.tolist()
    lab.validate()


def test_nobody_is_told_of_a_copy_while_others_are_served_from_its_original() -> None:
    lab = Lab()
    parent = lab.spawn()
    start = lab.mapped(parent, 1)
    child = lab.fork(parent)
    # One thread of the parent has the original cached for reading, two others want to write.
    cached = lab.fault(parent, start, access=READ)
    lab.hold_back(SetGeneration)
    copying = lab.start(Fault(parent, 0, WRITE, pages_from(start, 1)))
    lab.run()
    assert lab.held(SetGeneration)
    writing = lab.start(Fault(parent, 0, WRITE, pages_from(start, 1)))
    assert lab.answer_to(writing) is None, "what it stored would not be seen in the original"
    lab.let_go(SetGeneration)
    copied, written = lab.answer_to(copying), lab.answer_to(writing)
    assert isinstance(copied, Translations) and isinstance(written, Translations)
    assert written.pfn.tolist() == copied.pfn.tolist() != cached.pfn.tolist()
    assert lab.load(cached, 0)[0] != 0
    assert lab.exit(child) == 0
    lab.validate()
