"""What ``kustomize build`` makes of deploy/kubernetes, for hosts without it: what is used there.

That is: resources, components, namespace, replicas, and patches by JSON pointer (``test`` and
``replace``).  Whatever else a kustomization says is refused rather than overlooked.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Resource = dict[str, Any]

_KNOWN = {"apiVersion", "kind", "resources", "components", "namespace", "replicas", "patches"}


def build(directory: Path) -> list[Resource]:
    """The resources of a kustomization or component.  Raises ValueError."""
    told = _read(directory / "kustomization.yaml")
    if unknown := told.keys() - _KNOWN:
        raise ValueError(f"{directory}: {', '.join(sorted(unknown))} is not known here")
    made = [one for name in told.get("resources", ()) for one in _resources(directory / name)]
    # A component sees the resources that are there, and adds its own.
    made += [one for name in told.get("components", ()) for one in build(directory / name)]
    if namespace := told.get("namespace"):
        for one in made:
            if one["kind"] != "Namespace":
                one["metadata"]["namespace"] = namespace
    for wanted in told.get("replicas", ()):
        for one in _named(made, {"name": wanted["name"]}):
            if "replicas" in one["spec"]:
                one["spec"]["replicas"] = wanted["count"]
    for patch in told.get("patches", ()):
        for one in _named(made, patch["target"]):
            for step in _read(directory / patch["path"]):
                _apply(one, step)
    return made


def _read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def _resources(path: Path) -> list[Resource]:
    return build(path) if path.is_dir() else list(yaml.safe_load_all(path.read_text()))


def _named(made: list[Resource], target: dict[str, str]) -> Iterator[Resource]:
    """Those that the target of a patch means; at least one."""
    found = [
        one
        for one in made
        if target.get("kind", one["kind"]) == one["kind"]
        and target.get("name", one["metadata"]["name"]) == one["metadata"]["name"]
    ]
    if not found:
        raise ValueError(f"nothing is meant by {target}")
    yield from found


def _apply(resource: Resource, step: dict[str, Any]) -> None:
    *parents, last = step["path"].removeprefix("/").split("/")
    inside: Any = resource
    for part in parents:
        inside = inside[int(part) if isinstance(inside, list) else part]
    key = int(last) if isinstance(inside, list) else last
    if step["op"] == "test":
        if inside[key] != step["value"]:
            raise ValueError(f"{step['path']} is {inside[key]!r} and not {step['value']!r}")
    elif step["op"] == "replace":
        inside[key] = step["value"]
    else:
        raise ValueError(f"{step['op']} is not known here")
