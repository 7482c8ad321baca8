"""What ``numalab top`` shows, as numbers: samples of two moments in, rows out.  Pure.

Counters come from the metrics pages of the processes, so no Core is asked for them; a counter that
is smaller than before belongs to a process that has started again, and counts from 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from protocol.live.scrape import MetricsPage
from protocol.schema import COORDINATOR, node_name
from protocol.syscalls import Hardware

#: Upper bound and count of each bucket of a histogram.
Buckets = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Moved:
    """How far the migrations of one task are: pages listed, and settled, by the calls under way."""

    pid: int
    comm: str
    listed: int
    settled: int


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen at ``time`` (seconds).

    hardware: None, the coordinator does not answer, and ``why`` says it.  pages: of each process
    that serves one, None where nobody answers; empty: there are none.
    """

    time: float
    hardware: Hardware | None
    pages: Mapping[str, MetricsPage | None]
    moved: Sequence[Moved] = ()
    why: str = ""


@dataclass(frozen=True, slots=True)
class NodeRow:
    """One node.  state: up, offline, recovering or away.  Frames; rates are pages a second.

    None: not known now.
    """

    node: int
    state: str
    frames: int | None = None
    free: int | None = None
    active: int | None = None
    inactive: int | None = None
    hits: float | None = None
    misses: float | None = None
    loads: float | None = None
    stores: float | None = None


@dataclass(frozen=True, slots=True)
class Flow:
    """Page contents from node to node, a second."""

    source: int
    target: int
    pages: float
    bytes: float


@dataclass(frozen=True, slots=True)
class MigrationRow:
    """A migration under way.  rate: pages a second.  eta: seconds, None where not known."""

    name: str
    listed: int
    settled: int
    rate: float | None
    eta: float | None


@dataclass(frozen=True, slots=True)
class Wait:
    """Of the interval: how many faults, and how long they waited, in seconds.

    most: the bound of the bucket of the longest; None: longer than the last bound.
    """

    faults: int
    p50: float
    p99: float
    most: float | None


@dataclass(frozen=True, slots=True)
class View:
    """One frame.  epoch: 0 while the coordinator is away.  moved, retried: pages a second.

    failed: pages of the interval by errno.  notes: sentences.  None: not known now.
    """

    seconds: float
    epoch: int
    restarts: int | None
    nodes: Sequence[NodeRow]
    flows: Sequence[Flow] = ()
    migrations: Sequence[MigrationRow] = ()
    moved: float | None = None
    retried: float | None = None
    calls: int | None = None
    failed: Mapping[str, int] | None = None
    wait: Wait | None = None
    notes: Sequence[str] = ()


def view_of(before: Sample | None, after: Sample) -> View:
    """What to show at the second of two moments; rates are None without a first."""
    seconds = 0.0 if before is None else after.time - before.time
    grown = _Growth(before, after, seconds)
    told = after.pages.get(COORDINATOR)
    failed = grown.by_label(COORDINATOR, "numalab_pgmigrate_fail_total", "errno")
    restarts = None if told is None else _restarts(told)
    calls = None if told is None else int(_sum(told, "numalab_calls_under_way"))
    return View(
        round(seconds, 3),
        0 if after.hardware is None else after.hardware.epoch,
        restarts,
        _node_rows(before, after, grown),
        _flows(after, grown),
        migration_rows(before, after),
        grown.rate(COORDINATOR, "numalab_pgmigrate_success_total"),
        grown.rate(COORDINATOR, "numalab_pgmigrate_retry_total"),
        calls,
        {name: int(count) for name, count in failed.items() if count} if failed else None,
        wait_of(grown.by_label(COORDINATOR, "numalab_fault_wait_seconds_bucket", "le")),
        _notes(after),
    )


# ---- its parts -----------------------------------------------------------------------------


def migration_rows(before: Sample | None, after: Sample) -> list[MigrationRow]:
    """A row for each migration that is under way, the largest first."""
    earlier = {} if before is None else {row.pid: row for row in before.moved}
    rows = []
    for row in after.moved:
        if row.settled >= row.listed:
            continue
        rate = eta = None
        then = earlier.get(row.pid)
        # Fewer than before: another call began in between.
        if before is not None and then is not None and then.settled <= row.settled:
            rate = (row.settled - then.settled) / (after.time - before.time)
            eta = (row.listed - row.settled) / rate if rate else None
        name = f"task {row.pid} {row.comm}".rstrip()
        rows.append(MigrationRow(name, row.listed, row.settled, rate, eta))
    return sorted(rows, key=lambda row: (-row.listed, row.name))


def wait_of(counts: Mapping[str, float]) -> Wait | None:
    """Of a histogram: ``counts`` up to each bound, which is a text.  None: nothing was counted."""
    buckets = sorted((float(bound), count) for bound, count in counts.items())
    if not buckets or not buckets[-1][1]:
        return None
    most = next(bound for bound, count in buckets if count == buckets[-1][1])
    return Wait(
        int(buckets[-1][1]),
        quantile(0.5, buckets),
        quantile(0.99, buckets),
        None if math.isinf(most) else most,
    )


