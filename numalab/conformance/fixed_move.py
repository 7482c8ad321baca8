"""Fixed scenarios: move_pages(2)."""

from __future__ import annotations

from numalab.conformance.scenario import Scenario
from numalab.conformance.steps import (
    DONTNEED,
    MOVE,
    MOVE_ALL,
    NOBODY,
    STRICT,
    attach,
    confined,
    exit_,
    file,
    fork,
    madvise,
    mlock,
    mmap,
    move_pages,
    mprotect,
    munmap,
    pages_of,
    read,
    scenario,
    setresuid,
    spawn,
    spread,
    touched,
    write,
)

A4 = pages_of("a", 0, 4)

#: One page each: name, places, nodes; of four written pages on node 0, then two that are not.
ARRAYS: dict[str, tuple[list[list[object]], list[int] | None]] = {
    "each to its own node": (A4, [0, 1, 2, 3]),
    "all to one node": (A4, [2, 2, 2, 2]),
    "where they are": (A4, [0, 0, 0, 0]),
    "a query": (A4, None),
    "a query of everything": (pages_of("a", -1, 8), None),
    "nothing": ([], []),
    "a query of nothing": ([], None),
    "backwards": (A4[::-1], [0, 1, 2, 3]),
    "the same page twice, same node": ([["a", 0], ["a", 0]], [1, 1]),
    "the same page twice, two nodes": ([["a", 0], ["a", 0]], [1, 2]),
    "the same page again later": ([["a", 0], ["a", 1], ["a", 0]], [1, 1, 1]),
    "the same page by two addresses": ([["a", 0, 8], ["a", 0, 4000]], [1, 1]),
    "an address inside of a page": ([["a", 1, 100]], [2]),
    "an untouched page": ([["a", 4]], [1]),
    "untouched and written pages": ([["a", 3], ["a", 4], ["a", 2]], [1, 1, 1]),
    "a hole below": ([["a", -2]], [1]),
    "a hole above": ([["a", 6]], [1]),
    "a hole between": ([["a", 0], ["a", 7], ["a", 1]], [1, 1, 1]),
    "a query of holes": ([["a", -1], ["a", 0], ["a", 7]], None),
    "node 9": ([["a", 0]], [9]),
    "node -1": ([["a", 0]], [-1]),
    "node 5000": ([["a", 0]], [5000]),
    "a bad node first": (A4, [9, 1, 1, 1]),
    "a bad node last": (A4, [1, 1, 1, 9]),
    "a bad node in the middle": (A4, [1, 1, 9, 2]),
    "a bad node after two targets": (A4, [1, 2, -1, 2]),
    "a bad node after an untouched page": ([["a", 4], ["a", 0], ["a", 1]], [1, 1, 9]),
    "a bad node for a hole": ([["a", 7], ["a", 0]], [9, 1]),
    "targets that alternate": (A4, [1, 2, 1, 2]),
    "some are there already": (A4, [0, 1, 0, 1]),
    "holes all over": ([["a", -1], ["a", 0], ["a", 6], ["a", 1], ["a", 4], ["a", 2]], [1] * 6),
}


def array_scenarios() -> list[Scenario]:
    return [
        scenario(f"move {name}", mmap("a", 6), write(["a", 0], 4), move_pages(places, nodes))
        for name, (places, nodes) in ARRAYS.items()
    ]


def flag_scenarios() -> list[Scenario]:
    """As root and as a user; flags 0 is MOVE."""
    found = []
    for flags in (0, STRICT, MOVE, MOVE_ALL, MOVE | MOVE_ALL, MOVE | STRICT, 8, 1 << 14):
        steps = touched("a", 2), move_pages(A4[:2], [1, 2], flags)
        found.append(scenario(f"move with flags {flags}", *steps))
        steps = touched("a", 2, by="u"), move_pages(A4[:2], [1, 2], flags, "u", "u")
        found.append(scenario(f"a user moves with flags {flags}", spawn("u", 1000), *steps))
        query = move_pages(A4[:2], None, flags, "u", "u")
        found.append(scenario(f"a user asks with flags {flags}", spawn("u", 1000), steps[0], query))
    return found


FORKED = (touched("a", 4), fork("u", 1))
USERS = (spawn("u", 1000, 1), touched("a", 4, by="u"))

