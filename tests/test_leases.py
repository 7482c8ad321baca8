"""Nodes that are leased: who comes is told which node it is, and memory is added by it."""

from __future__ import annotations

import errno

from coordinator.replay import differences, replay
from protocol.hotplug import LeaseNode, NodeLeased, OfflinePages
from protocol.messages import Describe
from protocol.notes import PeersTold
from protocol.syscalls import Attach, Attached, DescribeHardware, Hardware, Renew
from tests.crashes import CrashLab


def lease(lab: CrashLab, identity: str, address: str = "") -> NodeLeased:
    """The process with this identity comes; it takes questions at once."""
    answer = lab.ask(LeaseNode(identity, address or f"tcp://{identity}:7000"), NodeLeased)
    lab.wait(2.0)
    return answer


def nids(lab: CrashLab) -> list[int]:
    return list(lab.ask(DescribeHardware(), Hardware).nid.tolist())


def test_a_machine_begins_without_nodes_and_memory_comes_with_them() -> None:
    lab = CrashLab(leased=True)
    assert nids(lab) == []
    assert lease(lab, "first").nid == 0
    assert nids(lab) == [0]
    pid = lab.spawn()
    start = lab.mapped(pid, 4)
    assert lab.where(pid, start, 4) == [0] * 4
    second = lease(lab, "second")
    assert (second.value, second.nid, second.frames, second.page_size) == (0, 1, 256, 64)
    assert lab.migrate(pid, (0,), (1,)) == 0
    assert lab.where(pid, start, 4) == [1] * 4
    lab.validate()


def test_who_comes_again_is_the_same_node_wherever_it_listens() -> None:
    lab = CrashLab(leased=True)
    assert [lease(lab, name).nid for name in ("a", "b", "a")] == [0, 1, 0]
    assert lease(lab, "a", "tcp://elsewhere:7000").nid == 0
    attached = lab.ask(Attach(), Attached)
    assert dict(zip(attached.names, attached.addresses, strict=True)) == {
        "node0": "tcp://elsewhere:7000",
        "node1": "tcp://b:7000",
    }


def test_leases_are_in_the_journal() -> None:
    lab = CrashLab(leased=True)
    lease(lab, "a")
    lease(lab, "b")
    lab.recover()
    assert nids(lab) == [0, 1] and lease(lab, "b").nid == 1
    assert lease(lab, "c").nid == 2
    assert not list(differences(replay(lab.topology, lab.records), lab.memory))


def test_every_node_is_told_of_the_others_and_a_client_sees_that_there_are_more() -> None:
    lab = CrashLab(leased=True)
    lease(lab, "a")
    assert lab.call(Renew()) == 1
    lease(lab, "b")
    assert lab.call(Renew()) == 2
    lab.wait(5.0)
    told = [note for note in lab.noted(PeersTold) if len(note.names) == 2]
    # The coordinator's own transport, and both nodes.
    assert len(told) >= 3


def test_when_all_are_taken_only_an_empty_offline_one_that_is_away_is_given_again() -> None:
    lab = CrashLab(nodes=2, leased=True)
    lease(lab, "a")
    lease(lab, "b")
    assert lease(lab, "c").value == -errno.ENOSPC
    assert lab.call(OfflinePages(1)) == 0
    assert lease(lab, "c").value == -errno.ENOSPC, "it still answers"
    lab.hold_back(Describe, "node1")
    lab.wait(10.0)
    assert lease(lab, "c").nid == 1


def test_a_machine_whose_nodes_are_fixed_leases_none() -> None:
    assert lease(CrashLab(), "a").value == -errno.EPERM


def test_a_lease_is_for_somebody_somewhere() -> None:
    lab = CrashLab(leased=True)
    for nobody in (LeaseNode("", "tcp://a:1"), LeaseNode("a", "")):
        assert lab.ask(nobody, NodeLeased).value == -errno.EINVAL
