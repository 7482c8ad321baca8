"""Migration: what becomes of pages, where a batch spends its time, and who waits meanwhile."""

from __future__ import annotations

from grafana.dashboard import Dashboard, Row
from grafana.panel import Query, heatmap, series, stat


def _rate(name: str, by: str = "") -> str:
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate(numalab_{name}{{@}}[$__rate_interval]))"


def _p99(name: str, by: str) -> str:
    return f"histogram_quantile(0.99, {_rate(f'{name}_seconds_bucket', f'le, {by}')})"


_BACKLOG = "sum(numalab_migration_backlog_pages{@})"
_DONE = f"({_rate('pgmigrate_success_total')} + {_rate('pgmigrate_fail_total')})"
_LEFT = f"{_BACKLOG} / ({_DONE} > 0)"

_NOW = Row(
    "Under way",
    (
        stat(
            "Migrations under way",
            "Calls of migrate_pages() that have not ended.",
            "none",
            Query("sum(numalab_migrations_under_way{@})"),
        ),
        stat(
            "Pages to move",
            "Pages of these calls that are not settled.",
            "short",
            Query(_BACKLOG),
        ),
        stat(
            "Time left",
            "Pages to move, at the rate at which pages are settled now.",
            "s",
            Query(_LEFT),
        ),
        series(
            "Backlog",
            "Pages on the lists of the migrations under way that are not settled.",
            "short",
            Query(_BACKLOG, "pages"),
        ).sized(12, 4),
    ),
)

_FATE = Row(
    "Fate of pages",
    (
        series(
            "Moved, retried, failed",
            "Pages in a second that moved, that a pass left for the next, and that stayed.",
            "ops",
            Query(_rate("pgmigrate_success_total"), "moved"),
            Query(_rate("pgmigrate_retry_total"), "retried"),
            Query(_rate("pgmigrate_fail_total"), "failed"),
        ),
        series(
            "Pages that stayed, by errno",
            "Pages in a second that in the end could not be moved, by why the last attempt failed.",
            "ops",
            Query(_rate("pgmigrate_fail_total", "errno"), "{{errno}}"),
        ),
        series(
            "Passes",
            "Passes of migrate_pages() in a second by their number; from 3 on they are forced.",
            "ops",
            Query(_rate("migration_passes_total", "pass"), "pass {{pass}}"),
            stacked=True,
        ),
    ),
)

_STEPS = Row(
    "Steps of a batch",
    (
        series(
            "Batch time by step",
            "The state of the life table a batch is in, and the time that all but a hundredth of "
            "the batches spend in it at most.",
            "s",
            Query(_p99("migration_step", "step"), "{{step}}"),
        ),
        series(
            "Batches in each step",
            "How many batches are in each step on average: where the time goes.",
            "short",
            Query(_rate("migration_step_seconds_sum", "step"), "{{step}}"),
            stacked=True,
        ),
        series(
            "Pages through each step",
            "Pages in a second that have left each step.",
            "ops",
            Query(_rate("migration_step_pages_total", "step"), "{{step}}"),
        ),
    ),
)

_WAITS = Row(
    "Who waits",
    (
        heatmap(
            "Wait of writers",
            "How long faults were parked, on a migration entry or for a frame.",
            "s",
            "sum by (le) (increase(numalab_fault_wait_seconds_bucket{@}[$__rate_interval]))",
        ),
        heatmap(
            "Time as migration entries",
            "How long the pages of a batch were migration entries: so long a writer may wait.",
            "s",
            "sum by (le) (increase(numalab_migration_entry_seconds_bucket{@}[$__rate_interval]))",
        ),
        series(
            "Queues",
            "Faults that are parked, and system calls under way.",
            "short",
            Query("sum(numalab_faults_parked{@})", "faults parked"),
            Query("sum(numalab_calls_under_way{@})", "calls under way"),
        ).sized(6),
        series(
            "System call time",
            "How long all but a hundredth of the calls took at most, by call.",
            "s",
            Query(_p99("syscall_duration", "call"), "{{call}}"),
        ).sized(6),
        series(
            "System calls failed",
            "System calls in a second that were answered with an error.",
            "ops",
            Query(_rate("syscalls_failed_total", "call, errno"), "{{call}} {{errno}}"),
        ).sized(6),
        series(
            "Journal commit time",
            "How long it took until the entries of a transaction were on the disk.",
            "s",
            Query(_p99("journal_commit", "instance"), "{{instance}}"),
        ).sized(6),
    ),
)

MIGRATION = Dashboard(
    "numalab-migration",
    "numalab / Migration",
    "Fate of pages, steps of a batch, waits of writers, backlog and the time that is left.",
    (_NOW, _FATE, _STEPS, _WAITS),
)
