"""TABLE: where the kernel of June 2006 (``seed``) and Linux 6.1 (``modern``) behave differently.

The code asks this table for a behaviour; it never asks which version it plays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from protocol.core import ConfigurationError


@dataclass(frozen=True, slots=True)
class Profile:
    """One column of the table; every field is a row of ``behaviours.py``."""

    name: str
    skip_common_sources: bool
    allocation_falls_back: bool
    hole_below_vma_is_enoent: bool
    nothing_to_move_is_enoent: bool
    pfnmap_is_efault: bool
    bind_in_node_order: bool
    policy_separator: str
    mbind_holes_at_edges_pass: bool
    mbind_blocks_faults: bool
    preferred_is_rebound: bool
    top_cpuset_is_writable: bool
    cpuset_masks_off_unknown: bool
    cpuset_blank_list_is_empty: bool
    cpuset_lists_have_groups: bool
    cpuset_numbers_are_scanned: bool
    cpuset_attach_looks_at_pid_last: bool
    cpuset_cpus_wait_for_attach: bool
    cpuset_migrates_by_any_thread: bool
    cpuset_migration_is_queued: bool
    task_policy_is_rebound_lazily: bool
    migrate_pages_is_cut_to_cpuset: bool
    fallback_writes_out: bool
    node_attributes: tuple[str, ...]
    node_states: tuple[str, ...]
    meminfo_splits_lru: bool
    vmstat_counts_numa: bool
    numa_maps_page_size: bool
    new_anonymous_is_active: bool
    migrate_trace_counts: tuple[str, ...]
    migrate_start_is_traced: bool
    mask_read_from_its_end: bool
    mbind_reads_mask_first: bool
    get_mempolicy_wants_all_bits: bool
    ptrace_decides_who_may_move: bool
    mlocked_pages_stay: bool
    mlocked_is_active: bool
    protnone_is_enoent: bool
    shared_write_dirties_page: bool
    mlock_deactivates: bool
    mprotect_fills_locked: bool
    populate_writes_shared: bool
    mapped_is_looked_up_fast: bool
    madvise_populates: bool
    zero_page_is_efault: bool
    untouched_is_efault: bool
    mode_flags: bool
    policy_mask_is_intersected: bool
    empty_preferred_is_local: bool
    mems_allowed_is_told: bool
    home_node: bool
    shared_interleave_biased: bool
    cpuset_misses_count: bool
    zonelist_load_by_rank: bool
    mbind_merges: bool
    unmovable_is_eio: bool
    unmapped_default_passes: bool
    anon_vma_is_forked: bool
    move_pages_checks_vma: bool
    move_pages_checks_first: bool
    mmap_joins_upper_first: bool
    fault_around_maps: bool
    weighted_interleave: bool = False
    last_vma_skipped: bool = False
    unisolated_are_counted: bool = False


SEED = Profile(
    name="seed",
    skip_common_sources=False,
    allocation_falls_back=True,
    hole_below_vma_is_enoent=True,
    pfnmap_is_efault=False,
    nothing_to_move_is_enoent=True,
    bind_in_node_order=True,
    policy_separator="=",
    mbind_holes_at_edges_pass=True,
    mbind_blocks_faults=True,
    preferred_is_rebound=True,
    top_cpuset_is_writable=True,
    cpuset_masks_off_unknown=True,
    cpuset_blank_list_is_empty=False,
    cpuset_lists_have_groups=False,
    cpuset_numbers_are_scanned=True,
    cpuset_attach_looks_at_pid_last=True,
    cpuset_cpus_wait_for_attach=True,
    cpuset_migrates_by_any_thread=True,
    cpuset_migration_is_queued=False,
    task_policy_is_rebound_lazily=True,
    migrate_pages_is_cut_to_cpuset=False,
    fallback_writes_out=True,
    node_attributes=("cpumap", "meminfo", "numastat", "distance"),
    node_states=(),
    meminfo_splits_lru=False,
    vmstat_counts_numa=False,
    numa_maps_page_size=False,
    new_anonymous_is_active=True,
    migrate_trace_counts=("nr_succeeded", "nr_failed"),
    migrate_start_is_traced=False,
    mask_read_from_its_end=False,
    mbind_reads_mask_first=True,
    get_mempolicy_wants_all_bits=True,
    ptrace_decides_who_may_move=False,
    mlocked_pages_stay=True,
    mlocked_is_active=False,
    protnone_is_enoent=False,
    shared_write_dirties_page=False,
    mlock_deactivates=False,
    mprotect_fills_locked=False,
    populate_writes_shared=True,
    mapped_is_looked_up_fast=False,
    madvise_populates=False,
    zero_page_is_efault=False,
    untouched_is_efault=False,
    mode_flags=False,
    policy_mask_is_intersected=False,
    empty_preferred_is_local=False,
    mems_allowed_is_told=False,
    home_node=False,
    shared_interleave_biased=False,
    cpuset_misses_count=True,
    zonelist_load_by_rank=True,
    mbind_merges=False,
    unmovable_is_eio=False,
    unmapped_default_passes=True,
    anon_vma_is_forked=False,
    move_pages_checks_vma=False,
    move_pages_checks_first=True,
    mmap_joins_upper_first=False,
    fault_around_maps=False,
)
MODERN = Profile(
    name="modern",
    skip_common_sources=True,
    allocation_falls_back=False,
    hole_below_vma_is_enoent=False,
    pfnmap_is_efault=True,
    nothing_to_move_is_enoent=False,
    bind_in_node_order=False,
    policy_separator=":",
    mbind_holes_at_edges_pass=False,
    mbind_blocks_faults=True,
    preferred_is_rebound=False,
    top_cpuset_is_writable=False,
    cpuset_masks_off_unknown=False,
    cpuset_blank_list_is_empty=True,
    cpuset_lists_have_groups=True,
    cpuset_numbers_are_scanned=False,
    cpuset_attach_looks_at_pid_last=False,
    cpuset_cpus_wait_for_attach=False,
    cpuset_migrates_by_any_thread=False,
    cpuset_migration_is_queued=True,
    task_policy_is_rebound_lazily=False,
    migrate_pages_is_cut_to_cpuset=True,
    fallback_writes_out=False,
    node_attributes=("cpumap", "cpulist", "meminfo", "numastat", "distance", "vmstat"),
    node_states=("possible", "online", "has_cpu", "has_memory", "has_normal_memory"),
    meminfo_splits_lru=True,
    vmstat_counts_numa=True,
    numa_maps_page_size=True,
    new_anonymous_is_active=False,
    migrate_trace_counts=(
        *("nr_succeeded", "nr_failed"),
        *("nr_thp_succeeded", "nr_thp_failed", "nr_thp_split"),
    ),
    migrate_start_is_traced=True,
    mask_read_from_its_end=True,
    mbind_reads_mask_first=False,
    get_mempolicy_wants_all_bits=False,
    ptrace_decides_who_may_move=True,
    mlocked_pages_stay=False,
    mlocked_is_active=True,
    protnone_is_enoent=True,
    shared_write_dirties_page=True,
    mlock_deactivates=True,
    mprotect_fills_locked=True,
    populate_writes_shared=False,
    mapped_is_looked_up_fast=True,
    madvise_populates=True,
    zero_page_is_efault=True,
    untouched_is_efault=True,
    mode_flags=True,
    policy_mask_is_intersected=True,
    empty_preferred_is_local=True,
    mems_allowed_is_told=True,
    home_node=True,
    shared_interleave_biased=True,
    cpuset_misses_count=False,
    zonelist_load_by_rank=False,
    mbind_merges=True,
    unmovable_is_eio=True,
    unmapped_default_passes=False,
    anon_vma_is_forked=True,
    move_pages_checks_vma=True,
    move_pages_checks_first=False,
    mmap_joins_upper_first=True,
    fault_around_maps=True,
)
PROFILES = {profile.name: profile for profile in (SEED, MODERN)}


def adjusted(profile: Profile, rows: Mapping[str, bool]) -> Profile:
    """The profile with some rows set by hand.  Raises ConfigurationError."""
    for name in rows:
        if not isinstance(getattr(profile, name, None), bool):
            raise ConfigurationError(
                f"There is no behaviour '{name}' that is on or off: docs/profiles.md names those "
                "that there are."
            )
    return replace(profile, **dict(rows))  # type: ignore[arg-type]
