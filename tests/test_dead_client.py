"""A client that dies lets go of everything: its tasks exit, and so do its locks and references."""

from __future__ import annotations

import numpy as np

from nodes.node import Node
from protocol.syscalls import Attach, Attached, Exit
from tests.calls import migration
from tests.lab import READ, Lab


def test_a_dead_client_s_page_lock_does_not_stop_a_migration_for_ever() -> None:
    # 1. The client holds the page lock of one page; a forced pass waits for it (K 1.28).
    lab = Lab(lease=5.0)
    survivor = lab.spawn()
    start = lab.mapped(survivor, 3)
    lab.ask(Attach(), Attached)
    victim = lab.spawn(leased=True)
    lab.hold_pages(lab.fault(survivor, start, access=READ), locked=1)
    lab.hold_pages(lab.fault(survivor, start + 1, access=READ), pinned=1)
    moving = lab.start(migration(0, survivor, (0,), (1,)))
    assert lab.answer_to(moving) is None
    # 2. Nobody hears of the client again.  Its lease runs out.
    lab.wait(6.0)
    # 3. The lock is let go, and the page goes; the reference is let go, and its page can go.
    assert lab.answer_to(moving) is not None
    assert lab.migrate(survivor, 0, 1) == 0
    assert lab.where(survivor, start, 3) == [1, 1, 1]
    assert lab.call(Exit(victim)) == -3
    lab.validate()


def test_what_a_client_let_go_itself_is_not_let_go_again_for_another() -> None:
    lab = Lab(lease=5.0)
    pid = lab.spawn()
    start = lab.mapped(pid, 1)
    lab.ask(Attach(), Attached)
    where = lab.fault(pid, start, access=READ)
    lab.hold_pages(where, pinned=1)
    lab.hold_pages(where)
    # Another one takes a reference of its own now.
    node = lab.cores["node0"]
    assert isinstance(node, Node)
    one, none = np.ones(1, np.uint8), np.zeros(1, np.uint8)
    assert not node._zone.hold(where.pfn, where.generation, none, one).any()
    lab.wait(6.0)
    assert lab.migrate(pid, 0, 1) == 1
