"""Faults: what was done to the machine, who went down, and how all of it recovered."""

from __future__ import annotations

from grafana.dashboard import Dashboard, Row
from grafana.panel import GREEN, RED, Panel, Query, series, stat, steps, texts, timeline

_UP = texts({"1": ("up", GREEN), "0": ("down", RED)})


def _increase(name: str, by: str, legend: str) -> Query:
    inner = f"increase(numalab_{name}_total{{@}}[$__rate_interval])"
    return Query(f"sum by ({by}) ({inner})", legend)


def _counts(title: str, description: str, *queries: Query) -> Panel:
    return series(title, description, "short", *queries)


def _recovery(name: str, by: str, legend: str) -> Query:
    """The mean of the recoveries since the coordinator has started.

    No rate: the first of them is over before the first scrape.
    """
    total, count = (
        f"sum by ({by}) (numalab_{name}_recovery_seconds_{part}{{@}})" for part in ("sum", "count")
    )
    return Query(f"{total} / {count}", legend)


_PROCESSES = Row(
    "Processes",
    (
        timeline(
            "Health of nodes",
            "Whether each node answers the coordinator.",
            _UP,
            Query("sum by (numa_node) (numalab_node_up{@})", "node {{numa_node}}"),
        ).sized(10),
        timeline(
            "Scrapes",
            "Whether Prometheus gets the metrics of each process.",
            _UP,
            Query("up{@}", "{{instance}}"),
        ).sized(10),
        stat(
            "Epoch",
            "Which coordinator this is: one more with each start from the same journal.",
            "none",
            Query("max(numalab_epoch{@})"),
        ).sized(4, 8),
        series(
            "Age of processes",
            "Time since each process has started; it falls to 0 when one is started again.",
            "s",
            Query("time() - process_start_time_seconds{@}", "{{instance}}"),
        ).sized(12),
        timeline(
            "Coordinator epochs",
            "Which coordinator there was when.",
            (),
            Query("sum by (instance) (numalab_epoch{@})", "{{instance}}"),
        ),
    ),
)

_INJECTED = Row(
    "What was done to it",
    (
        _counts(
            "Faults injected",
            "Faults of messages and of the disk that were asked for and have happened, by kind.",
            _increase("faults_injected", "fault", "{{fault}}"),
        ),
        _counts(
            "Nodes lost, peers restarted",
            "Nodes that were silent for too long; peers that came back with another boot_id.",
            _increase("node_losses", "numa_node", "lost: node {{numa_node}}"),
            _increase("peer_restarts", "peer", "restarted: {{peer}}"),
        ),
        _counts(
            "Messages that were not sent",
            "Messages that the transport could not send, by why.",
            _increase("transport_lost", "reason", "{{reason}}"),
            _increase("transport_oversized", "job", "too many frames"),
        ),
        _counts(
            "Questions put again",
            "Questions that were sent again because no answer came, by message.",
            _increase("questions_resent", "message", "{{message}}"),
        ),
        _counts(
            "Messages refused",
            "Foreign bytes that were wrong; questions for another incarnation.",
            _increase("wire_errors", "reason", "wrong: {{reason}}"),
            _increase("questions_refused", "reason", "stale: {{reason}}"),
        ),
        _counts(
            "Answers that never came",
            "Questions that ended without an answer; questions that came again.",
            _increase("answers_indefinite", "errno", "{{errno}}"),
            _increase("questions_repeated", "job", "came again, not executed again"),
        ),
    ),
)

_RECOVERED = Row(
    "Recovery",
    (
        stat(
            "Frames lost",
            "Frames whose contents are gone, since the coordinator has started.",
            "short",
            Query("sum(numalab_frames_poisoned_total{@})"),
            steps((None, GREEN), (1, RED)),
        ).sized(4, 8),
        stat(
            "Zones replaced",
            "Nodes that came back with another zone while calls were under way.",
            "short",
            Query("sum(numalab_zones_replaced_total{@})"),
            steps((None, GREEN), (1, RED)),
        ).sized(4, 8),
        stat(
            "Coordinator recovery",
            "From the start of a coordinator until every node agreed with its journal.",
            "s",
            _recovery("coordinator", "job", "coordinator"),
        ).sized(4, 8),
        series(
            "Node recovery",
            "From the coordinator's first word to a node that has started until it serves.",
            "s",
            _recovery("node", "numa_node", "node {{numa_node}}"),
        ).sized(12),
        _counts(
            "Nodes recovered, orphans freed",
            "Times that a node was told which frames are in use, and frames that nobody knew of.",
            _increase("recoveries", "instance", "recovered: {{instance}}"),
            _increase("orphans_freed", "instance", "orphans: {{instance}}"),
        ),
        series(
            "Journal",
            "Bytes in a second that were written to the journal.",
            "Bps",
            Query(
                "sum by (instance) "
                "(rate(numalab_journal_written_bytes_total{@}[$__rate_interval]))",
                "{{instance}}",
            ),
        ),
        _counts(
            "Tasks ended",
            "Tasks that exited, or whose client died.",
            _increase("tasks_ended", "reason", "{{reason}}"),
        ),
    ),
)

FAULTS = Dashboard(
    "numalab-faults",
    "numalab / Faults",
    "What was injected, restarts, epochs, refused messages, recovery.",
    (_PROCESSES, _INJECTED, _RECOVERED),
)
