"""A node that does not answer any more: calls that would need it say so, the others go on."""

from __future__ import annotations

import errno

import pytest

from protocol.codec import Envelope
from protocol.core import Frames
from protocol.notes import NodeLost, NodeUp
from protocol.schema import Message, node_name
from tests.lab import Lab


class Cuttable(Lab):
    """A lab whose nodes can be cut off: nothing reaches them."""

    gone: str = ""

    def _deliver(
        self, envelope: Envelope, message: Message | None, target: str, frames: Frames
    ) -> None:
        if target != self.gone:
            super()._deliver(envelope, message, target, frames)

    def validate_cores(self) -> None:
        for core in self.cores.values():
            core.validate()


def lab_that_lost(nid: int) -> tuple[Cuttable, int, int]:
    """A task with four pages on node 0, and then node ``nid`` is cut off."""
    lab = Cuttable(heartbeat=1.0)
    pid = lab.spawn()
    start = lab.mapped(pid, 4)
    lab.gone = node_name(nid)
    lab.wait(10.0)
    assert [note.node for note in lab.noted(NodeLost)] == [nid]
    return lab, pid, start


def test_migrating_to_a_lost_node_is_enodev_and_moves_nothing() -> None:
    lab, pid, start = lab_that_lost(2)
    assert lab.migrate(pid, 0, 2) == -errno.ENODEV
    assert lab.move(pid, [start], [2]).value == -errno.ENODEV
    assert lab.where(pid, start, 4) == [0] * 4
    lab.validate_cores()


def test_migrating_from_a_lost_node_is_enodev() -> None:
    lab, pid, _ = lab_that_lost(0)
    assert lab.migrate(pid, 0, 1) == -errno.ENODEV


def test_the_other_nodes_go_on_without_it() -> None:
    lab, pid, start = lab_that_lost(2)
    assert lab.migrate(pid, 0, 1) == 0
    assert lab.where(pid, start, 4) == [1] * 4
    # The cpu of the lost node allocates on the next node of its zonelist.
    other = lab.mapped(pid, 1, cpu=2)
    assert lab.where(pid, other) != [2]
    lab.validate_cores()


def test_a_lost_node_that_answers_again_takes_pages_again() -> None:
    lab, pid, start = lab_that_lost(2)
    lab.gone = ""
    lab.wait(10.0)
    assert lab.noted(NodeUp)[-1].node == 2
    assert lab.migrate(pid, 0, 2) == 0
    assert lab.where(pid, start, 4) == [2] * 4
    lab.validate()


@pytest.mark.parametrize("seconds", [0.4, 3.0, 30.0])
def test_a_node_that_is_late_is_found_in_a_tenth_of_the_time_that_it_took(seconds: float) -> None:
    """Whoever starts a machine waits for the last node, and for the coordinator to see it."""

    class Late(Cuttable):
        gone = "node2"

    lab = Late(heartbeat=1.0)
    lab.wait(seconds)
    assert 2 not in [note.node for note in lab.noted(NodeUp)]
    lab.gone = ""
    lab.wait(max(0.1, seconds / 10) + 0.05)
    assert [note.node for note in lab.noted(NodeUp)].count(2) == 1
    lab.validate_cores()
