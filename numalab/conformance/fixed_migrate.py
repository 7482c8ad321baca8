"""Fixed scenarios: migrate_pages(2)."""

from __future__ import annotations

from numalab.conformance.scenario import Scenario
from numalab.conformance.steps import (
    INTERLEAVE,
    NOBODY,
    Nodes,
    attach,
    confined,
    exit_,
    fork,
    get_mempolicy,
    madvise,
    mbind,
    migrate_pages,
    mmap,
    mprotect,
    munmap,
    raw,
    read,
    run_on,
    scenario,
    setresuid,
    spawn,
    spread,
    touched,
    write,
)

#: K 1.12, and more pairs of masks: from, to.
PAIRS: tuple[tuple[list[int], list[int]], ...] = (
    ([0], [1]),
    ([0], [3]),
    ([0], [0]),
    ([0, 1], [2, 3]),
    ([0, 1], [1, 2]),
    ([1, 2], [0, 1]),
    ([0, 1, 2], [1, 2, 3]),
    ([1, 2, 3], [0, 1, 2]),
    ([0, 1], [1, 0]),
    ([0, 3], [0, 3]),
    ([0, 1, 2, 3], [1, 2]),
    ([0, 1, 2, 3], [0]),
    ([0, 1, 2, 3], [3]),
    ([0, 1, 2, 3], [2, 3]),
    ([0, 1, 2, 3], [0, 3]),
    ([0, 1, 2, 3], [0, 1, 2, 3]),
    ([0], [1, 2]),
    ([0], [0, 1]),
    ([0], [0, 1, 2, 3]),
    ([0, 2], [1, 2, 3]),
    ([0, 1, 2], [3]),
    ([0, 1, 2], [2, 3]),
    ([0, 1, 3], [0, 2]),
    ([2, 3], [0, 1, 2]),
)

#: K 4.1 - 4.4: old and new masks as the call takes them.
MASKS: dict[str, tuple[Nodes, Nodes]] = {
    "a null old mask": (raw(65), [1]),
    "a null new mask": ([0], raw(65)),
    "both masks null": (raw(65), raw(65)),
    "maxnode 0 with a pointer": (raw(0, "01" + "00" * 7), raw(0, "02" + "00" * 7)),
    "maxnode 1": (raw(1, "01" + "00" * 7), raw(1, "02" + "00" * 7)),
    "maxnode 2 has one bit": (raw(2, "01" + "00" * 7), raw(2, "01" + "00" * 7)),
    "maxnode 2 cuts node 1 off": (raw(2, "03" + "00" * 7), raw(2, "02" + "00" * 7)),
    "maxnode 3 has nodes 0 and 1": (raw(3, "01" + "00" * 7), raw(3, "02" + "00" * 7)),
    "maxnode 1025": (raw(1025, "01" + "00" * 127), raw(1025, "02" + "00" * 127)),
    "maxnode 1089, bits beyond are 0": (raw(1089, "01" + "00" * 135), raw(1089, "02" + "00" * 135)),
    "maxnode 1089, a bit beyond": (
        raw(1089, "01" + "00" * 127 + "01" + "00" * 7),
        raw(1089, "02" + "00" * 135),
    ),
    "more than a page of bits": (raw(32770, "01" + "00" * 7), raw(32770, "02" + "00" * 7)),
    "a page of bits": (raw(32769, "01" + "00" * 4095), raw(32769, "02" + "00" * 4095)),
    "an unreadable old mask": (raw(65, bad=True), [1]),
    "an unreadable new mask": ([0], raw(65, bad=True)),
    "a mask that ends too early": (raw(129, "01" + "00" * 7), raw(129, "02" + "00" * 15)),
    "an empty new mask": ([0], []),
    "an empty old mask": ([], [1]),
    "a new node that is not there": ([0], [9]),
    "a new node that is not there and one that is": ([0], [1, 9]),
    "an old node that is not there": ([9], [1]),
    "node 63 is past maxnode 64": (raw(64, "01" + "00" * 6 + "80"), raw(64, "02" + "00" * 7)),
}


