"""The machine as TOML: read and written.

    page_size = 4096
    distances = [[10, 20],
                 [20, 10]]
    latencies = [[80.0, 160.0],
                 [160.0, 80.0]]
    bandwidths = [[20.0, 10.0],
                  [10.0, 20.0]]

    [costs]
    migrate_page_us = 2.6

    [[node]]
    id = 0
    memory = "256M"
    cpus = "0-1"

    [[node]]
    id = 1
    memory = "256M"
    cpus = ""

``page_size`` may be left out (4096), and so may ``distances`` (10 local, 20 remote), ``latencies``
in ns and ``bandwidths`` in GB/s (as the distances say, see ``distance.py``), and any of ``costs``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from protocol.core import ConfigurationError
from protocol.nodemask import NodeListError, format_nodes, parse_list
from protocol.topology import (
    PAGE_SIZE,
    Costs,
    Matrix,
    Topology,
    TopologyNode,
    check_page_size,
    format_size,
    frames_of,
    uniform_distances,
)

_MATRICES = ("latencies", "bandwidths")
_MACHINE_KEYS = ("page_size", "distances", *_MATRICES, "costs", "node")
_NODE_KEYS = ("id", "memory", "cpus")


def parse_topology(text: str) -> Topology:
    """The machine that the TOML ``text`` describes.  Raises ConfigurationError."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"The topology is not TOML: {error}.") from None
    _check_keys(table, _MACHINE_KEYS, ("node",), "the topology")
    page_size = _integer(table, "page_size", "the topology") if "page_size" in table else PAGE_SIZE
    check_page_size(page_size)
    tables = table["node"]
    if not isinstance(tables, list) or not all(isinstance(item, dict) for item in tables):
        raise ConfigurationError("node is not a list of tables: begin each node with [[node]].")
    nodes = tuple(_parse_node(item, n, page_size) for n, item in enumerate(tables, start=1))
    if "distances" in table:
        distances = _parse_distances(table["distances"])
    else:
        distances = uniform_distances(len(nodes))
    return Topology(
        nodes,
        distances,
        page_size,
        _parse_matrix(table["latencies"], "latencies") if "latencies" in table else None,
        _parse_matrix(table["bandwidths"], "bandwidths") if "bandwidths" in table else None,
        _parse_costs(table["costs"]) if "costs" in table else Costs(),
    )


def format_topology(topology: Topology) -> str:
    """The TOML text that ``parse_topology`` makes the same machine of."""
    rows = ",\n             ".join(str(list(row)) for row in topology.distances)
    parts = [f"page_size = {topology.page_size}\ndistances = [{rows}]\n"]
    for name in _MATRICES:
        matrix = getattr(topology, name)
        if matrix is not None:
            indent = ",\n" + " " * (len(name) + 4)
            parts.append(f"{name} = [{indent.join(str([*row]) for row in matrix)}]\n")
    if topology.costs != Costs():
        lines = (f"{field.name} = {getattr(topology.costs, field.name)}" for field in fields(Costs))
        parts += ["\n[costs]\n", "\n".join(lines), "\n"]
    parts += [
        f"\n[[node]]\nid = {node.nid}\n"
        f'memory = "{format_size(node.frames * topology.page_size)}"\n'
        f'cpus = "{format_nodes(node.cpus)}"\n'
        for node in topology.nodes
    ]
    return "".join(parts)


def _parse_node(table: Mapping[str, Any], number: int, page_size: int) -> TopologyNode:
    where = f"[[node]] number {number}"
    _check_keys(table, _NODE_KEYS, ("id", "memory"), where)
    nid = _integer(table, "id", where)
    where = f"node {nid}"
    memory = table["memory"]
    if isinstance(memory, bool) or not isinstance(memory, str | int):
        raise ConfigurationError(
            f"memory of {where} is {memory!r}: write bytes, or text as in '256M'."
        )
    cpus = table.get("cpus", "")
    if not isinstance(cpus, str):
        raise ConfigurationError(f"cpus of {where} is {cpus!r}: write text, as in '0-1,4', or ''.")
    try:
        parsed = parse_list(cpus) if cpus.strip() else ()
    except NodeListError as error:
        raise ConfigurationError(f"cpus of {where}: {error}") from None
    return TopologyNode(nid, frames_of(memory, page_size, where), parsed)


def _parse_distances(value: object) -> tuple[tuple[int, ...], ...]:
    if not isinstance(value, list) or not all(isinstance(row, list) for row in value):
        raise ConfigurationError("distances is not a list of rows: write [[10, 20], [20, 10]].")
    for row in value:
        for distance in row:
            if isinstance(distance, bool) or not isinstance(distance, int):
                raise ConfigurationError(
                    f"distances has {distance!r} in it: distances are whole numbers."
                )
    return tuple(tuple(row) for row in value)


def _parse_matrix(value: object, what: str) -> Matrix:
    if not isinstance(value, list) or not all(isinstance(row, list) for row in value):
        raise ConfigurationError(f"{what} is not a list of rows: write [[80, 160], [160, 80]].")
    return tuple(tuple(_number(cost, f"a number of {what}") for cost in row) for row in value)


def _parse_costs(table: object) -> Costs:
    if not isinstance(table, dict):
        raise ConfigurationError("costs is not a table: begin it with [costs].")
    names = tuple(field.name for field in fields(Costs))
    _check_keys(table, names, (), "costs")
    return Costs(**{name: _number(value, f"{name} of costs") for name, value in table.items()})


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigurationError(f"{where} is {value!r}: it must be a number.")
    return float(value)


def _check_keys(
    table: Mapping[str, Any], allowed: Sequence[str], needed: Sequence[str], where: str
) -> None:
    for key in table:
        if key not in allowed:
            raise ConfigurationError(
                f"{where} has the key '{key}', which is unknown: there may be {', '.join(allowed)}."
            )
    for key in needed:
        if key not in table:
            raise ConfigurationError(f"{where} has no {key}: add it.")


def _integer(table: Mapping[str, Any], key: str, where: str) -> int:
    value = table[key]
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigurationError(f"{key} of {where} is {value!r}: it must be a whole number.")
    return value
