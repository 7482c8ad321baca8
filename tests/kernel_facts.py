"""TABLE: the facts about the kernel that the machine is held to, by number, and who tests them.

A test names the facts that it holds the machine to: ``test_k_4_22_...``, or ``K 4.22`` in its
docstring or in a comment of it.  ``docs/kernel-facts.md`` is written from here
(``NUMALAB_REWRITE=1`` writes it anew).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).resolve().parent

#: Facts that can be seen from outside: number, and what it is about.
FACTS: dict[str, str] = {
    "0.1": "`new_page_t` allocates the destination of one source page",
    "0.2": "what migrate.h declares with CONFIG_MIGRATION=y",
    "0.3": "the stubs of CONFIG_MIGRATION=n, which are not all -ENOSYS",
    "0.4": "what the system calls answer with CONFIG_MIGRATION=n",
    "1.1": "order of checks of migrate_pages(2)",
    "1.2": "whose pages a caller may move",
    "1.3": "MOVE_ALL is implied by CAP_SYS_NICE, MOVE without it",
    "1.4": "a target node that does not exist",
    "1.5": "mmap_sem is held for read: faults proceed, changes of the map wait",
    "1.6": "the sum of pages not moved; the first error ends the pairs and hides the counts",
    "1.7": "the n-th source node goes to the n-th target node, round and round",
    "1.8": "order of the node pairs",
    "1.9": "masks of equal weight: every page moves at most once",
    "1.10": "seed: more sources than targets may move a page several times",
    "1.11": "modern: sources that are targets too are left alone",
    "1.12": "the vectors of pair orders",
    "1.13": "migrate_prep drains the pending LRU adds before the scan",
    "1.14": "only present entries are moved or counted",
    "1.15": "what is skipped silently, and what modern counts",
    "1.16": "isolate_lru_page: 0, or -EBUSY and nothing changed",
    "1.17": "the page list is in address order",
    "1.18": "the allocation may fall back (seed) or may not (modern)",
    "1.19": "ten passes: three polite, seven forced",
    "1.20": "-EAGAIN is tried again, -ENOMEM ends it, anything else is permanent",
    "1.21": "the return value: -ENOMEM, or failed and what the last pass left",
    "1.22": "afterwards no page is isolated",
    "1.23": "what moved before -ENOMEM stays moved",
    "1.25": "order of the steps of unmap_and_move",
    "1.26": "the destination is allocated first, on every attempt",
    "1.27": "a page that was freed meanwhile is no failure",
    "1.28": "a locked page: -EAGAIN, or waited for when forced",
    "1.29": "a page under writeback: -EAGAIN, or waited for when forced",
    "1.30": "every entry of a page in every mm is replaced",
    "1.31": "seed: an mlocked page is -EPERM",
    "1.32": "after a failure the entries name the old page again",
    "1.33": "where the old and the new page end up",
    "1.34": "the status of a page: its node, or why its last attempt failed",
    "1.35": "migration entries are READ or WRITE",
    "1.38": "a dirty entry makes the page dirty; the accessed bit is dropped",
    "1.40": "an entry is only there while the old page is locked",
    "1.41": "what a restored entry looks like",
    "1.42": "fork of an entry: READ in parent and child",
    "1.43": "mprotect makes a WRITE entry READ",
    "1.44": "munmap of an entry removes it",
    "1.45": "a fault on an entry waits until it is gone",
    "1.47": "which migratepage method is called",
    "1.48": "an extra reference makes a page stay",
    "1.49": "the page cache names the new page",
    "1.50": "flags that go with the page",
    "1.52": "migrate_page: shmem and anonymous memory",
    "1.53": "buffer_migrate_page: pages with buffers",
    "1.54": "fail_migrate_page: -EIO, permanent, counted once",
    "1.55": "fallback_migrate_page: dirty pages are written out, buffers released",
    "1.56": "what the writeout path answers",
    "1.57": "errors that are permanent",
    "2.1": "migrate_vmas runs for migrate_pages(2) and cpusets, not for mbind and move_pages",
    "2.2": "hooks are called in address order with vma, from, to, flags",
    "2.3": "from comes before to",
    "2.4": "the last vma that was never offered (a switch)",
    "2.5": "the first non-zero return stops the walk; a positive one is 0 to the caller",
    "2.6": "hooks that ran are not undone",
    "2.7": "a hook does not take its vma out of the ordinary scan",
    "3.1": "the numbers of MOVE, MOVE_ALL, STRICT",
    "3.2": "MOVE moves pages of mapcount 1, counted in entries",
    "3.3": "MOVE_ALL moves a page for all who map it, and needs CAP_SYS_NICE",
    "3.4": "after fork a page has two mappers until one writes or exits",
    "3.6": "vmas whose pages may not be moved",
    "3.7": "seed: move_pages does not ask the vma's flags",
    "3.8": "seed: STRICT makes mbind look at those vmas too",
    "3.9": "the zero page is never moved, counted or shown",
    "3.10": "a page must be on the LRU",
    "3.11": "address, contents, protection and dirty state do not change",
    "4.1": "maxnode - 1 bits are read",
    "4.2": "NULL masks, maxnode 0 and 1",
    "4.3": "masks that are too long, have bits too high, or cannot be read",
    "4.4": "what get_mempolicy writes back",
    "4.5": "pid 0; what migrate_pages(2) returns",
    "4.6": "errors of migrate_pages(2)",
    "4.7": "an empty target mask",
    "4.8": "modern: order of checks, and who may",
    "4.9": "policy is not asked for destinations and not changed",
    "4.10": "without CAP_SYS_NICE shared pages stay, and the call returns 0",
    "4.11": "flags of move_pages(2)",
    "4.12": "seed: order of errors of move_pages(2)",
    "4.13": "a bad node: nothing moved (seed), or what came before it has (modern)",
    "4.14": "nodes that do not exist",
    "4.15": "return value of move_pages(2)",
    "4.16": "when the status array is written",
    "4.17": "the statuses",
    "4.18": "holes",
    "4.19": "query mode",
    "4.20": "addresses need no alignment; count 0",
    "4.21": "a page that is listed twice",
    "4.22": "order of errors of mbind(2)",
    "4.23": "holes in the range of mbind",
    "4.24": "STRICT alone: EIO, and the policy is not installed",
    "4.25": "MOVE without STRICT is silent",
    "4.26": "MOVE with STRICT: EIO for what could not be moved",
    "4.27": "which pages are misplaced",
    "4.28": "destinations come from the new policy at the page's address",
    "4.29": "which lock is held while mbind moves pages",
    "4.30": "splitting and merging of vmas",
    "4.31": "the mask of mbind and the cpuset",
    "4.33": "errors of set_mempolicy(2); whom it affects",
    "4.34": "set_mempolicy(2) moves nothing",
    "4.35": "flags of get_mempolicy(2)",
    "4.36": "the mask of a preferred policy without nodes",
    "5.1": "the numbers of modes and mode flags",
    "5.2": "vma or object, then task, then local",
    "5.3": "PREFERRED",
    "5.4": "BIND: order of its nodes",
    "5.5": "BIND outside the cpuset is ignored",
    "5.6": "INTERLEAVE by offset, or in turn",
    "5.7": "interleave_hit",
    "5.8": "WEIGHTED_INTERLEAVE",
    "5.9": "PREFERRED_MANY and the home node",
    "5.10": "order of fallback",
    "5.12": "the cpuset outranks the policy",
    "5.13": "memory_migrate",
    "5.14": "when cpuset migration is done; mems without a node",
    "5.15": "rebinding",
    "5.16": "pages outside the old mems stay",
}

#: Facts that no client of this machine can see, and why.
NOT_SEEN: dict[str, str] = {
    "0.5": "how Kconfig depended on NUMA",
    "0.6": "what became of the header later",
    "1.24": "PF_SWAPWRITE: there is no swap",
    "1.36": "there is no swap cache",
    "1.37": "there are no nonlinear mappings",
    "1.38, rss": "nothing here tells the rss of a task",
    "1.39": "there are no swap files whose number entries could limit",
    "1.44, rss": "nothing here tells the rss of a task",
    "1.46": "a waiting fault takes no reference here: it waits at the coordinator",
    "1.51": "flags for things that are not there: memcg, KSM, idle tracking",
    "2.8": "history: the kernel had no user of the hook",
    "3.5": "large folios: a page is one frame here",
    "3.6, hugetlb": "there is no hugetlb, no DAX, no zone that a file could be limited to",
    "4.14, memory": "every node of a machine has memory",
    "4.32": "a leak of the seed that is not reproduced",
    "5.11": "zone_reclaim: there is no reclaim",
}


class NamingTest(NamedTuple):
    """A test, the facts that it names, and the profiles it runs in."""

    file: str
    name: str
    facts: frozenset[str]
    profiles: str


_NAMED = re.compile(r"(?<![a-z])k_(\d)_(\d+)")
_CITED = re.compile(r"\bK (\d\.\d+(?:(?:, | and | to |-| - )\d\.\d+)*)")
_RANGE = re.compile(r"(\d)\.(\d+)(?:(?: to |-| - )(\d)\.(\d+))?")


def facts_named(source: str) -> frozenset[str]:
    """The numbers that a piece of source names: ``k_4_22``, ``K 4.22, 4.23``, ``K 1.5 to 1.8``."""
    found = {f"{chapter}.{int(number)}" for chapter, number in _NAMED.findall(source)}
    for cited in _CITED.findall(source):
        for chapter, first, _, last in _RANGE.findall(cited):
            found |= {f"{chapter}.{n}" for n in range(int(first), int(last or first) + 1)}
    return frozenset(found)


@cache
def naming_tests() -> tuple[NamingTest, ...]:
    """Every test function that names a fact, by file and name."""
    return tuple(sorted(_naming_tests(), key=lambda test: (test.file, test.name)))


def _naming_tests() -> Iterator[NamingTest]:
    for path in sorted(TESTS.glob("test_*.py")):
        # What is about this table tests no fact.
        if path.name == "test_kernel_facts.py":
            continue
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith(
                "test_"
            ):
                first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
                source = "\n".join(text.splitlines()[first - 1 : node.end_lineno])
                if facts := facts_named(source):
                    yield NamingTest(path.name, node.name, facts, _profiles(source))


def _profiles(source: str) -> str:
    """As far as the source of a test tells: the seed is what a machine is if nothing is said."""
    lower = source.lower()
    if "profile" in lower and "modern" not in lower:
        return "seed, modern"
    if "modern" not in lower:
        return "seed"
    return "seed, modern" if "seed" in lower or "profiles" in lower else "modern"


_HEAD = """\
# Facts about the kernel, and the tests that hold the machine to them

Generated from `tests/kernel_facts.py`; a fact without a test fails `make test`. The numbers are
those that the program's comments cite (K 1.20). Chapter 0 is the header, 1 the algorithm, 2
`migrate_vmas`, 3 which pages are eligible, 4 the system calls, 5 the policies.

| fact | what it is about | tests | profile |
|---|---|---|---|
"""


def page() -> str:
    """docs/kernel-facts.md."""
    lines = [_HEAD]
    for number, title in FACTS.items():
        mine = [test for test in naming_tests() if number in test.facts]
        names = "<br>".join(f"`{test.file}` {test.name}" for test in mine)
        profiles = sorted({p for test in mine for p in test.profiles.split(", ")}, reverse=True)
        lines.append(f"| {number} | {title} | {names} | {', '.join(profiles)} |\n")
    lines.append("\n## What cannot be seen from outside\n\n| fact | why |\n|---|---|\n")
    lines += [f"| {number} | {why} |\n" for number, why in NOT_SEEN.items()]
    return "".join(lines)
