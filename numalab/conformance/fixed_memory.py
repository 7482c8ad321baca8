"""Fixed scenarios: fork, copy-on-write, access."""

from __future__ import annotations

from numalab.conformance.steps import (
    MOVE,
    exit_,
    fork,
    mmap,
    move_pages,
    mprotect,
    munmap,
    pages_of,
    read,
    run_on,
    scenario,
    touched,
    write,
)

A = ["a", 0]
A4 = pages_of("a", 0, 4)

FORKS = (
    scenario("a child reads", touched("a", 4), fork("u", 1), read(A, 4, "u")),
    scenario(
        "a child writes",
        touched("a", 4),
        fork("u", 1),
        write(A, 2, 7, "u"),
        read(A, 4),
        read(A, 4, "u"),
    ),
    scenario("a parent writes", touched("a", 4), fork("u", 1), write(A, 2, 7), read(A, 4, "u")),
    scenario(
        "both write",
        touched("a", 4),
        fork("u", 1),
        write(A, 4, 7, "u"),
        write(A, 4, 9),
        read(A, 4, "u"),
    ),
    scenario(
        "the last one reuses the page", touched("a", 4), fork("u", 1), exit_("u"), write(A, 4, 9)
    ),
    scenario(
        "the parent goes first", touched("a", 4), fork("u", 1), exit_("t"), write(A, 4, 9, "u")
    ),
    scenario(
        "a grandchild",
        touched("a", 4),
        fork("u", 1),
        fork("v", 2, "u"),
        write(A, 1, 5, "v"),
        write(["a", 1], 1, 6, "u"),
        exit_("u"),
        move_pages(A4, [3] * 4, MOVE, "v", "v"),
    ),
    scenario(
        "a fork of zero pages",
        mmap("a", 4),
        read(A, 4),
        fork("u", 1),
        write(A, 2, 5, "u"),
        write(["a", 2], 2),
    ),
    scenario(
        "a fork of untouched memory", mmap("a", 4), fork("u", 1), write(A, 2, 5, "u"), write(A, 2)
    ),
    scenario(
        "a fork of shared memory",
        touched("a", 4, shared=True),
        fork("u", 1),
        write(A, 2, 5, "u"),
        read(A, 4),
    ),
    scenario(
        "a fork of untouched shared memory",
        mmap("a", 4, shared=True),
        fork("u", 1),
        write(A, 2, 5, "u"),
        write(["a", 1], 2),
    ),
    scenario(
        "a page that was moved and is then copied",
        touched("a", 4),
        move_pages(A4, [3] * 4),
        fork("u", 1),
        write(A, 2, 5, "u"),
        exit_("t"),
        write(A, 4, 8, "u"),
    ),
    scenario("a child's new area", fork("u", 2), touched("a", 4, by="u")),
    scenario(
        "a child unmaps", touched("a", 4), fork("u", 1), munmap(A, 2, "u"), move_pages(A4, [1] * 4)
    ),
    scenario(
        "a child protects and the parent writes",
        touched("a", 4),
        fork("u", 1),
        mprotect(A, 4, "r", "u"),
        write(A, 4, 9),
        write(A, 1, 4, "u"),
    ),
)

ACCESS = (
    scenario("write what is read-only", mmap("a", 4, prot="r"), write(A, 2)),
    scenario("read what is PROT_NONE", mmap("a", 4, prot=""), read(A, 2)),
    scenario("read a hole", mmap("a", 4), read(["a", 5], 1)),
    scenario(
        "words in two pages, one of them a hole",
        touched("a", 6),
        munmap(["a", 2], 1),
        write(["a", 2, 4095], 1, 5),
        write(["a", 1, 4095], 1, 5),
        read(["a", 0, 4090], 2),
        write(["a", 3, 4090], 2, 7),
    ),
    scenario(
        "words in two pages, the upper one read-only",
        mmap("a", 4, shared=True),
        mprotect(["a", 2], 1, "r"),
        write(["a", 1, 4095], 1, 5),
        write(["a", 2, 4095], 1, 5),
        read(["a", 2, 4090], 1),
    ),
    scenario("write over the end", mmap("a", 4), write(["a", 2], 4)),
    scenario(
        "made read-only, then writable",
        touched("a", 4),
        mprotect(A, 4, "r"),
        write(A, 2, 5),
        mprotect(A, 4, "rw"),
        write(A, 2, 5),
    ),
    scenario(
        "zero pages become read-only", mmap("a", 4), read(A, 4), mprotect(A, 4, "r"), read(A, 4)
    ),
    scenario(
        "written from other cpus",
        mmap("a", 8),
        write(A, 2),
        run_on(2),
        write(["a", 2], 2),
        run_on(3),
        write(["a", 1], 4),
    ),
    scenario(
        "read, then written from another cpu", mmap("a", 4), read(A, 4), run_on(2), write(A, 2)
    ),
)

SCENARIOS = (*FORKS, *ACCESS)
