"""Fixed scenarios: mbind(2), and how vmas split and merge."""

from __future__ import annotations

from numalab.conformance.scenario import Scenario
from numalab.conformance.steps import (
    BIND,
    DEFAULT,
    F_ADDR,
    INTERLEAVE,
    LOCAL,
    MOVE,
    MOVE_ALL,
    PREFERRED,
    PREFERRED_MANY,
    STATIC,
    STRICT,
    file,
    fork,
    get_mempolicy,
    mbind,
    mlock,
    mmap,
    mprotect,
    munlock,
    munmap,
    raw,
    read,
    run_on,
    scenario,
    set_mempolicy,
    spawn,
    spread,
    touched,
    write,
)

A = ["a", 0]


def trio_scenarios() -> list[Scenario]:
    """Every mode with every way to treat the pages that are there: two on each node."""
    found = []
    for name, mode, nodes in (
        ("DEFAULT", DEFAULT, []),
        ("BIND 1", BIND, [1]),
        ("BIND 0-3", BIND, [0, 1, 2, 3]),
        ("BIND 1,2", BIND, [1, 2]),
        ("INTERLEAVE 0,2", INTERLEAVE, [0, 2]),
        ("PREFERRED 3", PREFERRED, [3]),
        ("PREFERRED, empty", PREFERRED, []),
        ("LOCAL", LOCAL, []),
        ("PREFERRED_MANY 1,3", PREFERRED_MANY, [1, 3]),
    ):
        for flags in (0, STRICT, MOVE, MOVE | STRICT, MOVE_ALL | STRICT):
            last = mbind(A, 8, mode, nodes, flags), get_mempolicy(A, F_ADDR)
            found.append(scenario(f"mbind {name}, flags {flags}", spread("a", 8), *last))
    return found


def error_scenarios() -> list[Scenario]:
    """One call on an area of 4 written pages, a hole of 2 and an area of 4."""
    calls = {
        "mode 7": mbind(A, 4, 7, [1]),
        "flags 8": mbind(A, 4, BIND, [1], 8),
        "flags 16": mbind(A, 4, BIND, [1], 16),
        "an unaligned address": mbind(["a", 0, 8], 1, BIND, [1]),
        "an unaligned length": mbind(A, 1, BIND, [1], bytes=100),
        "length 0": mbind(A, 0, BIND, [1]),
        "length 0 and a bad mode": mbind(A, 0, 7, [1]),
        "length 0 and an empty mask": mbind(A, 0, BIND, []),
        "length overflows": mbind(A, 0, BIND, [1], bytes=(1 << 64) - 4096),
        "BIND, empty": mbind(A, 4, BIND, []),
        "INTERLEAVE, empty": mbind(A, 4, INTERLEAVE, []),
        "DEFAULT with nodes": mbind(A, 4, DEFAULT, [1]),
        "LOCAL with nodes": mbind(A, 4, LOCAL, [1]),
        "node 9": mbind(A, 4, BIND, [9]),
        "nodes 1 and 9": mbind(A, 4, BIND, [1, 9], MOVE),
        "a null mask": mbind(A, 4, BIND, raw(65)),
        "maxnode 0": mbind(A, 4, BIND, raw(0, "02" + "00" * 7)),
        "maxnode 1": mbind(A, 4, BIND, raw(1, "01" + "00" * 7)),
        "maxnode 2": mbind(A, 4, BIND, raw(2, "03" + "00" * 7), MOVE),
        "an unreadable mask": mbind(A, 4, BIND, raw(65, bad=True)),
        "an unreadable mask and mode 7": mbind(A, 4, 7, raw(65, bad=True)),
        "an unreadable mask and an unaligned address": mbind(
            ["a", 0, 8], 1, BIND, raw(65, bad=True)
        ),
        "a hole in the middle": mbind(A, 10, BIND, [1], MOVE),
        "a hole in the middle, DEFAULT": mbind(A, 10, DEFAULT, None, MOVE),
        "a hole at the head": mbind(["a", -1], 3, BIND, [1], MOVE),
        "a hole at the tail": mbind(["b", 0], 6, BIND, [1], MOVE),
        "a hole at the tail, DEFAULT": mbind(["b", 0], 6, DEFAULT, None),
        "a hole alone": mbind(["a", 4], 2, BIND, [1]),
        "a hole alone, DEFAULT": mbind(["a", 4], 2, DEFAULT),
        "a hole and STRICT": mbind(A, 10, BIND, [1], STRICT),
    }
    found = []
    for name, call in calls.items():
        areas = touched("a", 4), touched("b", 4, at=["a", 6])
        found.append(scenario(f"mbind {name}", *areas, call, get_mempolicy(A, F_ADDR)))
    return found


