"""Topologies by name, from /sys of a host, and from what lstopo writes; costs in TOML."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from numalab.sysfs import NODE, Reading, tree
from numalab.sysfs_files import Tree
from numalab.topology_import import find_topology, from_lstopo, from_sysfs
from protocol.core import ConfigurationError
from protocol.distance import Distance
from protocol.observe import Vmstat
from protocol.presets import PRESETS
from protocol.profile import MODERN
from protocol.syscalls import Hardware
from protocol.topology import Costs, Topology
from protocol.topology_text import format_topology, parse_topology
from tests.live import Numalab


def hardware(topology: Topology) -> Hardware:
    """What a coordinator says of a machine that nobody has used yet."""
    frames = np.array([node.frames for node in topology.nodes], np.uint64)
    nothing = np.zeros(frames.size, np.uint64)
    return Hardware(
        topology.page_size,
        1,
        1,
        tuple(node.cpus for node in topology.nodes),
        np.array(topology.nids, np.int32),
        np.ones(frames.size, np.uint8),
        frames,
        frames,
        *(nothing, nothing, nothing, nothing, nothing, nothing),
        np.array(topology.distances, np.uint32).ravel(),
    )


def sys_of(topology: Topology, directory: Path) -> Path:
    """The machine as the files of a host."""
    found = hardware(topology)
    nothing = np.zeros(found.nid.size, np.uint64)
    vmstat = Vmstat(
        MODERN.node_attributes,
        MODERN.node_states,
        1,
        1,
        (),
        np.zeros(0, np.uint64),
        np.zeros(0, np.uint32),
        found.nid,
        *([nothing] * 7),
    )
    files = Tree(directory)
    files.write(tree(Reading(found, vmstat)))
    files.close()
    return directory


# ---- names ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_machine_that_can_be_written_and_read(name: str) -> None:
    machine = find_topology(name)
    assert parse_topology(format_topology(machine)) == machine


def test_far_memory_without_cpus_costs_what_its_preset_says() -> None:
    machine = find_topology("dram-cxl")
    assert [bool(node.cpus) for node in machine.nodes] == [True, False]
    assert Distance(machine).latency[0].tolist() == [80.0, 250.0]


def test_a_ring_is_as_far_as_it_has_hops() -> None:
    first = find_topology("eight-node-ring").distances[0]
    assert first == (10, 16, 22, 28, 34, 28, 22, 16)


def test_a_name_that_is_none_is_one_sentence_with_those_that_are() -> None:
    with pytest.raises(ConfigurationError, match=r"give the path of a TOML file, or one of two-s"):
        find_topology("three-sockets")


# ---- costs in TOML -------------------------------------------------------------------------

NODES = """
[[node]]
id = 0
memory = "1M"
cpus = "0"

[[node]]
id = 3
memory = "1M"
"""
COSTS = """
latencies = [[80, 250.5], [250, 80]]
bandwidths = [[20, 5], [5, 20]]

