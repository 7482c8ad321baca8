"""TABLE: cases of other programs' test suites, by id: which one, and where it is from.

The programs are Linux's own selftests, the Linux Test Project (LTP), numactl, stress-ng, gVisor,
mm_regression, avocado, memkind and vm-scalability.  ``note`` says what takes the place of what a
machine of base pages does not have.  A case without a test has its reason in ``REASONS``.
"""

from __future__ import annotations

from typing import NamedTuple


class Case(NamedTuple):
    """One row: ``2006`` of docs/peer-cases.md is ``seed``, told if it is another answer."""

    id: str
    source: str
    title: str
    seed: str = ""
    note: str = ""


CASES: tuple[Case, ...] = (
    # ---- migrate_pages(2) and whole processes ----------------------------------------------
    Case("MG-01", "LTP migrate_pages01.c", "the same node from and to"),
    Case("MG-02", "LTP migrate_pages01.c", "a pid that nobody has"),
    Case("MG-03", "LTP migrate_pages01.c", "maxnode is all ones"),
    Case(
        "MG-05",
        "LTP migrate_pages01.c",
        "a target node that is not there",
        seed="there was no such check, and a crash: EINVAL all the same",
    ),
    Case("MG-06", "LTP migrate_pages01.c", "an ordinary user and somebody else's process"),
    Case("MG-07", "LTP migrate_pages02.c", "one's own private page, there and back"),
    Case("MG-08", "LTP migrate_pages02.c", "a page shared with the parent, with CAP_SYS_NICE"),
    Case("MG-10", "LTP migrate_pages02.c", "root moves another user's page"),
    Case("MG-11", "LTP migrate_pages02.c", "the same user moves its other process"),
    Case("MG-13", "LTP numa01.sh", "migratepages from outside, once around the ring"),
    Case("MG-14", "numactl test/migrate_pages.c", "contents and a page that was never touched"),
    Case("MG-17", "LTP memory_hotplug test1", "all other nodes to one, of 1 page to many"),
    Case("MG-18", "LTP memory_hotplug test4", "interleaved pages keep their turns"),
    Case("MG-19", "LTP memory_hotplug test3", "two shared segments go to one node"),
    Case("MG-20", "LTP memory_hotplug test1f", "a privately mapped file, near and interleaved"),
    Case(
        "MG-25",
        "mm_regression thp/anonymous",
        "shared by fork or with a mapping that was split, by each of the three calls",
        note="512 base pages take the place of a huge one",
    ),
    # ---- move_pages(2) ---------------------------------------------------------------------
    Case("MV-01", "LTP move_pages01.c", "a query tells the nodes of allocation"),
    Case("MV-02", "LTP move_pages02.c", "two private pages"),
    Case("MV-03", "LTP move_pages03.c", "two shared pages with MOVE_ALL"),
    Case(
        "MV-04",
        "LTP move_pages04.c",
        "a page that was never touched",
        seed="ENOENT, as the test wants it; Linux 4.3 to 6.11, and so `modern`, say EFAULT",
    ),
    Case("MV-07", "LTP move_pages05.c", "a shared page stays with plain MOVE"),
    Case("MV-08", "LTP move_pages06.c", "a node behind the last one"),
    Case("MV-09", "LTP move_pages07.c", "a pid that nobody has"),
    Case("MV-12", "LTP move_pages10.c", "a flag that is not of this call"),
    Case("MV-13", "LTP move_pages11.c", "MOVE_ALL without the capability"),
    Case(
        "MV-14",
        "LTP move_pages12.c",
        "a range that its owner maps and unmaps without end",
        note="base pages take the place of huge ones",
    ),
    Case("MV-16", "numactl test/move_pages.c", "flags of 0 move; every status is written"),
    Case("MV-17", "stress-ng stress-numa.c", "sixteen times on to the next node"),
    Case("MV-21", "stress-ng stress-numa.c", "no nodes but a flag that says move"),
    Case("MV-22", "stress-ng stress-sysbadaddr.c", "arrays that cannot be read or written"),
    Case("MV-23", "avocado numa_test.c", "no page keeps its frame"),
    Case(
        "MV-26",
        "mm_regression soft_dirty_migration",
        "that a page was written to is not lost by the move",
        note="the dirty flag takes the place of the soft-dirty bit",
    ),
    # ---- one frame with many mappers, and readers meanwhile ----------------------------------
    Case("RM-02", "selftests mm/rmap.c", "a tree of processes over a shared object and a file"),
    Case("RM-03", "selftests mm/rmap.c", "equal pages that were merged"),
    Case(
        "RM-04",
        "selftests mm/rmap.c",
        "one frame at sixteen addresses of one process",
        note="one page of a file mapped sixteen times takes the place of merging",
    ),
    Case("RM-05", "selftests mm/migration.c", "readers of a private page that goes to and fro"),
    Case(
        "RM-07",
        "selftests mm/migration.c",
        "readers of 2 MiB, private and shared",
        note="512 base pages take the place of a huge one",
    ),
    Case("RM-08", "mm_regression pingpong", "to and fro by each of the three calls"),
    Case("RM-10", "mm_regression race", "a victim that maps, discards or reads meanwhile"),
    Case("RM-12", "mm_regression process_vm_access", "somebody reads, lists or pins the pages"),
    Case("RM-13", "stress-ng stress-tlb-numa.c", "threads that rebind, discard, unmap"),
    # ---- mbind(2) --------------------------------------------------------------------------
    Case("MB-01", "LTP mbind01.c", "modes that are fine without a mask"),
    Case("MB-02", "LTP mbind01.c", "modes with one node are read back"),
    Case("MB-03", "LTP mbind01.c", "what is refused changes nothing"),
    Case("MB-04", "LTP mbind01.c", "LOCAL", seed="there is no such mode: EINVAL"),
    Case("MB-06", "LTP mbind02.c", "STRICT alone and a page that is elsewhere"),
    Case("MB-07", "LTP mbind03.c", "MOVE brings the page"),
    Case("MB-09", "LTP mbind04.c", "a policy is inherited by fork"),
    Case("MB-10", "LTP vma02.c", "mappings that are equal again are one", seed="they stay three"),
    Case("MB-11", "LTP vma04.c", "which neighbours join", seed="none does"),
    Case("MB-12", "numactl test/mbind_mig_pages.c", "MOVE and STRICT over a hole in what is there"),
    Case("MB-13", "numactl test/prefered.c", "PREFERRED, node after node"),
    Case("MB-14", "numactl test/randmap.c", "overlapping ranges of a segment, at random"),
    Case("MB-15", "numactl test/tshared.c", "interleaving goes by the page, whoever comes first"),
    Case("MB-17", "numactl test/regress", "memhog and the counters of numastat"),
    Case("MB-19", "stress-ng stress-numa.c", "STRICT fails with EIO at most"),
    Case("MB-20", "stress-ng stress-numa.c", "odd addresses"),
    Case("MB-22", "stress-ng stress-numa.c", "odd masks and flags"),
    Case("MB-23", "stress-ng stress-numa.c", "MOVE_ALL without the capability"),
    Case("MB-26", "LTP memory_hotplug test-lazy-anon", "pages are there when the call returns"),
    Case("MB-28", "LTP memory_hotplug test-lazy-file", "a part of a file mapping"),
    Case("MB-31", "mm_regression mbind", "each kind of memory moves"),
    Case("MB-32", "mm_regression mbind fuzz", "random ranges, also past the end"),
    Case(
        "MB-37",
        "memkind hbw_verify_function_test.cpp",
        "is a range of bytes wholly on pages of one node?",
    ),
    # ---- placement -------------------------------------------------------------------------
    Case("PL-01", "LTP get_mempolicy01.c", "the last of five task policies"),
    Case(
        "PL-02",
        "LTP get_mempolicy01.c",
        "five areas with policies of their own",
        seed="PREFERRED without a node reads as all nodes",
    ),
    Case("PL-03", "LTP get_mempolicy02.c", "address 0, and flags that are all ones"),
    Case("PL-04", "LTP set_mempolicy01.c", "task policies place the pages of parent and child"),
    Case("PL-06", "LTP set_mempolicy03.c", "task policies place the pages of a file"),
    Case("PL-07", "LTP set_mempolicy04.c", "many files, interleaved, are spread evenly"),
    Case("PL-09", "LTP numa01.sh", "near one's cpu, bound or local"),
    Case("PL-10", "LTP numa01.sh", "preferred is the next node"),
    Case("PL-11", "LTP numa01.sh", "interleaved over all nodes"),
    Case("PL-12", "numactl test/regress", "task policies and the counters of numastat"),
    Case("PL-13", "gVisor mempolicy.cc", "the default, and what was set is read back"),
    Case("PL-14", "gVisor mempolicy.cc", "inputs that are refused"),
    Case("PL-16", "gVisor mempolicy.cc", "the nodes one may use", seed="no such flag: EINVAL"),
    Case("PL-17", "gVisor mempolicy.cc", "the node of an address; pointers that are left out"),
    Case("PL-20", "stress-ng stress-numa.c", "a mix of modes and flags with an empty mask"),
    Case("PL-23", "numactl test/distance.c", "distances, cpus, masks and the list of hardware"),
    # ---- numa_maps -------------------------------------------------------------------------
    Case("NM-01", "LTP cpuset_syscall_test.c", "a policy is shown though no page is present"),
    Case("NM-04", "numactl migspeed.c", "the line of a bound area before and after"),
    Case("NM-05", "mm_regression numa.sh", "the sum of all lines, and numastat -p"),
    # ---- cpusets ---------------------------------------------------------------------------
    Case("CS-01", "LTP cpuset_memory_testset.sh", "mems outrank the cpu's node"),
    Case("CS-03", "LTP cpuset_memory_testset.sh", "locked memory"),
    Case("CS-05", "LTP cpuset_memory_testset.sh", "memory_migrate of the destination counts"),
    Case("CS-06", "LTP cpuset_memory_testset.sh", "new mems without memory_migrate"),
    Case("CS-08", "LTP cpuset_memory_testset.sh", "two threads in two cpusets"),
    Case("CS-09", "LTP cpuset_memory_testset.sh", "two threads, both with memory_migrate"),
    Case(
        "CS-11",
        "LTP cpuset_syscall_testset.sh",
        "mbind with nodes outside of the cpuset",
        seed="the cpuset is not asked",
    ),
    Case(
        "CS-12",
        "LTP cpuset_syscall_testset.sh",
        "set_mempolicy with nodes outside of the cpuset",
        seed="a node outside: EINVAL",
    ),
    Case(
        "CS-13",
        "LTP cpuset_syscall_testset.sh",
        "the nodes one may use, asked and read",
        seed="no such flag: EINVAL",
    ),
    Case("CS-14", "LTP cpuset01.c", "mems change under tasks that map and unmap"),
    Case(
        "CS-16",
        "LTP cpuset_base_ops_testset.sh",
        "what may be written to mems",
        seed="unknown nodes are left out, and none left is ENOSPC; nothing at all: EINVAL",
    ),
    Case(
        "CS-17",
        "LTP cpuset_inherit_testset.sh",
        "memory_migrate, and tasks that may not be attached",
        seed="what is no number is read as 0",
    ),
    Case("CS-19", "LTP cpuset_exclusive_test.sh", "mem_exclusive among father, child, sibling"),
    # ---- memory that the scan cannot see -----------------------------------------------------
    Case(
        "HM-01",
        "selftests mm/hmm-tests.c",
        "a thousand pages to a device and back",
        note="an uncached vma with a hook, and a node without a cpu",
    ),
    Case(
        "HM-03",
        "selftests mm/hmm-tests.c",
        "a shared mapping that was never touched",
        note="a node without a cpu takes the place of the device",
    ),
    Case(
        "HM-05",
        "selftests mm/hmm-tests.c",
        "permissions page by page, before and after",
        note="nodes without cpus take the place of devices",
    ),
    Case(
        "HM-06",
        "selftests mm/hmm-tests.c",
        "the upper half goes away while somebody reads",
        note="a node without a cpu takes the place of the device",
    ),
)

#: Why a case has no test.
REASONS: dict[str, str] = {
    "RM-03": "there is no merging of equal pages; RM-04 has one frame at many addresses",
}
