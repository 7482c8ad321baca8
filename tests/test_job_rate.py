"""How fast a migration job is: its rate limit, the size of its slices, and what the ETA says."""

from __future__ import annotations

import pytest

from coordinator.job import RateLimit, SliceSize
from protocol.jobs import JobState, SetJob, Wish
from protocol.notes import JobsCounted
from tests.lab import PAGE
from tests.test_jobs import MANY, RATE, MakeLab, big, on_node, row, starting, state


@pytest.mark.parametrize(("pages", "rate"), [(MANY, RATE), (9000, RATE // 7), (MANY, 3 * RATE)])
def test_the_rate_limit_holds_over_all_and_in_every_second(
    make_lab: MakeLab, pages: int, rate: int
) -> None:
    lab, pid, start = big(make_lab, pages)
    began = lab.now
    job = lab.call(starting(pid, 0, 1, rate))
    before = 0
    while state(lab, job) == JobState.RUNNING:
        lab.wait(1.0)
        moved = on_node(lab, pid, start, 1)
        if moved < pages:
            assert (moved - before) * PAGE == pytest.approx(rate, rel=0.1)
        before = moved
    seconds = row(lab, job)["seconds"]
    assert seconds <= lab.now - began
    assert pages * PAGE / seconds == pytest.approx(rate, rel=0.1)
    assert row(lab, job)["rate"] == pytest.approx(rate, rel=0.1)


@pytest.mark.parametrize(("share", "within"), [(0.1, 0.25), (0.5, 0.1), (0.9, 0.1)])
def test_after_a_tenth_of_the_pages_the_eta_is_right(
    make_lab: MakeLab, share: float, within: float
) -> None:
    lab, pid, _ = big(make_lab, MANY // 4)
    job = lab.call(starting(pid, 0, 1, RATE))
    while row(lab, job)["settled"] < MANY // 4 * share:
        lab.wait(0.05)
    eta, then = row(lab, job)["eta"], lab.now
    while state(lab, job) == JobState.RUNNING:
        lab.wait(0.01)
    assert lab.now - then == pytest.approx(eta, rel=within, abs=0.03)
    left = [note.seconds for note in lab.noted(JobsCounted) if note.running]
    assert min(left) < 0.2 and max(left) == pytest.approx(2.5, rel=0.25)


def test_the_last_slice_is_paid_for_too(make_lab: MakeLab) -> None:
    lab, pid, start = big(make_lab, 40)
    job = lab.call(starting(pid, 0, 1, 1000 * PAGE))
    lab.wait(0.03)
    assert on_node(lab, pid, start, 1) == 40 and state(lab, job) == JobState.RUNNING
    lab.wait(0.02)
    assert row(lab, job)["seconds"] == pytest.approx(0.04)


def test_a_pause_gives_no_right_to_a_burst(make_lab: MakeLab) -> None:
    lab, pid, start = big(make_lab, 20_000)
    job = lab.call(starting(pid, 0, 1, 1000 * PAGE))
    lab.wait(2.0)
    lab.call(SetJob(job, Wish.PAUSE))
    lab.wait(60.0)
    before = on_node(lab, pid, start, 1)
    lab.call(SetJob(job, Wish.RUN))
    lab.wait(2.0)
    assert on_node(lab, pid, start, 1) - before == pytest.approx(2000, rel=0.1)
    lab.call(SetJob(job, Wish.CANCEL))


def test_a_limiter_that_was_held_up_makes_up_for_a_second_and_no_more() -> None:
    limit = RateLimit(1000, now=0.0)
    limit.moved(500, started=0.0)
    assert limit.paid == 0.5
    limit.moved(500, started=1.3)
    assert limit.paid == 1.0, "0.8 s too late: it catches up"
    limit.moved(500, started=10.0)
    assert limit.paid == 9.5


def test_a_slice_is_as_large_as_80_ms_of_work() -> None:
    size = SliceSize(8192, rate_limit=0, page_size=4096)
    while size.pages < 8192:
        before = size.pages
        size.took(size.pages, 0.001)
        assert size.pages == min(max(2 * before, 2048), 8192)
    for _ in range(10):
        size.took(size.pages, size.pages / 50_000)
    assert size.pages == pytest.approx(4000, rel=0.01)


def test_a_slice_does_not_shrink_to_nothing_on_a_host_that_is_busy() -> None:
    size = SliceSize(8192, rate_limit=0, page_size=4096)
    for _ in range(50):
        size.took(size.pages, 0.5)
    assert size.pages == 2048
    huge = SliceSize(8192, rate_limit=0, page_size=2 << 20)
    for _ in range(50):
        huge.took(huge.pages, 0.5)
    assert huge.pages == 4


def test_a_slice_grows_where_small_ones_do_not_keep_the_rate() -> None:
    size = SliceSize(8192, rate_limit=1000 * PAGE, page_size=PAGE)
    assert size.pages == 50
    size.took(50, 0.04)
    assert size.pages == 50
    for _ in range(10):
        size.took(size.pages, 0.1 + size.pages / 100_000)
    assert size.pages == 200, "which moves for 0.1 s and is paid for in 0.2 s"
    for _ in range(10):
        size.took(size.pages, 0.01)
    assert size.pages == 50
    assert SliceSize(8192, rate_limit=1, page_size=4096).pages == 1