[costs]
fault_ns = 700
migrate_call_us = 0.5
"""


def test_costs_that_are_said_are_those_of_the_machine() -> None:
    machine = parse_topology(COSTS + NODES)
    assert machine.latencies == ((80.0, 250.5), (250.0, 80.0))
    assert machine.costs == Costs(fault_ns=700.0, migrate_call_us=0.5)
    assert parse_topology(format_topology(machine)) == machine


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("[[80, 250.5], ", "[", "latencies has 1 rows"),
        ("[80, 250.5]", "[80]", "latencies of node 0 has 1 numbers"),
        ("[80, 250.5]", '[80, "far"]', "a number of latencies is 'far'"),
        ("[80, 250.5]", "[80, -1]", "latencies from node 0 to node 3 is -1"),
        ("[80, 250.5]", "[80, nan]", "latencies from node 0 to node 3 is nan"),
        ("[[80, 250.5], [250, 80]]", "80", "latencies is not a list of rows"),
        ("[20, 5]", "[20, 0]", "bandwidths from node 0 to node 3 is 0"),
        ("fault_ns = 700", "fault_us = 7", "costs has the key 'fault_us'"),
        ("fault_ns = 700", "fault_ns = inf", "fault_ns of costs is inf"),
        ("fault_ns = 700", "fault_ns = true", "fault_ns of costs is True"),
    ],
)
def test_a_cost_that_cannot_be_is_one_sentence(old: str, new: str, says: str) -> None:
    text = COSTS + NODES
    assert old in text
    with pytest.raises(ConfigurationError) as raised:
        parse_topology(text.replace(old, new, 1))
    assert says in str(raised.value) and str(raised.value).endswith(".")


# ---- /sys ----------------------------------------------------------------------------------


def without_costs(machine: Topology) -> Topology:
    return Topology(machine.nodes, machine.distances, machine.page_size)


@pytest.mark.parametrize("name", PRESETS)
def test_our_own_files_are_the_machine_again(tmp_path: Path, name: str) -> None:
    machine = without_costs(find_topology(name))
    root = sys_of(machine, tmp_path / "root")
    assert from_sysfs(root) == from_sysfs(root / NODE) == machine


def hmat(node: Path, latency: str, bandwidth: str, *initiators: int) -> None:
    """What ACPI's HMAT tells of the memory of a node."""
    directory = node / "access0" / "initiators"
    directory.mkdir(parents=True)
    (directory / "read_latency").write_text(f"{latency}\n")
    (directory / "read_bandwidth").write_text(f"{bandwidth}\n")
    for nid in initiators:
        (directory / f"node{nid}").symlink_to(node.parent / f"node{nid}")


def test_what_the_firmware_tells_of_memory_becomes_its_costs(tmp_path: Path) -> None:
    """A cpu that is nearest has what is told; from elsewhere it is as much worse as it is far."""
    root = sys_of(find_topology("memory-only"), tmp_path / "root") / NODE
    hmat(root / "node0", "100", "40000", 0)
    hmat(root / "node2", "210", "12600", 1)
    machine = from_sysfs(root)
    assert machine.latencies is not None and machine.bandwidths is not None
    assert [row[2] for row in machine.latencies] == [310.0, 210.0, 100.0]
    assert [row[0] for row in machine.latencies] == [100.0, 210.0, 310.0]
    assert machine.latencies[1][1] == 80.0, "nothing is told of node 1"
    assert machine.bandwidths[1][2] == 12.6
    assert machine.bandwidths[0][0] == 40.0


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("node1/distance", "10", "has to have 3 whole numbers"),
        ("node1/distance", "21 10 far", "has to have 3 whole numbers"),
        ("node1/meminfo", "Node 1 MemFree: 7 kB\n", "has no MemTotal"),
        ("node1/meminfo", "Node 1 MemTotal: 0 kB\n", "Node 1 has no memory"),
        ("node1/cpulist", "3-1", "cpulist: "),
        ("node1/cpulist", "0", "Cpu 0 is at node 0 and again at node 1"),
    ],
)
def test_a_host_that_makes_no_sense_is_one_sentence(
    tmp_path: Path, file: str, text: str, says: str
) -> None:
    root = sys_of(find_topology("memory-only"), tmp_path / "root") / NODE
    (root / file).write_text(text)
    with pytest.raises(ConfigurationError) as raised:
        from_sysfs(root)
    assert says in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["-3", "fast", "0", ""])
def test_a_latency_that_is_none_is_one_sentence(tmp_path: Path, text: str) -> None:
    root = sys_of(find_topology("memory-only"), tmp_path / "root") / NODE
    hmat(root / "node0", text, "1", 0)
    with pytest.raises(ConfigurationError, match=r"read_latency is '.*': it has to be a whole"):
        from_sysfs(root)


def test_masks_do_where_there_are_no_lists(tmp_path: Path) -> None:
    root = sys_of(find_topology("two-sockets"), tmp_path / "root") / NODE
    for node in root.glob("node*"):
        (node / "cpulist").unlink()
    assert from_sysfs(root).cpus == tuple(range(8))


