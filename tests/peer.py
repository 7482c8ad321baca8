"""What the tests of the peers' cases share: a lab of one profile, spoken to by system calls."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pytest

from coordinator.mpol import Mode
from protocol.messages import LoadBytes, LoadedBytes, Statuses, StoreBytes
from protocol.profile import MODERN, PROFILES, SEED, Profile
from protocol.schema import node_name
from protocol.syscalls import (
    DescribeHardware,
    Fault,
    Hardware,
    Munmap,
    PolicyTold,
    Translations,
)
from protocol.task_calls import Setresuid
from protocol.user_mask import nodes_of
from tests.calls import binding, getting, setting
from tests.lab import PAGE, READ, WRITE, Lab

STRICT, MOVE, MOVE_ALL = 1, 2, 4
NODE, ADDR, MEMS_ALLOWED = 1, 2, 4
DEFAULT, PREFERRED, BIND, INTERLEAVE = Mode.DEFAULT, Mode.PREFERRED, Mode.BIND, Mode.INTERLEAVE
#: MPOL_LOCAL, and the modes' flags; the kernel of 2006 has none of them.
LOCAL, RELATIVE_NODES, STATIC_NODES = 4, 1 << 14, 1 << 15
#: The longest length of a mask that a message carries.
ALL_ONES = (1 << 63) - 1
#: An int of -1 as the kernel's unsigned one, and a mask with node 0.
MINUS_ONE = (1 << 32) - 1
ONE = (1).to_bytes(8, "little")
#: What ``filled`` writes to its first page; the next ones count on.
FIRST = 1000
MODES = (PREFERRED, BIND, INTERLEAVE)

_T = TypeVar("_T")
_Test = TypeVar("_Test", bound=Callable[..., Any])


def case(id: str) -> Callable[[_Test], _Test]:
    """This is a test of a case, in both profiles; its name has the id of the case."""

    def mark(test: _Test) -> _Test:
        assert f"_{id.replace('-', '_')}_" in test.__name__, f"{test.__name__} is not of {id}"
        profiles = pytest.mark.parametrize("profile", PROFILES.values(), ids=list(PROFILES))
        marked: _Test = profiles(test)
        return marked

    return mark


class Peer(Lab):
    """A lab whose calls are those of the peers' programs; pages are named by their numbers."""

    def __init__(self, *arguments: Any, profile: Profile = SEED, **options: Any) -> None:
        self.profile = profile
        super().__init__(*arguments, profile=profile, **options)

    def answer(self, *, seed: _T, modern: _T) -> _T:
        """What this profile answers where the two are different."""
        return modern if self.profile is MODERN else seed

    @property
    def no_page(self) -> int:
        """The status of a page of private anonymous memory that was never touched (K 4.17)."""
        return self.answer(seed=-errno.ENOENT, modern=-errno.EFAULT)

    def mbind(
        self,
        pid: int,
        start: int,
        pages: int,
        mode: int,
        nodes: tuple[int, ...] = (),
        flags: int = 0,
    ) -> int:
        return self.call(binding(pid, start * PAGE, pages * PAGE, mode, nodes, flags))

    def set_mempolicy(self, pid: int, mode: int, nodes: tuple[int, ...] = ()) -> int:
        return self.call(setting(pid, mode, nodes))

    def policy(self, pid: int, page: int | None = None) -> tuple[int, tuple[int, ...]]:
        """Mode and nodes of the vma at ``page``, or of the task."""
        flags = 0 if page is None else ADDR
        told = self.get_mempolicy(pid, page or 0, flags)
        assert told.value == 0, f"get_mempolicy: {told.value}"
        return told.mode, nodes_of(told.nodes or b"")

    def get_mempolicy(self, pid: int, page: int = 0, flags: int = 0) -> PolicyTold:
        return self.ask(getting(pid, page * PAGE, flags), PolicyTold)

    def become(self, pid: int, uid: int) -> None:
        """setuid(2) of root: an ordinary user from now on."""
        assert self.call(Setresuid(pid, uid, uid, uid)) == 0

    def munmap(self, pid: int, start: int, pages: int) -> int:
        return self.call(Munmap(pid, start * PAGE, pages * PAGE))

    def filled(self, pid: int, start: int, pages: int, *, but: tuple[int, ...] = ()) -> None:
        """Write a number of its own into each page; ``but`` are left untouched."""
        page = _pages_but(start, pages, but)
        where = self.ask(Fault(pid, 0, WRITE, page), Translations)
        assert not where.status.any()
        for nid in np.unique(where.nid):
            at = where.nid == nid
            data = (page[at] - np.uint64(start) + np.uint64(FIRST)).tobytes()
            none = np.zeros(int(at.sum()), np.uint32)
            asked = StoreBytes(8, where.pfn[at], where.generation[at], none, data)
            assert not self.ask(asked, Statuses, node_name(int(nid))).status.any()

    def assert_filled(self, pid: int, start: int, pages: int, *, but: tuple[int, ...] = ()) -> None:
        page = _pages_but(start, pages, but)
        where = self.ask(Fault(pid, 0, READ, page), Translations)
        assert not where.status.any()
        for nid in np.unique(where.nid):
            at = where.nid == nid
            none = np.zeros(int(at.sum()), np.uint32)
            asked = LoadBytes(8, where.pfn[at], where.generation[at], none)
            answer = self.ask(asked, LoadedBytes, node_name(int(nid)))
            assert not answer.status.any()
            found = np.frombuffer(answer.data, np.uint64)
            assert (found == page[at] - np.uint64(start) + np.uint64(FIRST)).all()

    def put(self, pid: int, start: int, pages: int, node: int) -> None:
        """Bring pages to a node, however they are shared."""
        wanted = list(range(start, start + pages))
        self.move(pid, wanted, [node] * pages, MOVE_ALL)
        assert self.where(pid, start, pages) == [node] * pages

    def used(self) -> list[int]:
        """Frames in use on each node."""
        free = self.free()
        return [
            self.topology.node(n).frames - f for n, f in zip(self.topology.nids, free, strict=True)
        ]

    def counters(self) -> Hardware:
        """Has numastat's counters of each node."""
        return self.ask(DescribeHardware(), Hardware)

    def per_node(self, pid: int) -> dict[int, int]:
        """The sum of ``N<node>=`` over all lines of numa_maps."""
        found: dict[int, int] = {}
        for line in self.numa_maps(pid):
            for word in line.split():
                name, _, count = word.partition("=")
                if name[:1] == "N" and name[1:].isdigit():
                    found[int(name[1:])] = found.get(int(name[1:]), 0) + int(count)
        return found


def _pages_but(start: int, pages: int, but: tuple[int, ...]) -> npt.NDArray[np.uint64]:
    return np.array([start + at for at in range(pages) if at not in but], np.uint64)


Boot = Callable[..., Peer]


@pytest.fixture
def boot(profile: Profile) -> Iterator[Boot]:
    """Labs of the profile; at the end of the test every Core of them must be sound."""
    labs: list[Peer] = []

    def start(*arguments: Any, **options: Any) -> Peer:
        labs.append(Peer(*arguments, profile=profile, **options))
        return labs[-1]

    yield start
    for lab in labs:
        lab.run()
        lab.validate()


@pytest.fixture
def peer(boot: Boot) -> Peer:
    """Four nodes of 256 frames."""
    return boot()
