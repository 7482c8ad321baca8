"""Fixed scenarios: mlock, madvise, threads."""

from __future__ import annotations

from numalab.conformance.steps import (
    DONTNEED,
    F_ADDR,
    F_NODE,
    INTERLEAVE,
    MOVE,
    POPULATE_READ,
    POPULATE_WRITE,
    clone,
    exit_,
    fork,
    get_mempolicy,
    madvise,
    mbind,
    migrate_pages,
    mlock,
    mmap,
    move_pages,
    mprotect,
    munlock,
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

LOCKS = (
    scenario("mlock populates", mmap("a", 4), mlock(A, 4)),
    scenario("mlock of a part", touched("a", 8), mlock(["a", 2], 3)),
    scenario("mlock of a hole", touched("a", 4), mlock(["a", 2], 4)),
    scenario("mlock of nothing", touched("a", 4), mlock(A, 0)),
    scenario("mlock unaligned", mmap("a", 4), mlock(["a", 0, 100], 1)),
    scenario("mlock of read-only memory", mmap("a", 4, prot="r"), mlock(A, 4)),
    scenario("mlock of shared memory", mmap("a", 4, shared=True), mlock(A, 4)),
    scenario("mlock of PROT_NONE memory", mmap("a", 4, prot=""), mlock(A, 4)),
    scenario("mlock by policy", mmap("a", 4), mbind(A, 4, INTERLEAVE, [1, 2]), mlock(A, 4)),
    scenario("mapped locked", mmap("a", 4, locked=True)),
    scenario("mapped locked and shared", mmap("a", 4, shared=True, locked=True)),
    scenario("mapped locked on another cpu", run_on(2), mmap("a", 4, locked=True)),
    scenario("mlock on another cpu", mmap("a", 4), run_on(2), mlock(A, 4)),
    scenario("a child on another cpu locks", mmap("a", 4), fork("u", 3), mlock(A, 4, "u")),
    scenario(
        "munlock of what was active",
        touched("a", 4),
        madvise(A, 2, POPULATE_WRITE),
        madvise(A, 2, POPULATE_WRITE),
        mlock(A, 4),
        munlock(A, 4),
    ),
    scenario(
        "locked memory becomes writable",
        mmap("a", 4, prot="r"),
        read(A, 1),
        mlock(A, 3),
        run_on(2),
        mprotect(A, 4, "rw"),
    ),
    scenario("munlock", mmap("a", 4, locked=True), munlock(A, 4)),
    scenario("munlock of a hole", mmap("a", 4), munlock(["a", 2], 4)),
    scenario("mlocked pages migrate", touched("a", 4), mlock(A, 4), migrate_pages([0], [2])),
    scenario(
        "a fork is not locked",
        touched("a", 4),
        mlock(A, 4),
        fork("u", 1),
        write(A, 2, 5, "u"),
        madvise(A, 2, DONTNEED, "u"),
    ),
)

ADVICE = (
    scenario("DONTNEED", touched("a", 4), madvise(["a", 1], 2, DONTNEED), read(A, 4)),
    scenario(
        "populated on another cpu",
        mmap("a", 4),
        run_on(2),
        madvise(A, 2, POPULATE_WRITE),
        fork("u", 1),
        madvise(A, 4, POPULATE_WRITE, "u"),
    ),
    scenario(
        "pages that are populated twice are active",
        touched("a", 4),
        madvise(A, 3, POPULATE_READ),
        madvise(["a", 1], 3, POPULATE_WRITE),
        migrate_pages([0], [2]),
        madvise(["a", 2], 2, POPULATE_READ),
        madvise(A, 4, POPULATE_READ),
    ),
    scenario(
        "pages whose node is asked for are not made active",
        touched("a", 2),
        get_mempolicy(A, F_NODE | F_ADDR),
        get_mempolicy(A, F_NODE | F_ADDR),
        madvise(A, 2, POPULATE_READ),
    ),
    scenario(
        "shared pages that a second task has left are active",
        touched("a", 4, shared=True),
        fork("u", 1),
        write(A, 2, 5, "u"),
        exit_("u"),
        fork("v", 2),
        read(["a", 1], 2, "v"),
        munmap(["a", 1], 1, "v"),
        madvise(["a", 2], 1, DONTNEED, "v"),
        madvise(A, 4, DONTNEED),
        read(A, 4),
    ),
    scenario(
        "shared pages are found by a node's question",
        touched("a", 4, shared=True),
        madvise(A, 4, DONTNEED),
        get_mempolicy(["a", 1], F_NODE | F_ADDR),
        read(A, 4),
    ),
    scenario("PROT_NONE over the zero page", mmap("a", 4), read(A, 2), mprotect(A, 3, "")),
    scenario(
        "DONTNEED, then written elsewhere",
        touched("a", 4),
        run_on(2),
        madvise(["a", 1], 2, DONTNEED),
        write(A, 4, 5),
    ),
    scenario(
        "DONTNEED of shared memory",
        touched("a", 4, shared=True),
        madvise(A, 4, DONTNEED),
        read(A, 4),
    ),
    scenario("DONTNEED of locked memory", mmap("a", 4, locked=True), madvise(A, 2, DONTNEED)),
    scenario(
        "DONTNEED over a hole",
        touched("a", 4),
        touched("b", 4, at=["a", 6]),
        madvise(["a", 2], 6, DONTNEED),
    ),
    scenario("DONTNEED of nothing", touched("a", 4), madvise(A, 0, DONTNEED)),
    scenario("DONTNEED unaligned", touched("a", 4), madvise(["a", 0, 8], 1, DONTNEED)),
    scenario(
        "DONTNEED of what a fork shares",
        touched("a", 4),
        fork("u", 1),
        madvise(A, 2, DONTNEED, "u"),
        read(A, 4),
        move_pages(A4, [1] * 4),
    ),
    scenario("advice 99", touched("a", 4), madvise(A, 2, 99)),
    scenario("POPULATE_READ", mmap("a", 4), madvise(A, 4, POPULATE_READ)),
    scenario("POPULATE_WRITE", mmap("a", 4), madvise(A, 4, POPULATE_WRITE)),
    scenario(
        "POPULATE_READ of shared memory", mmap("a", 4, shared=True), madvise(A, 4, POPULATE_READ)
    ),
    scenario(
        "POPULATE_WRITE of read-only memory", mmap("a", 4, prot="r"), madvise(A, 4, POPULATE_WRITE)
    ),
    scenario("POPULATE_READ over a hole", mmap("a", 4), madvise(["a", 2], 4, POPULATE_READ)),
    scenario(
        "POPULATE_WRITE beyond a hole",
        touched("a", 6),
        munmap(["a", 1], 2),
        madvise(["a", 1], 5, POPULATE_WRITE),
        madvise(["a", 1], 5, DONTNEED),
        madvise(A, 6, POPULATE_WRITE),
    ),
    scenario(
        "POPULATE_WRITE by policy",
        mmap("a", 6),
        mbind(A, 6, INTERLEAVE, [1, 3]),
        madvise(A, 6, POPULATE_WRITE),
    ),
)

THREADS = (
    scenario(
        "a thread sees the same memory",
        touched("a", 4),
        clone("u", 2),
        write(A, 2, 5, "u"),
        read(A, 4),
    ),
    scenario(
        "a thread's pages are local to it",
        mmap("a", 4),
        clone("u", 2),
        write(A, 2, 5, "u"),
        write(["a", 2], 2),
    ),
    scenario(
        "pages of two threads are mapped once",
        touched("a", 4),
        clone("u", 2),
        move_pages(A4, [3] * 4, MOVE, "u", "u"),
    ),
    scenario(
        "migrate by a thread's id", touched("a", 4), clone("u", 2), migrate_pages([0], [1], "u")
    ),
    scenario(
        "a thread ends",
        touched("a", 4),
        clone("u", 2),
        write(A, 1, 5, "u"),
        exit_("u"),
        read(A, 4),
        migrate_pages([0], [1]),
    ),
    scenario(
        "a thread forks",
        touched("a", 4),
        clone("u", 2),
        fork("v", 3, "u"),
        write(A, 2, 5, "v"),
        read(A, 4),
    ),
)

SCENARIOS = (*LOCKS, *ADVICE, *THREADS)
