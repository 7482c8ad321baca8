"""TABLE: what each field of a profile means, and the fact about the kernel that it stands for."""

from __future__ import annotations

from typing import NamedTuple


class Behaviour(NamedTuple):
    field: str
    fact: str
    meaning: str


BEHAVIOURS: tuple[Behaviour, ...] = (
    Behaviour(
        "skip_common_sources",
        "K 1.11",
        "masks of different weight: sources that are also targets are left alone",
    ),
    Behaviour(
        "allocation_falls_back",
        "K 1.18",
        "a full target node makes migrate_pages(2) use the next zone of its zonelist",
    ),
    Behaviour(
        "hole_below_vma_is_enoent",
        "K 4.18",
        "move_pages(2) answers -ENOENT, not -EFAULT, for a hole below some vma",
    ),
    Behaviour(
        "pfnmap_is_efault",
        "K 4.17",
        "move_pages(2) answers -EFAULT, not -ENOENT, for memory that has no page structs",
    ),
    Behaviour(
        "nothing_to_move_is_enoent",
        "K 4.15",
        "move_pages(2) fails with ENOENT when no page had to be moved",
    ),
    Behaviour(
        "bind_in_node_order",
        "K 5.4",
        "BIND tries its nodes in ascending order, not the nearest first",
    ),
    Behaviour(
        "policy_separator",
        "K 6.2",
        "what stands between a policy and its nodes in numa_maps",
    ),
    Behaviour(
        "mbind_holes_at_edges_pass",
        "K 4.23",
        "mbind(2) notices a hole only between two vmas of the range, or after the last of the mm",
    ),
    Behaviour(
        "mbind_blocks_faults",
        "K 4.29",
        "mbind(2) holds mmap_sem for write while pages move, so that faults wait for all of it "
        "(until 6.7; a switch, on by default)",
    ),
    Behaviour(
        "preferred_is_rebound",
        "K 5.15",
        "PREFERRED moves with the cpuset of its task as the other policies do",
    ),
    Behaviour(
        "top_cpuset_is_writable",
        "K 5.13",
        "cpus and mems of the top cpuset can be written",
    ),
    Behaviour(
        "cpuset_masks_off_unknown",
        "K 5.13",
        "cpus and nodes that are not there are left out of a list, not refused with EINVAL",
    ),
    Behaviour(
        "cpuset_blank_list_is_empty",
        "K 5.13",
        "a blank list clears cpus or mems of a cpuset without tasks",
    ),
    Behaviour(
        "cpuset_lists_have_groups",
        "K 5.13",
        "a list may have blanks between its items, and ranges like 0-7:1/2",
    ),
    Behaviour(
        "cpuset_numbers_are_scanned",
        "K 5.13",
        "a flag or a pid is the number that a text starts with; a text without one is 0, or EIO",
    ),
    Behaviour(
        "cpuset_attach_looks_at_pid_last",
        "K 5.13",
        "attaching to a cpuset without cpus or mems is ENOSPC even if there is no such task",
    ),
    Behaviour(
        "cpuset_cpus_wait_for_attach",
        "K 5.13",
        "new cpus of a cpuset reach a task when its pid is written to tasks again",
    ),
    Behaviour(
        "cpuset_migrates_by_any_thread",
        "K 5.13",
        "any thread that is attached has its mm rebound and migrated, not only a leader",
    ),
    Behaviour(
        "cpuset_migration_is_queued",
        "K 5.14",
        "an mm is migrated after all are rebound, and not if its old and new nodes are the same",
    ),
    Behaviour(
        "task_policy_is_rebound_lazily",
        "K 5.15",
        "the policy of a task follows its cpuset when the task allocates or asks next",
    ),
    Behaviour(
        "migrate_pages_is_cut_to_cpuset",
        "K 4.8",
        "migrate_pages(2) leaves out target nodes that the caller's cpuset has not",
    ),
    Behaviour(
        "fallback_writes_out",
        "K 1.56",
        "fallback_migrate_page writes a dirty page back and tries again; else -EBUSY, for good",
    ),
    Behaviour(
        "node_attributes",
        "K 6.4",
        "the files of /sys/devices/system/node/nodeN",
    ),
    Behaviour(
        "node_states",
        "K 6.9",
        "the lists of nodes in /sys/devices/system/node",
    ),
    Behaviour(
        "meminfo_splits_lru",
        "K 6.5",
        "nodeN/meminfo tells anonymous from file pages, and does not begin with an empty line",
    ),
    Behaviour(
        "vmstat_counts_numa",
        "K 6.10",
        "/proc/vmstat has the counters of allocations and migrations",
    ),
    Behaviour(
        "numa_maps_page_size",
        "K 6.1",
        "a line of numa_maps with pages ends with kernelpagesize_kB",
    ),
    Behaviour(
        "new_anonymous_is_active",
        "K 6.1",
        "a new anonymous page goes to the active list (until 5.9), so numa_maps counts it there",
    ),
    Behaviour(
        "migrate_trace_counts",
        "K 6.12",
        "the counts of a line of the trace (the first kernel with one, 3.8, had two of them)",
    ),
    Behaviour(
        "migrate_start_is_traced",
        "K 6.12",
        "a line of the trace says that a call of migrate_pages() begins",
    ),
    Behaviour(
        "mask_read_from_its_end",
        "K 4.3",
        "words of a node mask beyond the largest node are looked at from the last one down",
    ),
    Behaviour(
        "mbind_reads_mask_first",
        "K 4.22",
        "mbind(2) reads the mask before it looks at the mode",
    ),
    Behaviour(
        "get_mempolicy_wants_all_bits",
        "K 4.4",
        "get_mempolicy(2) refuses a mask of less than MAX_NUMNODES bits, not only one of less "
        "than the machine has nodes",
    ),
    Behaviour(
        "ptrace_decides_who_may_move",
        "K 4.8",
        "whose pages a task may move is what PTRACE_MODE_READ_REALCREDS says, not a comparison of "
        "user ids or CAP_SYS_NICE",
    ),
    Behaviour(
        "mlocked_pages_stay",
        "K 1.31, 3.6",
        "the scan of migrate_pages(2) leaves VM_LOCKED vmas out, and unmapping a page of one fails "
        "with -EPERM, for good",
    ),
    Behaviour(
        "mlocked_is_active",
        "K 6.1",
        "numa_maps counts a page that a locked vma maps as active: it is on no list of its own",
    ),
    Behaviour(
        "protnone_is_enoent",
        "K 4.17",
        "move_pages(2) finds no page, and moves none, where the protection is PROT_NONE",
    ),
    Behaviour(
        "shared_write_dirties_page",
        "K 6.1",
        "a write fault on shared memory makes the page dirty, not only the entry of who writes",
    ),
    Behaviour(
        "mlock_deactivates",
        "K 7.1",
        "a page that is locked is active no more, and inactive when it is unlocked (since 2.6.28)",
    ),
    Behaviour(
        "mprotect_fills_locked",
        "mlock(2)",
        "private locked memory that becomes writable is written to at once, as far as it is absent",
    ),
    Behaviour(
        "populate_writes_shared",
        "mlock(2)",
        "locked memory that is shared is filled in by writing to it, which makes it dirty",
    ),
    Behaviour(
        "mapped_is_looked_up_fast",
        "K 4.35",
        "get_mempolicy(2) makes no page active that is mapped already, however often it asks",
    ),
    Behaviour(
        "madvise_populates",
        "madvise(2)",
        "MADV_POPULATE_READ and MADV_POPULATE_WRITE exist",
    ),
    Behaviour(
        "zero_page_is_efault",
        "K 4.17",
        "move_pages(2) says -EFAULT, not -ENOENT, of an anonymous page that was only read",
    ),
    Behaviour(
        "untouched_is_efault",
        "K 4.17",
        "and so it does of a private anonymous page that was never touched (4.3 to 6.11)",
    ),
    Behaviour(
        "mode_flags",
        "K 5.1",
        "LOCAL and PREFERRED_MANY exist, and the mode flags STATIC, RELATIVE and NUMA_BALANCING",
    ),
    Behaviour(
        "policy_mask_is_intersected",
        "K 4.31, K 4.33",
        "nodes that the task may not use are dropped from a policy's mask, and no error",
    ),
    Behaviour(
        "empty_preferred_is_local",
        "K 4.36",
        "PREFERRED without a node becomes LOCAL, with an empty mask, not one of all nodes",
    ),
    Behaviour(
        "mems_allowed_is_told",
        "K 4.35",
        "get_mempolicy(2) knows MPOL_F_MEMS_ALLOWED",
    ),
    Behaviour(
        "home_node",
        "K 5.9",
        "there is set_mempolicy_home_node(2)",
    ),
    Behaviour(
        "shared_interleave_biased",
        "K 5.6",
        "INTERLEAVE of shared memory starts at another node for each object",
    ),
    Behaviour(
        "cpuset_misses_count",
        "K 6.6",
        "a page that the cpuset keeps from its node counts as numa_miss and numa_foreign",
    ),
    Behaviour(
        "zonelist_load_by_rank",
        "K 5.10",
        "a node that comes early in one zonelist weighs more in the next ones than a late one",
    ),
    Behaviour(
        "mbind_merges",
        "K 4.30",
        "mbind(2) joins neighbours that have become equal, and leaves alone what is as it wants",
    ),
    Behaviour(
        "unmovable_is_eio",
        "K 4.26",
        "mbind(2) with MOVE and STRICT is EIO also for pages that could not be isolated",
    ),
    Behaviour(
        "unmapped_default_passes",
        "K 4.23",
        "mbind(2) to DEFAULT of a range without any vma is no error if a vma is above it",
    ),
    Behaviour(
        "anon_vma_is_forked",
        "K 4.30",
        "a child of fork has anon_vmas of its own, which joining of neighbours takes into account",
    ),
    Behaviour(
        "mmap_joins_upper_first",
        "K 4.30",
        "what mmap(2) maps between two that cannot be joined goes to the upper one",
    ),
    Behaviour(
        "fault_around_maps",
        "commit 8c6e50b0290c",
        "a read fault also maps those of the pages around it that the page cache has (since 3.15)",
    ),
    Behaviour(
        "weighted_interleave",
        "K 5.8",
        "there is WEIGHTED_INTERLEAVE (since 6.9; a switch, off by default)",
    ),
    Behaviour(
        "move_pages_checks_vma",
        "K 3.7",
        "move_pages(2) answers -EFAULT for pages of a vma that is not migratable",
    ),
    Behaviour(
        "move_pages_checks_first",
        "K 4.12 - 4.16",
        "move_pages(2) checks all entries and then moves their pages as one list, not in batches; "
        "E2BIG and ENOMEM for their number; statuses are written at the end",
    ),
    Behaviour(
        "last_vma_skipped",
        "K 2.4",
        "migrate_vmas never offers the last vma (a bug until 2.6.29; a switch, off by default)",
    ),
    Behaviour(
        "unisolated_are_counted",
        "K 1.15",
        "migrate_pages(2) counts pages that it could not isolate (since 6.7; off by default)",
    ),
)
