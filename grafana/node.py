"""Node: the frames of the nodes that are chosen, who uses them, and what goes in and out."""

from __future__ import annotations

from grafana.dashboard import Dashboard, Row
from grafana.panel import BLUE, OF_NODE, RED, YELLOW, Panel, Query, bars, series, stat, steps


def _frames(condition: str, legend: str = "") -> Query:
    return Query(f"sum(numalab_nr_{condition}_pages{{@}})", legend or condition)


def _rate(name: str, by: str, legend: str, matchers: str = "@") -> Query:
    inner = f"rate(numalab_{name}_total{{{matchers}}}[$__rate_interval])"
    return Query(f"sum by ({by}) ({inner})", legend)


def _numastat() -> Panel:
    names = ("hit", "miss", "foreign", "interleave", "local", "other")
    return series(
        "numastat",
        "Pages allocated in a second, by the six counters of numastat.",
        "ops",
        *(_rate(f"numa_{name}", "job", f"numa_{name}", OF_NODE) for name in names),
    )


_MEMORY = Row(
    "Memory",
    (
        stat(
            "Frames free",
            "Frames that are free on the nodes that are chosen.",
            "short",
            _frames("free"),
            steps((None, RED), (64, YELLOW), (1024, BLUE)),
        ).sized(4, 8),
        series(
            "Frames",
            "The frames of the nodes by what they are in.",
            "short",
            _frames("active"),
            _frames("inactive"),
            _frames("pending"),
            _frames("isolated"),
            _frames("free"),
            stacked=True,
        ).sized(10),
        bars(
            "LRU lists",
            "Frames on the active and the inactive list of each node, and before them, now.",
            "short",
            *(
                Query(f"numalab_nr_{name}_pages{{@}}", f"{{{{instance}}}} {name}", instant=True)
                for name in ("active", "inactive", "pending")
            ),
        ).sized(10),
    ),
)

_USE = Row(
    "Who uses it",
    (
        _numastat(),
        series(
            "Loads and stores, local and remote",
            "Accesses in a second to pages of the nodes, by whether the cpu was on the same node.",
            "ops",
            _rate("accesses", "access, place", "{{place}} {{access}}", OF_NODE),
        ),
        series(
            "Pages accessed",
            "Pages in a second that the nodes served, and refused: stale or locked.",
            "ops",
            _rate("pages_accessed", "access", "{{access}}"),
            _rate("pages_access_refused", "access", "{{access}} refused"),
        ),
        series(
            "Emulated time",
            "How much time the work on the pages of the nodes would have taken, in a second.",
            "s",
            _rate("emulated_seconds", "work", "{{work}}", OF_NODE),
        ),
        series(
            "Queues",
            "Frames that are locked or isolated for a migration: work that is under way.",
            "short",
            Query("numalab_nr_locked_pages{@}", "{{instance}} locked"),
            Query("numalab_nr_isolated_pages{@}", "{{instance}} isolated"),
        ),
        series(
            "Questions put again",
            "Questions in a second that the nodes had to put again, by whom they asked.",
            "ops",
            _rate("peer_questions_resent", "instance, peer", "{{instance}} to {{peer}}"),
        ),
    ),
)

_TRAFFIC = Row(
    "In and out",
    (
        series(
            "Contents sent",
            "Bytes of page contents in a second that left for another node.",
            "Bps",
            _rate("pages_sent_bytes", "instance, target", "{{instance}} to {{target}}"),
        ).sized(6),
        series(
            "Contents landed",
            "Bytes of page contents in a second that came from another node.",
            "Bps",
            _rate("pages_landed_bytes", "instance, source", "{{source}} to {{instance}}"),
        ).sized(6),
        series(
            "Processor time",
            "Processor seconds that each process used in a second.",
            "s",
            Query("rate(process_cpu_seconds_total{@}[$__rate_interval])", "{{instance}}"),
        ).sized(6),
        series(
            "Resident memory",
            "Memory of each process, the frames that were touched included.",
            "bytes",
            Query("process_resident_memory_bytes{@}", "{{instance}}"),
        ).sized(6),
    ),
)

NODE = Dashboard(
    "numalab-node",
    "numalab / Node",
    "Frames, LRU lists, numastat, accesses and traffic of the nodes that are chosen.",
    (_MEMORY, _USE, _TRAFFIC),
    instances="numalab_nr_free_pages",
    by_node=True,
)
