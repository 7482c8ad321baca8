"""One transfer of pages, from the first batch to the last answer, and what cuts it short."""

from __future__ import annotations

import errno

import numpy as np
import pytest

from nodes.zone import Zone
from protocol.bulk import BATCH_PAGES, CREDIT, Batch, Sending, land_pages
from protocol.messages import LandPages

PAGE = 64


def sending(rows: int, **options: int) -> Sending:
    pfn = np.arange(rows, dtype=np.uint32)
    return Sending(pfn, pfn + np.uint32(1000), pfn + np.uint32(5), **options)


def released(rows: int, **options: int) -> Sending:
    transfer = sending(rows, **options)
    transfer.release(transfer.parked)
    return transfer


def fine(batch: Batch) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return np.zeros(batch.rows.size, np.int32)


def test_pages_go_in_batches_in_order_and_no_more_than_the_credit() -> None:
    transfer = released(5 * BATCH_PAGES + 10)
    batches = transfer.next_batches()
    assert [batch.rows.size for batch in batches] == [BATCH_PAGES] * CREDIT
    transfer.landed(batches[1], fine(batches[1]))
    assert transfer.next_batches(0) == []
    (fifth,) = transfer.next_batches(1)
    assert fifth.pfn.tolist() == list(range(4 * BATCH_PAGES, 5 * BATCH_PAGES))
    assert fifth.target_pfn[0] == 4 * BATCH_PAGES + 1000
    assert fifth.target_generation[0] == 4 * BATCH_PAGES + 5
    (last,) = transfer.next_batches()
    assert last.rows.size == 10
    for batch in (batches[0], *batches[2:], fifth, last):
        assert not transfer.done
        transfer.validate()
        transfer.landed(batch, fine(batch))
    assert transfer.done
    assert not transfer.status.any()


def test_a_page_that_is_parked_goes_when_it_is_released() -> None:
    transfer = sending(4)
    transfer.refuse(np.array([0]), np.array([-errno.ESTALE], np.int32))
    transfer.release(np.array([2]))
    (batch,) = transfer.next_batches()
    transfer.landed(batch, fine(batch))
    assert transfer.next_batches() == []
    assert transfer.parked.tolist() == [1, 3]
    transfer.release(transfer.parked)
    (batch,) = transfer.next_batches()
    assert batch.pfn.tolist() == [1, 3]
    transfer.landed(batch, np.array([0, -errno.ESTALE], np.int32))
    assert transfer.done
    assert transfer.status.tolist() == [-errno.ESTALE, 0, 0, -errno.ESTALE]


def test_a_page_is_not_released_twice() -> None:
    transfer = released(2)
    with pytest.raises(AssertionError, match="not parked"):
        transfer.release(np.array([1]))


def test_a_batch_without_an_answer_fails_alone() -> None:
    transfer = released(6, batch_pages=2)
    lost, landed, senseless = transfer.next_batches()
    transfer.failed(lost, -errno.EAGAIN)
    transfer.landed(landed, fine(landed))
    transfer.landed(senseless, np.zeros(1, np.int32))
    assert transfer.status.tolist() == [-errno.EAGAIN] * 2 + [0] * 2 + [-errno.EAGAIN] * 2
    assert transfer.done


def test_after_a_cancel_nothing_counts_and_late_answers_are_ignored() -> None:
    transfer = released(8, batch_pages=2)
    landed, refused, late, lost = transfer.next_batches(4)
    transfer.landed(landed, fine(landed))
    transfer.landed(refused, np.full(2, -errno.ESTALE, np.int32))
    transfer.cancel()
    assert transfer.done
    transfer.landed(late, fine(late))
    transfer.failed(lost, -errno.EIO)
    again = [-errno.EAGAIN] * 2
    assert transfer.status.tolist() == again + [-errno.ESTALE] * 2 + again + again
    assert transfer.next_batches() == []
    transfer.validate()


def test_a_transfer_of_no_pages_is_over_at_once() -> None:
    assert sending(0).done
    assert sending(0).next_batches() == []


def test_a_batch_that_comes_again_is_harmless_and_refused_once_a_page_is_mapped() -> None:
    zone = Zone.format(
        bytearray(Zone.size_of(8, PAGE)), nid=1, page_size=PAGE, frames=8, uuid=bytes(16)
    )
    zeros = np.zeros(2, np.uint32)
    _, pfn, generation = zone.new_pages(0, zeros, zeros)
    active = np.ones(2, np.uint8)
    first = LandPages(7, pfn, generation, active, b"1" * 2 * PAGE)
    for _ in range(2):
        assert land_pages(zone, first).status.tolist() == [0, 0]
    zone.putback_lru_pages(pfn, generation)
    late = LandPages(7, pfn, generation, active, b"2" * 2 * PAGE)
    assert land_pages(zone, late).status.tolist() == [-errno.ESTALE] * 2
    assert bytes(zone.load(PAGE, pfn, generation, zeros)[1]) == b"1" * 2 * PAGE