def test_a_directory_without_nodes_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="has no node0 in it"):
        from_sysfs(tmp_path)


# ---- lstopo --------------------------------------------------------------------------------


def lstopo(root: Path) -> str:
    if shutil.which("lstopo") is None:
        pytest.skip("lstopo is not installed")
    command = ["lstopo", "-i", str(root), "--if", "fsroot", "--of", "xml"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def as_json(element: ElementTree.Element) -> dict[str, object]:
    """The common rule from XML to JSON."""
    value: dict[str, object] = {f"@{name}": text for name, text in element.attrib.items()}
    for child in element:
        value.setdefault(child.tag, [])
        items = value[child.tag]
        assert isinstance(items, list)
        items.append(as_json(child))
    if (element.text or "").strip():
        value["#text"] = element.text
    return value


@pytest.mark.parametrize("name", PRESETS)
def test_what_lstopo_writes_of_our_files_is_the_machine_again(tmp_path: Path, name: str) -> None:
    machine = without_costs(find_topology(name))
    text = lstopo(sys_of(machine, tmp_path / "root"))
    (tmp_path / "xml").write_text(text)
    document = {"topology": as_json(ElementTree.fromstring(text))}
    (tmp_path / "json").write_text(json.dumps(document))
    assert from_lstopo(tmp_path / "xml") == from_lstopo(tmp_path / "json") == machine


XML = """<topology version="2.0"><object type="Machine" os_index="0">
<object type="NUMANode" os_index="0" cpuset="0x3" local_memory="1048576"/>
<object type="NUMANode" os_index="1" cpuset="0x3" local_memory="1048576"/></object>
<distances2 name="NUMALatency"><indexes>0 1</indexes><u64values>10 20</u64values>
<u64values>20 10</u64values></distances2></topology>"""


def test_memory_beside_the_cpus_of_another_node_has_none_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "xml").write_text(XML)
    assert [node.cpus for node in from_lstopo(tmp_path / "xml").nodes] == [(0, 1), ()]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("<topology", "<notopology", "is not XML"),
        ('version="2.0"', 'version="1.0"', "is no topology of hwloc 2"),
        ("<topology version", "<!ENTITY a 'b'><topology version", "declares entities"),
        ("NUMANode", "Package", "it has no NUMANode"),
        ('cpuset="0x3"', 'cpuset="0xfg"', "cpuset of node 0 is '0xfg'"),
        ('local_memory="1048576"', 'local_memory="much"', "local_memory of a NUMANode is 'much'"),
        ('local_memory="1048576"', 'local_memory="0"', "Node 0 has no memory"),
        ("10 20<", "10<", "NUMALatency has 3 distances"),
        ("10 20<", "10 far<", "u64values of NUMALatency are not whole numbers"),
        ("10 20<", "10 2000<", "distances are whole numbers from 10 to 254"),
        ("<topology", "{", "is not JSON"),
    ],
)
def test_a_file_that_lstopo_did_not_write_is_one_sentence(
    tmp_path: Path, old: str, new: str, says: str
) -> None:
    assert old in XML
    (tmp_path / "file").write_text(XML.replace(old, new, 1 if old != "NUMANode" else 2))
    with pytest.raises(ConfigurationError) as raised:
        from_lstopo(tmp_path / "file")
    assert says in str(raised.value) and "\n" not in str(raised.value)


# ---- the command ---------------------------------------------------------------------------


def test_the_command_prints_what_up_reads(numalab: Numalab, tmp_path: Path) -> None:
    said = numalab("topology", "dram-cxl")
    assert said.code == 0
    (tmp_path / "file").write_text(said.out)
    assert numalab("topology", tmp_path / "file").out == said.out
    assert find_topology(str(tmp_path / "file")) == find_topology("dram-cxl")


def test_the_command_wants_one_source(numalab: Numalab) -> None:
    for words in ((), ("two-sockets", "--sysfs", "/sys")):
        said = numalab("topology", *words)
        assert (said.code, said.out) == (2, "") and "give one of NAME, FILE" in said.err
