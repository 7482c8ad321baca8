"""Scenarios drawn from a seed: sensible calls and foolish ones, by several tasks."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from numalab.conformance import steps as do
from numalab.conformance.scenario import NODES, Place, Scenario, Step

CALLS = (20, 30)
TASKS_MAX = 4
AREAS_MAX = 5
PAGES_MAX = 8

#: How often which call is drawn, relative to the others.
WEIGHTS = {
    "mmap": 3,
    "munmap": 2,
    "mprotect": 2,
    "mlock": 1,
    "munlock": 1,
    "madvise": 2,
    "write": 8,
    "read": 3,
    "fork": 2,
    "spawn": 1,
    "clone": 1,
    "exit": 1,
    "run_on": 2,
    "set_mempolicy": 3,
    "get_mempolicy": 2,
    "mbind": 5,
    "home_node": 1,
    "move_pages": 6,
    "migrate_pages": 6,
    "cpuset": 3,
}


@dataclass
class _Draw:
    """What has been drawn so far.  shared: areas may be shared, and then no task interleaves.

    (Where the kernel interleaves shared memory depends on the number of an inode.)
    """

    draw: random.Random
    shared: bool
    steps: list[Step] = field(default_factory=list)
    areas: dict[str, tuple[int, bool]] = field(default_factory=dict)
    tasks: list[str] = field(default_factory=lambda: ["t"])
    named: int = 1
    cpusets: list[str] = field(default_factory=list)

    def one(self, *of: object) -> object:
        return self.draw.choice(of)

    def chance(self, part: float) -> bool:
        return self.draw.random() < part

    def by(self) -> str:
        return self.draw.choice(self.tasks)

    def area(self) -> str:
        return self.draw.choice(list(self.areas))

    def range(self, *, private: bool = False) -> tuple[Place, int] | None:
        """A part of an area, seldom more than there is."""
        names = [name for name, (_, shared) in self.areas.items() if not (private and shared)]
        if not names:
            return None
        area = self.draw.choice(names)
        pages, _ = self.areas[area]
        first = self.draw.randrange(pages)
        count = self.draw.randint(1, pages - first)
        if self.chance(0.05) and not private:
            first, count = first - 1, count + 3
        place: Place = [area, first]
        if self.chance(0.02):
            place.append(self.draw.choice([8, 100, 4095]))
        return place, count

    def nodes(self) -> do.Nodes:
        count = self.draw.choice([0, 1, 1, 1, 2, 2, 3, 4])
        nodes = sorted(self.draw.sample(range(NODES), count))
        if self.chance(0.04):
            nodes.append(self.draw.choice([5, 9, 40]))
        if self.chance(0.05):
            bits = self.draw.choice(["03", "06", "0c", "0f"]) + "00" * 7
            return do.raw(self.draw.choice([0, 1, 2, 3, 4, 65, 40000]), bits)
        return nodes


def _mmap(d: _Draw) -> Step | None:
    if len(d.areas) == AREAS_MAX:
        return None
    area, pages = "abcdefgh"[len(d.areas)], d.draw.randint(1, PAGES_MAX)
    shared = d.shared and d.chance(0.4)
    at = None
    if d.areas and d.chance(0.3):
        other = d.area()
        at = [other, d.areas[other][0]]
    d.areas[area] = pages, shared
    how = {"shared": shared or None, "at": at, "locked": d.chance(0.05) or None}
    return do.mmap(area, pages, d.by(), prot="r" if d.chance(0.08) else None, **how)


def _range_call(call: Callable[..., Step], *more: object) -> Callable[[_Draw], Step | None]:
    def make(d: _Draw) -> Step | None:
        range_ = d.range()
        return None if range_ is None else call(*range_, *more, by=d.by())

    return make


def _mprotect(d: _Draw) -> Step | None:
    return _range_call(do.mprotect, d.one("r", "rw", "rw", ""))(d)


def _madvise(d: _Draw) -> Step | None:
    advice = d.one(do.DONTNEED, do.DONTNEED, do.POPULATE_READ, do.POPULATE_WRITE, 99)
    return _range_call(do.madvise, advice)(d)


def _write(d: _Draw) -> Step | None:
    return _range_call(do.write, d.draw.randrange(1, 1000) * 100)(d)


def _new_task(call: Callable[..., Step]) -> Callable[[_Draw], Step | None]:
    def make(d: _Draw) -> Step | None:
        if d.named == TASKS_MAX:
            return None
        name = "tuvw"[d.named]
        d.named += 1
        step = call(name, cpu=d.draw.randrange(NODES), by=d.by())
        d.tasks.append(name)
        return step

    return make


def _spawn(d: _Draw) -> Step | None:
    uid = d.draw.choice([0, 1000, 1000, 1001])
    return _new_task(lambda name, cpu, by: do.spawn(name, uid, cpu))(d)


def _exit(d: _Draw) -> Step | None:
    if len(d.tasks) == 1:
        return None
    name = d.tasks.pop(d.draw.randrange(len(d.tasks)))
    return do.exit_(name)


def _run_on(d: _Draw) -> Step:
    return do.run_on(d.draw.randrange(NODES), d.by())


def _mode(d: _Draw, *, interleave: bool) -> int:
    modes = [do.DEFAULT, do.PREFERRED, do.BIND, do.BIND, do.LOCAL, do.PREFERRED_MANY]
    modes += [do.INTERLEAVE] * 3 if interleave else []
    flags = d.draw.choice([0] * 8 + [do.STATIC, do.RELATIVE])
    return d.draw.choice(modes) | flags


def _set_mempolicy(d: _Draw) -> Step:
    return do.set_mempolicy(_mode(d, interleave=not d.shared), d.nodes(), d.by())


def _get_mempolicy(d: _Draw) -> Step | None:
    flags = d.draw.choice([0, do.F_ADDR, do.F_ADDR, do.F_ADDR | do.F_NODE, do.F_MEMS_ALLOWED])
    range_ = d.range()
    if flags & do.F_ADDR and range_ is None:
        return None
    place = range_[0] if range_ and flags & do.F_ADDR else None
    return do.get_mempolicy(place, flags, by=d.by())


def _mbind(d: _Draw) -> Step | None:
    mode = _mode(d, interleave=True)
    range_ = d.range(private=mode & 7 == do.INTERLEAVE)
    if range_ is None:
        return None
    flags = d.draw.choice([0, 0, do.STRICT, do.MOVE, do.MOVE, do.MOVE | do.STRICT, do.MOVE_ALL])
    return do.mbind(*range_, mode, d.nodes(), flags, d.by())


def _home_node(d: _Draw) -> Step | None:
    range_ = d.range()
    node = d.draw.randrange(NODES)
    return None if range_ is None else do.home_node(*range_, node, by=d.by())


def _move_pages(d: _Draw) -> Step | None:
    if not d.areas:
        return None
    places: list[Place] = []
    for _ in range(d.draw.randint(1, 6)):
        area = d.area()
        pages, _ = d.areas[area]
        places.append([area, d.draw.randrange(pages + (1 if d.chance(0.1) else 0))])
    nodes = [d.draw.randrange(NODES) for _ in places]
    if d.chance(0.4):
        nodes = [nodes[0]] * len(nodes)
    if d.chance(0.05):
        nodes[-1] = d.draw.choice([-1, 9])
    flags = d.draw.choice([0, do.MOVE, do.MOVE, do.MOVE, do.MOVE_ALL, do.MOVE_ALL])
    by = d.by()
    asked = None if d.chance(0.1) else nodes
    return do.move_pages(places, asked, flags, _whom(d, by), by)


def _migrate_pages(d: _Draw) -> Step:
    by = d.by()
    return do.migrate_pages(d.nodes(), d.nodes(), _whom(d, by), by)


def _whom(d: _Draw, by: str) -> str | int:
    """Mostly oneself."""
    if d.chance(0.03):
        return do.NOBODY
    return d.by() if d.chance(0.4) else by


def _cpuset(d: _Draw) -> Step:
    if not d.cpusets or (len(d.cpusets) < 2 and d.chance(0.2)):
        name = "cd"[len(d.cpusets)]
        d.cpusets.append(name)
        d.steps.append(do.cpuset("mkdir", name))
        d.steps.append(do.cpuset("write", name, "cpus", "0-3"))
        d.steps.append(do.cpuset("write", name, "memory_migrate", str(d.draw.randrange(2))))
        return do.cpuset("write", name, "mems", _list(d))
    name = d.draw.choice(d.cpusets)
    if d.chance(0.5):
        return do.attach(name if d.chance(0.8) else "", d.by())
    return do.cpuset("write", name, "mems", _list(d))


def _list(d: _Draw) -> str:
    count = d.draw.randint(1, NODES)
    return ",".join(str(node) for node in sorted(d.draw.sample(range(NODES), count)))


MAKERS: dict[str, Callable[[_Draw], Step | None]] = {
    "mmap": _mmap,
    "munmap": _range_call(do.munmap),
    "mprotect": _mprotect,
    "mlock": _range_call(do.mlock),
    "munlock": _range_call(do.munlock),
    "madvise": _madvise,
    "write": _write,
    "read": _range_call(do.read),
    "fork": _new_task(do.fork),
    "spawn": _spawn,
    "clone": _new_task(do.clone),
    "exit": _exit,
    "run_on": _run_on,
    "set_mempolicy": _set_mempolicy,
    "get_mempolicy": _get_mempolicy,
    "mbind": _mbind,
    "home_node": _home_node,
    "move_pages": _move_pages,
    "migrate_pages": _migrate_pages,
    "cpuset": _cpuset,
}


def draw_scenario(seed: int) -> Scenario:
    """The scenario of a seed; the same seed gives the same one."""
    draw = random.Random(f"scenario {seed}")
    d = _Draw(draw, shared=draw.random() < 0.5)
    d.steps += [do.mmap("a", 6), do.write(["a", 0], 4)]
    d.areas["a"] = 6, False
    wanted = draw.randint(*CALLS)
    while len(d.steps) < wanted:
        name = draw.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        step = MAKERS[name](d)
        if step is not None:
            d.steps.append(step)
    return Scenario(f"seed {seed}", d.steps)