def pair_scenarios() -> list[Scenario]:
    """A page on every node, twice over; all of it moves as the masks say."""
    return [
        scenario(f"migrate {old} to {new}", spread("a", 8), migrate_pages(old, new))
        for old, new in PAIRS
    ]


def mask_scenarios() -> list[Scenario]:
    return [
        scenario(f"migrate with {name}", touched("a", 4), migrate_pages(old, new))
        for name, (old, new) in MASKS.items()
    ]


OTHERS = (
    scenario("migrate nothing", migrate_pages([0], [1])),
    scenario("migrate untouched memory", mmap("a", 4), migrate_pages([0], [1])),
    scenario("migrate zero pages", mmap("a", 4), read(["a", 0], 4), migrate_pages([0], [1])),
    scenario(
        "migrate half-touched memory", mmap("a", 6), write(["a", 2], 2), migrate_pages([0], [2])
    ),
    scenario(
        "migrate there and back", touched("a", 4), migrate_pages([0], [3]), migrate_pages([3], [0])
    ),
    scenario(
        "migrate shared anonymous memory", touched("a", 4, shared=True), migrate_pages([0], [1])
    ),
    scenario(
        "migrate two areas", touched("a", 3), touched("b", 3, value=50), migrate_pages([0], [2])
    ),
    scenario(
        "migrate read-only memory",
        touched("a", 4),
        mprotect(["a", 0], 4, "r"),
        migrate_pages([0], [1]),
    ),
    scenario(
        "migrate PROT_NONE memory",
        touched("a", 4),
        mprotect(["a", 0], 4, ""),
        migrate_pages([0], [1]),
    ),
    scenario(
        "write after a migration", touched("a", 4), migrate_pages([0], [1]), write(["a", 0], 4, 70)
    ),
    scenario(
        "a new page after a migration is local",
        mmap("a", 4),
        write(["a", 0], 2),
        migrate_pages([0], [1]),
        write(["a", 2], 2),
    ),
    scenario(
        "migrate the child alone", touched("a", 4), fork("u", 1), migrate_pages([0], [2], "u")
    ),
    scenario(
        "migrate the parent of a child that wrote",
        touched("a", 4),
        fork("u", 1),
        write(["a", 0], 2, 9, "u"),
        migrate_pages([0], [3]),
    ),
    scenario(
        "migrate after the child has gone",
        touched("a", 4),
        fork("u", 1),
        exit_("u"),
        migrate_pages([0], [3]),
    ),
    scenario(
        "root migrates another process",
        spawn("u", cpu=1),
        touched("a", 4, by="u"),
        migrate_pages([1], [3], "u"),
    ),
    scenario(
        "root migrates a user's process",
        spawn("u", 1000, 1),
        touched("a", 4, by="u"),
        migrate_pages([1], [3], "u"),
    ),
    scenario(
        "a user migrates itself",
        spawn("u", 1000, 1),
        touched("a", 4, by="u"),
        migrate_pages([1], [3], "u", "u"),
    ),
    scenario(
        "a user migrates itself by 0",
        spawn("u", 1000, 1),
        touched("a", 4, by="u"),
        migrate_pages([1], [3], 0, "u"),
    ),
    scenario(
        "a user migrates root",
        touched("a", 4),
        spawn("u", 1000, 1),
        migrate_pages([0], [3], "t", "u"),
    ),
    scenario(
        "a user migrates its other process",
        spawn("u", 1000, 1),
        spawn("v", 1000, 2),
        touched("a", 4, by="v"),
        migrate_pages([2], [3], "v", "u"),
    ),
    scenario(
        "a user migrates another user",
        spawn("u", 1000, 1),
        spawn("v", 1001, 2),
        touched("a", 4, by="v"),
        migrate_pages([2], [3], "v", "u"),
    ),
    scenario(
        "a user's fork shares its pages: they stay",
        spawn("u", 1000, 1),
        touched("a", 4, by="u"),
        fork("v", 2, "u"),
        migrate_pages([1], [3], "u", "u"),
    ),
    scenario(
        "a user's fork that wrote",
        spawn("u", 1000, 1),
        touched("a", 4, by="u"),
        fork("v", 2, "u"),
        write(["a", 0], 2, 5, "v"),
        migrate_pages([1], [3], "u", "u"),
        migrate_pages([1, 2], [3, 0], "v", "v"),
    ),
    scenario(
        "a user's fork of shared memory",
        spawn("u", 1000, 1),
        touched("a", 4, by="u", shared=True),
        fork("v", 2, "u"),
        read(["a", 0], 2, "v"),
        migrate_pages([1], [3], "u", "u"),
    ),
    scenario("nobody has the pid", migrate_pages([0], [1], NOBODY)),
    scenario(
        "nobody has the pid, and the mask is bad",
        migrate_pages(raw(0, "01" + "00" * 7), raw(0, "01" + "00" * 7), NOBODY),
    ),
    scenario(
        "a user, and an empty new mask",
        touched("a", 2),
        spawn("u", 1000),
        migrate_pages([0], [], "t", "u"),
    ),
    scenario(
        "a user, and a node that is not there",
        spawn("u", 1000),
        touched("a", 2, by="u"),
        migrate_pages([0], [9], "u", "u"),
    ),
    scenario(
        "setresuid, then another's process",
        setresuid(1000, 1000, 1000),
        touched("a", 2),
        spawn("u", 1000, 1),
        migrate_pages([1], [2], "u"),
        migrate_pages([0], [2], "t"),
    ),
    scenario(
        "who changed its uid is not dumpable",
        touched("a", 2),
        setresuid(1000, 1000, 1000),
        spawn("u", 1000, 1),
        migrate_pages([0], [2], "t", "u"),
    ),
    scenario(
        "only the euid changed",
        touched("a", 2),
        setresuid(-1, 1000, -1),
        migrate_pages([0], [2]),
        spawn("u", 0, 1),
        migrate_pages([0], [1], "u"),
    ),
    scenario(
        "migrating does not touch the policy",
        mmap("a", 8),
        mbind(["a", 0], 8, INTERLEAVE, [0, 1]),
        write(["a", 0], 8),
        migrate_pages([0, 1], [2, 3]),
        get_mempolicy(["a", 0], 2),
    ),
    scenario(
        "migrate after munmap of the middle",
        touched("a", 6),
        munmap(["a", 2], 2),
        migrate_pages([0], [2]),
    ),
    scenario(
        "migrate after MADV_DONTNEED",
        touched("a", 6),
        madvise(["a", 1], 3, 4),
        migrate_pages([0], [2]),
        read(["a", 0], 6),
    ),
    scenario(
        "pages of another cpu",
        mmap("a", 8),
        write(["a", 0], 2),
        run_on(1),
        write(["a", 2], 2),
        run_on(3),
        write(["a", 4], 2),
        migrate_pages([1, 3], [2, 0]),
    ),
    scenario(
        "a target outside of the cpuset of the caller",
        touched("a", 4),
        confined("c", "0-1"),
        attach("c"),
        migrate_pages([0], [3]),
    ),
    scenario(
        "a user and a target outside of its cpuset",
        spawn("u", 1000),
        touched("a", 4, by="u"),
        confined("c", "0-1"),
        attach("c", "u"),
        migrate_pages([0], [3], "u", "u"),
    ),
    scenario(
        "a user and a target inside of its cpuset",
        spawn("u", 1000),
        touched("a", 4, by="u"),
        confined("c", "0-1"),
        attach("c", "u"),
        migrate_pages([0], [1], "u", "u"),
    ),
    scenario(
        "targets half outside of the cpuset",
        touched("a", 4),
        confined("c", "0-1"),
        attach("c"),
        migrate_pages([0], [1, 3]),
    ),
    scenario(
        "root moves a confined task out",
        spawn("u"),
        touched("a", 4, by="u"),
        confined("c", "0-1"),
        attach("c", "u"),
        migrate_pages([0], [3], "u"),
    ),
)

SCENARIOS = (*pair_scenarios(), *mask_scenarios(), *OTHERS)