def quantile(share: float, buckets: Buckets) -> float:
    """histogram_quantile() of Prometheus: a straight line within the bucket."""
    rank, low, below = share * buckets[-1][1], 0.0, 0.0
    for bound, count in buckets:
        if count >= rank:
            if math.isinf(bound):
                return low
            return low + (bound - low) * (rank - below) / (count - below)
        low, below = bound, count
    return low


def _node_rows(before: Sample | None, after: Sample, grown: _Growth) -> list[NodeRow]:
    hardware = after.hardware
    serving = {int(name[4:]): page for name, page in after.pages.items() if name != COORDINATOR}
    nids = sorted(serving) if hardware is None else hardware.nid.tolist()
    earlier = None if before is None else before.hardware
    rows = []
    for row, nid in enumerate(nids):
        page, name = serving.get(nid), node_name(nid)
        free = None if hardware is None else int(hardware.free[row])
        pair = (earlier, hardware)
        rows.append(
            NodeRow(
                nid,
                _state(after, row, nid, page),
                None if hardware is None else int(hardware.frames[row]),
                free if page is None else int(_sum(page, "numalab_nr_free_pages")),
                None if page is None else int(_sum(page, "numalab_nr_active_pages")),
                None if page is None else int(_sum(page, "numalab_nr_inactive_pages")),
                _allocated(pair, "numa_hit", row, grown.seconds),
                _allocated(pair, "numa_miss", row, grown.seconds),
                grown.rate(name, "numalab_pages_accessed_total", access="load"),
                grown.rate(name, "numalab_pages_accessed_total", access="store"),
            )
        )
    return rows


def _allocated(
    pair: tuple[Hardware | None, Hardware | None], name: str, row: int, seconds: float
) -> float | None:
    """A counter of numastat; they are in the journal, so they outlive every process."""
    before, after = pair
    if before is None or after is None or len(before.nid) != len(after.nid) or not seconds:
        return None
    return max(0, int(getattr(after, name)[row]) - int(getattr(before, name)[row])) / seconds


def _state(sample: Sample, row: int, nid: int, page: MetricsPage | None) -> str:
    if sample.hardware is None:
        return "away" if page is None else "up"
    if not sample.hardware.up[row]:
        return "away" if page is None else "recovering"
    told = sample.pages.get(COORDINATOR) or {}
    offline = _sum(told, "numalab_node_offline", {"numa_node": (str(nid),)})
    return "offline" if offline else "up"


def _flows(after: Sample, grown: _Growth) -> list[Flow]:
    """Largest first; a node that has nothing to send to another is not named."""
    flows = []
    for name in after.pages:
        if name == COORDINATOR or not grown.seconds:
            continue
        sent = grown.by_label(name, "numalab_pages_sent_total", "target")
        volume = grown.by_label(name, "numalab_pages_sent_bytes_total", "target")
        flows += [
            Flow(
                int(name[4:]),
                int(target),
                pages / grown.seconds,
                volume.get(target, 0.0) / grown.seconds,
            )
            for target, pages in sent.items()
            if pages
        ]
    return sorted(flows, key=lambda flow: (-flow.pages, flow.source, flow.target))


def _notes(sample: Sample) -> list[str]:
    notes = [f"The coordinator is away. {sample.why}".rstrip()] if sample.hardware is None else []
    if not sample.pages and sample.hardware is not None:
        notes.append(
            "No metrics pages are known (switched off, or of a machine elsewhere): loads, stores, "
            "lists, flows, retries and waits are not shown."
        )
    return notes


# ---- counters ------------------------------------------------------------------------------


class _Growth:
    """How much counters of two samples have grown in ``seconds``."""

    def __init__(self, before: Sample | None, after: Sample, seconds: float) -> None:
        self.seconds = seconds
        self._before = {} if before is None else before.pages
        self._after = after.pages

    def by_label(self, process: str, name: str, label: str) -> dict[str, float]:
        """By the values of one label; empty if one of the two samples is missing."""
        before, after = self._before.get(process), self._after.get(process)
        grown: dict[str, float] = {}
        if before is None or after is None or not self.seconds:
            return grown
        earlier = {tuple(sorted(labels.items())): count for labels, count in before.get(name, ())}
        for labels, count in after.get(name, ()):
            then = earlier.get(tuple(sorted(labels.items())), 0.0)
            value = labels.get(label, "")
            grown[value] = grown.get(value, 0.0) + (count - then if count >= then else count)
        return grown

    def rate(self, process: str, name: str, **labels: str) -> float | None:
        """A second, of all series or of that with this one label; None: not known."""
        label, value = next(iter(labels.items()), ("", ""))
        grown = self.by_label(process, name, label)
        return grown[value] / self.seconds if value in grown else None


def _restarts(page: MetricsPage) -> int:
    """Of nodes, since the coordinator has started."""
    series = page.get("numalab_peer_restarts_total", ())
    return int(sum(count for labels, count in series if labels.get("peer", "").startswith("node")))


def _sum(page: MetricsPage, name: str, wanted: Mapping[str, Sequence[str]] | None = None) -> float:
    """Of the series whose labels have one of the ``wanted`` values."""
    return sum(
        count
        for labels, count in page.get(name, ())
        if all(labels.get(label) in values for label, values in (wanted or {}).items())
    )
