"""The table of metrics bound to prometheus_client, and served.

Notes come from the event loop; the page is rendered in a thread of its own, because rendering a
large registry takes longer than a page may wait.  Only finished numbers cross between the two, and
notes that do nothing but set gauges: of those the last one is kept, and read when the page is.
"""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    make_wsgi_app,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from protocol.core import ConfigurationError
from protocol.labels import Label, Role
from protocol.live.statistics import Statistics
from protocol.metric import BUCKETS, Kind, Metric, Samples
from protocol.metrics import TRANSPORT, metrics_of
from protocol.notes import Note

_Instrument = Counter | Gauge | Histogram
_Update = Callable[[float], None]


class Asker(WSGIRequestHandler):
    """Who is served.  timeout: so many seconds it may take to say what it wants, and to take it."""

    timeout = 2.0

    def handle(self) -> None:
        """Nobody is told of who says nothing in time."""
        with suppress(TimeoutError):
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:
        """Nor of what is asked."""


class _Server(ThreadingMixIn, WSGIServer):
    """Its threads are waited for: an interpreter that ends under one may crash."""

    daemon_threads = False

    def __init__(self, address: tuple[str, int], handler: type[Asker]) -> None:
        found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family = found[0][0]
        self._connections: set[Any] = set()
        super().__init__(address, handler)

    def get_request(self) -> tuple[Any, Any]:
        """Somebody who asks."""
        connection, address = super().get_request()
        self._connections.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        """Who has been served."""
        self._connections.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """Who has not said what it wants by now is not listened to any more."""
        for connection in tuple(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RD)


@dataclass(frozen=True, slots=True)
class _Series:
    """One metric of the registry, and the update function of each of its series."""

    instrument: _Instrument
    updates: dict[tuple[str, ...], _Update]

    def open(self, values: tuple[str, ...]) -> _Update:
        """The series with these label values, made if it is not there."""
        child = self.instrument.labels(*values) if values else self.instrument
        update = self.updates[values] = _update_of(child)
        return update


def _update_of(child: _Instrument) -> _Update:
    if isinstance(child, Counter):
        return child.inc
    return child.set if isinstance(child, Gauge) else child.observe


class Exposition:
    """The metrics of one process, which has ``role``, on a machine that has the nodes ``nids``.

    ``feed`` is for the event loop (``Driver``'s ``on_note``).  ``statistics`` is the transport's
    method of that name; it is called in the thread that serves the page.
    """

    def __init__(
        self,
        role: Role,
        nids: Sequence[int],
        *,
        statistics: Callable[[], Statistics] | None = None,
    ) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.registry.register(_First(self._read_latest))
        self._process = ProcessCollector(registry=None)
        self._close: Callable[[], None] | None = None
        self._feeds: dict[type[Note], list[tuple[Samples, _Series]]] = {}
        #: The last note of each type that does nothing but set gauges without labels.
        self._latest: dict[type[Note], Note] = {}
        for metric in metrics_of(role):
            series = _bind(metric, self.registry)
            for values in _known(metric.labels, role, nids):
                series.open(values)
            for note, samples in metric.feeds:
                self._feeds.setdefault(note, []).append((samples, series))
        self._gauges = frozenset(note for note, feeds in self._feeds.items() if _sets_gauges(feeds))
        if statistics is not None:
            self.registry.register(_TransportCollector(statistics, role, nids))

    def feed(self, note: Note) -> None:
        """Count, set or observe what ``note`` says.  A few microseconds."""
        if type(note) in self._gauges:
            self._latest[type(note)] = note
        else:
            self._apply(note)

    def _apply(self, note: Note) -> None:
        for samples, series in self._feeds.get(type(note), ()):
            for values, amount in samples(note):
                update = series.updates.get(values) or series.open(values)
                update(amount)

    def _read_latest(self) -> None:
        for note in tuple(self._latest.values()):
            self._apply(note)

    def page(self) -> bytes:
        """The page as it would be served now, in Prometheus' text format."""
        return generate_latest(self.registry)

    def serve(self, address: str, port: int) -> int:
        """Serve the page at http://address:port/metrics, in threads, until ``close``.

        What is served says of this process, beside the table, when it started and what it uses.
        Port 0 is any that is free.  Returns the port.  Raises ConfigurationError.
        """
        assert self._close is None, "the page is being served already"
        try:
            server = _Server((address, port), Asker)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigurationError(
                f"The metrics page cannot be served at {address} port {port} ({reason}): "
                "choose another address or port, or port 0 for any that is free."
            ) from None

        self.registry.register(self._process)
        server.set_app(make_wsgi_app(self.registry))
        thread = threading.Thread(target=server.serve_forever, name="serve metrics", daemon=True)
        thread.start()

        def close() -> None:
            self.registry.unregister(self._process)
            # Or the thread would look up for the end only every half a second.
            server.socket.shutdown(socket.SHUT_RDWR)
            server.shutdown()
            thread.join()
            server.hang_up()
            server.server_close()

        self._close = close
        return server.server_port

    def close(self) -> None:
        """Stop serving, and wait for who is being served; harmless if nothing is served."""
        if self._close is not None:
            self._close()
            self._close = None


def _bind(metric: Metric, registry: CollectorRegistry) -> _Series:
    names = [label.name for label in metric.labels]
    instrument: _Instrument
    if metric.kind == Kind.COUNTER:
        instrument = Counter(metric.name, metric.help, names, registry=registry)
    elif metric.kind == Kind.GAUGE:
        instrument = Gauge(metric.name, metric.help, names, registry=registry)
    else:
        instrument = Histogram(metric.name, metric.help, names, registry=registry, buckets=BUCKETS)
    return _Series(instrument, {})


def _known(labels: Sequence[Label], role: Role, nids: Sequence[int]) -> Iterator[tuple[str, ...]]:
    return itertools.product(*(label.values(role, nids) for label in labels))


def _sets_gauges(feeds: list[tuple[Samples, _Series]]) -> bool:
    return all(isinstance(series.instrument, Gauge) and () in series.updates for _, series in feeds)


class _First(Collector):
    """Has no metrics; what it is given is called before any others are collected."""

    def __init__(self, before: Callable[[], None]) -> None:
        self._before = before

    def describe(self) -> Iterator[Family]:
        return iter(())

    def collect(self) -> Iterator[Family]:
        self._before()
        return iter(())


class _TransportCollector(Collector):
    """The transport counts for itself: its counts are read whenever the page is rendered."""

    def __init__(
        self, statistics: Callable[[], Statistics], role: Role, nids: Sequence[int]
    ) -> None:
        self._statistics = statistics
        self._known = {row.name: list(_known(row.labels, role, nids)) for row in TRANSPORT}

    def collect(self) -> Iterator[Family]:
        statistics = self._statistics()
        for row in TRANSPORT:
            count: int | Mapping[str, int] = getattr(statistics, row.field)
            names = [label.name for label in row.labels]
            family = CounterMetricFamily(row.name, row.help, labels=names)
            if isinstance(count, int):
                family.add_metric([], count)
            else:
                counts = {values[0]: 0 for values in self._known[row.name]} | dict(count)
                for value, lost in counts.items():
                    family.add_metric([value], lost)
            yield family