OTHERS = (
    scenario("move pages that a fork shares", *FORKED, move_pages(A4, [1, 2, 3, 0])),
    scenario("move all pages that a fork shares", *FORKED, move_pages(A4, [1, 2, 3, 0], MOVE_ALL)),
    scenario("the child moves shared pages", *FORKED, move_pages(A4, [1] * 4, MOVE, "u", "u")),
    scenario(
        "the child moves what it wrote",
        *FORKED,
        write(["a", 0], 2, 7, "u"),
        move_pages(A4, [3] * 4, MOVE, "u", "u"),
    ),
    scenario(
        "the parent moves what the child wrote",
        *FORKED,
        write(["a", 0], 2, 7, "u"),
        move_pages(A4, [3] * 4),
    ),
    scenario("the child has gone", *FORKED, exit_("u"), move_pages(A4, [1, 2, 3, 0])),
    scenario(
        "the parent wrote, the child's are alone",
        *FORKED,
        write(["a", 0], 2, 7),
        move_pages(A4, [3] * 4, MOVE, "u"),
    ),
    scenario("some shared and some not", *FORKED, write(["a", 1], 1, 7), move_pages(A4, [2] * 4)),
    scenario("shared, then a bad node", *FORKED, move_pages(A4, [1, 1, 9, 1])),
    scenario("a query of shared pages", *FORKED, move_pages(A4, None)),
    scenario("zero pages", mmap("a", 4), read(["a", 0], 4), move_pages(A4, [1] * 4)),
    scenario("a query of zero pages", mmap("a", 4), read(["a", 0], 4), move_pages(A4, None)),
    scenario(
        "zero pages among others",
        mmap("a", 4),
        read(["a", 0], 4),
        write(["a", 1], 2),
        move_pages(A4, [1] * 4),
    ),
    scenario("untouched shared memory", mmap("a", 4, shared=True), move_pages(A4, [1] * 4)),
    scenario(
        "shared memory that one maps", touched("a", 4, shared=True), move_pages(A4, [1, 2, 3, 0])
    ),
    scenario(
        "shared memory that two map",
        touched("a", 4, shared=True),
        fork("u"),
        read(["a", 0], 2, "u"),
        move_pages(A4, [1, 2, 3, 0]),
    ),
    scenario(
        "shared memory that two map, all",
        touched("a", 4, shared=True),
        fork("u"),
        read(["a", 0], 2, "u"),
        move_pages(A4, [1, 2, 3, 0], MOVE_ALL),
    ),
    scenario(
        "shared memory of which the other has pages",
        mmap("a", 4, shared=True),
        fork("u", 2),
        write(["a", 0], 4, 5, "u"),
        move_pages(A4, [1] * 4),
        read(["a", 0], 4),
        move_pages(A4, [1] * 4),
    ),
    scenario(
        "another process",
        spawn("u", cpu=1),
        touched("a", 4, by="u"),
        move_pages(A4, [2] * 4, MOVE, "u"),
    ),
    scenario(
        "a query of another process",
        spawn("u", cpu=1),
        touched("a", 4, by="u"),
        move_pages(A4, None, 0, "u"),
    ),
    scenario("root moves a user's pages", *USERS, move_pages(A4, [2] * 4, MOVE_ALL, "u")),
    scenario(
        "a user moves root's pages",
        touched("a", 4),
        spawn("u", 1000, 1),
        move_pages(A4, [2] * 4, MOVE, "t", "u"),
    ),
    scenario(
        "a user asks for root's pages",
        touched("a", 4),
        spawn("u", 1000, 1),
        move_pages(A4, None, 0, "t", "u"),
    ),
    scenario(
        "a user moves its other process",
        *USERS,
        spawn("v", 1000),
        move_pages(A4, [2] * 4, MOVE, "u", "v"),
    ),
    scenario(
        "a user moves another user's",
        *USERS,
        spawn("v", 1001),
        move_pages(A4, [2] * 4, MOVE, "u", "v"),
    ),
    scenario("a user moves itself by 0", *USERS, move_pages(A4, [2] * 4, MOVE, 0, "u")),
    scenario("a user moves all of itself", *USERS, move_pages(A4, [2] * 4, MOVE_ALL, "u", "u")),
    scenario(
        "who changed its uid moves itself",
        touched("a", 4),
        setresuid(1000, 1000, 1000),
        move_pages(A4, [2] * 4),
        move_pages(A4, [1] * 4, MOVE, 0),
    ),
    scenario(
        "who changed its uid is not dumpable",
        touched("a", 4),
        setresuid(1000, 1000, 1000),
        spawn("v", 1000),
        move_pages(A4, [2] * 4, MOVE, "t", "v"),
    ),
    scenario("nobody has the pid", touched("a", 2), move_pages(A4[:2], [1, 1], MOVE, NOBODY)),
    scenario(
        "nobody has the pid, and flags", touched("a", 2), move_pages(A4[:2], [1, 1], STRICT, NOBODY)
    ),
    scenario(
        "nobody has the pid, and a user with MOVE_ALL",
        spawn("u", 1000),
        move_pages([], [], MOVE_ALL, NOBODY, "u"),
    ),
    scenario("unreadable pages", touched("a", 4), move_pages(A4, [1] * 4, bad="pages")),
    scenario("unreadable nodes", touched("a", 4), move_pages(A4, [1] * 4, bad="nodes")),
    scenario("unwritable status", touched("a", 4), move_pages(A4, [1] * 4, bad="status")),
    scenario(
        "unwritable status, nothing to move", touched("a", 4), move_pages(A4, [0] * 4, bad="status")
    ),
    scenario(
        "a query with an unwritable status", touched("a", 4), move_pages(A4, None, bad="status")
    ),
    scenario("a query of unreadable pages", touched("a", 4), move_pages(A4, None, bad="pages")),
    scenario(
        "unreadable pages, nobody has the pid",
        move_pages(A4, [1] * 4, MOVE, NOBODY, bad="pages"),
        mmap("a", 4),
    ),
    scenario("mlocked pages", touched("a", 4), mlock(["a", 0], 4), move_pages(A4, [1, 2, 3, 0])),
    scenario("memory mapped locked", mmap("a", 4, locked=True), move_pages(A4, [1, 2, 3, 0])),
    scenario(
        "read-only pages", touched("a", 4), mprotect(["a", 0], 4, "r"), move_pages(A4, [1] * 4)
    ),
    scenario(
        "PROT_NONE pages",
        touched("a", 4),
        mprotect(["a", 0], 4, ""),
        move_pages(A4, [1] * 4),
        mprotect(["a", 0], 4, "rw"),
    ),
    scenario(
        "after MADV_DONTNEED",
        touched("a", 4),
        madvise(["a", 1], 2, DONTNEED),
        move_pages(A4, [1] * 4),
    ),
    scenario("after munmap", touched("a", 4), munmap(["a", 1], 2), move_pages(A4, [1] * 4)),
    scenario(
        "written after the move", touched("a", 4), move_pages(A4, [1] * 4), write(["a", 0], 4, 9)
    ),
    scenario(
        "moved twice", spread("a", 4), move_pages(A4, [3, 2, 1, 0]), move_pages(A4, [0, 0, 3, 3])
    ),
    scenario(
        "a node outside of the cpuset",
        touched("a", 4),
        confined("c", "0-1"),
        attach("c"),
        move_pages(A4, [1, 3, 1, 1]),
    ),
    scenario(
        "a user and a node outside of its cpuset",
        *USERS,
        confined("c", "0-1"),
        attach("c", "u"),
        move_pages(A4, [1, 3, 1, 1], MOVE, "u", "u"),
    ),
    scenario(
        "root and a node outside of the target's cpuset",
        *USERS,
        confined("c", "0-1"),
        attach("c", "u"),
        move_pages(A4, [0, 2, 0, 0], MOVE, "u"),
    ),
    scenario(
        "a shared file",
        file("f", 8),
        mmap("a", 4, file="f", shared=True),
        write(["a", 0], 3),
        move_pages(A4, [1] * 4),
    ),
    scenario(
        "a file that is mapped twice",
        file("f", 8),
        mmap("a", 4, file="f", shared=True),
        mmap("b", 4, file="f", shared=True),
        write(["a", 0], 3),
        read(["b", 0], 2),
        move_pages(A4, [1] * 4),
    ),
    scenario(
        "a private file, read",
        file("f", 8),
        mmap("a", 4, file="f"),
        read(["a", 0], 3),
        move_pages(A4, [1] * 4),
    ),
    scenario(
        "a private file, written",
        file("f", 8),
        mmap("a", 4, file="f"),
        read(["a", 0], 3),
        write(["a", 1], 1),
        move_pages(A4, [1] * 4),
        read(["a", 0], 4),
    ),
    scenario(
        "a file at an offset",
        file("f", 8),
        mmap("a", 4, file="f", shared=True, offset=2),
        mmap("b", 8, file="f", shared=True),
        write(["a", 0], 2),
        read(["b", 0], 8),
        move_pages(A4, [1] * 4),
    ),
    scenario(
        "beyond the end of a file",
        file("f", 2),
        mmap("a", 4, file="f", shared=True),
        write(["a", 0], 2),
        read(["a", 3], 1),
        move_pages(A4, [1] * 4),
    ),
)

SCENARIOS = (*array_scenarios(), *flag_scenarios(), *OTHERS)
