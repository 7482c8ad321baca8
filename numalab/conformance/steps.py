"""Steps by name, for the lists of scenarios: each function gives the plain data of one step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from numalab.conformance.scenario import Place, Scenario, Step

DEFAULT, PREFERRED, BIND, INTERLEAVE, LOCAL, PREFERRED_MANY, WEIGHTED = range(7)
BALANCING, RELATIVE, STATIC = 1 << 13, 1 << 14, 1 << 15
STRICT, MOVE, MOVE_ALL = 1, 2, 4
F_NODE, F_ADDR, F_MEMS_ALLOWED = 1, 2, 4
DONTNEED, POPULATE_READ, POPULATE_WRITE = 4, 22, 23
NOBODY = -1

Nodes = list[int] | dict[str, Any] | None


def scenario(name: str, *steps: Step | list[Step]) -> Scenario:
    """A scenario of steps and lists of steps."""
    flat: list[Step] = []
    for step in steps:
        flat.extend(step if isinstance(step, list) else [step])
    return Scenario(name, flat)


def raw(maxnode: int, data: str | None = None, *, bad: bool = False) -> dict[str, Any]:
    """A node mask as a system call takes it; data: hex."""
    return {"maxnode": maxnode, "bytes": data, "bad": bad}


def _step(op: str, **given: Any) -> Step:
    return {"op": op, **{key: value for key, value in given.items() if value is not None}}


# ---- tasks ---------------------------------------------------------------------------------


def spawn(task: str, uid: int = 0, cpu: int = 0) -> Step:
    return _step("spawn", task=task, uid=uid, cpu=cpu)


def fork(task: str, cpu: int = 0, by: str | None = None) -> Step:
    return _step("fork", task=task, cpu=cpu, by=by)


def clone(task: str, cpu: int = 0, by: str | None = None) -> Step:
    return _step("clone", task=task, cpu=cpu, by=by)


def exit_(by: str) -> Step:
    return _step("exit", by=by)


def run_on(cpu: int, by: str | None = None) -> Step:
    return _step("run_on", cpu=cpu, by=by)


def setresuid(*uids: int, by: str | None = None) -> Step:
    return _step("setresuid", uids=list(uids), by=by)


# ---- memory --------------------------------------------------------------------------------


def mmap(area: str = "a", pages: int = 8, by: str | None = None, **how: Any) -> Step:
    """how: prot "rw", shared, file, offset, locked, at (a place)."""
    return _step("mmap", area=area, pages=pages, by=by, **how)


def file(name: str, pages: int) -> Step:
    return _step("file", name=name, pages=pages)


def munmap(place: Place, pages: int, by: str | None = None, **how: Any) -> Step:
    return _step("munmap", place=place, pages=pages, by=by, **how)


def mprotect(place: Place, pages: int, prot: str, by: str | None = None, **how: Any) -> Step:
    return _step("mprotect", place=place, pages=pages, prot=prot, by=by, **how)


def mlock(place: Place, pages: int, by: str | None = None) -> Step:
    return _step("mlock", place=place, pages=pages, by=by)


def munlock(place: Place, pages: int, by: str | None = None) -> Step:
    return _step("munlock", place=place, pages=pages, by=by)


def madvise(place: Place, pages: int, advice: int, by: str | None = None) -> Step:
    return _step("madvise", place=place, pages=pages, advice=advice, by=by)


def write(place: Place, pages: int, value: int = 1000, by: str | None = None) -> Step:
    return _step("write", place=place, pages=pages, value=value, by=by)


def read(place: Place, pages: int, by: str | None = None) -> Step:
    return _step("read", place=place, pages=pages, by=by)


def touched(area: str = "a", pages: int = 8, value: int = 1000, **how: Any) -> list[Step]:
    """Mapped and written."""
    by = how.get("by")
    return [mmap(area, pages, **how), write([area, 0], pages, value, by)]


def spread(area: str = "a", pages: int = 8, nodes: Iterable[int] = (0, 1, 2, 3)) -> list[Step]:
    """Mapped and written, the pages on these nodes in turn."""
    turn = list(nodes)
    where = [turn[page % len(turn)] for page in range(pages)]
    places = [[area, page] for page in range(pages)]
    return [*touched(area, pages), move_pages(places, where)]


# ---- policies ------------------------------------------------------------------------------


def set_mempolicy(mode: int, nodes: Nodes = None, by: str | None = None) -> Step:
    return _step("set_mempolicy", mode=mode, nodes=nodes, by=by)


def get_mempolicy(
    place: Place | None = None,
    flags: int = 0,
    maxnode: int | None = 1025,
    by: str | None = None,
    address: int | None = None,
) -> Step:
    """maxnode None: no mask is asked for."""
    given = {"place": place, "flags": flags, "maxnode": maxnode, "by": by, "address": address}
    return _step("get_mempolicy", **given)


def mbind(
    place: Place,
    pages: int,
    mode: int,
    nodes: Nodes = None,
    flags: int = 0,
    by: str | None = None,
    **how: Any,
) -> Step:
    given = {"place": place, "pages": pages, "mode": mode, "nodes": nodes, "flags": flags}
    return _step("mbind", **given, by=by, **how)


def home_node(place: Place, pages: int, node: int, flags: int = 0, **how: Any) -> Step:
    return _step("home_node", place=place, pages=pages, node=node, flags=flags, **how)


# ---- migration -----------------------------------------------------------------------------


def migrate_pages(old: Nodes, new: Nodes, task: str | int = "t", by: str | None = None) -> Step:
    return _step("migrate_pages", task=task, old=old, new=new, by=by)


def move_pages(
    places: list[Place],
    nodes: list[int] | None,
    flags: int = MOVE,
    task: str | int = "t",
    by: str | None = None,
    **how: Any,
) -> Step:
    given = {"task": task, "places": places, "nodes": nodes, "flags": flags, "by": by}
    return _step("move_pages", **given, **how)


def pages_of(area: str, first: int, count: int) -> list[Place]:
    return [[area, page] for page in range(first, first + count)]


# ---- cpusets -------------------------------------------------------------------------------


def cpuset(do: str, path: str, file: str | None = None, text: str | None = None) -> Step:
    """do: mkdir, rmdir, write (file, text) or read (file)."""
    return _step("cpuset", do=do, path=path, file=file, text=text)


def attach(path: str, task: str = "t") -> Step:
    return _step("cpuset", do="write", path=path, file="tasks", task=task)


def confined(path: str, mems: str, cpus: str = "0-3", migrate: int = 0) -> list[Step]:
    """A cpuset with these nodes."""
    return [
        cpuset("mkdir", path),
        cpuset("write", path, "cpus", cpus),
        cpuset("write", path, "mems", mems),
        cpuset("write", path, "memory_migrate", str(migrate)),
    ]
