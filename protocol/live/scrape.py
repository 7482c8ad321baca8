"""A metrics page read back: what Prometheus would do with it, for people without Prometheus."""

from __future__ import annotations

import urllib.request
from collections.abc import Mapping, Sequence

from prometheus_client.parser import text_string_to_metric_families

#: By name of the sample (``..._total``, ``..._bucket``): its labels and its value, for each series.
MetricsPage = Mapping[str, Sequence[tuple[Mapping[str, str], float]]]


def parse_page(text: str) -> MetricsPage:
    """The samples of a page in Prometheus' text format.  Raises ValueError."""
    page: dict[str, list[tuple[Mapping[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            page.setdefault(sample.name, []).append((sample.labels, sample.value))
    return page


def fetch_page(url: str, seconds: float) -> MetricsPage | None:
    """The page at ``url``, None if nobody serves it in time; waits, so call it in a thread."""
    try:
        # No proxy of the environment is between us and a process of our own machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=seconds) as answer:
            return parse_page(answer.read().decode())
    except (OSError, ValueError):
        return None
