"""A machine is described in TOML; what comes out is a machine or one sentence about the mistake."""

from __future__ import annotations

import random

import pytest

from protocol.core import ConfigurationError
from protocol.topology import (
    Topology,
    TopologyNode,
    format_size,
    parse_size,
    uniform_distances,
)
from protocol.topology_text import format_topology, parse_topology

TWO_NODES = """
page_size = 4096
distances = [[10, 21], [22, 10]]

[[node]]
id = 0
memory = "256M"
cpus = "0-1,4"

[[node]]
id = 5
memory = 8192
cpus = ""
"""


def test_a_described_machine_is_what_was_described() -> None:
    machine = parse_topology(TWO_NODES)
    assert machine.nodes == (TopologyNode(0, 65536, (0, 1, 4)), TopologyNode(5, 2, ()))
    assert machine.nids == (0, 5)
    assert machine.distance(0, 5) == 21 and machine.distance(5, 0) == 22
    assert machine.cpus == (0, 1, 4)
    assert machine.node_of_cpu(4) == 0
    assert machine.node(5).frames == 2


def test_what_need_not_be_said_is_what_the_kernel_assumes() -> None:
    machine = parse_topology(
        'node = [{id = 0, memory = "1M", cpus = "0"}, {id = 1, memory = "1M"}]'
    )
    assert machine.page_size == 4096
    assert machine.distances == ((10, 20), (20, 10))


def test_a_machine_survives_being_written_and_read() -> None:
    for machine in (
        Topology.uniform(),
        Topology.uniform(nodes=1, memory=4096),
        Topology.uniform(nodes=3, memory="3G", cpus_per_node=5, remote=40, page_size=65536),
        parse_topology(TWO_NODES),
    ):
        assert parse_topology(format_topology(machine)) == machine


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("page_size = 4096", "page_size = 4095", "page_size is 4095: it must be a power of two"),
        ("page_size = 4096", "page_size = 4", "power of two from 64"),
        ("page_size = 4096", 'page_size = "4K"', "page_size of the topology is '4K'"),
        ("page_size = 4096", "pagesize = 4096", "the key 'pagesize'"),
        ("[[node]]\nid = 0", "[[node]\nid = 0", "not TOML"),
        (
            "[[node]]\nid = 0",
            "[[nodes]]\nid = 0",
            "may be page_size, distances, latencies",
        ),
        ("id = 0", "id = 255", "id of a node is 255"),
        ("id = 0", "id = true", "id of [[node]] number 1 is True"),
        ("id = 0", "nid = 0", "[[node]] number 1 has the key 'nid'"),
        ("id = 0\n", "", "[[node]] number 1 has no id"),
        ("id = 5", "id = 0", "Node 0 is there twice"),
        ("id = 0", "id = 6", "Node 5 stands after node 6"),
        ('memory = "256M"', 'memory = "256X"', "memory of node 0: '256X' is not a size"),
        ('memory = "256M"', 'memory = "0"', "memory of node 0 is 0"),
        ('memory = "256M"', "memory = 4097", "a multiple of the page size, 4096 bytes"),
        ('memory = "256M"', 'memory = "100000T"', "from one page to"),
        ('memory = "256M"', "memory = 1.5", "memory of node 0 is 1.5"),
        ('memory = "256M"\n', "", "[[node]] number 1 has no memory"),
        ('cpus = "0-1,4"', "cpus = [0, 1]", "cpus of node 0 is [0, 1]: write text"),
        ('cpus = "0-1,4"', 'cpus = "1-0"', "cpus of node 0: The range 1-0"),
        ('cpus = "0-1,4"', 'cpus = "8192"', "cpus of node 0 has cpu 8192"),
        ('cpus = ""', 'cpus = "4"', "Cpu 4 is at node 0 and again at node 5"),
        ('cpus = "0-1,4"', 'cpus = ""', "No node has a cpu"),
        ("[[10, 21], [22, 10]]", "[[10, 21]]", "distances has 1 rows"),
        ("[[10, 21], [22, 10]]", "[[10, 21], [22]]", "distances of node 5 has 1 numbers"),
        ("[[10, 21], [22, 10]]", "[10, 21]", "not a list of rows"),
        ("[[10, 21], [22, 10]]", "[[10, 2.1], [22, 10]]", "distances has 2.1 in it"),
        ("22, 10]", "9, 10]", "from node 5 to node 0 is 9"),
        ("22, 10]", "255, 10]", "10 to 254"),
        ("22, 10]", "22, 30]", "no node is nearer than the node itself"),
    ],
)
def test_every_mistake_is_one_sentence_that_says_where(old: str, new: str, says: str) -> None:
    assert old in TWO_NODES
    with pytest.raises(ConfigurationError) as raised:
        parse_topology(TWO_NODES.replace(old, new, 1))
    sentence = str(raised.value)
    assert says in sentence
    assert sentence.endswith(".") and "\n" not in sentence


