"""Changes of a mapping that is just being made, of which nobody knows yet where it will be."""

from __future__ import annotations

import errno

import pytest

from numalab.rights import PROT_READ, PROT_WRITE
from tests.test_checker import AT, PAGE, Machine

RW = PROT_READ | PROT_WRITE


@pytest.mark.parametrize("answered_first", [True, False])
def test_a_protection_that_races_a_mapping_may_be_that_of_the_mapping(
    answered_first: bool,
) -> None:
    machine = Machine()
    machine.unmap(1)
    mapping = machine.begin("map", 1, 0, length=PAGE, prot=RW)
    protecting = machine.begin("protect", 1, length=PAGE, prot=PROT_READ)
    if answered_first:
        machine.end(protecting)
        machine.end(mapping, value=AT)
    else:
        machine.end(mapping, value=AT)
        machine.end(protecting)
    machine.store(1, 5, errno.EACCES)
    assert machine.blamed == ""
    machine.end(machine.begin("protect", 1, length=PAGE, prot=RW))
    machine.store(1, 6, errno.EACCES)
    assert "said EACCES where the protection allowed it" in machine.blamed


def test_an_unmapping_that_races_a_mapping_may_have_taken_it_away() -> None:
    machine = Machine()
    machine.unmap(1)
    mapping = machine.begin("map", 1, 0, length=PAGE, prot=RW)
    unmapping = machine.begin("unmap", 1, length=PAGE)
    machine.end(mapping, value=AT)
    machine.end(unmapping)
    machine.load(1, 0, errno.EFAULT)
    assert machine.blamed == ""