def user_scenarios() -> list[Scenario]:
    found = []
    for flags in (MOVE, MOVE_ALL, MOVE_ALL | STRICT):
        steps = spawn("u", 1000), touched("a", 4, by="u"), mbind(A, 4, BIND, [1], flags, "u")
        found.append(scenario(f"a user's mbind with flags {flags}", *steps))
    bad = mbind(["a", 0, 8], 4, BIND, [1], MOVE_ALL, "u")
    found.append(scenario("a user's MOVE_ALL, unaligned", *steps[:2], bad))
    bad = mbind(A, 4, 7, [1], MOVE_ALL, "u")
    found.append(scenario("a user's MOVE_ALL, mode 7", *steps[:2], bad))
    bad = mbind(A, 4, BIND, [], MOVE_ALL, "u")
    found.append(scenario("a user's MOVE_ALL, empty mask", *steps[:2], bad))
    return found


FORKED = (touched("a", 4), fork("u", 1))

OTHERS = (
    scenario("bound before the first touch", mmap("a", 8), mbind(A, 8, BIND, [2, 3]), write(A, 8)),
    scenario(
        "interleaved before the first touch",
        mmap("a", 8),
        mbind(A, 8, INTERLEAVE, [0, 1, 2]),
        write(A, 8),
    ),
    scenario(
        "interleaved in two parts",
        mmap("a", 8),
        mbind(A, 3, INTERLEAVE, [0, 1, 2]),
        mbind(["a", 3], 5, INTERLEAVE, [1, 3]),
        write(A, 8),
    ),
    scenario(
        "the area outranks the task",
        set_mempolicy(BIND, [1]),
        mmap("a", 6),
        mbind(A, 3, BIND, [2]),
        write(A, 6),
    ),
    scenario(
        "LOCAL is where the caller is now",
        touched("a", 4),
        run_on(2),
        mbind(A, 2, LOCAL, [], MOVE),
        fork("u", 3),
        mbind(A, 4, LOCAL, [], MOVE_ALL, "u"),
    ),
    scenario(
        "what was writable once does not join what never was",
        mmap("a", 6),
        mprotect(["a", 5], 1, "r"),
        mmap("b", 3, at=["a", 6], prot="r"),
        mprotect(["a", 5], 4, "rw"),
        mprotect(["a", 4], 5, "r"),
    ),
    scenario(
        "LOCAL outranks the task",
        set_mempolicy(BIND, [1]),
        mmap("a", 6),
        mbind(A, 3, LOCAL),
        write(A, 6),
    ),
    scenario(
        "DEFAULT gives it back to the task",
        set_mempolicy(BIND, [1]),
        mmap("a", 4),
        mbind(A, 4, BIND, [2]),
        mbind(A, 4, DEFAULT),
        write(A, 4),
        get_mempolicy(A, F_ADDR),
    ),
    scenario(
        "DEFAULT moves to where the task's policy says",
        set_mempolicy(BIND, [2]),
        spread("a", 8),
        mbind(A, 8, DEFAULT, None, MOVE),
    ),
    scenario("the head of an area", touched("a", 8), mbind(A, 2, BIND, [1], MOVE)),
    scenario("the tail of an area", touched("a", 8), mbind(["a", 6], 2, BIND, [1], MOVE)),
    scenario("the middle of an area", touched("a", 8), mbind(["a", 3], 2, BIND, [1], MOVE)),
    scenario(
        "the whole of two areas",
        touched("a", 4),
        touched("b", 4, at=["a", 4]),
        mbind(A, 8, BIND, [1], MOVE),
    ),
    scenario(
        "parts of two areas",
        touched("a", 4),
        touched("b", 4, at=["a", 4], shared=True),
        mbind(["a", 2], 4, BIND, [1], MOVE),
    ),
    scenario(
        "split and merged again",
        mmap("a", 8),
        mbind(["a", 2], 4, BIND, [1]),
        mbind(["a", 2], 4, DEFAULT),
    ),
    scenario(
        "split and merged again, touched",
        touched("a", 8),
        mbind(["a", 2], 4, BIND, [1]),
        mbind(["a", 2], 4, DEFAULT),
    ),
    scenario(
        "neighbours with equal policies merge",
        mmap("a", 8),
        mbind(A, 4, BIND, [1]),
        mbind(["a", 4], 4, BIND, [1]),
    ),
    scenario(
        "neighbours with unlike flags do not merge",
        mmap("a", 8),
        mbind(A, 4, BIND, [1]),
        mbind(["a", 4], 4, BIND | STATIC, [1]),
    ),
    scenario(
        "a policy that is there already",
        touched("a", 8),
        mbind(A, 8, BIND, [1]),
        mbind(A, 8, BIND, [1], MOVE),
    ),
    scenario("two mappings that touch merge", mmap("a", 4), mmap("b", 4, at=["a", 4])),
    scenario(
        "two mappings that touch, the first written",
        touched("a", 4),
        mmap("b", 4, at=["a", 4]),
        write(["b", 0], 4),
    ),
    scenario(
        "two mappings that touch, both written",
        touched("a", 4),
        mmap("c", 4, at=["a", 8]),
        write(["c", 0], 2),
        mmap("b", 4, at=["a", 4]),
    ),
    scenario("mapped below", mmap("a", 4), mmap("b", 4, at=["a", -4])),
    scenario("a gap filled", mmap("a", 4), mmap("c", 4, at=["a", 8]), mmap("b", 4, at=["a", 4])),
    scenario("unlike protections do not merge", mmap("a", 4), mmap("b", 4, at=["a", 4], prot="r")),
    scenario("mprotect splits", touched("a", 8), mprotect(["a", 2], 4, "r")),
    scenario(
        "mprotect merges again",
        touched("a", 8),
        mprotect(["a", 2], 4, "r"),
        mprotect(["a", 2], 4, "rw"),
    ),
    scenario(
        "mlock splits and munlock merges", touched("a", 8), mlock(["a", 2], 4), munlock(["a", 2], 4)
    ),
    scenario(
        "shared mappings that touch",
        mmap("a", 4, shared=True),
        mmap("b", 4, at=["a", 4], shared=True),
    ),
    scenario(
        "halves of a file merge",
        file("f", 8),
        mmap("a", 4, file="f", shared=True),
        mmap("b", 4, at=["a", 4], file="f", shared=True, offset=4),
    ),
    scenario(
        "a file's halves in the wrong order",
        file("f", 8),
        mmap("a", 4, file="f", shared=True, offset=4),
        mmap("b", 4, at=["a", 4], file="f", shared=True),
    ),
    scenario("mapped over", touched("a", 8), mmap("b", 3, at=["a", 2]), write(["b", 0], 1, 5)),
    scenario(
        "mapped over a bound part",
        touched("a", 8),
        mbind(A, 8, BIND, [1], MOVE),
        mmap("b", 3, at=["a", 2]),
        write(["b", 0], 3, 5),
    ),
    scenario("munmap of the middle", touched("a", 8), munmap(["a", 3], 2)),
    scenario("munmap unaligned", touched("a", 4), munmap(["a", 0, 8], 1)),
    scenario("munmap of a hole", touched("a", 4), munmap(["a", 5], 2)),
    scenario("munmap of nothing", touched("a", 4), munmap(A, 0)),
    scenario("mprotect of a hole", touched("a", 4), mprotect(["a", 2], 4, "r")),
    scenario("mprotect unaligned", touched("a", 4), mprotect(["a", 0, 8], 1, "r")),
    scenario("pages that a fork shares, MOVE", *FORKED, mbind(A, 4, BIND, [2], MOVE)),
    scenario(
        "pages that a fork shares, MOVE and STRICT", *FORKED, mbind(A, 4, BIND, [2], MOVE | STRICT)
    ),
    scenario("pages that a fork shares, MOVE_ALL", *FORKED, mbind(A, 4, BIND, [2], MOVE_ALL)),
    scenario(
        "pages that a fork shares, MOVE_ALL and STRICT",
        *FORKED,
        mbind(A, 4, BIND, [2], MOVE_ALL | STRICT),
    ),
    scenario(
        "a fork inherits the areas' policies",
        mmap("a", 4),
        mbind(A, 4, BIND, [2]),
        fork("u", 1),
        write(A, 4, 5, "u"),
        get_mempolicy(A, F_ADDR, by="u"),
    ),
    scenario(
        "a fork's areas are its own",
        mmap("a", 4),
        mbind(A, 4, BIND, [2]),
        fork("u", 1),
        mbind(A, 4, BIND, [3], 0, "u"),
        get_mempolicy(A, F_ADDR),
    ),
    scenario(
        "shared memory has one policy",
        mmap("a", 4, shared=True),
        fork("u", 1),
        mbind(A, 4, BIND, [2]),
        write(A, 2, 5, "u"),
        get_mempolicy(A, F_ADDR, by="u"),
    ),
    scenario(
        "shared memory's policy of a part",
        mmap("a", 6, shared=True),
        mbind(["a", 2], 2, BIND, [3]),
        fork("u", 1),
        write(A, 6, 5, "u"),
    ),
    scenario("shared memory moves", touched("a", 4, shared=True), mbind(A, 4, BIND, [2], MOVE)),
    scenario(
        "a file's policy is seen through another mapping",
        file("f", 4),
        mmap("a", 4, file="f", shared=True),
        mbind(A, 4, BIND, [3]),
        mmap("b", 4, file="f", shared=True),
        write(["b", 0], 4),
        get_mempolicy(["b", 0], F_ADDR),
    ),
    scenario(
        "a file's policy outlives the mapping",
        file("f", 4),
        mmap("a", 4, file="f", shared=True),
        mbind(A, 4, BIND, [3]),
        munmap(A, 4),
        mmap("b", 4, file="f", shared=True),
        write(["b", 0], 4),
    ),
    scenario(
        "a private file's policy",
        file("f", 4),
        mmap("a", 4, file="f"),
        mbind(A, 4, BIND, [3]),
        read(A, 2),
        write(["a", 1], 2),
    ),
    scenario(
        "zero pages, MOVE and STRICT",
        mmap("a", 4),
        read(A, 4),
        mbind(A, 4, BIND, [2], MOVE | STRICT),
    ),
    scenario("zero pages, STRICT", mmap("a", 4), read(A, 4), mbind(A, 4, BIND, [2], STRICT)),
    scenario("mlocked pages", touched("a", 4), mlock(A, 4), mbind(A, 4, BIND, [2], MOVE | STRICT)),
    scenario(
        "PROT_NONE pages",
        touched("a", 4),
        mprotect(A, 4, ""),
        mbind(A, 4, BIND, [2], MOVE | STRICT),
        mprotect(A, 4, "rw"),
    ),
    scenario(
        "MOVE again to where it is",
        touched("a", 4),
        mbind(A, 4, BIND, [2], MOVE),
        mbind(A, 4, BIND, [2, 3], MOVE | STRICT),
    ),
)

SCENARIOS = (*trio_scenarios(), *error_scenarios(), *user_scenarios(), *OTHERS)
