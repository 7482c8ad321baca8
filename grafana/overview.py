"""Overview: is the machine sound, how fast do pages move, where are they, and who sends whom."""

from __future__ import annotations

from grafana.dashboard import Dashboard, Row
from grafana.panel import (
    BLUE,
    GREEN,
    RED,
    YELLOW,
    Query,
    bars,
    graph,
    matrix,
    series,
    stat,
    steps,
    texts,
)

_LRU = " + ".join(
    f"numalab_nr_{condition}_pages{{@}}"
    for condition in ("active", "inactive", "pending", "isolated")
)
_FLOWS = "sum by (source, target) (increase(numalab_pgmigrate_success_total{@}[$__range])) > 0"
_MOVED = "sum(rate(numalab_pgmigrate_success_total{@}[$__rate_interval]))"
_STAYED = "sum(rate(numalab_pgmigrate_fail_total{@}[$__rate_interval]))"


def _quantile(quantile: float) -> Query:
    buckets = "sum by (le) (rate(numalab_migration_duration_seconds_bucket{@}[$__rate_interval]))"
    return Query(f"histogram_quantile({quantile}, {buckets})", f"{quantile * 100:g} %")


_NOW = Row(
    "Now",
    (
        stat(
            "Verdict",
            "Sound as long as no page has lost its contents; else how many frames have.",
            "short",
            Query("sum(numalab_frames_poisoned_total{@})"),
            steps((None, GREEN), (1, RED)),
            texts({"0": ("sound", GREEN)}),
        ),
        stat(
            "Nodes up",
            "Nodes that answer the coordinator.",
            "none",
            Query("sum(numalab_node_up{@})"),
            steps((None, RED), (1, BLUE)),
        ),
        stat(
            "Migrations under way",
            "Calls of migrate_pages() that have not ended.",
            "none",
            Query("sum(numalab_migrations_under_way{@})"),
        ),
        stat("Pages moved", "Pages that change their node in a second.", "ops", Query(_MOVED)),
        stat(
            "Pages to move",
            "Pages on the lists of the migrations under way that are not settled.",
            "short",
            Query("sum(numalab_migration_backlog_pages{@})"),
        ),
        stat(
            "Faults waiting",
            "Faults that are parked on a migration entry, or because no frame is free.",
            "none",
            Query("sum(numalab_faults_parked{@})"),
            steps((None, GREEN), (1, YELLOW), (100, RED)),
        ),
    ),
)

_MIGRATIONS = Row(
    "Migrations",
    (
        series(
            "Pages moved and not moved",
            "Pages in a second that migrations have moved, and that in the end stayed.",
            "ops",
            Query(_MOVED, "moved"),
            Query(_STAYED, "stayed"),
        ),
        series(
            "Migrations ended",
            "Calls of migrate_pages() that ended in a second, by migrate_reason.",
            "ops",
            Query(
                "sum by (reason) "
                "(rate(numalab_migration_duration_seconds_count{@}[$__rate_interval]))",
                "{{reason}}",
            ),
        ),
        series(
            "Migration time",
            "How long half, and how long all but a hundredth of the calls took at most.",
            "s",
            _quantile(0.5),
            _quantile(0.99),
        ),
    ),
)

_PLACEMENT = Row(
    "Where pages are, and where they go",
    (
        bars(
            "Pages by node",
            "Pages of tasks and files on each node: those on its LRU lists or taken off them.",
            "short",
            Query(_LRU, "{{instance}}", instant=True),
        ).sized(6),
        series(
            "Pages by node over time",
            "The same over time; what one node loses another gets.",
            "short",
            Query(_LRU, "{{instance}}"),
            stacked=True,
        ).sized(6),
        graph(
            "Flows between nodes",
            "Pages that moved from node to node in the time shown.",
            "short",
            f'label_join({_FLOWS}, "id", "-", "source", "target")',
        ).sized(6),
        matrix(
            "From node to node",
            "Pages that moved from the node of the row to that of the column in the time shown.",
            "short",
            _FLOWS,
        ).sized(6),
    ),
)

OVERVIEW = Dashboard(
    "numalab-overview",
    "numalab / Overview",
    "Migrations: rate, errors, duration; where pages are; flows between nodes.",
    (_NOW, _MIGRATIONS, _PLACEMENT),
)