def test_a_topology_that_no_text_describes_is_checked_as_well() -> None:
    with pytest.raises(ConfigurationError, match="has no node"):
        Topology((), ())
    with pytest.raises(ConfigurationError, match="Node 0 has 0 frames"):
        Topology((TopologyNode(0, 0, (0,)),), ((10,),))
    with pytest.raises(ConfigurationError, match="256 nodes cannot be"):
        Topology.uniform(nodes=256)
    with pytest.raises(ConfigurationError, match="No node has a cpu"):
        Topology.uniform(cpus_per_node=0)


@pytest.mark.parametrize(
    ("text", "size"),
    [("256M", 256 << 20), ("1g", 1 << 30), ("7", 7), (" 4K ", 4096), ("2T", 2 << 40)],
)
def test_a_size_is_bytes_or_a_number_with_a_unit(text: str, size: int) -> None:
    assert parse_size(text) == size
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize("text", ["", "M", "1.5G", "-1", "1MB", "0x10", "1 000"])
def test_what_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a size"):
        parse_size(text)


def test_equal_neighbours_rotate_from_list_to_list() -> None:
    machine = Topology.uniform(nodes=4)
    assert [machine.zonelist(nid) for nid in machine.nids] == [
        (0, 1, 2, 3),
        (1, 2, 3, 0),
        (2, 3, 0, 1),
        (3, 0, 1, 2),
    ]


def test_near_nodes_come_first_and_nodes_without_cpus_before_their_equals() -> None:
    nodes = tuple(TopologyNode(nid, 1, () if nid == 7 else (nid,)) for nid in (0, 2, 3, 7))
    distances = ((10, 40, 20, 20), (40, 10, 30, 40), (20, 30, 10, 20), (20, 40, 20, 10))
    machine = Topology(nodes, distances)
    assert machine.zonelist(0) == (0, 7, 3, 2)
    assert machine.zonelist(2) == (2, 3, 7, 0)


def kernel_zonelists(machine: Topology) -> dict[int, list[int]]:
    """build_zonelists() and find_next_best_node() as loops, one choice at a time (K 5.10)."""
    online, node_load, lists = machine.nids, [0] * 255, {}
    for local in online:
        used, chosen, load, previous = [False] * 255, list[int](), len(online), local
        while len(chosen) < len(online):
            best, least = -1, 1 << 60
            for n in online:
                value = machine.distance(local, n) + (n < local) + bool(machine.node(n).cpus)
                value = value * len(online) * 255 + node_load[n]
                if not used[n] and value < least:
                    best, least = n, value
            best = best if used[local] else local
            used[best] = True
            if machine.distance(local, best) != machine.distance(local, previous):
                node_load[best] += load
            previous, load = best, load - 1
            chosen.append(best)
        lists[local] = chosen
    return lists


@pytest.mark.parametrize("seed", range(50))
def test_zonelists_of_any_machine_equal_the_kernels_loop(seed: int) -> None:
    print(f"seed {seed}")
    draw = random.Random(seed)
    nids = sorted(draw.sample(range(12), draw.randint(1, 8)))
    nodes = tuple(
        TopologyNode(nid, 1, (nid,) if nid == nids[0] or draw.random() < 0.7 else ())
        for nid in nids
    )
    distances = [list(row) for row in uniform_distances(len(nids))]
    for row, own in enumerate(distances):
        for column in range(len(own)):
            if row != column:
                own[column] = draw.choice((20, 21, 22, 40))
    machine = Topology(nodes, tuple(tuple(row) for row in distances))
    for nid, order in kernel_zonelists(machine).items():
        assert list(machine.zonelist(nid)) == order
