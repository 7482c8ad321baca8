"""A machine's topology from where one finds it: /sys of a host, lstopo's XML, a name, a file.

Every mistake is one sentence in a ConfigurationError.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from protocol.core import ConfigurationError
from protocol.distance import LOCAL_BANDWIDTH_GB_PER_S, LOCAL_LATENCY_NS
from protocol.nodemask import NodeListError, parse_list
from protocol.presets import PRESETS
from protocol.topology import (
    LOCAL_DISTANCE,
    PAGE_SIZE,
    Matrix,
    Topology,
    TopologyNode,
    uniform_distances,
)
from protocol.topology_text import parse_topology

SYSFS = "sys/devices/system/node"
#: A description of thousands of cpus has a few MiB.
TEXT_MAX = 64 << 20
_NODE = re.compile(r"node(\d{1,4})")
_MEM_TOTAL = re.compile(r"MemTotal:\s+(\d{1,15}) kB")
_MB_PER_GB = 1000.0


# ---- names and files -----------------------------------------------------------------------


def find_topology(what: str) -> Topology:
    """The preset of this name, or the machine that this TOML file describes."""
    if what in PRESETS:
        return PRESETS[what]()
    text = _read(Path(what), f"give the path of a TOML file, or one of {', '.join(PRESETS)}")
    try:
        return parse_topology(text)
    except ConfigurationError as error:
        raise ConfigurationError(f"{what}: {error}") from None


def _read(path: Path, instead: str) -> str:
    try:
        if path.stat().st_size > TEXT_MAX:
            raise ConfigurationError(f"{path} has more than {TEXT_MAX >> 20} MiB: {instead}.")
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise ConfigurationError(
            f"The topology {path} cannot be read ({reason}): {instead}."
        ) from None


# ---- what was found, made a machine --------------------------------------------------------


@dataclass(slots=True)
class _Found:
    """One node as it was found; latency (ns) and bandwidth (GB/s) by node of the initiator."""

    nid: int
    bytes: int
    cpus: tuple[int, ...]
    distances: Mapping[int, int] = field(default_factory=dict)
    latency: dict[int, float] = field(default_factory=dict)
    bandwidth: dict[int, float] = field(default_factory=dict)


def _machine(found: list[_Found]) -> Topology:
    found.sort(key=lambda node: node.nid)
    nids = [node.nid for node in found]
    for node in found:
        if node.bytes < PAGE_SIZE:
            raise ConfigurationError(
                f"Node {node.nid} has no memory: describe the machine in TOML without it, and give "
                "its cpus to another node."
            )
    distances = uniform_distances(len(found))
    if any(node.distances for node in found):
        distances = tuple(tuple(_distance(node, nid) for nid in nids) for node in found)
    nodes = tuple(TopologyNode(node.nid, node.bytes // PAGE_SIZE, node.cpus) for node in found)
    return Topology(
        nodes,
        distances,
        PAGE_SIZE,
        _told(found, distances, "latency", LOCAL_LATENCY_NS, further=1),
        _told(found, distances, "bandwidth", LOCAL_BANDWIDTH_GB_PER_S, further=-1),
    )


def _distance(node: _Found, nid: int) -> int:
    if nid not in node.distances:
        raise ConfigurationError(
            f"Node {node.nid} has no distance to node {nid}: its row has to have one for each node."
        )
    return node.distances[nid]


def _told(
    found: list[_Found],
    distances: tuple[tuple[int, ...], ...],
    what: str,
    local: float,
    *,
    further: int,
) -> Matrix | None:
    """A row for each node of a cpu.  What is told stays; what is not follows the distances from
    what is told of the same memory, or from ``local`` if nothing is."""
    if not any(getattr(node, what) for node in found):
        return None
    columns = []
    for at, target in enumerate(found):
        told: dict[int, float] = getattr(target, what)
        near = local
        for row, source in enumerate(found):
            if source.nid in told:
                near = told[source.nid] * (distances[row][at] / LOCAL_DISTANCE) ** -further
                break
        columns.append(
            [
                told.get(source.nid, near * (distances[row][at] / LOCAL_DISTANCE) ** further)
                for row, source in enumerate(found)
            ]
        )
    return tuple(tuple(round(cost, 3) for cost in row) for row in zip(*columns, strict=True))


# ---- /sys/devices/system/node --------------------------------------------------------------


def from_sysfs(directory: Path) -> Topology:
    """The machine of this /sys/devices/system/node, or of a root that has such a directory.

    The attributes that ACPI's HMAT gives (access0/initiators) become latencies and bandwidths.
    """
    inside = directory / SYSFS
    root = inside if inside.is_dir() else directory
    paths = {
        int(match[1]): path
        for path in sorted(root.glob("node*"))
        if (match := _NODE.fullmatch(path.name))
    }
    if not paths:
        raise ConfigurationError(
            f"{directory} has no node0 in it: give /sys/devices/system/node, or a copy of it."
        )
    nids = sorted(paths)
    return _machine([_node_of_sysfs(nid, paths[nid], nids) for nid in nids])


def _attribute(path: Path) -> str:
    return _read(path, "copy the whole directory of the node").strip()


def _node_of_sysfs(nid: int, path: Path, nids: list[int]) -> _Found:
    memory = _MEM_TOTAL.search(_attribute(path / "meminfo"))
    if memory is None:
        raise ConfigurationError(f"{path}/meminfo has no MemTotal in kB: copy it from the machine.")
    distances = _attribute(path / "distance").split()
    if len(distances) != len(nids) or not all(word.isdecimal() for word in distances):
        raise ConfigurationError(
            f"{path}/distance is '{' '.join(distances)}': it has to have {len(nids)} whole "
            "numbers, one for each node."
        )
    node = _Found(nid, int(memory[1]) << 10, _cpus_of_sysfs(path))
    node.bytes -= node.bytes % PAGE_SIZE
    node.distances = dict(zip(nids, map(int, distances), strict=True))
    access = path / "access0" / "initiators"
    initiators = [int(at.name[4:]) for at in access.glob("node*") if _NODE.fullmatch(at.name)]
    for name, told, unit in (
        ("read_latency", node.latency, 1.0),
        ("read_bandwidth", node.bandwidth, _MB_PER_GB),
    ):
        if (access / name).exists():
            told |= dict.fromkeys(initiators or [nid], _positive(access / name) / unit)
    return node


def _cpus_of_sysfs(path: Path) -> tuple[int, ...]:
    if (path / "cpulist").exists():
        text = _attribute(path / "cpulist")
        try:
            return parse_list(text) if text else ()
        except NodeListError as error:
            raise ConfigurationError(f"{path}/cpulist: {error}") from None
    return _bits(_attribute(path / "cpumap"), f"{path}/cpumap")


def _positive(path: Path) -> float:
    text = _attribute(path)
    if not text.isdecimal() or not int(text):
        raise ConfigurationError(f"{path} is '{text}': it has to be a whole number above 0.")
    return float(text)


def _bits(text: str, where: str) -> tuple[int, ...]:
    """The bits of a mask: words of 32 bits in hexadecimal, the highest first."""
    words = [word.removeprefix("0x") for word in text.split(",")]
    if not all(re.fullmatch("[0-9a-fA-F]{0,8}", word) for word in words):
        raise ConfigurationError(f"{where} is '{text[:80]}': it has to be a mask in hexadecimal.")
    mask = int("".join(word.rjust(8, "0") for word in words), 16)
    return tuple(bit for bit in range(mask.bit_length()) if mask >> bit & 1)


# ---- lstopo --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Element:
    """An element of XML, or what it becomes in JSON."""

    tag: str
    attributes: Mapping[str, str]
    text: str
    children: tuple[_Element, ...]

    def walk(self, tag: str) -> Iterator[_Element]:
        for child in self.children:
            if child.tag == tag:
                yield child
            yield from child.walk(tag)


def from_lstopo(path: Path) -> Topology:
    """The machine in a file of ``lstopo --of xml`` (hwloc 2), or of that as JSON.

    The JSON is what XML becomes by the common rule: an attribute is "@name", text is "#text",
    elements of one name are a list.
    """
    text = _read(path, "give a file that 'lstopo --of xml' has written")
    try:
        root = _from_json(text, path) if text.lstrip().startswith("{") else _from_xml(text, path)
    except RecursionError:
        raise ConfigurationError(f"{path} is nested too deeply: write it anew.") from None
    if root.tag != "topology" or not root.attributes.get("version", "").startswith("2"):
        raise ConfigurationError(
            f"{path} is no topology of hwloc 2: write it with 'lstopo --of xml' of hwloc 2.0 or "
            "newer."
        )
    try:
        return _machine_of_lstopo(root)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from None


def _from_xml(text: str, path: Path) -> _Element:
    if "<!ENTITY" in text:
        raise ConfigurationError(
            f"{path} declares entities, which lstopo never does: write it anew."
        )
    try:
        return _of_xml(ElementTree.fromstring(text))
    except (ElementTree.ParseError, ValueError) as error:
        raise ConfigurationError(f"{path} is not XML ({error}): write it anew.") from None


def _of_xml(element: ElementTree.Element) -> _Element:
    children = tuple(_of_xml(child) for child in element)
    return _Element(element.tag, element.attrib, element.text or "", children)


def _from_json(text: str, path: Path) -> _Element:
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ConfigurationError(f"{path} is not JSON ({error}): write it anew.") from None
    return _of_json("topology", document.get("topology"))


def _of_json(tag: str, value: Any) -> _Element:
    if not isinstance(value, dict):
        return _Element(tag, {}, str(value or ""), ())
    attributes = {
        name.removeprefix("@"): str(item) for name, item in value.items() if name[:1] == "@"
    }
    children = tuple(
        _of_json(name, item)
        for name, items in value.items()
        if name[:1] not in ("@", "#")
        for item in (items if isinstance(items, list) else [items])
    )
    return _Element(tag, attributes, str(value.get("#text", "")), children)


def _machine_of_lstopo(root: _Element) -> Topology:
    taken: set[int] = set()
    found = []
    nodes = [item for item in root.walk("object") if item.attributes.get("type") == "NUMANode"]
    for item in sorted(nodes, key=lambda item: _whole(item, "os_index")):
        nid = _whole(item, "os_index")
        cpus = _bits(item.attributes.get("cpuset", ""), f"cpuset of node {nid}")
        # Memory without cpus of its own is shown with those that are nearest to it.
        own = tuple(cpu for cpu in cpus if cpu not in taken)
        taken |= {*own}
        size = _whole(item, "local_memory")
        found.append(_Found(nid, size - size % PAGE_SIZE, own))
    if not found:
        raise ConfigurationError("it has no NUMANode: write it with 'lstopo --of xml'.")
    _add_distances(root, {node.nid: node for node in found})
    return _machine(found)


def _whole(item: _Element, name: str) -> int:
    text = item.attributes.get(name, "")
    if not re.fullmatch(r"\d{1,18}", text):
        raise ConfigurationError(f"{name} of a NUMANode is '{text}': it has to be a whole number.")
    return int(text)


def _add_distances(root: _Element, nodes: Mapping[int, _Found]) -> None:
    for matrix in root.children:
        if matrix.tag != "distances2" or matrix.attributes.get("name") != "NUMALatency":
            continue
        indexes = _numbers(matrix, "indexes")
        values = _numbers(matrix, "u64values")
        if sorted(indexes) != sorted(nodes) or len(values) != len(indexes) ** 2:
            raise ConfigurationError(
                f"NUMALatency has {len(values)} distances of {len(indexes)} nodes, and the machine "
                f"has {len(nodes)} nodes: write it anew."
            )
        for row, nid in enumerate(indexes):
            of_row = values[row * len(indexes) : (row + 1) * len(indexes)]
            nodes[nid].distances = dict(zip(indexes, of_row, strict=True))


def _numbers(matrix: _Element, tag: str) -> list[int]:
    words = [word for item in matrix.walk(tag) for word in item.text.split()]
    if not all(re.fullmatch(r"\d{1,18}", word) for word in words):
        raise ConfigurationError(f"{tag} of NUMALatency are not whole numbers: write it anew.")
    return [int(word) for word in words]
