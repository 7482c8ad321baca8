"""A frame that nothing names any more is freed, whoever has given it a generation meanwhile."""

from __future__ import annotations

from coordinator.mm import UNCACHED
from protocol.messages import PutPages, SetGeneration
from protocol.syscalls import Exit
from tests.crashes import RECOVERY_SECONDS, CrashLab

THERE = 1


def test_a_node_that_comes_back_gives_generations_and_no_frame_of_an_exit_is_left() -> None:
    # Memory without page structs has a new generation when its node has restarted.
    lab = CrashLab()
    first = lab.spawn(cpu=THERE)
    start = lab.mmap(first, 16, shared=True, name=UNCACHED)
    last = lab.fork(first)
    assert not lab.fault(first, start, 16, cpu=THERE).status.any()
    lab.mapped(last, 1, cpu=THERE)
    # The first exit leaves the pages to the other task, and tells the node.
    lab.hold_back(SetGeneration)
    lab.start(Exit(first))
    lab.run()
    # The last one frees a page of its own, and waits for those that the first still holds.
    lab.hold_back(PutPages)
    lab.start(Exit(last))
    lab.run()
    lab.let_go(SetGeneration)
    lab.restart(THERE)
    lab.wait(RECOVERY_SECONDS)
    lab.let_go(PutPages)
    lab.wait(RECOVERY_SECONDS)
    assert lab.free() == [256] * 4
    lab.validate()
