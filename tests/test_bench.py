"""The benchmark runs, and says everything that it promises."""

from __future__ import annotations

import json

import pytest
import trio

from numalab import bench

PAGES = 1024


@pytest.mark.slow
async def test_a_small_benchmark_measures_all_that_it_promises() -> None:
    with trio.fail_after(60):
        result = await bench.measure_moves(PAGES, 1)
    assert result["neighbours"]["pages"] == PAGES
    assert result["neighbours"]["ratio"] > 0
    assert result["scattered_at_the_source"]["moved_pages_per_second"] > 0
    # At least a question and an answer: a metric of another name would count as none.
    assert result["messages_per_1000_pages"] >= 2
    assert result["one_page"]["round_trips"] > 1
    assert result["curve"]["ratio"] > 0
    json.dumps(result)
    assert any(line.startswith("with CURVE") for line in bench.describe_moves(result))
