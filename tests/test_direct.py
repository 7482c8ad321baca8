"""The quick way of a small access ends as the long one does, whatever the node answers."""

from __future__ import annotations

import errno

import numpy as np
import pytest

from numalab.orders import IndefiniteError, Load, Store
from protocol.messages import Done, LoadBytes, LoadedBytes, StoreBytes
from protocol.schema import Message
from protocol.syscalls import Fault
from tests.peers import PAGE, World, silent

PLACE = 4 * PAGE + 8


def cached() -> World:
    """The translation of page 4, on node 0, is known."""
    world = World()
    assert world.result(Store(1, 7, 0, PLACE, b"12345678")) is None
    return world


def test_a_cached_translation_is_one_question_of_one_row() -> None:
    world = cached()
    assert world.result(Load(2, 7, 0, PLACE, 8)) == b"12345678"
    assert world.result(Store(3, 7, 0, PLACE, b"abcdefgh")) is None
    assert world.result(Load(4, 7, 0, PLACE, 4)) == b"abcd"
    assert world.asked("coordinator", Fault) == 1
    assert (world.asked("node0", LoadBytes), world.asked("node0", StoreBytes)) == (2, 2)


def test_a_store_that_got_no_answer_is_indefinite() -> None:
    world = cached()
    world.peers["node0"].script = silent
    world.order(Store(2, 7, 0, PLACE, b"abcdefgh"))
    world.until(world.now + 20)
    assert isinstance(world.results[2], IndefiniteError)


def test_a_load_that_got_no_answer_faults_and_asks_again() -> None:
    world = cached()
    world.restart("node0", 2, world.node(0))
    assert world.result(Load(2, 7, 0, PLACE, 8)) == b"12345678"
    assert world.asked("coordinator", Fault) == 2


def test_a_page_that_is_shut_for_a_moment_is_asked_for_again() -> None:
    world = cached()
    world.refusing[4] = 1
    assert world.result(Store(2, 7, 0, PLACE, b"abcdefgh")) is None
    assert world.asked("coordinator", Fault) == 2
    assert world.result(Load(3, 7, 0, PLACE, 8)) == b"abcdefgh"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Done(-errno.EIO), errno.EIO),
        (LoadedBytes(np.zeros(1, np.int32), b"short"), errno.EIO),
        (LoadedBytes(np.zeros(2, np.int32), bytes(16)), errno.EIO),
    ],
)
def test_an_answer_that_is_none_fails_the_load(answer: Message, error: int) -> None:
    world = cached()
    world.peers["node0"].script = lambda _: answer
    world.order(Load(2, 7, 0, PLACE, 8))
    result = world.results[2]
    assert isinstance(result, OSError) and result.errno == error


@pytest.mark.parametrize(
    ("address", "length"), [(PLACE, PAGE), (PLACE, 0), (-8, 8), ((1 << 63) - 4, 8)]
)
def test_what_does_not_lie_in_one_page_goes_the_long_way(address: int, length: int) -> None:
    quick, slow = cached(), World()
    quick.order(Load(2, 7, 0, address, length))
    slow.order(Store(1, 7, 0, PLACE, b"12345678"))
    slow.order(Load(2, 7, 0, address, length))
    assert str(quick.results[2]) == str(slow.results[2])
